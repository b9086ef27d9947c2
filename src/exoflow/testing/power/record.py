"""Recording a real run: whatever it does to the disk goes through here, and so do the answers of its stores.

Nothing in the store knows. Its own files go through ``Files``, SQLite's through a VFS (``vfs.py``), and its callers hold a
:class:`RecordedStore` around it. That SQLite flushes the folder with the first flush of a log or journal is not visible at its VFS; it
was looked up in SQLite's source (``unixSync``), and is recorded here as it happens. (Seen with strace, runs of these workloads do what
their recordings say, call by call.)
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw

from exoflow.codec import Bytes
from exoflow.store.base import BlobStore, Collected, Entry, Head, OwnerRow, Verdict, Write
from exoflow.store.blobs import Files
from exoflow.store.sqlite import SqliteStore
from exoflow.testing.power import log, vfs
from exoflow.testing.power.log import Event, Request

_LOGS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL


class Recorder:
    """Keeps the events of a run in ``root``, in their order: an operation and its event are one step for all threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[Event] = []
        self.lock = threading.RLock()
        self.requests = threading.Lock()
        self._nodes: dict[Path, int] = {}
        self._opened: dict[int, int] = {}
        self._name_unflushed: set[int] = set()
        self.disk: dict[str, bytes | None] = {}
        self._nodes[root] = 0
        for path in sorted(root.rglob("*")):
            self._nodes[path] = len(self._nodes)
            self.disk[self.name(path)] = None if path.is_dir() else path.read_bytes()
        self._count = len(self._nodes)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """While it is open, SQLite's files are recorded too. Stores must be closed before its end."""
        with vfs.watched(self._around):
            yield

    def open_store(self, path: Path, files: Files | None = None) -> RecordedStore:
        """A store whose every step is recorded."""
        return RecordedStore(SqliteStore(path, files=files or RecordedFiles(self)), self)

    def note(self, event: Event) -> None:
        with self.lock:
            self.events.append(event)

    # --- names -------------------------------------------------------------------------------------------------------------------

    def made(self, path: Path, *, is_folder: bool = False) -> int:
        node = self._nodes[path] = self._count
        self._count += 1
        self.note(log.Made(self.name(path), node, is_folder))
        return node

    def renamed(self, path: Path, target: Path) -> None:
        self._nodes[target] = self._nodes.pop(path)
        self.note(log.Renamed(self.name(path), self.name(target)))

    def removed(self, path: Path) -> None:
        del self._nodes[path]
        self.note(log.Removed(self.name(path)))

    def flushed(self, path: Path) -> None:
        self.note(log.Flushed(self._nodes[path]))

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    # --- SQLite ------------------------------------------------------------------------------------------------------------------

    def _around(self, call: vfs.Call, perform: Callable[[], Any]) -> Any:
        path = Path(call.path)
        if not path.is_relative_to(self.root):
            return perform()
        with self.lock:
            result = perform()
            if call.op == "open":
                self._opened[call.file] = self._nodes[path] if path in self._nodes else self.made(path)
                if call.flags & _LOGS and call.flags & apsw.SQLITE_OPEN_CREATE:
                    self._name_unflushed.add(call.file)
            elif call.op == "delete":
                self.removed(path)
                if call.flushes_folder:
                    self.flushed(path.parent)
            elif call.op == "write":
                self.note(log.Wrote(self._opened[call.file], call.offset, call.data))
            elif call.op == "truncate":
                self.note(log.Resized(self._opened[call.file], call.offset))
            else:
                self.note(log.Flushed(self._opened[call.file]))
                if call.file in self._name_unflushed:
                    self._name_unflushed.remove(call.file)
                    self.flushed(path.parent)
            return result


