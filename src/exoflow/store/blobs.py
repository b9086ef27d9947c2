"""Large payloads as files, each named by the digest of its content.

A blob is written to a temporary file, flushed, and only then renamed to its name, so that a name never stands for half a blob. The order
of the flushes is what makes :meth:`FileBlobs.put` durable: file, then rename, then folder, then (once) the folder's own entry.

Collecting must not take a blob whose record is on its way, in whatever process. So whoever has put a blob keeps it open and locked
(shared) until the record is written; the kernel lets go of it when the process dies. Who collects locks each blob (alone), and only then
asks whether a journal names it. Both lock the blob's folder meanwhile, so that nobody finds a blob there that is gone, or another file, a
moment later.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import itertools
import math
import mmap
import os
import re
import resource
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from blake3 import blake3

from exoflow.codec import DIGEST_BYTES, Bytes
from exoflow.errors import StorageFullError, StoreOpenError, StoreUnavailable
from exoflow.store.base import Collected

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of the operating system that mean: no room."""

_NAME = re.compile(rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}")
_FOLDER = re.compile(r"[0-9a-f]{2}")
_TEMP_PREFIX = "tmp-"
_MAPPED_FROM = 1 << 20
_LARGE_FROM = 4 << 20
_BRISK_S = 0.0005
_SYNC_FILE_RANGE_WRITE = 2
_BEGIN_FROM = 1 << 20
_GLANCE = 4096
_GLANCES_MAX = 10_000
_THREADS_FROM = 64 << 20
_CHUNK = 16 << 20
_PINS_MAX = 256
_PASSED_OVER_MAX = 10_000
_LOCKED_MAX = 64
# Not blake3.AUTO: its pool of threads belongs to the process and is missing after a fork, where hashing would then wait for ever.
_THREADS = min(8, os.cpu_count() or 1)


class Files:
    """Every operation by which a store changes the disk without SQLite, in one place, so that a test can record it, fail it and replay
    it."""

    def make_folder(self, path: Path) -> None:
        """A new folder for this user only."""
        path.mkdir(mode=0o700)

    def make_file(self, path: Path) -> None:
        """A new, empty file for this user only. Raises FileExistsError."""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))

    def open_temp(self, folder: Path) -> tuple[int, Path]:
        """A new file for this user only, under a name that nobody can guess, locked as long as it is open."""
        while True:
            path = folder / f"{_TEMP_PREFIX}{os.urandom(16).hex()}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return fd, path
            os.close(fd)  # whoever tidies up saw the file before it was locked, and took it for a leftover

    def write(self, fd: int, data: memoryview) -> None:
        """Append all of ``data``."""
        while data:
            data = data[os.write(fd, data) :]

    def flush(self, fd: int) -> None:
        """Wait until the file is on the disk."""
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of whatever has it."""
        source.replace(target)

    def flush_folder(self, path: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def unlink(self, path: Path) -> None:
        """Remove a file; one that is gone is no error."""
        path.unlink(missing_ok=True)


def make_folders(path: Path, files: Files) -> None:
    """Make ``path`` and whatever is missing above it, and flush each name."""
    if not path.is_dir():
        make_folders(path.parent, files)
        with contextlib.suppress(FileExistsError):  # someone else was faster
            files.make_folder(path)
        files.flush_folder(path.parent)


class _Pins:
    """Descriptors of the blobs that were put and that no answered write has named, each with a shared lock. At most 256, or an eighth of
    what this process may open: beyond that the oldest are let go, and are protected by their age alone."""

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max = _PINS_MAX if soft == resource.RLIM_INFINITY else min(_PINS_MAX, max(soft // 8, 1))
        self._held: dict[str, list[int]] = {}
        self._count = 0
        self._mutex = threading.Lock()

    def add(self, name: str, fd: int) -> None:
        with self._mutex:
            self._held.setdefault(name, []).append(fd)
            self._count += 1
            while self._count > self._max:
                self._drop(next(iter(self._held)))

    def drop(self, names: Iterable[str]) -> None:
        """One pin less on each."""
        with self._mutex:
            for name in names:
                self._drop(name)

    def drop_all(self) -> None:
        with self._mutex:
            while self._held:
                self._drop(next(iter(self._held)))

    def _drop(self, name: str) -> None:
        fds = self._held.get(name)
        if fds:
            os.close(fds.pop())
            self._count -= 1
            if not fds:
                del self._held[name]


class _Brisk:
    """While somebody is in it, threads hand the interpreter over after half a millisecond instead of five.

    A large put has to ask for it at each of 25 calls of the system: beside a task that computes in Python, 100 MB take 63 ms instead of 90
    (alone 59). The setting is the interpreter's; what was set is restored, unless somebody else has changed it meanwhile.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._inside = 0
        self._before = 0.0

    def __enter__(self) -> None:
        with self._mutex:
            self._inside += 1
            if self._inside == 1:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(_BRISK_S, self._before))

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            self._inside -= 1
            if not self._inside and abs(sys.getswitchinterval() - _BRISK_S) < 1e-6:
                sys.setswitchinterval(self._before)


