"""What the machine allows, whatever the software: flushes, SQLite commits, pools, memory and disk. A contestant like the others."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import statistics
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from benchmarks.reading import Reading, Readings, Sizes, elapsed_s, median_ms, require, serve
from benchmarks.starting import first_result, python_s

_ROW = b"x" * 300
_GROUP_MAX = 500


def open_database(path: Path) -> apsw.Connection:
    """A table in an SQLite file that flushes each commit, as the engine's does."""
    db = apsw.Connection(str(path))
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)"):
        db.execute(statement).fetchall()
    return db


def one_commit(folder: Path, sizes: Sizes) -> Readings:
    """Append 4 KB and flush; one row in one SQLite transaction."""
    fd = os.open(folder / "append", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def append() -> None:
        os.write(fd, b"x" * 4096)
        os.fsync(fd)

    db = open_database(folder / "limit.db")
    flush = median_ms(append, sizes.calls)
    commit = median_ms(lambda: db.execute("INSERT INTO t (body) VALUES (?)", (_ROW,)), sizes.calls)
    os.close(fd)
    db.close()
    return {"4 KB append + fsync": Reading(flush, "ms", "durable"), "SQLite commit": Reading(commit, "ms", "durable")}


class _Writer:
    """Rows of many callers in one transaction, by a thread of its own: group commit, written by hand without any feature."""

    def __init__(self, path: Path) -> None:
        self.db = open_database(path)
        self._rows: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    async def put(self, body: bytes) -> None:
        """Return when ``body`` is flushed."""
        done = self._loop.create_future()
        self._rows.put((body, done))
        await done

    def _run(self) -> None:
        while (row := self._rows.get()) is not None:
            group = [row]
            while len(group) < _GROUP_MAX and not self._rows.empty():
                another = self._rows.get()
                if another is None:
                    self._rows.put(None)
                    break
                group.append(another)
            with self.db:
                self.db.executemany("INSERT INTO t (body) VALUES (?)", [(body,) for body, _ in group])
            self._loop.call_soon_threadsafe(_resolve, [done for _, done in group])

    def close(self) -> None:
        self._rows.put(None)
        self._thread.join()


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


async def _work(x: int) -> int:
    return x + 1


async def _grouped_s(path: Path, one: Callable[[_Writer, int], Coroutine[Any, Any, None]], count: int, rows: int) -> float:
    writer = _Writer(path)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await asyncio.gather(*[one(writer, i) for i in range(count)])
    taken = loop.time() - start
    writer.close()
    require(writer.db.execute("SELECT count(*) FROM t").fetchone(), (rows,), "rows on disk")
    writer.db.close()
    return taken


async def _workflow(writer: _Writer, i: int) -> None:
    await writer.put(_ROW)
    await writer.put(b"%d" % await _work(i) + _ROW)


async def _saved_task(writer: _Writer, i: int) -> None:
    await writer.put(b"%d" % await _work(i) + _ROW)


def grouped_workflows(folder: Path, sizes: Sizes) -> Readings:
    """Two rows a workflow, the second after the first is flushed."""
    taken = asyncio.run(_grouped_s(folder / "limit.db", _workflow, sizes.crowd, 2 * sizes.crowd))
    return {"asyncio + SQLite by hand": Reading(sizes.crowd / taken, "/s", "durable")}


def grouped_tasks(folder: Path, sizes: Sizes) -> Readings:
    """One row a task, and a join."""
    taken = asyncio.run(_grouped_s(folder / "limit.db", _saved_task, sizes.crowd, sizes.crowd))
    return {"asyncio + SQLite by hand": Reading(sizes.crowd / taken, "/s", "durable")}


def add_one(x: int) -> int:
    return x + 1


def _pool_per_s(pool: Executor, count: int) -> float:
    with pool:
        pool.submit(add_one, 0).result()
        found: list[Future[int]] = []
        results: list[int] = []

        def all_of_them() -> None:
            found.extend(pool.submit(add_one, i) for i in range(count))
            results.extend(future.result() for future in found)

        taken = elapsed_s(all_of_them)
    require(sum(results), sum(range(1, count + 1)), "results")
    return count / taken


async def _gather(count: int) -> int:
    return sum(await asyncio.gather(*[asyncio.create_task(_work(i)) for i in range(count)]))


def bare_calls(_folder: Path, sizes: Sizes) -> Readings:
    """Tasks of asyncio, calls of a thread pool."""
    taken = elapsed_s(lambda: require(asyncio.run(_gather(sizes.crowd)), sum(range(1, sizes.crowd + 1)), "results"))
    return {
        "bare asyncio": Reading(sizes.crowd / taken, "/s", "not durable"),
        "bare thread pool": Reading(_pool_per_s(ThreadPoolExecutor(), sizes.crowd), "/s", "not durable"),
    }


def process_calls(_folder: Path, sizes: Sizes) -> Readings:
    """Calls of a process pool with as many processes as there are cores."""
    return {"bare process pool": Reading(_pool_per_s(ProcessPoolExecutor(), sizes.crowd), "/s", "not durable")}


def _write_s(path: Path, data: np.ndarray[Any, Any]) -> float:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL)

    def write() -> None:
        left = data.data.cast("B")
        while left:
            left = left[os.write(fd, left[: 8 << 20]) :]
        os.fsync(fd)

    taken = elapsed_s(write)
    os.close(fd)
    require(path.stat().st_size, data.nbytes, "bytes on disk")
    path.unlink()
    return taken


