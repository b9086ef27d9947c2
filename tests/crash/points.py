"""Crash points: every operation by which state leaves the memory of a process, and how a process dies before, inside or after it.

The engine knows nothing of them. In a process that is to die, the operations of its seams are wrapped (methods of the store and of blobs,
``Files``, what SQLite does to its files, executors, messages to and from workers, the lock files of owners), and those system calls that
go past every seam. ``test_points.py`` derives both from the package itself, and fails where one has no point.

To look at, a point can also fail: an operation of a disk that says EIO or ENOSPC, instead of a process that dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

When = Literal["before", "during", "after", "EIO", "ENOSPC"]
FAULTS: tuple[When, ...] = ("EIO", "ENOSPC")


@dataclass(frozen=True)
class Point:
    """``workflow``: one that comes by, in its first life, or in the next one if the first has been killed after the operation ``after``.
    ``torn``: it can be left half done. ``in_worker``: it is an operation of worker processes."""

    name: str
    workflow: str = "chain"
    after: str = ""
    torn: bool = False
    in_worker: bool = False

    @property
    def moments(self) -> tuple[When, ...]:
        return ("before", "during", "after") if self.torn else ("before", "after")


_ALL = (
    # the store, and what it keeps large values in
    Point("store.commit"),
    Point("store.claim", after="store.commit"),
    Point("store.delete", "errands"),
    Point("store.beat"),
    Point("store.wish", "saga_cancelled_from_elsewhere"),
    Point("store.close"),
    Point("blobs.put", "large_outputs"),
    Point("blobs.collect", "errands"),
    Point("files.make_folder"),
    Point("files.make_file"),
    Point("files.open_temp", "large_outputs"),
    Point("files.write", "large_outputs", torn=True),
    Point("files.flush", "large_outputs"),
    Point("files.rename", "large_outputs"),
    Point("files.flush_folder"),
    Point("files.unlink", "errands"),
    # what SQLite does to its files
    Point("sqlite.db.open"),
    Point("sqlite.db.write", torn=True),
    Point("sqlite.db.sync"),
    Point("sqlite.db.truncate"),
    Point("sqlite.journal.open"),
    Point("sqlite.journal.write", torn=True),
    Point("sqlite.journal.sync"),
    Point("sqlite.journal.delete"),
    Point("sqlite.wal.open"),
    Point("sqlite.wal.write", torn=True),
    Point("sqlite.wal.sync"),
    Point("sqlite.wal.delete"),
    # executors
    Point("executor.submit"),
    Point("executor.stop", "async_timeout"),
    Point("executor.close"),
    Point("executor.done"),
    # messages
    Point("wire.send", "process_chain", torn=True),
    Point("wire.receive", "process_chain"),
    Point("worker.wire.send", "process_chain", torn=True, in_worker=True),
    Point("worker.wire.receive", "process_chain", in_worker=True),
    Point("worker.mark", "process_chain", in_worker=True),
    # lock files
    Point("host.enter"),
    Point("host.leave"),
    Point("host.unlink"),
    Point("host.clear_up"),
    # system calls that no seam covers whole
    Point("runtime.host.SystemHost.enter.mkdir"),
    Point("runtime.host._open.open"),
    Point("runtime.host._lock.flock"),
    Point("runtime.host._try_to_lock.flock", after="store.commit"),
    Point("runtime.host._unlink_if_unlocked.unlink", after="host.enter"),
    Point("runtime.host._let_go.close"),
    Point("store.blobs._locked.flock", "large_outputs"),
    Point("store.blobs._Pins._drop.close", "large_outputs"),
    Point("worker.wire.Calls.__init__.truncate", "process_chain"),
    Point("worker.wire.Calls.end.send", "process_chain"),
    Point("executors.process_pool._spawn.Popen", "process_chain"),
    Point("executors.process_pool._Worker.kill.killpg", "process_chain"),
    Point("executors.process_pool._cut.close", "process_chain"),
)
POINTS: dict[str, Point] = {point.name: point for point in _ALL}
_INDEX = {name: 4 * index for index, name in enumerate(POINTS)}

SEAMS = {
    "store": ("commit", "claim", "delete", "beat", "wish", "close"),
    "blobs": ("put", "collect"),
    "files": ("make_folder", "make_file", "open_temp", "write", "flush", "rename", "flush_folder", "unlink"),
    "executor": ("submit", "stop", "close"),
    "host": ("enter", "leave", "unlink", "clear_up"),
}
"""The methods of each seam that let state out; those below do not."""
HARMLESS = {
    "store": ("head", "heads", "entries", "owners"),
    "blobs": ("open", "names"),
    "files": (),
    "executor": (),
    "host": ("new_id", "is_here", "is_unlocked"),
}

BELONG = {
    "store.blobs.Files.make_folder.*": "files.make_folder",
    "store.blobs.Files.make_file.*": "files.make_file",
    "store.blobs.Files.open_temp.*": "files.open_temp",
    "store.blobs.Files.write.*": "files.write",
    "store.blobs.Files.flush.*": "files.flush",
    "store.blobs.Files.rename.*": "files.rename",
    "store.blobs.Files.flush_folder.*": "files.flush_folder",
    "store.blobs.Files.unlink.*": "files.unlink",
    "store.blobs.FileBlobs.put.*": "blobs.put",
    "store.blobs.FileBlobs._put_again.*": "blobs.put",
    "store.blobs.FileBlobs.open.close": "blobs.put",
    "store.blobs.FileBlobs.collect.*": "blobs.collect",
    "store.blobs.FileBlobs._sweep.*": "files.unlink",
    "store.blobs.FileBlobs._tidy_up.*": "files.unlink",
    "store.blobs._locked.close": "store.blobs._locked.flock",
    "store.blobs._open_sound.close": "blobs.put",
    "store.blobs._is_ours.flock": "blobs.collect",
    "store.blobs._try_to_lock.close": "blobs.collect",
    "store.sqlite.*": "sqlite.wal.write",
    "store.sqlite_file.*": "sqlite.db.write",
    "runtime.host.SystemHost.leave.unlink": "host.unlink",
    "runtime.host.SystemHost.unlink.unlink": "host.unlink",
    "runtime.ownership.Owner.bury.unlink": "host.unlink",
    "runtime.loop.Loop.drain.flush": "store.commit",
    "runtime.loop.Loop.close.shutdown": "executor.close",
    "executors.process_pool._Worker.*.send": "wire.send",
    "executors.process_pool._Worker.end.kill": "executors.process_pool._Worker.kill.killpg",
    "executors.process_pool._Station.*.kill": "executors.process_pool._Worker.kill.killpg",
    "executors.process_pool._Worker._start.close": "executors.process_pool._cut.close",
    "worker.wire.Calls.__init__.close": "executors.process_pool._cut.close",
    "worker.wire.Calls.put.send": "wire.send",
    "worker.wire.Parcel.send.*": "wire.send",
    "worker.shared.Block.*": "wire.send",
    "worker.shared._filled.close": "wire.send",
    "worker.shared._write_all.write": "wire.send",
    "worker.shared._copied.close": "wire.receive",
    "worker.shared._let_go.close": "wire.receive",
    "worker.shared.opened.close": "wire.receive",
    "worker.wire.receive.close": "wire.receive",
    "worker.entrypoint._serve.*": "worker.wire.send",
}
"""Exits of the package (see exits.py) that happen inside another point, or next to it with nothing in between."""

LET_BE = {
    "runtime.host._let_go_in_child.close": "of a child of the process",
    "executors.process_pool._let_go.close": "of a child of the process",
    "worker.entrypoint._disown.close": "of a child of the process",
    "worker.entrypoint._die_with.killpg": "the worker's own death",
    "worker.entrypoint._watch.killpg": "the worker's own death",
    "cli.health.*": "reads the store",
    "cli.output.*": "leads to the terminal",
    "refs.files.*": "copies of what is in a checkpoint: what is half there is lost as a whole, which the engine is told",
    "backends.*": "tests/backends kills the parts of Ray and Spark themselves, and engines with them",
}
"""Exits that are no crash points, and why."""


@dataclass(frozen=True)
class At:
    """Die at the ``hit``-th time that the process comes by a point; or with EIO or ENOSPC, have it fail and go on. ``victim``: the process
    itself (``self``), with all below it (``family``), or, in a worker, its engine."""

    point: str
    when: When
    hit: int = 1
    victim: Literal["self", "family", "engine"] = "self"


class Tally:
    """How often a life came by each point, its workers included: in a file of shared memory, so that it survives them."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.truncate(fd, 4 * len(POINTS))
        self._memory = mmap.mmap(fd, 4 * len(POINTS))
        os.close(fd)

    def add(self, point: str) -> None:
        at = _INDEX[point]
        (count,) = struct.unpack_from("<I", self._memory, at)
        struct.pack_into("<I", self._memory, at, count + 1)

    @staticmethod
    def read(path: Path) -> dict[str, int]:
        """What is in such a file; nothing if it is not there."""
        data = path.read_bytes() if path.exists() else b""
        counts = struct.unpack(f"<{len(data) // 4}I", data)
        return {name: count for name, count in zip(POINTS, counts, strict=False) if count}