_BRISK = _Brisk()


class FileBlobs:
    """Blobs in ``directory``, which is made if need be: ``<directory>/ab/ab34…``. See BlobStore for what each method promises.

    ``named`` says which of some blobs a journal names. ``files`` performs what changes the disk. After a flush failed, nothing is written
    any more through this object: the operating system may have dropped the data, and would say that a second flush went well.
    """

    def __init__(
        self, directory: Path, *, files: Files | None = None, named: Callable[[Collection[str]], Collection[str]] = lambda names: names
    ) -> None:
        self.directory = directory
        self._files = files or Files()
        self._named = named
        self._pins = _Pins()
        self._glances: dict[str, None] = {}  # of what was written here
        self._passed_over = deque[str](maxlen=_PASSED_OVER_MAX)  # to be freed; the oldest are left to the next collection
        self._failed: str | None = None
        self._settled: set[Path] = set()  # folders whose own entry is known to be on the disk
        try:
            make_folders(directory, self._files)
            self._refuse_foreign()
            self._files.flush_folder(directory.parent)
            self._tidy_up()
        except OSError as error:
            raise StoreOpenError(store=str(directory), reason=str(error)) from error

    def _refuse_foreign(self) -> None:
        info = self.directory.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            reason = "it is not a folder that belongs to the user of this process"
        elif info.st_mode & 0o022:
            reason = f"others may write to it (mode {stat.S_IMODE(info.st_mode):o}); chmod 700 it"
        else:
            return
        raise StoreOpenError(store=str(self.directory), reason=reason)

    def _tidy_up(self) -> None:
        """Remove the temporary files of processes that died. Those of living ones are locked."""
        for path in self.directory.glob(f"{_TEMP_PREFIX}*"):
            with contextlib.suppress(OSError):  # locked, or gone, or not ours: not worth refusing to start
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._files.unlink(path)
                finally:
                    os.close(fd)

    def put(self, pieces: Iterable[Bytes]) -> str:
        """Store the concatenation of ``pieces`` and return its name, durable, and pinned until :meth:`answer`."""
        self._refuse_after_failure()
        views = _large(pieces)
        with self._faults(), _BRISK if views else contextlib.nullcontext():
            if views and _glance(views) in self._glances and (name := self._put_again(views)) is not None:
                return name
            held, temp = self._files.open_temp(self.directory)
            try:
                name, size = self._spool(held, views or pieces)
                target = self._path(name)
                self._settle(target.parent)
                with _locked(target.parent):
                    there = _open_sound(target, name, size)
                    if there is None:
                        self._flushing(lambda: self._files.flush(held), tolerant=True)
                        self._files.rename(temp, target)
                    else:
                        os.close(held)
                        held = there
                        self._files.unlink(temp)
                        os.utime(held)  # it is as good as new
                    fcntl.flock(held, fcntl.LOCK_SH)
                # Also for a blob that was there: whoever wrote it may not have come to this line yet.
                self._flushing(lambda: self._files.flush_folder(target.parent))
                self._refuse_after_failure()  # of another thread meanwhile: the system tells only one of two that flush one folder
            except BaseException:
                os.close(held)
                self._files.unlink(temp)
                raise
            if views:
                self._remember(views)
                if hasattr(os, "posix_fadvise"):  # what is large must not push everything else out of the system's cache
                    os.posix_fadvise(held, 0, 0, os.POSIX_FADV_DONTNEED)
            self._pins.add(name, held)
            return name

    def _put_again(self, views: list[memoryview]) -> str | None:
        """Nothing is written if it is there: its name, or None. To hash it costs a third of a write, which is for nothing if it is new."""
        name = _name_of(views)
        folder = self._path(name).parent
        self._settle(folder)
        with _locked(folder):
            held = _open_sound(self._path(name), name, sum(map(len, views)))
            if held is None:
                return None
            os.utime(held)
            fcntl.flock(held, fcntl.LOCK_SH)
        try:
            self._flushing(lambda: self._files.flush_folder(folder))
            self._refuse_after_failure()
        except BaseException:
            os.close(held)
            raise
        self._pins.add(name, held)
        return name

    def answer(self, names: Iterable[str]) -> None:
        """Writes that name these blobs were answered: journals name them now, or never will on behalf of that write."""
        self._pins.drop(names)

    def close(self) -> None:
        """No write will name anything any more. (What is open stays readable, and blobs can still be put.)"""
        self._pins.drop_all()

    def _refuse_after_failure(self) -> None:
        if self._failed:
            raise StoreUnavailable(store=str(self.directory), reason=self._failed)

    def _spool(self, fd: int, pieces: Iterable[Bytes]) -> tuple[str, int]:
        """Write and hash in turns, while the disk works; in few and long calls, because a thread that computes makes us wait after each."""
        hasher, size = blake3(max_threads=1), 0
        for piece in pieces:
            view = memoryview(piece)
            if view.nbytes:  # an empty view cannot be cast
                view = view.cast("B")
                for at in range(0, len(view), _CHUNK):
                    part = view[at : at + _CHUNK]
                    self._files.write(fd, part)
                    if len(part) >= _BEGIN_FROM:
                        _begin_to_flush(fd, size, len(part))
                    hasher.update(part)
                    size += len(part)
        return hasher.hexdigest(DIGEST_BYTES), size

    def _remember(self, views: list[memoryview]) -> None:
        self._glances[_glance(views)] = None
        while len(self._glances) > _GLANCES_MAX:
            del self._glances[next(iter(self._glances))]

    def _settle(self, folder: Path) -> None:
        """Make ``folder`` and its entry durable. Flushed even if it was there: whoever made it may not have come that far."""
        if folder not in self._settled:
            with contextlib.suppress(FileExistsError):
                self._files.make_folder(folder)
            self._flushing(lambda: self._files.flush_folder(self.directory))
            self._settled.add(folder)

    def _flushing(self, flush: Callable[[], None], *, tolerant: bool = False) -> None:
        """Flush. With ``tolerant``, a full disk is no reason to give up this object (nothing will rely on the file)."""
        try:
            flush()
        except OSError as error:
            if not (tolerant and error.errno in FULL):
                self._failed = f"flushing failed ({error.strerror}), so what was written may be lost; check the disk and open it again"
            raise

    def open(self, name: str) -> memoryview:
        """A view of the blob: verified, private to the caller, writable, and of 1 MB and more not copied."""
        if not _NAME.fullmatch(name):
            raise LookupError(f"there is no blob {name!r:.40}")
        with self._faults():
            try:
                fd = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                raise LookupError(f"there is no blob {name}") from None
            try:
                size = os.fstat(fd).st_size
                buffer = bytearray(min(size, _CHUNK))
                if _digest(fd, size, buffer) != name:
                    raise ValueError(f"blob {name} fails its digest")
                return memoryview(buffer if size < _MAPPED_FROM else mmap.mmap(fd, size, access=mmap.ACCESS_COPY))
            finally:
                os.close(fd)

    def collect(self, *, grace_s: float, dry_run: bool = False) -> Collected:
        """Remove what no journal names, nobody has pinned, and is older than ``grace_s`` by the clock of the file system. Not flushed: a
        blob that comes back after a power loss does no harm."""
        with self._faults():
            os.utime(self.directory)
            newest = self.directory.stat().st_mtime - grace_s
            found = Collected(removed=0, size_bytes=0, spared=0)
            for folder, names in itertools.groupby(sorted(self.names()), key=lambda name: self._path(name).parent):
                with _locked(folder):
                    found = self._sweep(names, newest if grace_s > 0 else math.inf, found, dry_run=dry_run)
            return found

    def free(self, names: Iterable[str]) -> None:
        """Remove those of ``names`` that no journal names and nobody has pinned, where that can be done without waiting. Where it cannot,
        because somebody puts one beside them, they come in turn with the next ones."""
        with self._faults():
            blobs = set(filter(_NAME.fullmatch, names))
            with contextlib.suppress(IndexError):
                while True:
                    blobs.add(self._passed_over.pop())
            for folder, here in itertools.groupby(sorted(blobs), key=lambda name: self._path(name).parent):
                some = list(here)
                try:
                    with contextlib.suppress(FileNotFoundError), _locked(folder, wait=False):
                        self._sweep(some, math.inf, Collected(removed=0, size_bytes=0, spared=0), dry_run=False)
                except BlockingIOError:
                    self._passed_over += some

    def _sweep(self, names: Iterable[str], newest: float, found: Collected, *, dry_run: bool) -> Collected:
        """Remove what may go of ``names``, in a locked folder; ``found`` so far, and by this."""
        removed, size, spared = found.removed, found.size_bytes, found.spared
        rest = iter(names)
        while some := list(itertools.islice(rest, _LOCKED_MAX)):
            with contextlib.ExitStack() as held:
                ours = {name: fd for name in some if (fd := held.enter_context(_try_to_lock(self._path(name)))) is not None}
                named = set(self._named(ours))  # asked only now: whoever had pinned them has committed, or never will
                spared += len(some) - len(ours)
                for name in sorted(ours.keys() - named):
                    info = os.fstat(ours[name])
                    if info.st_mtime > newest:
                        spared += 1
                        continue
                    removed, size = removed + 1, size + info.st_size
                    if not dry_run:
                        self._files.unlink(self._path(name))
        return Collected(removed=removed, size_bytes=size, spared=spared)

    def names(self) -> Iterator[str]:
        """Every blob that is stored."""
        with self._faults():
            for folder in self.directory.iterdir():
                if _FOLDER.fullmatch(folder.name):
                    yield from (path.name for path in folder.iterdir() if _NAME.fullmatch(path.name) and path == self._path(path.name))

    def _path(self, name: str) -> Path:
        return self.directory / name[:2] / name

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = StorageFullError if error.errno in FULL else StoreUnavailable
            raise kind(store=str(self.directory), reason=str(error)) from error


