"""What an answer of Ray, or its failing to answer, says about an attempt."""

from __future__ import annotations

from typing import Any

import msgspec
from ray import exceptions as rx

from exoflow import codec
from exoflow.backends.ray.far_end import DIED, FAILED, PLAN, RAISED, UNREADY
from exoflow.backends.ray.parcels import Remote
from exoflow.codec import Encoded
from exoflow.errors import ExecutorUnavailable
from exoflow.worker import task_runner
from exoflow.worker.attempt import Died, ErrorInfo, Grown, InputsLost, Outcome, Raised, Returned

_NEVER_RAN = (
    rx.RuntimeEnvSetupError,
    rx.TaskUnschedulableError,
    rx.TaskPlacementGroupRemoved,
    rx.ActorPlacementGroupRemoved,
    rx.ActorUnschedulableError,
    rx.PendingCallsLimitExceeded,
)
"""Ray says so only of tasks that it has not given to any worker."""
_MAY_BE_THE_NODE = (rx.NodeDiedError, rx.LocalRayletDiedError, rx.RayActorError)
_SILENT = "; Ray does not say how: killed (SIGKILL, by the system when memory is short, for one) or crashed"
_decode_error = msgspec.msgpack.Decoder(ErrorInfo).decode


def told(answer: bytes, refs: tuple[Any, ...], beside: Any) -> Outcome:
    """The outcome that the far end tells. ``refs`` are those of the value; ``beside`` is Ray's reference to it if it is not inside."""
    mark, rest = answer[:1], memoryview(answer)[1:]
    if mark == DIED:
        return Died(bytes(rest).decode(), stranded=True)
    if mark == RAISED:
        return Raised(_decode_error(rest))
    if mark in (FAILED, UNREADY):
        info = _decode_error(rest)
        reason = f"{info.type_name}: {info.text}"
        if info.pickled is None:
            return Died(reason, stranded=True)
        return InputsLost((), reason, intact=True, error=codec.decode(Encoded(info.pickled)), began=mark == FAILED)
    if rest:
        inside = codec.parse(rest)
        encoded = Encoded(inside.header, inside.buffers, refs)
    else:
        encoded = codec.encode(Remote(beside, refs))
    return Grown(encoded) if mark == PLAN else Returned(encoded)


def untold(error: BaseException) -> Outcome:
    """The outcome when nothing came back but ``error`` of Ray. Unless Ray knows better, nobody knows what the function did."""
    if isinstance(error, _NEVER_RAN):
        return unavailable(error)
    if isinstance(error, rx.WorkerCrashedError):
        return Died(f"{error}{_SILENT}")
    return Died(f"{type(error).__name__}: {error}", stranded=isinstance(error, _MAY_BE_THE_NODE))


def unavailable(error: BaseException) -> Raised:
    """Ray could not take the task; it did not run."""
    return task_runner.raised(ExecutorUnavailable(executor="ray", reason=f"{type(error).__name__}: {error}"))
