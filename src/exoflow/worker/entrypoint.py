"""A worker process: takes calls from its engine's sockets one after the other, runs them, answers. Started by the process executor.

It lives no longer than its engine: the engine holds the other end of a pipe, the *lifeline*, and when that closes the kernel kills the
whole process group of the worker, in the middle of whatever it does.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import pickle
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing import spawn
from typing import Any

import msgspec

from exoflow import codec
from exoflow.codec import Encoded
from exoflow.define.registry import claim_for_main
from exoflow.errors import PayloadUnreadableError, ResultNotSerializableError, WrongContextError
from exoflow.worker import task_runner, wire
from exoflow.worker.attempt import Died, Grown, Outcome, Raised, Returned, TaskCall
from exoflow.worker.context import TaskContext, mark_worker
from exoflow.worker.places import at
from exoflow.worker.shared import Spare

SPARE_S = 1.0
"""How long an idle worker keeps memory to write it again."""


class Job(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The note of a call, whose body is ``(args, kwargs)``. The function is ``path`` in ``module``, or ``pickled`` if that is not empty."""

    context: TaskContext
    module: str = ""
    path: str = ""
    pickled: bytes = b""
    may_grow: bool = False
    needs_main: bool = False
    """Whether something in it belongs to the main script of the engine's process, which must be imported first."""


_decode_job = msgspec.msgpack.Decoder(Job).decode
_EMPTY = Encoded(b"")
_ImportMain = Callable[[], Outcome]


def main(connection: int, lifeline: int, calls: tuple[int, ...], keep: tuple[int, ...]) -> None:
    """Serve until the engine says that it is enough. ``calls`` are the files of a :class:`~exoflow.worker.wire.Tray`; ``keep`` stay open
    here, though not in what functions fork.

    The first message is a pickled pair for :func:`multiprocessing.spawn.prepare`: what to take over now, and how to import the main
    script. The script is imported when a call needs it and not before, because that runs the user's code.
    """
    mark_worker()
    for fd in (connection, lifeline, *calls, *keep):
        os.set_inheritable(fd, False)
    _die_with(lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the engine too, and the engine decides
    sock, tray, spare = socket.socket(fileno=connection), wire.Tray(calls), Spare()
    os.register_at_fork(after_in_child=lambda: _disown((sock, tray), keep, spare))
    first = wire.receive(sock, wire.FIRST)
    if first is None:
        return
    now, where_main_is = pickle.loads(first[0])  # noqa: S301 - from the engine
    spawn.prepare(now)
    import_main = functools.cache(lambda: task_runner.guard(lambda: _import_main(where_main_is)))
    while (message := tray.take(sock, lambda end: _tidy_up(end, spare))) is not None:
        _serve(sock, spare, import_main, *message)
        del message  # while idle, keep nothing
    sock.detach()  # not closed: the engine shall see the end of the connection when this process ends


def _tidy_up(end: socket.socket, spare: Spare) -> None:
    """Memory that could be written again is given back when no call comes for a while."""
    if spare and not select.select([end], [], [], SPARE_S)[0]:
        spare.clear()


def _disown(ours: Sequence[socket.socket | wire.Tray], keep: tuple[int, ...], spare: Spare) -> None:
    """A process that a function leaves behind must not pass for this one, nor keep alive what ends with it."""
    for each in ours:
        each.close()
    spare.clear()
    for fd in keep:
        with contextlib.suppress(OSError):  # the function may have closed whatever it found
            os.close(fd)


def _serve(sock: socket.socket, spare: Spare, import_main: _ImportMain, note: bytes, body: Encoded) -> None:
    job = _decode_job(note)
    outcome = task_runner.run(TaskCall(key="", function=_call, load=lambda: (_unpack(job, body, import_main), {}), context=job.context))
    grown = isinstance(outcome, Returned) and outcome.value[1]
    for stream in (sys.stdout, sys.stderr):  # a worker may be killed at any time, also while idle
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    if isinstance(outcome, Returned):
        parcel = wire.Parcel(wire.GROWN if grown else b"", outcome.value[0], spare)
    elif isinstance(outcome, Died):
        parcel = wire.Parcel(wire.DIED, Encoded(outcome.reason.encode("utf-8", "backslashreplace")))
    else:
        assert isinstance(outcome, Raised)  # load() does not say here that inputs are lost
        parcel = wire.Parcel(msgspec.msgpack.encode(outcome.info), _EMPTY)
    with contextlib.closing(parcel):
        parcel.send(sock)


def _unpack(job: Job, body: Encoded, import_main: _ImportMain) -> tuple[Any, ...]:
    """The arguments of :func:`_call`."""
    if job.needs_main and isinstance(outcome := import_main(), Raised):
        story = f"{outcome.info.type_name}: {outcome.info.text}"
        hint = 'put the code that runs the program (not what defines it) under  if __name__ == "__main__":'
        raise WrongContextError(message=f"a worker process could not import the main script: {story}; {hint}") from outcome.error
    try:
        function = codec.decode(codec.parse(job.pickled)) if job.pickled else at(job.module, job.path)
        args, kwargs = codec.decode(codec.unbundle(body))
    except codec.Unreadable as error:
        raise PayloadUnreadableError(what=f"arguments of {job.context.task_id}", reason=str(error)) from error
    return job, function, args, kwargs


def _call(job: Job, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Encoded, bool]:
    """The output, pickled, and whether it is the plan of a DAG."""
    outcome = task_runner.returned(task_runner.finish(function(*args, **kwargs)), may_grow=job.may_grow)
    try:
        value, grown = (outcome.plan, True) if isinstance(outcome, Grown) else (outcome.value, False)
        return codec.bundle(codec.encode(value)), grown
    except codec.NotSerializable as error:
        raise ResultNotSerializableError(
            task=job.context.task_id, path=error.path, type_name=error.type_name, reason=error.reason
        ) from None


def _import_main(where: dict[str, str]) -> None:
    spawn.prepare(where)
    claim_for_main(vars(sys.modules["__main__"]))


def _die_with(lifeline: int) -> None:
    """Have this process group killed when the other end of ``lifeline`` closes."""
    if hasattr(fcntl, "F_SETSIG"):  # Linux: the kernel does it, even while a C function holds the GIL
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
        poll = select.poll()
        poll.register(lifeline)
        if poll.poll(0):  # it closed before the kernel was told
            os.killpg(0, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()


def _watch(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)
