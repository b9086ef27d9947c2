"""How workflows stand, and what may be said of them."""

from __future__ import annotations

import enum
import json
from typing import Any

Event = Any
TaskID = str


@enum.unique
class WorkflowStatus(str, enum.Enum):  # noqa: UP042 - as in Ray, where str() tells the class
    """How a workflow stands, in Ray's words."""

    NONE = "NONE"
    RUNNING = "RUNNING"
    CANCELED = "CANCELED"
    SUCCESSFUL = "SUCCESSFUL"
    FAILED = "FAILED"
    """A task failed for good (or nobody knows what it did); it can be resumed."""
    RESUMABLE = "RESUMABLE"
    """Whoever drove it is gone; it can be resumed."""
    PENDING = "PENDING"
    """It waits for its turn."""

    @classmethod
    def non_terminating_status(cls) -> tuple[WorkflowStatus, ...]:
        return cls.RUNNING, cls.PENDING


def validate_user_metadata(metadata: Any) -> None:
    """Raise ValueError unless it is None, or a dict that JSON can hold."""
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata must be a dict, got {metadata!r:.60}")  # noqa: TRY004 - as in Ray
    try:
        json.dumps(metadata)
    except TypeError as error:
        raise ValueError(f"metadata must be what JSON can hold: {error}") from None
