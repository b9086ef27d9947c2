"""What all stores do alike: refuse a closed or forked handle, refuse a malformed write, and put a write's head in place."""

from __future__ import annotations

import os

from exoflow.core.spec.ids import check_id
from exoflow.errors import ClosedError, ForkedHandleError, InvalidOptionError
from exoflow.store.base import Head, Write


class Guard:
    """Knows whether a handle may still be used: not after ``close``, and only in the process that made it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = os.getpid()
        self.closed = False

    def check(self) -> None:
        """Raise ForkedHandleError or ClosedError if the handle may not be used."""
        self.check_process()
        if self.closed:
            raise ClosedError(what=self._what)

    def check_process(self) -> None:
        """Raise ForkedHandleError if this is not the process that made the handle."""
        if os.getpid() != self._pid:
            raise ForkedHandleError(what=self._what, opened_in=self._pid, used_in=os.getpid())


def check_write(write: Write) -> None:
    """Refuse a ``create`` that would make a workflow without a head, with another's head, or under a malformed id."""
    if write.create:
        check_id(write.workflow_id)
        if write.head is None or write.head.workflow_id != write.workflow_id:
            raise InvalidOptionError(message=f"a write that creates workflow '{write.workflow_id}' must carry the head of that workflow")


def replaced(old: Head, new: Head) -> Head:
    """``old`` with what a write may change taken from ``new``; id, epoch, created_ms and digest stay."""
    return Head(
        workflow_id=old.workflow_id,
        epoch=old.epoch,
        owner=new.owner,
        status=new.status,
        created_ms=old.created_ms,
        updated_ms=new.updated_ms,
        digest=old.digest,
        note=new.note,
    )
