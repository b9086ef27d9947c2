"""What runs on a Ray worker: calls, from their bytes to the bytes of their outcomes. Raises for nothing that the function does."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import msgspec

from exoflow import codec
from exoflow.backends.ray.objects import NATIVE, is_failure_of_ray, losses_in
from exoflow.backends.ray.parcels import INLINE_BYTES_MAX, Parcel, unpack
from exoflow.backends.ray.shipping import by_value, open_function
from exoflow.codec import Encoded
from exoflow.errors import PayloadUnreadableError, ResultNotSerializableError, WrongContextError
from exoflow.refs.base import adapter_of
from exoflow.worker import task_runner
from exoflow.worker.attempt import Died, Grown, Raised, Returned, TaskCall
from exoflow.worker.context import TaskContext

VALUE, PLAN, RAISED, DIED, FAILED, UNREADY = b"V", b"P", b"R", b"D", b"F", b"U"
"""First byte of an outcome. What follows is the value or plan (empty if it is beside), an ErrorInfo, or a reason. FAILED, and UNREADY
(before the function began): Ray has failed; an ErrorInfo follows, whose exception is a group of what is gone, if that is known."""

BUDGET_S = 0.01
"""A worker that was given several calls begins none after this time."""
_RETRIES = "RAY_TASK_MAX_RETRIES"
_RETRIES_OF_RAY = "3"


class Job(msgspec.Struct, frozen=True, array_like=True):
    """A call, but for its function. ``arguments`` is ``(args, kwargs)`` unless they travel beside."""

    context: TaskContext
    may_grow: bool
    arguments: bytes


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What came of the first of some calls; those without an answer have not begun. ``longest_s`` is what the longest took."""

    longest_s: float
    answers: list[bytes]


encode_jobs = msgspec.msgpack.Encoder().encode
decode_report = msgspec.msgpack.Decoder(Report).decode
_encode_report = msgspec.msgpack.Encoder().encode
_decode_jobs = msgspec.msgpack.Decoder(list[Job]).decode
_instance: ContextVar[Any] = ContextVar("exoflow_ray_actor", default=None)


def run(shipped: bytes, note: bytes, parcel: Parcel | None = None, instance: Any = None) -> tuple[Any, Parcel | None]:
    """Run calls one after the other, until their time is used up or one has returned something large, which goes beside the report.
    ``instance`` is the actor in whose process this is. With the report go the Refs of each answer, if there are any."""
    began = now = time.perf_counter()
    longest_s, answers, beside = 0.0, list[bytes](), None
    refs: dict[int, tuple[Any, ...]] = {}
    with _no_retries_of_ray():
        for job in _decode_jobs(note):
            answer, encoded = _run(job, shipped, parcel, instance)
            if encoded is not None:
                if encoded.refs:
                    refs[len(answers)] = encoded.refs
                if encoded.size > INLINE_BYTES_MAX:
                    beside = Parcel(encoded.header, encoded.buffers)
                else:
                    answer += b"".join(codec.frame(encoded))
            answers.append(answer)
            before, now = now, time.perf_counter()
            longest_s = max(longest_s, now - before)
            if beside is not None or now - began > BUDGET_S:
                break
    for stream in (sys.stdout, sys.stderr):  # the worker may be killed at any time, also while idle
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    report = _encode_report(Report(longest_s, answers))
    return (report, refs) if refs else report, beside


def _run(job: Job, shipped: bytes, parcel: Parcel | None, instance: Any) -> tuple[bytes, Encoded | None]:
    """What :func:`outcomes.told` reads, and the value that belongs to it."""
    began: list[bool] = []

    def load() -> tuple[tuple[Any, ...], dict[str, Any]]:
        loaded = _load(job, shipped, parcel, instance)
        began.append(True)
        return loaded

    outcome = task_runner.run(TaskCall(key="", function=_call, load=load, context=job.context))
    if isinstance(outcome, Returned):
        encoded, grown = outcome.value
        return PLAN if grown else VALUE, encoded
    if isinstance(outcome, Died):
        return DIED + outcome.reason.encode("utf-8", "backslashreplace"), None
    assert isinstance(outcome, Raised)  # load() does not say here that inputs are lost
    assert outcome.error is not None
    if not is_failure_of_ray(outcome.error):
        return RAISED + msgspec.msgpack.encode(outcome.info), None
    lost = losses_in(outcome.error, () if parcel is None else parcel.encoded.refs)
    gone = codec.encode(ExceptionGroup("gone", lost)).header if lost else None
    told = msgspec.structs.replace(outcome.info, pickled=gone)
    return (FAILED if began else UNREADY) + msgspec.msgpack.encode(told), None


def actor() -> Any:
    """The actor in whose process the running task is (option ``actor`` of its ``executor_options``).

    Raises :class:`~exoflow.errors.WrongContextError` in a task that does not run on an actor."""
    found = _instance.get()
    if found is None:
        raise WrongContextError(message="actor() was called in a task that runs on no actor; give it executor_options={'actor': name}")
    return found


def _load(job: Job, shipped: bytes, parcel: Parcel | None, instance: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of :func:`_call`."""
    try:
        function = open_function(shipped)
        args, kwargs = codec.decode(unpack(job.arguments, parcel))
    except codec.Unreadable as error:
        raise PayloadUnreadableError(what=f"arguments of {job.context.task_id}", reason=str(error)) from error
    return (job, function, args, kwargs, instance), {}


def _call(job: Job, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], instance: Any) -> tuple[Encoded, bool]:
    """The output, pickled, and whether it is the plan of a DAG."""
    _instance.set(instance)  # of the context that is the call's own
    outcome = task_runner.returned(task_runner.finish(function(*args, **kwargs)), may_grow=job.may_grow)
    try:
        value, grown = (outcome.plan, True) if isinstance(outcome, Grown) else (outcome.value, False)
        encoded = codec.encode(value)
        for ref in encoded.refs:
            if not isinstance(ref, NATIVE) and not adapter_of(ref).portable:
                raise codec.NotSerializable("a Ref", type(ref).__qualname__, "it can only be used in the process that made it")
        if encoded.size > INLINE_BYTES_MAX and b"__main__" in encoded.header:  # another worker may have it to load
            encoded = by_value(value)
    except codec.NotSerializable as error:
        raise ResultNotSerializableError(
            task=job.context.task_id, path=error.path, type_name=error.type_name, reason=error.reason
        ) from None
    return encoded, grown


@contextlib.contextmanager
def _no_retries_of_ray() -> Iterator[None]:
    """Ray tasks that the function starts must not be run twice by Ray, which does not know what they did.

    Ray reads the variable at every start of a task, and keeps what it read last, so it is not enough to take it away again."""
    before = os.environ.get(_RETRIES, _RETRIES_OF_RAY)
    os.environ[_RETRIES] = "0"
    try:
        yield
    finally:
        os.environ[_RETRIES] = before
