"""A model registry, as another team might run it: an SQLite database that knows nothing of workflows. The outside world of this example.

Three tables matter (``slots``, ``models``, ``ledger``); ``requests`` only witnesses: every request that ever arrived, in order, and whether
it changed anything. What a request does is durable before its answer is sent, and the answer takes its time, as on a network. A client
that dies in between has acted and does not know it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

ANSWER_S = 0.25
"""How long an answer is on its way."""
SLOTS = 8

_SCHEMA = """
CREATE TABLE IF NOT EXISTS slots (slot INTEGER PRIMARY KEY, holder TEXT);
CREATE TABLE IF NOT EXISTS models (key TEXT NOT NULL UNIQUE, slot INTEGER, sha256 TEXT, accuracy REAL, model BLOB);
CREATE TABLE IF NOT EXISTS ledger (key TEXT NOT NULL UNIQUE, line TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (number INTEGER PRIMARY KEY, what TEXT NOT NULL, changed INTEGER NOT NULL);
"""


def create(path: str) -> None:
    """A registry with free slots, unless there is one."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(_SCHEMA)
        db.executemany("INSERT OR IGNORE INTO slots VALUES (?, NULL)", [(slot,) for slot in range(1, SLOTS + 1)])
        db.commit()


def reserve(path: str, holder: str) -> int:
    """Give ``holder`` a free slot. Which one is a matter of chance, and asking twice takes two."""
    with _request(path, "reserve") as db:
        (slot,) = db.execute("SELECT slot FROM slots WHERE holder IS NULL ORDER BY random() LIMIT 1").fetchone()
        db.execute("UPDATE slots SET holder = ? WHERE slot = ?", (holder, slot))
    return slot


def release(path: str, holder: str) -> None:
    """Free whatever ``holder`` has."""
    with _request(path, "release") as db:
        db.execute("UPDATE slots SET holder = NULL WHERE holder = ?", (holder,))


def publish(path: str, key: str, slot: int, sha256: str, accuracy: float, model: bytes) -> None:
    """Make a model public, for ever. A second request with the same key changes nothing."""
    with _request(path, "publish") as db:
        db.execute("INSERT OR IGNORE INTO models VALUES (?, ?, ?, ?, ?)", (key, slot, sha256, accuracy, model))


def append(path: str, key: str, line: str) -> None:
    """Add a line to the ledger, for ever. A second request with the same key changes nothing."""
    with _request(path, "append") as db:
        db.execute("INSERT OR IGNORE INTO ledger VALUES (?, ?)", (key, line))


@contextmanager
def _request(path: str, what: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        before = db.total_changes
        yield db
        db.execute("INSERT INTO requests (what, changed) VALUES (?, ?)", (what, db.total_changes - before))
        db.execute("COMMIT")
    time.sleep(ANSWER_S)
