"""Runs functions in worker processes: fresh interpreters, one call at a time each, replaced when they die.

Each worker has one thread of this process in charge of it (a station of the :class:`~exoflow.executors.crew.Crew`), which loads and
pickles the inputs, sends the call, and waits for the answer or for the end of the connection: there is no polling, and no other worker
is concerned. While it waits, the next small call lies ready for the worker, which so need not wait for this process: 1.5 times as many
no-ops a second. A call that has not begun can be taken back (:class:`~exoflow.worker.wire.Calls`): by a worker that is idle, by a stop, and
when the worker dies.
"""

from __future__ import annotations

import contextlib
import multiprocessing.process
import multiprocessing.spawn
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from exoflow import codec
from exoflow.codec import Encoded
from exoflow.errors import ArgumentNotSerializableError, ExecutorUnavailable
from exoflow.executors.crew import Attempt, Crew, cpus
from exoflow.worker import task_runner, wire
from exoflow.worker.attempt import Died, Done, ErrorInfo, Grown, Outcome, Raised, Returned, Stopped, TaskCall
from exoflow.worker.entrypoint import Job
from exoflow.worker.places import place_of

STARTS_MAX = 3
"""So many workers may die before they begin a call (killed by chance, or unable to start) until the call is answered."""
EXIT_S = 1.0
"""How long an idle worker may take to end by itself when the executor closes."""

_EMPTY = Encoded(b"")
_PARTS = {"[0]": "args", "[1]": "kwargs"}  # of what call.load() gives
_decode_error = msgspec.msgpack.Decoder(ErrorInfo).decode


class ProcessExecutor:
    """``workers`` processes (default: one per processor), started when first needed.

    Every worker keeps ``inherit_fds`` open as long as it lives. ``stop`` kills the worker with all processes that it started, unless they
    left its process group (``setsid``). No worker outlives this process, however that ends.
    """

    name = "process"
    can_kill = True
    is_elsewhere = True

    def __init__(self, workers: int | None = None, *, inherit_fds: Sequence[int] = ()) -> None:
        workers = cpus() if workers is None else workers
        fds = tuple(inherit_fds)
        self._crew = Crew(self.name, workers=workers, station=lambda: _Station(self._crew, lambda: _Worker(fds)), grace_s=None)
        self.slots = 3 * workers  # for each worker: what it runs, what it goes on with, and what comes in the meantime

    def submit(self, call: TaskCall, done: Done) -> None:
        """See :class:`~exoflow.executors.base.Executor`. ``Returned.value`` will be :class:`~exoflow.codec.Encoded`."""
        self._crew.submit(call, done)

    def stop(self, key: str) -> None:
        """See :class:`~exoflow.executors.base.Executor`."""
        self._crew.stop(key)

    def close(self) -> None:
        """See :class:`~exoflow.executors.base.Executor`."""
        self._crew.close()