class RecordedFiles(Files):
    """The store's own files."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._temps: dict[int, tuple[int, int]] = {}

    def make_folder(self, path: Path) -> None:
        with self._recorder.lock:
            super().make_folder(path)
            self._recorder.made(path, is_folder=True)

    def make_file(self, path: Path) -> None:
        with self._recorder.lock:
            super().make_file(path)
            self._recorder.made(path)

    def open_temp(self, folder: Path) -> tuple[int, Path]:
        with self._recorder.lock:
            fd, path = super().open_temp(folder)
            self._temps[fd] = self._recorder.made(path), 0
            return fd, path

    def write(self, fd: int, data: memoryview) -> None:
        with self._recorder.lock:
            super().write(fd, data)
            node, offset = self._temps[fd]
            self._temps[fd] = node, offset + len(data)
            self._recorder.note(log.Wrote(node, offset, bytes(data)))

    def flush(self, fd: int) -> None:
        with self._recorder.lock:
            super().flush(fd)
            self._recorder.note(log.Flushed(self._temps[fd][0]))

    def rename(self, source: Path, target: Path) -> None:
        with self._recorder.lock:
            super().rename(source, target)
            self._recorder.renamed(source, target)

    def flush_folder(self, path: Path) -> None:
        with self._recorder.lock:
            super().flush_folder(path)
            self._recorder.flushed(path)

    def unlink(self, path: Path) -> None:
        with self._recorder.lock:
            there = os.path.lexists(path)
            super().unlink(path)
            if there:
                self._recorder.removed(path)


class RecordedBlobs:
    """Notes when a blob is promised."""

    def __init__(self, inner: BlobStore, recorder: Recorder) -> None:
        self._inner, self._recorder = inner, recorder

    def put(self, pieces: Iterable[Bytes]) -> str:
        name = self._inner.put(pieces)
        self._recorder.note(log.Kept(name))
        return name

    def open(self, name: str) -> memoryview:
        return self._inner.open(name)

    def collect(self, *, grace_s: float, dry_run: bool = False) -> Collected:
        return self._inner.collect(grace_s=grace_s, dry_run=dry_run)

    def names(self) -> Iterable[str]:
        return self._inner.names()


class RecordedStore:
    """Notes what is asked of a store and what it promises. One request at a time, also if several stores share the file."""

    durable = True

    def __init__(self, inner: SqliteStore, recorder: Recorder) -> None:
        self.inner, self._recorder = inner, recorder
        self.url, self.directory = inner.url, inner.directory
        self.blobs: BlobStore = RecordedBlobs(inner.blobs, recorder)

    def _ask(self, request: Request) -> Any:
        with self._recorder.requests:
            self._recorder.note(log.Asked(request))
            answer = log.perform(request, self.inner)
            self._recorder.note(log.Answered(answer))
            return answer

    def commit(self, writes: Sequence[Write]) -> list[Verdict]:
        verdicts: list[Verdict] = self._ask(log.Commit(tuple(writes)))
        return verdicts

    def claim(self, workflow_id: str, *, epoch: int, owner: str | None) -> int | None:
        now: int | None = self._ask(log.Claim(workflow_id, epoch, owner))
        return now

    def delete(self, workflow_id: str, *, epoch: int) -> bool:
        return bool(self._ask(log.Delete(workflow_id, epoch)))

    def beat(self, row: OwnerRow | None, *, owner: str = "") -> list[tuple[str, str]]:
        wishes: list[tuple[str, str]] = self._ask(log.Beat(row, owner))
        return wishes

    def wish(self, workflow_id: str, wish: str) -> bool:
        return bool(self._ask(log.Wish(workflow_id, wish)))

    def head(self, workflow_id: str) -> Head | None:
        return self.inner.head(workflow_id)

    def heads(self, *, status: Sequence[str] = (), after: str = "", limit: int = 500) -> list[Head]:
        return self.inner.heads(status=status, after=after, limit=limit)

    def entries(self, workflow_id: str, *, retired: bool = False, seqs: Sequence[int] = ()) -> list[Entry]:
        return self.inner.entries(workflow_id, retired=retired, seqs=seqs)

    def owners(self) -> list[OwnerRow]:
        return self.inner.owners()

    def close(self) -> None:
        self.inner.close()
