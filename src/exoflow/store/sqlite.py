"""The default store: one SQLite file in WAL mode, flushed at each commit.

- One connection writes and checkpoints, another reads, each under its own lock, so reading does not wait for a commit. Other processes
  may use the same file: fences and seqs are read inside the write transaction and nothing is remembered between two.
- A commit takes a fixed number of statements whatever the number of writes (:class:`_Group`).
- Nothing damaged gets through: pages of the file carry a checksum (SQLite's own ``cksumvfs``), so that rows cannot vanish or move
  unnoticed, and each row a digest over its content.
- After a failed flush the handle is dead, because a second flush would report success for data that the system has dropped.
"""
# ruff: noqa: S608 - statements are put together from constants of this file alone

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec
from blake3 import blake3

from exoflow.codec import DIGEST_BYTES
from exoflow.errors import EnvironmentFault, ExoflowError, StorageFullError, StoreCorruptError, StoreUnavailable
from exoflow.store import sqlite_file
from exoflow.store.base import BlobStore, Entry, Head, OwnerRow, Verdict, Write
from exoflow.store.blobs import FULL, FileBlobs, Files
from exoflow.store.handle import Guard, check_write, replaced

T = TypeVar("T")

_NUMBER, _RETIRED, _SEQS = 1 << 33, 1 << 32, (1 << 32) - 1  # how an id of the journal is composed, see schema/0001_initial.sql
_CHECKPOINT_PAGES = 1000
_TRIES = 3

_HEAD = ", ".join(Head.__struct_fields__)
_SEALED_HEAD = f"{_HEAD}, lower(hex(seal))"

# One row, however many workflows: see _Group. Decoded into a list of _Working.
_LOAD = f"""
SELECT json_group_array(json_object(
           'head', json_object({", ".join(f"'{name}', {name}" for name in Head.__struct_fields__)}),
           'seal', lower(hex(seal)),
           'number', number,
           'last_seq', max(
               ifnull((SELECT max(id) FROM journal WHERE id BETWEEN number * {_NUMBER} AND number * {_NUMBER} + {_SEQS}), 0) & {_SEQS},
               ifnull((SELECT max(id) FROM journal WHERE id BETWEEN number * {_NUMBER} + {_RETIRED} AND number * {_NUMBER} + {_NUMBER - 1}),
                      0) & {_SEQS})))
FROM json_each(?) AS wanted CROSS JOIN heads ON workflow_id = wanted.value"""
_LAST_NUMBER = "SELECT ifnull(max(number), 0) FROM heads"
_INSERT_HEADS = f"""
INSERT INTO heads ({_HEAD}, seal, number)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, unhex(value->>8), value->>9
FROM json_each(?)"""
_UPDATE_HEADS = """
UPDATE heads SET owner = new.value->>2, status = new.value->>3, updated_ms = new.value->>5, note = new.value->>7,
       seal = unhex(new.value->>8), wish = NULL
FROM json_each(?) AS new WHERE number = new.value->>9"""
_CLAIM = "UPDATE heads SET epoch = ?, owner = ?, seal = unhex(?) WHERE number = ?"
# A record is laid out by _record.
_INSERT_ENTRIES = """
INSERT INTO journal (id, seal, body, payload)
SELECT CAST(substr(value, 1, 19) AS INTEGER), substr(value, 20, 16), substr(value, 47, length),
       iif(substr(value, 46, 1) = x'01', substr(value, 47 + length), NULL)
FROM (SELECT value, CAST(substr(value, 36, 10) AS INTEGER) AS length FROM carray(?))"""
_RETIRE = f"UPDATE journal SET id = id + {_RETIRED} WHERE id IN (SELECT value FROM json_each(?))"

_INSERT_NAMED = "INSERT OR IGNORE INTO named SELECT value->>0, value->>1 FROM json_each(?)"
_DELETE_NAMED = "DELETE FROM named WHERE number = ? RETURNING blob"
_READ_NAMED = "SELECT value FROM json_each(?) AS wanted WHERE EXISTS (SELECT 1 FROM named WHERE blob IN (wanted.value, '*'))"