class _Guard:
    """What the wrapped operations of this process ask."""

    def __init__(self, folder: str, life: int, at: At | None) -> None:
        self.folder, self.life, self.at = folder, life, at
        self.tally = Tally(Path(folder, f"points-{life}"))
        self.lock = threading.RLock()
        self.hits = 0

    def around(self, point: str, perform: Callable[[], Any], tear: Callable[[], object] | None = None) -> Any:
        """Perform an operation, unless it is not to be. ``tear`` does half of it."""
        with self.lock:
            self.tally.add(point)
            mine = self.at is not None and self.at.point == point
            self.hits += mine
            mine = mine and self.at is not None and self.at.hit == self.hits and self.note()
        if not mine or self.at is None:
            return perform()
        if self.at.when in FAULTS:
            raise OSError(getattr(errno, self.at.when), f"planted in {point}")
        if self.at.when == "during" and tear is not None:
            tear()
        if self.at.when != "after":
            self.die(self.at)
        result = perform()
        self.die(self.at)
        return result

    def note(self) -> bool:
        """Whether it has not happened yet in this life: each of its workers comes by."""
        try:
            os.close(os.open(struck(self.folder, self.life), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        return True

    def die(self, at: At) -> None:
        if at.victim == "engine":
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()  # the kernel takes the worker, too
        if at.victim == "family":
            from exoflow.testing.ledger import descendants

            for pid in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def struck(folder: str, life: int) -> Path:
    """A file that is there if that life came to the moment that it was told."""
    return Path(folder, f"struck-{life}")


# --- wrapping ----------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def guarded(folder: str, life: int, at: At | None) -> Iterator[None]:
    """Wrap every operation of an engine's process, for the rest of its life: it must end in here."""
    from exoflow.testing.power.vfs import watched

    guard = _Guard(folder, life, at)
    _wrap_seams(guard)
    _wrap_wire(guard, "")
    _prepare_workers(guard)
    _wrap_calls(guard)
    with watched(functools.partial(_sqlite, guard)):
        yield


def in_worker(folder: str, life: int, at: At | None) -> None:
    """Wrap the operations of a worker process; it is about to begin."""
    from exoflow.worker import wire

    guard = _Guard(folder, life, at)
    _wrap_wire(guard, "worker.")

    class Mark(mmap.mmap):
        def __setitem__(self, key: Any, value: Any) -> None:
            guard.around("worker.mark", lambda: super(Mark, self).__setitem__(key, value))

    wire.mmap = _Instead(mmap, mmap=Mark)  # type: ignore[assignment]


class _Instead:
    """A module, but for some names."""

    def __init__(self, module: Any, **names: Any) -> None:
        vars(self).update(vars(module), **names)


def _wrap_seams(guard: _Guard) -> None:
    from exoflow.executors.inline import InlineExecutor
    from exoflow.executors.loop import LoopExecutor
    from exoflow.executors.process_pool import ProcessExecutor
    from exoflow.executors.threads import ThreadExecutor
    from exoflow.runtime.host import SystemHost
    from exoflow.store.blobs import FileBlobs, Files
    from exoflow.store.sqlite import SqliteStore

    executors = (InlineExecutor, LoopExecutor, ThreadExecutor, ProcessExecutor)
    for seam, classes in {"store": (SqliteStore,), "blobs": (FileBlobs,), "files": (Files,), "host": (SystemHost,)}.items():
        for cls in classes:
            for name in SEAMS[seam]:
                setattr(cls, name, _wrapped(guard, f"{seam}.{name}", getattr(cls, name)))
    for executor in executors:
        for name in SEAMS["executor"]:
            setattr(executor, name, _wrapped(guard, f"executor.{name}", getattr(executor, name)))


def _wrapped(guard: _Guard, point: str, method: Any) -> Any:
    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if point == "executor.submit":
            args = (args[0], lambda outcome, done=args[1]: guard.around("executor.done", lambda: done(outcome)))
        tear = None
        if point == "files.write":
            tear = functools.partial(_write_half, args[0], args[1])
        return guard.around(point, lambda: method(self, *args, **kwargs), tear)

    return wrapped


def _write_half(fd: int, data: memoryview) -> None:
    os.write(fd, data[: len(data) // 2])


def _sqlite(guard: _Guard, call: Any, perform: Callable[[], Any]) -> Any:
    """See :mod:`exoflow.testing.power.vfs`."""
    import apsw

    kind = next((kind for kind in ("wal", "journal") if call.path.endswith(f"-{kind}")), "db")
    whole = call.data

    def tear() -> None:
        call.data = whole[: len(whole) // 2]
        perform()

    try:
        return guard.around(f"sqlite.{kind}.{call.op}", perform, tear)
    except OSError as error:
        code = {"sync": apsw.SQLITE_IOERR_FSYNC, "write": apsw.SQLITE_IOERR_WRITE, "truncate": apsw.SQLITE_IOERR_TRUNCATE}
        full = error.errno == errno.ENOSPC and call.op == "write"
        raise apsw.exception_for(apsw.SQLITE_FULL if full else code.get(call.op, apsw.SQLITE_IOERR)) from error


def _wrap_wire(guard: _Guard, side: str) -> None:
    from exoflow.worker import wire

    send, receive = wire.Parcel.send, wire.receive

    def send_half(parcel: Any, sock: socket.socket) -> None:
        if not parcel._files:
            with contextlib.suppress(OSError):
                sock.sendall(parcel._data[: len(parcel._data) // 2])

    def sending(self: Any, sock: socket.socket) -> None:
        guard.around(f"{side}wire.send", lambda: send(self, sock), lambda: send_half(self, sock))

    wire.Parcel.send = sending  # type: ignore[method-assign]
    wire.receive = lambda sock, *ahead: guard.around(f"{side}wire.receive", lambda: receive(sock, *ahead))

    put, take = wire.Calls.put, wire.Tray.take

    def putting(self: Any, parcel: Any, sock: socket.socket) -> None:
        if parcel.datagram is None:
            put(self, parcel, sock)
        else:
            guard.around(f"{side}wire.send", lambda: put(self, parcel, sock))

    wire.Calls.put = putting  # type: ignore[method-assign]
    wire.Tray.take = lambda *args: guard.around(f"{side}wire.receive", lambda: take(*args))  # type: ignore[method-assign]


def _wrap_calls(guard: _Guard) -> None:
    """System calls, told apart by the function that makes them (see exits.py)."""
    places: list[tuple[Any, tuple[str, ...]]] = [
        (os, ("open", "close", "truncate", "killpg")),
        (fcntl, ("flock",)),
        (Path, ("mkdir", "unlink")),
        (subprocess, ("Popen",)),
        (socket.socket, ("send",)),
    ]
    for owner, names in places:
        for name in names:
            setattr(owner, name, _told_apart(guard, name, getattr(owner, name)))


def _told_apart(guard: _Guard, name: str, call: Any) -> Any:
    def told_apart(*args: Any, **kwargs: Any) -> Any:
        frame = sys._getframe(1)
        module = frame.f_globals.get("__name__", "")
        if module.startswith("exoflow."):
            point = f"{module[8:]}.{frame.f_code.co_qualname}.{name}"
            if point in POINTS:
                return guard.around(point, lambda: call(*args, **kwargs))
        return call(*args, **kwargs)

    return told_apart


def _prepare_workers(guard: _Guard) -> None:
    """Have worker processes wrap theirs. They are started by a line of Python, which gets a beginning."""
    told = guard.at if guard.at is not None and POINTS[guard.at.point].in_worker else None
    begin = f"from tests.crash.points import At, in_worker; in_worker({guard.folder!r}, {guard.life}, {told!r}); "
    here = "from exoflow.worker.entrypoint import main"
    start = subprocess.Popen

    def starting(args: Any, **options: Any) -> Any:
        if isinstance(args, list) and here in args[-1]:
            args = [*args[:-1], args[-1].replace(here, begin + here)]
        return start(args, **options)

    subprocess.Popen = starting  # type: ignore[assignment, misc]