class _Station:
    """One thread's view of its worker. The crew's lock makes sure that a stop kills the worker only while it runs the attempt meant."""

    def __init__(self, crew: Crew, start: Callable[[], _Worker]) -> None:
        self._crew, self._start = crew, start
        self._worker: _Worker | None = None
        self._current: Attempt | None = None
        self._ahead: tuple[Attempt, wire.Parcel] | None = None  # the follower, once the worker has it
        self._death = ""  # that a follower died which nobody waited for yet

    def run(self, attempt: Attempt) -> Outcome:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] is attempt:
            return self._run(attempt, ahead[1], sent=True)
        packed = task_runner.guard(lambda: _pack(attempt.call))
        if not isinstance(packed, Returned):
            return packed
        with contextlib.closing(packed.value):
            return self._run(attempt, packed.value, sent=False)

    def _run(self, attempt: Attempt, parcel: wire.Parcel, *, sent: bool) -> Outcome:
        reason = ""
        for _ in range(STARTS_MAX):
            try:
                outcome = self._run_once(attempt, parcel, sent=sent)
            except OSError as error:  # a process could not be made
                reason = str(error)
                break
            if not isinstance(outcome, str):
                return outcome
            reason, sent = f"{outcome} before it took a call", False
        return _unavailable(reason)

    def _run_once(self, attempt: Attempt, parcel: wire.Parcel, *, sent: bool) -> Outcome | str:
        """The outcome, or why the worker died if the call had not begun: then it may be sent to another."""
        if sent and self._worker is None:
            return Stopped() if attempt.stop_asked else Died(self._death)
        worker = self._worker = self._worker or self._start()
        with self._crew.lock:
            if attempt.stop_asked:
                if not sent or worker.take_back():
                    return Stopped(began=False)
                worker.kill()
            self._current = attempt
        if not sent:
            worker.give(parcel)
        if parcel.datagram is not None:
            self._prepare_follower(worker)
        reply = worker.answer()
        with self._crew.lock:
            self._current = None
            if reply is not None and not worker.killed:
                return reply
        reason = worker.end()
        with self._crew.lock:
            if not self._crew.give_back(self):
                self._death = reason
            began = not worker.take_back()
        self._worker = None
        worker.close()
        if reply is not None:
            return reply
        if attempt.stop_asked:
            return Stopped(began=began)
        return Died(reason) if began else reason

    def _prepare_follower(self, worker: _Worker) -> None:
        """Have a call ready for when this one is done. Only behind a small one, and if it is small itself: it must not stand in the way of
        the answer, and of large values two would be in memory."""
        self._ahead = None
        follower = self._crew.follow(self)
        if follower is None:
            return
        packed = task_runner.guard(lambda: _pack(follower.call))
        if not isinstance(packed, Returned):
            if self._crew.retract(follower):
                self._crew.answer(follower, packed)
            return
        with contextlib.closing(packed.value) as parcel, self._crew.lock:
            if parcel.datagram is None:
                self._crew.give_back(self)
            elif self._crew.is_following(follower, self) and not worker.killed:
                worker.give(parcel)
                self._ahead = follower, parcel

    def take_back(self) -> bool:
        if self._ahead is not None and not (self._worker is not None and self._worker.take_back()):
            return False
        self._ahead = None
        return True

    def stop(self, attempt: Attempt) -> None:
        over = self._current is attempt and not self._crew.give_back(self)  # for what follows it has begun
        if self._worker is not None and not over and (self._current is attempt or self._crew.is_following(attempt, self)):
            self._worker.kill()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.dismiss()


class _Worker:
    """A worker process, seen from the engine. Every method is called by the thread in charge, except :meth:`kill`."""

    def __init__(self, keep: tuple[int, ...]) -> None:
        self.killed = False
        self._owner = os.getpid()
        self._trouble = ""
        with contextlib.closing(wire.Parcel(pickle.dumps((_surroundings(), _main_module()), protocol=5), _EMPTY)) as greeting:
            self._start(keep)
            greeting.send(self._sock)

    def _start(self, keep: tuple[int, ...]) -> None:
        with _no_fork, contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            self._sock, far_sock = socket.socketpair()
            ours.callback(self._sock.close)
            theirs.callback(far_sock.close)
            far_end, near_end = os.pipe()
            theirs.callback(os.close, far_end)
            ours.callback(_cut, near_end)
            _lifelines.add(near_end)
            self._calls = wire.Calls()
            ours.callback(self._calls.close)
            self._process = _spawn(far_sock.fileno(), far_end, self._calls.fds, keep)
            self._release = ours.pop_all()

    def give(self, parcel: wire.Parcel) -> None:
        """Have a call run, now or when the one that runs has ended."""
        self._calls.put(parcel, self._sock)

    def take_back(self) -> bool:
        """Whether the call that was given last has not begun, and never will."""
        return self._calls.take_back()

    def answer(self) -> Outcome | None:
        """The outcome of the first call that was not answered; None if there is none to come, and :meth:`end` is all that is left to do."""
        received = task_runner.guard(lambda: wire.receive(self._sock, wire.FIRST))  # there may be no memory or no file left to take it in
        if isinstance(received, Raised):
            self._trouble = f", because its answer could not be taken in ({received.error!r})"
        if not isinstance(received, Returned) or received.value is None:
            return None
        note, body = received.value
        if note == wire.DIED:
            return Died(body.header.decode(), stranded=True)
        if note and note != wire.GROWN:
            return Raised(_decode_error(note))
        value = task_runner.guard(lambda: codec.unbundle(body))
        return Grown(value.value) if note and isinstance(value, Returned) else value

    def kill(self) -> None:
        """End the worker, whatever it does, and all processes of its group."""
        self.killed = True
        if os.getpid() == self._owner:  # a fork of the engine must not touch the workers of the engine
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> str:
        """Make sure that nothing of the worker is left, and say how it ended.

        Killing a process that is on its way out does not change its exit status. Until we have waited for it, its number, which is also
        the number of the group, cannot belong to anybody else.
        """
        self.kill()
        code = self._process.wait()
        self._calls.is_over = True
        return f"worker process {self._process.pid} {_how(code)}{self._trouble}"

    def close(self) -> None:
        """After its end: release what was held for it."""
        with _no_fork:
            self._release.close()

    def dismiss(self) -> None:
        """Let an idle worker end by itself, within reason."""
        with contextlib.suppress(OSError):
            self._calls.end()
            self._sock.settimeout(EXIT_S)
            self._sock.recv(1)
        self.end()
        self.close()