_READ_HEAD = f"SELECT {_SEALED_HEAD} FROM heads WHERE workflow_id = ?"
_READ_HEADS = f"SELECT {_SEALED_HEAD} FROM heads WHERE workflow_id > ? ORDER BY workflow_id LIMIT ?"
# The inner limit is what keeps a page cheap: without it, all heads of these statuses would be sorted for each page.
_READ_HEADS_OF = f"""
SELECT {_SEALED_HEAD} FROM json_each(?1) AS wanted CROSS JOIN heads ON number IN (
    SELECT number FROM heads WHERE status = wanted.value AND workflow_id > ?2 ORDER BY workflow_id LIMIT ?3)
ORDER BY workflow_id LIMIT ?3"""
_READ_ENTRIES = f"""
SELECT id, seal, body, payload FROM (SELECT number * {_NUMBER} AS first FROM heads WHERE workflow_id = ?)
CROSS JOIN journal ON id BETWEEN first AND first + ? ORDER BY id"""
_READ_ENTRIES_OF = f"""
SELECT journal.id, seal, body, payload FROM (SELECT number * {_NUMBER} AS first FROM heads WHERE workflow_id = ?)
CROSS JOIN json_each(?) AS wanted CROSS JOIN journal ON journal.id IN (first + wanted.value, first + {_RETIRED} + wanted.value)"""
_OWNER = ", ".join(OwnerRow.__struct_fields__)
_READ_OWNERS = f"SELECT {_OWNER} FROM owners"
_WRITE_OWNER = f"INSERT OR REPLACE INTO owners ({_OWNER}) VALUES (?, ?, ?, ?, ?, ?)"

_WISH = "UPDATE heads SET wish = nullif(?, '') WHERE workflow_id = ?"
_READ_WISHES = "SELECT workflow_id, wish FROM heads WHERE owner = ? AND wish IS NOT NULL"

_FAULTS = (apsw.Error, msgspec.DecodeError, UnicodeDecodeError)
_FLUSH_FAILED = frozenset({apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC})


class _Working(msgspec.Struct, gc=False):
    """A workflow inside a transaction: its head and last seq as the writes so far have made them. ``seal`` is of the head as stored."""

    head: Head
    seal: str
    number: int
    last_seq: int
    is_new: bool = False
    is_changed: bool = False


_json = msgspec.json.encode
_load = msgspec.json.Decoder(list[_Working]).decode
_pack = msgspec.msgpack.encode


