"""An attempt as data: what to run, and how it can end. Shared by whoever submits attempts and whoever runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from exoflow.worker.context import TaskContext


class TaskCall(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to run. ``key`` is unique among the calls of an engine; ``load()`` gives ``(args, kwargs)`` and runs on the executor's
    side of the submitting process, because it may read files. ``timeout`` is not here: the engine calls ``stop``. With ``may_grow``, a
    DAG that the function returns is a sub-workflow. With ``check_inputs``, arguments of this process must be left as they are.
    ``options`` are the task's ``executor_options``. With ``harmless``, nobody minds if it dies with a worker that others killed."""

    key: str
    function: Callable[..., Any]
    load: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    context: TaskContext
    may_grow: bool = False
    check_inputs: bool = False
    options: dict[str, Any] = {}
    harmless: bool = False


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An exception as data: ``type_name`` (``module.Class``), every base class's name, text and traceback, both cut to 64 KiB.
    ``pickled`` is the exception itself where it survives pickling, for callers in another process to raise."""

    type_name: str
    bases: tuple[str, ...]
    text: str
    traceback: str
    pickled: bytes | None = None


class Returned(msgspec.Struct, frozen=True):
    """The function returned ``value`` (an object of this process, or Encoded)."""

    value: Any


class Grown(msgspec.Struct, frozen=True):
    """The function returned a DAG: ``plan`` is its :class:`~exoflow.define.plan.Plan` (or that, Encoded)."""

    plan: Any


class Raised(msgspec.Struct, frozen=True):
    """The function raised. ``error`` is the exception object where it is at hand in this process."""

    info: ErrorInfo
    error: BaseException | None = None


class Died(msgspec.Struct, frozen=True):
    """The worker died or became unreachable; whether it had effects is unknown. ``stranded``: not by itself, but with its machine; or the
    worker lives, and what the function had called elsewhere died, or did not answer (:class:`~exoflow.errors.UnknownOutcomeError`). So it
    is not counted against the task."""

    reason: str
    stranded: bool = False


class Stopped(msgspec.Struct, frozen=True):
    """The attempt was stopped on request before it ended by itself (or before it began, if ``began`` is False)."""

    began: bool = True


class InputsLost(msgspec.Struct, frozen=True):
    """``load()`` could not get the outputs of ``tasks``; the function did not run. ``reason`` is for people. With ``intact``, what is saved
    of them can be loaded; only what was in memory is gone. Without ``tasks``, ``error`` says which Refs are gone; if the workflow
    holds none of them, it counts as stranded. ``began``: the function did run."""

    tasks: tuple[str, ...]
    reason: str
    intact: bool = False
    error: BaseException | None = None
    began: bool = False


Outcome = Returned | Grown | Raised | Died | Stopped | InputsLost
Done = Callable[[Outcome], None]


class LostInputs(Exception):
    """Raised by ``TaskCall.load`` when inputs cannot be had; executors turn it into :class:`InputsLost`."""

    def __init__(self, tasks: tuple[str, ...], reason: str, *, intact: bool = False) -> None:
        super().__init__(reason)
        self.tasks, self.reason, self.intact = tasks, reason, intact