def _begin_to_flush(fd: int, at: int, size: int) -> None:
    """Have the disk begin with what was written, so that the flush has half as long to wait. It promises nothing."""
    if (begin := _sync_file_range()) is not None:
        begin(fd, at, size, _SYNC_FILE_RANGE_WRITE)


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    import ctypes  # not at the top: 10 ms that only those pay who have large values

    found = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux
    if found is not None:
        found.argtypes = ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
    return found


def _large(pieces: Iterable[Bytes]) -> list[memoryview]:
    """``pieces``, if they are in memory and large; otherwise none."""
    if not isinstance(pieces, (list, tuple)):
        return []
    views = [memoryview(piece).cast("B") for piece in pieces if memoryview(piece).nbytes]
    return views if sum(map(len, views)) >= _LARGE_FROM else []


def _glance(views: list[memoryview]) -> str:
    """What is cheap to see of it: what looks the same may be the same."""
    ends = [view[part] for view in views for part in (slice(_GLANCE), slice(-_GLANCE, None))]
    return _name_of([b"".join(ends), str(list(map(len, views))).encode()])


def _name_of(views: Iterable[Bytes]) -> str:
    hasher = blake3(max_threads=1)
    for view in views:
        hasher.update(view)
    return hasher.hexdigest(DIGEST_BYTES)