def _how(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-code}"


def _unavailable(reason: str) -> Raised:
    return task_runner.raised(ExecutorUnavailable(executor="process", reason=reason))


# --- forks of the engine: they must not keep what its workers take for a sign of its life --------------------------------------

_lifelines: set[int] = set()
_no_fork = threading.Lock()
"""Held while a worker is made, so that a fork finds no file descriptors but those in ``_lifelines``; and while one is released."""


def _cut(lifeline: int) -> None:
    _lifelines.discard(lifeline)
    os.close(lifeline)


def _let_go() -> None:
    while _lifelines:
        os.close(_lifelines.pop())
    _no_fork.release()


os.register_at_fork(before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_let_go)


# --- starting a worker -------------------------------------------------------------------------------------------------------


def _spawn(connection: int, lifeline: int, calls: tuple[int, ...], keep: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """A fresh interpreter with our flags and module path, as leader of a process group of its own."""
    path = [os.fspath(entry) or _original_dir() for entry in sys.path]
    ours = f"{connection}, {lifeline}, {calls}, {keep}"
    code = f"import sys; sys.path[:] = {path!r}; from exoflow.worker.entrypoint import main; main({ours})"
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] # noqa: SLF001 - multiprocessing uses it too
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
        [os.fsdecode(multiprocessing.spawn.get_executable()), *flags, "-c", code],
        stdin=subprocess.DEVNULL,
        pass_fds=(connection, lifeline, *calls, *keep),
        start_new_session=True,
    )


def _surroundings() -> dict[str, Any]:
    """What a worker takes over, as :func:`multiprocessing.spawn.prepare` wants it.

    ``get_preparation_data`` of the same module would fix the start method of the user's process as a side effect.
    """
    return {
        "name": "exoflow-worker",
        "sys_argv": sys.argv,
        "orig_dir": _original_dir(),
        "authkey": bytes(multiprocessing.process.current_process().authkey),
    }


def _original_dir() -> str:
    return multiprocessing.process.ORIGINAL_DIR or ""  # type: ignore[attr-defined]


def _main_module() -> dict[str, str]:
    """How a worker imports our main module, as :func:`multiprocessing.spawn.prepare` wants it; empty if it cannot (a notebook, ``-c``)."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if name is not None:
        return {} if name.split(".")[-1] == "__main__" else {"init_main_from_name": name}
    path = Path(_original_dir(), getattr(main, "__file__", None) or "<none>")
    if path.stem == "ipython" or not path.exists():
        return {}
    return {"init_main_from_path": str(path)}


# --- making a call ready -----------------------------------------------------------------------------------------------------


def _pack(call: TaskCall) -> wire.Parcel:
    inputs = call.load()
    task = call.context.task_id
    body = _encode(inputs, task)
    if body.refs:
        from exoflow.refs.carried import bundled_for_elsewhere  # not at the top: where no Ref is known, none is looked for

        body = bundled_for_elsewhere(body, task)
    module, path = place_of(call.function)
    if module == "__main__" and not _main_module():  # a worker could not import it
        module = path = ""
    pickled = b"" if path else b"".join(codec.frame(_encode(call.function, task)))
    needs_main = module == "__main__" or b"__main__" in body.header or b"__main__" in pickled
    job = Job(context=call.context, module=module, path=path, pickled=pickled, may_grow=call.may_grow, needs_main=needs_main)
    return wire.Parcel(msgspec.msgpack.encode(job), body)


def _encode(value: Any, task: str) -> Encoded:
    try:
        encoded = codec.encode(value)
    except codec.NotSerializable as error:
        path = _PARTS.get(error.path[:3], error.path[:3]) + error.path[3:] if isinstance(value, tuple) else "the function"
        raise ArgumentNotSerializableError(task=task, path=path, type_name=error.type_name, reason=error.reason) from None
    if b"__main__" in encoded.header and not _main_module():  # the worker could not find it there
        encoded = codec.encode_by_value(value)
    return encoded
