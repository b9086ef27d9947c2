"""Large payloads as files, each named by the digest of its content.

A blob is written to a temporary file, flushed, and only then renamed to its name, so that a name never stands for half a blob. The order
of the flushes is what makes :meth:`FileBlobs.put` durable: file, then rename, then folder, then (once) the folder's own entry.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from blake3 import blake3

from exoflow.codec import DIGEST_BYTES, Bytes
from exoflow.errors import StorageFullError, StoreOpenError, StoreUnavailable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of the operating system that mean: no room."""

_NAME = re.compile(rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}")
_FOLDER = re.compile(r"[0-9a-f]{2}")
_TEMP_PREFIX = "tmp-"
_MAPPED_FROM = 1 << 20
_THREADS_FROM = 64 << 20
_CHUNK = 8 << 20
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
            path = folder / f"{_TEMP_PREFIX}{secrets.token_hex(16)}"
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


class FileBlobs:
    """Blobs in ``directory``, which is made if need be: ``<directory>/ab/ab34…``. See BlobStore for what each method promises.

    ``files`` performs what changes the disk. After a flush failed, nothing is written any more through this object: the operating
    system may have dropped the data, and would say that a second flush went well.
    """

    def __init__(self, directory: Path, *, files: Files | None = None) -> None:
        self.directory = directory
        self._files = files or Files()
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
        """Store the concatenation of ``pieces`` and return its name, durable."""
        self._refuse_after_failure()
        with self._faults():
            fd, temp = self._files.open_temp(self.directory)
            try:
                name, size = self._spool(fd, pieces)
                target = self._path(name)
                self._settle(target.parent)
                if _is_sound(target, name, size):
                    self._files.unlink(temp)
                else:
                    self._flushing(lambda: self._files.flush(fd), tolerant=True)
                    self._files.rename(temp, target)
                # Also for a blob that was there: whoever wrote it may not have come to this line yet.
                self._flushing(lambda: self._files.flush_folder(target.parent))
                self._refuse_after_failure()  # of another thread meanwhile: the system tells only one of two that flush one folder
                return name
            except BaseException:
                self._files.unlink(temp)
                raise
            finally:
                os.close(fd)

    def _refuse_after_failure(self) -> None:
        if self._failed:
            raise StoreUnavailable(store=str(self.directory), reason=self._failed)

    def _spool(self, fd: int, pieces: Iterable[Bytes]) -> tuple[str, int]:
        hasher, size = blake3(max_threads=1), 0
        for piece in pieces:
            view = memoryview(piece)
            if view.nbytes:  # an empty view cannot be cast
                view = view.cast("B")
                for at in range(0, len(view), _CHUNK):  # in chunks, so that what is written is still in the processor's cache
                    hasher.update(view[at : at + _CHUNK])
                    self._files.write(fd, view[at : at + _CHUNK])
                size += len(view)
        return hasher.hexdigest(DIGEST_BYTES), size

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

    def delete(self, names: Iterable[str]) -> None:
        """Forget these blobs. Not flushed: one that comes back after a power loss does no harm."""
        with self._faults():
            for name in names:
                if _NAME.fullmatch(name):
                    self._files.unlink(self._path(name))

    def names(self) -> Iterator[str]:
        """Every blob that is stored."""
        with self._faults():
            for folder in self.directory.iterdir():
                if _FOLDER.fullmatch(folder.name):
                    yield from (path.name for path in folder.iterdir() if _NAME.fullmatch(path.name))

    def _path(self, name: str) -> Path:
        return self.directory / name[:2] / name

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = StorageFullError if error.errno in FULL else StoreUnavailable
            raise kind(store=str(self.directory), reason=str(error)) from error


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


def _is_sound(path: Path, name: str, size: int) -> bool:
    """Whether the blob is there already. Its bytes are compared too: putting a damaged blob again must repair it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.fstat(fd).st_size == size and _digest(fd, size, bytearray(min(size, _CHUNK))) == name
    except OSError:  # unreadable is as good as absent
        return False
    finally:
        os.close(fd)
