"""What a running task may ask: who it is, which attempt this is, and its idempotency key."""

from __future__ import annotations

import hashlib
from contextvars import ContextVar

import msgspec

from exoflow.errors import WrongContextError


class TaskContext(msgspec.Struct, frozen=True, kw_only=True):
    """The running attempt. ``attempt`` counts from 1 within the workflow's ``epoch``, which counts the engines that have driven it;
    ``basis`` names the versions of the inputs, ``birth`` tells the workflow from a deleted one of the same name."""

    workflow_id: str
    task_id: str
    attempt: int
    epoch: int
    basis: int
    birth: int = 0

    @property
    def idempotency_key(self) -> str:
        """40 characters, equal over all attempts of this task that see the same input versions, different otherwise (also for a workflow
        that was deleted and begun anew).

        Hand it to whatever the task talks to (a payment provider, a ``UNIQUE`` column), so that a second attempt is recognised.
        """
        text = f"{self.workflow_id}\0{self.birth}\0{self.task_id}\0{self.basis}"
        return hashlib.sha256(text.encode()).hexdigest()[:40]


_current: ContextVar[TaskContext | None] = ContextVar("exoflow_task", default=None)


def current_task() -> TaskContext:
    """The context of the task that calls this. Raises :class:`~exoflow.errors.WrongContextError` outside a task."""
    context = _current.get()
    if context is None:
        raise WrongContextError(message="current_task() was called outside a running task; pass what you need as an argument instead")
    return context


def inside_task() -> TaskContext | None:
    """The context of the running task, or None outside one."""
    return _current.get()


set_current = _current.set
reset_current = _current.reset


_is_worker = False


def inside_worker() -> bool:
    """Whether this process is a worker. An engine must refuse to start here: an unguarded main script, imported by its own worker,
    would otherwise start engines without end."""
    return _is_worker


def mark_worker() -> None:
    """Say that this process is a worker, before any code of the user is imported."""
    global _is_worker  # noqa: PLW0603 - it is a fact about the process
    _is_worker = True