class _Log:
    """How long SQLite's log is; SQLite calls it after each commit. (Not a method of the store: that would tie both into a cycle.)"""

    pages = 0

    def __call__(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self.pages = pages
        return apsw.SQLITE_OK


class SqliteStore:
    """A store in the SQLite file ``path``, with large payloads in ``<path>-blobs/`` (``directory``, which also is the place for locks).

    Both are made if need be, for this user only. A lock held by another process is waited for up to ``busy_timeout_s``, three times.
    Raises StoreOpenError. See :class:`~exoflow.store.base.Store` for what each method promises.
    """

    durable = True

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout_s: float = 5.0, files: Files | None = None) -> None:
        files = files or Files()
        self.path = sqlite_file.prepare(Path(path), busy_timeout_s, files)
        self.directory = self.path.with_name(self.path.name + "-blobs")
        self.url = f"sqlite:{self.path}"
        self._blobs = FileBlobs(self.directory, files=files, named=_asking(weakref.ref(self)))
        self.blobs: BlobStore = self._blobs
        self._guard = Guard(f"store {self.url}")
        self._broken: str | None = None
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._writer = sqlite_file.connect(self.path, busy_timeout_s)
        self._reader = sqlite_file.connect(self.path, busy_timeout_s, read_only=True)
        self._identity = sqlite_file.identity(self.path)
        self._log = _Log()
        self._writer.set_wal_hook(self._log)

    # --- writing -----------------------------------------------------------------------------------------------------------------

    def commit(self, writes: Sequence[Write]) -> list[Verdict]:
        """Apply ``writes`` in one transaction; one verdict each, in order."""
        for write in writes:
            check_write(write)

        def work(db: apsw.Connection) -> list[Verdict]:
            group = _Group(db, self.url, {write.workflow_id for write in writes})
            verdicts = [group.apply(write) for write in writes]
            group.store()
            return verdicts

        verdicts = self._transact(work)
        if blobs := [name for write in writes for name in write.blobs]:
            self._blobs.answer(blobs)
        return verdicts

    def claim(self, workflow_id: str, *, epoch: int, owner: str | None) -> int | None:
        """Move the workflow to the next epoch and to ``owner``, if its epoch is ``epoch``."""

        def work(db: apsw.Connection) -> int | None:
            workflow = _Group(db, self.url, {workflow_id}).workflows.get(workflow_id)
            if workflow is None or workflow.head.epoch != epoch:
                return None
            head = msgspec.structs.replace(workflow.head, epoch=epoch + 1, owner=owner)
            db.execute(_CLAIM, (head.epoch, head.owner, _head_seal(head), workflow.number))
            return head.epoch

        return self._transact(work)

    def delete(self, workflow_id: str, *, epoch: int) -> bool:
        """Forget the workflow, its journal and what only it named, if its epoch is ``epoch``."""
        unnamed = list[str]()

        def work(db: apsw.Connection) -> bool:
            workflow = _Group(db, self.url, {workflow_id}).workflows.get(workflow_id)
            if workflow is None or workflow.head.epoch != epoch:
                return False
            first = workflow.number * _NUMBER
            db.execute("DELETE FROM journal WHERE id BETWEEN ? AND ?", (first, first + _NUMBER - 1))
            db.execute("DELETE FROM heads WHERE number = ?", (workflow.number,))
            unnamed[:] = [blob for (blob,) in db.execute(_DELETE_NAMED, (workflow.number,))]
            return True

        is_deleted = self._transact(work)
        if is_deleted:
            with contextlib.suppress(EnvironmentFault):  # the next collection sees to them
                self._blobs.free(unnamed)
        return is_deleted

    def beat(self, row: OwnerRow | None, *, owner: str = "") -> list[tuple[str, str]]:
        """Insert or replace ``row``; with None, remove the row of ``owner``. Returns the owner's open wishes."""

        def work(db: apsw.Connection) -> list[tuple[str, str]]:
            if row is None:
                db.execute("DELETE FROM owners WHERE owner = ?", (owner,))
                return []
            db.execute(_WRITE_OWNER, msgspec.structs.astuple(row))
            return list(db.execute(_READ_WISHES, (row.owner,)))

        return self._transact(work)

    def wish(self, workflow_id: str, wish: str) -> bool:
        """Leave a request for whoever drives the workflow."""

        def work(db: apsw.Connection) -> bool:
            db.execute(_WISH, (wish, workflow_id))
            return db.changes() > 0

        return self._transact(work)

    def _transact(self, work: Callable[[apsw.Connection], T]) -> T:
        self._guard.check()
        with self._writing:
            self._check()
            for _ in range(_TRIES):
                try:
                    result = self._once(work)
                except apsw.BusyError:
                    continue
                except _FAULTS as error:
                    raise self._fault(error, self._writer) from error
                self._check_place()
                self._checkpoint()
                return result
        raise StoreUnavailable(store=self.url, reason="another process keeps it locked")

    def _once(self, work: Callable[[apsw.Connection], T]) -> T:
        db = self._writer
        try:
            db.execute("BEGIN IMMEDIATE")
            result = work(db)
            db.execute("COMMIT")
            return result
        finally:
            if db.in_transaction:
                with contextlib.suppress(apsw.Error):  # the first error is the one that says what happened
                    db.execute("ROLLBACK")

    def _check_place(self) -> None:
        """The system lets us write to a file that was removed: what is committed to it is gone with it, so it must not be acknowledged."""
        if sqlite_file.identity(self.path) != self._identity:
            self._broken = "its file was removed or replaced while it was open"
            self._check()

    def _checkpoint(self) -> None:
        """Move the log into the file when it has grown. SQLite would do it by itself, but would not tell if a flush failed."""
        if self._log.pages >= _CHECKPOINT_PAGES:
            try:
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.Error as error:
                self._fault(error, self._writer)  # what was committed is safe in the log, so only the next call need know
            self._log.pages = 0

    # --- reading -----------------------------------------------------------------------------------------------------------------

    def head(self, workflow_id: str) -> Head | None:
        """The head, or None."""
        heads = self._heads(self._read(_READ_HEAD, workflow_id))
        return heads[0] if heads else None

    def heads(self, *, status: Sequence[str] = (), after: str = "", limit: int = 500) -> list[Head]:
        """Up to ``limit`` heads behind ``after``, in the order of ids."""
        limit = max(limit, 0)
        if not status:
            return self._heads(self._read(_READ_HEADS, after, limit))
        return self._heads(self._read(_READ_HEADS_OF, _json(sorted(set(status))).decode(), after, limit))

    def _heads(self, rows: list[Any]) -> list[Head]:
        heads = []
        for *fields, seal in rows:
            heads.append(Head(**dict(zip(Head.__struct_fields__, fields, strict=True))))
            _verify(heads[-1], seal, self.url)
        return heads

    def entries(self, workflow_id: str, *, retired: bool = False, seqs: Sequence[int] = ()) -> list[Entry]:
        """The journal in order, with or without what was retired, or those of ``seqs``."""
        if seqs:
            wanted = {seq for seq in seqs if 1 <= seq <= _SEQS}
            rows = self._read(_READ_ENTRIES_OF, workflow_id, _json(sorted(wanted)).decode())
        else:
            rows = self._read(_READ_ENTRIES, workflow_id, _NUMBER - 1 if retired else _SEQS)
        entries = []
        for row_id, seal, body, payload in rows:
            entry = Entry(row_id & _SEQS, body, payload)
            if _entry_seal(workflow_id, entry.seq, body) != seal:
                raise StoreCorruptError(store=self.url, what=f"entry {entry.seq} of workflow '{workflow_id}'")
            entries.append(entry)
        if retired or seqs:
            entries.sort(key=lambda entry: entry.seq)
        if retired and not seqs and [entry.seq for entry in entries] != list(range(1, len(entries) + 1)):
            raise StoreCorruptError(store=self.url, what=f"the numbering of the journal of workflow '{workflow_id}'")
        return entries

    def owners(self) -> list[OwnerRow]:
        """Every owner's row."""
        return [OwnerRow(**dict(zip(OwnerRow.__struct_fields__, row, strict=True))) for row in self._read(_READ_OWNERS)]

    def named(self, blobs: Collection[str]) -> Collection[str]:
        """Those of ``blobs`` that some journal names."""
        return [name for (name,) in self._read(_READ_NAMED, _json(list(blobs)).decode())]

    def _read(self, sql: str, *bindings: str | int) -> list[Any]:
        """The rows of one statement, and so of one moment."""
        self._guard.check()
        with self._reading:
            self._check()
            try:
                return self._reader.execute(sql, bindings).fetchall()
            except _FAULTS as error:
                raise self._fault(error, self._reader) from error

    # --- the handle --------------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        self._guard.check()
        if self._broken:
            raise StoreUnavailable(store=self.url, reason=self._broken)

    def _fault(self, error: Exception, db: apsw.Connection) -> ExoflowError:
        """What to raise for ``error``. Notes if the handle must not be used any more."""
        if not isinstance(error, apsw.Error):
            return StoreCorruptError(store=self.url, what=f"a row ({error})")
        if what := sqlite_file.damage(error):
            return StoreCorruptError(store=self.url, what=what)
        full = isinstance(error, apsw.FullError) or (isinstance(error, apsw.IOError) and db.system_errno in FULL)
        if full and sqlite_file.code_of(error) not in _FLUSH_FAILED:
            return StorageFullError(store=self.url, reason=str(error))
        if isinstance(error, apsw.IOError):
            self._broken = f"an earlier operation failed ({error}), and what the system holds in memory may be lost; open it again"
        return StoreUnavailable(store=self.url, reason=str(error))

    def close(self) -> None:
        """Release everything."""
        self._guard.check_process()
        with self._writing, self._reading:
            if self._guard.closed:
                return
            self._guard.closed = True
            if self._broken:  # closing would flush again, be told that all is well, and remove the log
                self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._reader.close()
            self._writer.close()
        self._blobs.close()