def _digest(fd: int, size: int, buffer: bytearray) -> str:
    """The name that the content should have; ``buffer`` then holds its last piece (all of it, if it fits).

    Read, not mapped: a bad sector is then an error, and not a signal that kills the process.
    """
    hasher = blake3(max_threads=_THREADS if size >= _THREADS_FROM else 1)
    for at in range(0, size, len(buffer) or 1):
        piece = memoryview(buffer)[: size - at]
        filled = 0
        while filled < len(piece) and (count := os.preadv(fd, [piece[filled:]], at + filled)):
            filled += count
        hasher.update(piece[:filled])
    return hasher.hexdigest(DIGEST_BYTES)


def _open_sound(path: Path, name: str, size: int) -> int | None:
    """A descriptor of the blob, if it is there already. Its bytes are compared too: putting a damaged blob again must repair it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_size == size and _digest(fd, size, bytearray(min(size, _CHUNK))) == name:
            return fd
    except OSError:  # unreadable is as good as absent
        os.close(fd)
        return None
    os.close(fd)
    return None


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock on a folder. Raises BlockingIOError where it should not be waited for."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _try_to_lock(path: Path) -> Iterator[int | None]:
    """A descriptor of the file, locked for us alone, or None: it is pinned, or gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield fd if _is_ours(fd) else None
    finally:
        os.close(fd)


def _is_ours(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
