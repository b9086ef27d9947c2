"""What a task says of itself, and what follows from it (docs/semantics.md, section 2)."""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

Unknown = Literal["retry", "fail", "ask"]


class Checkpoint(enum.IntEnum):
    """Whether a task's output is saved, and whether its consumers wait for that."""

    NONE = 0
    ASYNC = 1
    SYNC = 2


class Kind(enum.IntEnum):
    """The three kinds of task. The default annotations make a committing one."""

    __hash__ = int.__hash__  # that of enums is a function in Python

    INTERNAL = 0
    UNDOABLE = 1
    COMMITTING = 2


class Annotations(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``on_unknown`` matters for committing tasks only: what to do when nobody knows whether a dead attempt had its effect."""

    checkpoint: Checkpoint = Checkpoint.ASYNC
    deterministic: bool = False
    can_rollback: bool = False
    has_rollback: bool = False
    on_unknown: Unknown = "retry"

    @property
    def kind(self) -> Kind:
        if not self.can_rollback:
            return Kind.COMMITTING
        return Kind.UNDOABLE if self.has_rollback else Kind.INTERNAL

    @property
    def leaves_intent(self) -> bool:
        """Whether an attempt must be on record before its function starts, because a later life has to know that it may have acted."""
        return self.kind is Kind.UNDOABLE or (self.kind is Kind.COMMITTING and self.on_unknown != "retry")


ENGINE_TASK = Annotations(checkpoint=Checkpoint.NONE, deterministic=True, can_rollback=True)
"""Tasks that the engine adds by itself (collecting a list, fanning out): pure, never saved."""
