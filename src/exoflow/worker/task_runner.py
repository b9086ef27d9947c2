"""What surrounds the user's function: load its inputs, tell it who it is, call it, and say as an Outcome what happened.

The only module that catches everything: whatever a function raises is an outcome of its task, and nothing it raises may end the thread
or process that runs it. Nothing here raises for what user code does, and that includes the ``__str__`` and ``__reduce__`` of exceptions.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Any

from exoflow import codec
from exoflow.define.plan import find_dag
from exoflow.errors import UnknownOutcomeError, WrongContextError
from exoflow.worker.attempt import Died, ErrorInfo, Grown, InputsLost, LostInputs, Outcome, Raised, Returned, TaskCall
from exoflow.worker.context import set_current
from exoflow.worker.inputs import Inputs

TEXT_BYTES_MAX = 64 * 1024
PICKLED_BYTES_MAX = 256 * 1024
_READ_ONLY = "If this is about what came from another process: that is shared, and so read-only; change a copy (array.copy())."


def run(call: TaskCall) -> Outcome:
    """Run ``call`` in this thread, in an empty context of its own. An ``async def`` function gets an event loop of its own."""
    return Context().run(_run, call)


def _run(call: TaskCall) -> Outcome:
    loaded = guard(call.load)
    if not isinstance(loaded, Returned):
        return loaded
    args, kwargs = loaded.value
    set_current(call.context)
    try:
        inputs = Inputs(call.function, args, kwargs) if call.check_inputs else None
        value = finish(call.function(*args, **kwargs))
        return _returned(call, inputs, value)
    except BaseException as error:
        return _ended(error)


async def run_async(call: TaskCall) -> Outcome:
    """Run ``call`` on the running event loop, in the context of the current asyncio task."""
    if not iscoroutinefunction(call.function):  # it would hold up every other task of this loop
        name = getattr(call.function, "__qualname__", repr(call.function))
        return raised(WrongContextError(message=f"'{name}' is not 'async def', so it cannot run on executor 'loop'; use 'thread'"))
    loaded = guard(call.load)
    if not isinstance(loaded, Returned):
        return loaded
    args, kwargs = loaded.value
    set_current(call.context)
    try:
        inputs = Inputs(call.function, args, kwargs) if call.check_inputs else None
        value = await call.function(*args, **kwargs)
        return _returned(call, inputs, value)
    except BaseException as error:
        return _ended(error)


def _ended(error: BaseException) -> Raised | Died:
    return Died(str(error), stranded=True) if isinstance(error, UnknownOutcomeError) else raised(error)


def _returned(call: TaskCall, inputs: Inputs | None, value: Any) -> Returned | Grown:
    if inputs is not None:
        inputs.require_unchanged(call.context.task_id)
    return returned(value, may_grow=call.may_grow)


def returned(value: Any, *, may_grow: bool) -> Returned | Grown:
    """``value`` as an outcome. Raises UsageError if it is a DAG that is not well formed, and what settling its Refs raises."""
    plan = find_dag(value) if may_grow else None
    codec.settle(value if plan is None else plan)
    return Returned(value) if plan is None else Grown(plan)


def guard(action: Callable[[], Any]) -> Returned | Raised | InputsLost:
    """What came of ``action``, a step of the engine that runs user code on its way (loading or pickling a value)."""
    try:
        return Returned(action())
    except LostInputs as lost:
        return InputsLost(lost.tasks, lost.reason, lost.intact)
    except BaseException as error:
        return raised(error)


def finish(value: Any) -> Any:
    """``value``, or what it comes to if it is a coroutine."""
    if not isinstance(value, Coroutine):
        return value
    import asyncio  # not at the top: most workers never need it, and start 20 ms sooner
    from concurrent.futures import ThreadPoolExecutor

    try:
        in_use = bool(asyncio.get_running_loop())
    except RuntimeError:
        in_use = False
    if not in_use:
        return asyncio.run(value)
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(copy_context().run, asyncio.run, value).result()


def raised(error: BaseException) -> Raised:
    """``error`` as an outcome. Its traceback loses our own frames: users need not read them, and they keep the inputs alive."""
    error.__traceback__ = _without_our_frames(error.__traceback__)
    return Raised(describe(error), error)


def describe(error: BaseException) -> ErrorInfo:
    """``error`` as data, whatever kind of exception it is."""
    cls = type(error)
    try:
        text = str(error)
    except BaseException as inner:
        text = f"<its text cannot be made: {type(inner).__name__}>"
    if isinstance(error, (TypeError, ValueError)) and "read-only" in text and _READ_ONLY not in getattr(error, "__notes__", ()):
        error.add_note(_READ_ONLY)
    try:
        story = "".join(traceback.format_exception(cls, error, _without_our_frames(error.__traceback__)))
    except BaseException as inner:
        story = f"<its traceback cannot be made: {type(inner).__name__}>"
    bases = tuple(_name(base) for base in cls.__mro__[1:-1])
    return ErrorInfo(type_name=_name(cls), bases=bases, text=_cut(text), traceback=_cut(story), pickled=_pickled(error))


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".replace("__mp_main__", "__main__")


def _cut(text: str) -> str:
    """At most 64 KiB of ``text`` in UTF-8: its beginning and its end, because a traceback has its point at the end."""
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) > TEXT_BYTES_MAX:
        note = f"\n[... {len(encoded)} bytes in all ...]\n".encode()
        tail = TEXT_BYTES_MAX // 4
        encoded = encoded[: TEXT_BYTES_MAX - tail - len(note)] + note + encoded[-tail:]
    return encoded.decode("utf-8", "ignore")


def _pickled(error: BaseException) -> bytes | None:
    """``error`` pickled, or None where that is too large or would not come back as the same type."""
    try:
        encoded = codec.encode(error)
        whole = encoded.size <= PICKLED_BYTES_MAX and not encoded.buffers and type(codec.decode(encoded)) is type(error)
    except BaseException:
        return None
    return encoded.header if whole else None


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__"))
        if not name.startswith(("exoflow.worker.", "asyncio.", "concurrent.futures.")):
            break
        trace = trace.tb_next
    return trace
