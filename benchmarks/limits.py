"""What the machine allows, whatever the software: flushes, SQLite commits, thread round trips."""

from __future__ import annotations

import os
import queue
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw


def median_ms(action: Callable[[], object], times: int) -> float:
    """Median of ``times`` runs, in milliseconds."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken)


def flush_ms(folder: Path) -> float:
    """Append 4 KB to a file and flush it."""
    fd = os.open(folder / "append", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:

        def append() -> None:
            os.write(fd, b"x" * 4096)
            os.fsync(fd)

        return median_ms(append, 300)
    finally:
        os.close(fd)


def commit_ms(folder: Path) -> float:
    """One row, one SQLite transaction, WAL, synchronous=FULL."""
    db = apsw.Connection(str(folder / "limit.db"))
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)"):
        db.execute(statement).fetchall()
    try:
        return median_ms(lambda: db.execute("INSERT INTO t (body) VALUES (?)", (b"x" * 300,)), 300)
    finally:
        db.close()


def handover_ms() -> float:
    """To another thread and back."""
    there: queue.SimpleQueue[object] = queue.SimpleQueue()
    back: queue.SimpleQueue[object] = queue.SimpleQueue()

    def echo() -> None:
        while (item := there.get()) is not None:
            back.put(item)

    thread = threading.Thread(target=echo)
    thread.start()
    try:

        def round_trip() -> None:
            there.put(1)
            back.get()

        return median_ms(round_trip, 2000)
    finally:
        there.put(None)
        thread.join()