def _asking(store: weakref.ref[SqliteStore]) -> Callable[[Collection[str]], Collection[str]]:
    """Which blobs a journal names; all of them, when there is nobody left to ask. (Not a method: see _Log.)"""

    def named(blobs: Collection[str]) -> Collection[str]:
        asked = store()
        return blobs if asked is None else asked.named(blobs)

    return named


class _Group:
    """The writes of one transaction, judged one after the other in memory and then stored by a fixed number of statements.

    Not row by row, because SQLite runs without the GIL: after each statement this thread asks for it again, and if another thread is
    busy with Python code, it may have to wait 5 ms each time. (Measured: 1,000 rows took 1 ms, beside a busy thread 180 ms; now 16.)
    """

    def __init__(self, db: apsw.Connection, url: str, ids: set[str]) -> None:
        self._db = db
        self._records: list[bytes] = []
        self._retired: list[int] = []
        self._named: list[tuple[int, str]] = []
        self._last_number: int | None = None
        self.workflows: dict[str, _Working] = {}
        for workflow in _load(db.execute(_LOAD, (_json(sorted(ids)).decode(),)).get):
            self.workflows[workflow.head.workflow_id] = workflow
            _verify(workflow.head, workflow.seal, url)

    def apply(self, write: Write) -> Verdict:
        """Judge ``write`` and, unless it is refused, take it in."""
        workflow = self.workflows.get(write.workflow_id)
        if write.create and write.head is not None:
            if workflow is not None:
                return "exists"
            workflow = self.workflows[write.workflow_id] = _Working(write.head, "", self._next_number(), 0, is_new=True)
        elif workflow is None:
            return "missing"
        elif workflow.head.epoch != write.epoch:
            return "fenced"
        elif write.head is not None:
            workflow.head = replaced(workflow.head, write.head)
            workflow.is_changed = True
        first = workflow.number * _NUMBER
        for body, payload in write.entries:
            workflow.last_seq += 1
            seal = _entry_seal(write.workflow_id, workflow.last_seq, body)
            self._records.append(_record(first + workflow.last_seq, seal, body, payload))
        self._named += [(workflow.number, name) for name in write.blobs]
        if write.retire:
            self._retired += [first + seq for seq in write.retire if 1 <= seq <= workflow.last_seq]
        return "applied"

    def store(self) -> None:
        """Write what was taken in."""
        if self._records:
            self._db.execute(_INSERT_ENTRIES, (apsw.carray(tuple(sorted(self._records))),))
        if self._retired:
            self._db.execute(_RETIRE, (_json(self._retired).decode(),))
        new = [_row(workflow) for workflow in self.workflows.values() if workflow.is_new]
        if new:
            self._db.execute(_INSERT_HEADS, (_json(new).decode(),))
        changed = [_row(workflow) for workflow in self.workflows.values() if workflow.is_changed and not workflow.is_new]
        if changed:
            self._db.execute(_UPDATE_HEADS, (_json(changed).decode(),))
        if self._named:
            self._db.execute(_INSERT_NAMED, (_json(self._named).decode(),))

    def _next_number(self) -> int:
        if self._last_number is None:
            self._last_number = self._db.execute(_LAST_NUMBER).get
        self._last_number += 1
        return self._last_number