def raw_bytes(folder: Path, sizes: Sizes) -> Readings:
    """The bytes of the array, written and flushed; and copied in memory."""
    data = np.random.default_rng().integers(0, 256, sizes.array_mb << 20, dtype=np.uint8)
    other = np.empty_like(data)
    write = statistics.median(_write_s(folder / f"raw{i}", data) for i in range(sizes.copies))
    return {
        "write + fsync": Reading(write * 1e3, "ms", "durable"),
        "copy in memory": Reading(median_ms(lambda: np.copyto(other, data), sizes.copies), "ms", "not durable"),
    }


def disk_speed(folder: Path, sizes: Sizes) -> Readings:
    """MB/s of writing and flushing the bytes of the array."""
    reading = raw_bytes(folder, sizes)["write + fsync"]
    return {"write + fsync": Reading(sizes.array_mb / reading.value * 1e3, "MB/s", "durable")}


def huge_bytes(folder: Path, sizes: Sizes) -> Readings:
    """The bytes of the huge array, written and flushed once."""
    data = np.random.default_rng().integers(0, 256, sizes.huge_mb << 20, dtype=np.uint8)
    return {"write + fsync": Reading(_write_s(folder / "raw", data), "s", "durable")}


def start_and_read(folder: Path, sizes: Sizes) -> Readings:
    """A bare interpreter that reads the rows of a small SQLite file."""
    path = folder / "limit.db"
    db = sqlite3.connect(path)
    with db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        db.executemany("INSERT INTO t (body) VALUES (?)", [(_ROW,)] * sizes.steps)
    db.close()
    code = f"import sqlite3; assert len(sqlite3.connect({str(path)!r}).execute('SELECT * FROM t').fetchall()) == {sizes.steps}"
    return {"start Python, read": Reading(python_s(code, sizes.starts), "s", "no data")}


def bare_interpreter(_folder: Path, sizes: Sizes) -> Readings:
    """Python that does nothing."""
    _, resident = first_result([sys.executable, "-c", "print(2, flush=True); input()"])
    return {
        "start Python": Reading(python_s("pass", sizes.starts), "s", "no data"),
        "bare Python": Reading(resident, "MB", "no data"),
    }


GROUPS = {
    "P1": one_commit,
    "P2": one_commit,
    "P3": grouped_workflows,
    "P4": grouped_tasks,
    "P5": bare_calls,
    "P6": process_calls,
    "P8": raw_bytes,
    "P9": huge_bytes,
    "P10": disk_speed,
    "P11": start_and_read,
    "P12": bare_interpreter,
}

if __name__ == "__main__":
    serve(GROUPS)
