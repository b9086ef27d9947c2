"""Runs functions in worker processes: fresh interpreters, one call at a time each, replaced when they die.

Each worker has one thread of this process in charge of it (a station of the :class:`~exoflow.executors.crew.Crew`), which loads and
pickles the inputs, sends the call, and waits for the answer or for the end of the connection: there is no polling, and no other worker
is concerned. Nothing is sent ahead, so a call never waits behind another while a worker is idle.
"""

from __future__ import annotations

import contextlib
import mmap
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

import cloudpickle  # type: ignore[import-untyped]
import msgspec

from exoflow import codec
from exoflow.codec import Encoded
from exoflow.errors import ArgumentNotSerializableError, ExecutorUnavailable
from exoflow.executors.crew import Attempt, Crew, cpus
from exoflow.worker import shared, task_runner, wire
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

    def __init__(self, workers: int | None = None, *, inherit_fds: Sequence[int] = ()) -> None:
        workers = cpus() if workers is None else workers
        fds = tuple(inherit_fds)
        self._crew = Crew(self.name, workers=workers, station=lambda: _Station(lambda: _Worker(fds)), grace_s=None)
        self.slots = 2 * workers  # so that a worker that is done finds its next call waiting

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
    """One thread's view of its worker. The lock makes sure that a stop kills the worker only while it runs the attempt meant."""

    def __init__(self, start: Callable[[], _Worker]) -> None:
        self._start = start
        self._worker: _Worker | None = None
        self._lock = threading.Lock()
        self._current: Attempt | None = None

    def run(self, attempt: Attempt) -> Outcome:
        packed = task_runner.guard(lambda: _pack(attempt.call))
        if not isinstance(packed, Returned):
            return packed
        with contextlib.closing(packed.value):
            reason = ""
            for _ in range(STARTS_MAX):
                try:
                    outcome = self._run_once(attempt, packed.value)
                except OSError as error:  # a process could not be made
                    reason = str(error)
                    break
                if not isinstance(outcome, str):
                    return outcome
                reason = f"{outcome} before it took a call"
        return _unavailable(reason)

    def _run_once(self, attempt: Attempt, parcel: wire.Parcel) -> Outcome | str:
        """The outcome, or why the worker died if the call had not begun: then it may be sent to another."""
        with self._lock:
            if attempt.stop_asked:
                return Stopped(began=False)
            self._worker = worker = self._worker or self._start()
            self._current = attempt
        reply = worker.exchange(parcel)
        with self._lock:
            self._current = None
        if reply is not None and not worker.killed:
            return reply
        self._worker = None
        reason = worker.end()
        if reply is not None:
            return reply
        if attempt.stop_asked:
            return Stopped(began=worker.began)
        return Died(reason) if worker.began else reason

    def stop(self, attempt: Attempt) -> None:
        with self._lock:
            if self._current is attempt and self._worker is not None:
                self._worker.kill()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.dismiss()


class _Worker:
    """A worker process, seen from the engine. Every method is called by the thread in charge, except :meth:`kill`."""

    def __init__(self, keep: tuple[int, ...]) -> None:
        self.killed = False
        self.began = False
        """Whether the call of the last :meth:`exchange` had reached the worker; known when the worker has ended."""
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
            mark = shared.unnamed_file()
            theirs.callback(os.close, mark)
            os.truncate(mark, 1)
            self._mark = ours.enter_context(mmap.mmap(mark, 1))
            self._process = _spawn(far_sock.fileno(), far_end, mark, keep)
            self._release = ours.pop_all()

    def exchange(self, parcel: wire.Parcel) -> Outcome | None:
        """Have a call run and give its outcome; None when there is no answer, and :meth:`end` is all that is left to do."""
        self._mark[0] = 0
        parcel.send(self._sock)
        received = task_runner.guard(lambda: wire.receive(self._sock))  # there may be no memory or no file left to take it in
        if isinstance(received, Raised):
            self._trouble = f", because its answer could not be taken in ({received.error!r})"
        if not isinstance(received, Returned) or received.value is None:
            return None
        note, body = received.value
        if note == wire.GROWN:
            return Grown(body)
        if note == wire.DIED:
            return Died(body.header.decode())
        return Raised(_decode_error(note)) if note else Returned(body)

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
        self.began = self._mark[0] == 1
        with _no_fork:
            self._release.close()
        return f"worker process {self._process.pid} {_how(code)}{self._trouble}"

    def dismiss(self) -> None:
        """Let an idle worker end by itself, within reason."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            self._sock.settimeout(EXIT_S)
            self._sock.recv(1)
        self.end()


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


def _spawn(connection: int, lifeline: int, mark: int, keep: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """A fresh interpreter with our flags and module path, as leader of a process group of its own."""
    path = [os.fspath(entry) or _original_dir() for entry in sys.path]
    code = (
        f"import sys; sys.path[:] = {path!r}; from exoflow.worker.entrypoint import main; main({connection}, {lifeline}, {mark}, {keep!r})"
    )
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] # noqa: SLF001 - multiprocessing uses it too
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
        [os.fsdecode(multiprocessing.spawn.get_executable()), *flags, "-c", code],
        stdin=subprocess.DEVNULL,
        pass_fds=(connection, lifeline, mark, *keep),
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
        encoded = Encoded(cloudpickle.dumps(value, protocol=5))
    return encoded