def _head_seal(head: Head) -> str:
    fields = (head.workflow_id, head.epoch, head.owner, head.status, head.created_ms, head.updated_ms, head.digest, head.note)
    return blake3(_pack(fields)).hexdigest(DIGEST_BYTES)


def _verify(head: Head, seal: str, url: str) -> None:
    if _head_seal(head) != seal:
        raise StoreCorruptError(store=url, what=f"the head of workflow '{head.workflow_id}'")


def _entry_seal(workflow_id: str, seq: int, body: bytes) -> bytes:
    """Over the place too, so that an entry cannot be taken for another."""
    return blake3(f"{seq} {workflow_id} ".encode() + body).digest(DIGEST_BYTES)


def _row(workflow: _Working) -> tuple[Any, ...]:
    """The fields of a head, its seal and its number, as the statements that write heads expect them."""
    return *msgspec.structs.astuple(workflow.head), _head_seal(workflow.head), workflow.number


def _record(row_id: int, seal: bytes, body: bytes, payload: bytes | None) -> bytes:
    """A row of the journal as ``_INSERT_ENTRIES`` takes it apart: id in 19 digits, seal, length of the body in 10 digits, whether there
    is a payload, body, payload."""
    if payload is None:
        return b"%019d%b%010d\0%b" % (row_id, seal, len(body), body)
    return b"%019d%b%010d\1%b%b" % (row_id, seal, len(body), body, payload)
