"""What an answer of Ray, or its failing to answer, says about an attempt."""

from __future__ import annotations

from typing import Any

import msgspec
from ray import exceptions as rx

from exoflow.backends.ray.far_end import DIED, PLAN, RAISED
from exoflow.backends.ray.parcels import unpack
from exoflow.errors import ExecutorUnavailable
from exoflow.worker import task_runner
from exoflow.worker.attempt import Died, ErrorInfo, Grown, Outcome, Raised, Returned

_NEVER_RAN = (
    rx.RuntimeEnvSetupError,
    rx.TaskUnschedulableError,
    rx.TaskPlacementGroupRemoved,
    rx.ActorPlacementGroupRemoved,
    rx.ActorUnschedulableError,
    rx.PendingCallsLimitExceeded,
)
"""Ray says so only of tasks that it has not given to any worker."""
_SILENT = "; Ray does not say how: killed (SIGKILL, by the system when memory is short, for one) or crashed"
_decode_error = msgspec.msgpack.Decoder(ErrorInfo).decode


def told(answer: bytes, body: Any) -> Outcome:
    """The outcome that the far end tells. ``body`` is what is beside it, or None."""
    mark, rest = answer[:1], memoryview(answer)[1:]
    if mark == RAISED:
        return Raised(_decode_error(rest))
    if mark == DIED:
        return Died(bytes(rest).decode())
    encoded = unpack(rest, body)
    return Grown(encoded) if mark == PLAN else Returned(encoded)


def untold(error: BaseException) -> Outcome:
    """The outcome when nothing came back but ``error`` of Ray. Unless Ray knows better, nobody knows what the function did."""
    if isinstance(error, _NEVER_RAN):
        return unavailable(error)
    if isinstance(error, rx.WorkerCrashedError):
        return Died(f"{error}{_SILENT}")
    return Died(f"{type(error).__name__}: {error}")


def unavailable(error: BaseException) -> Raised:
    """Ray could not take the task; it did not run."""
    return task_runner.raised(ExecutorUnavailable(executor="ray", reason=f"{type(error).__name__}: {error}"))
