"""Opening the file of a SqliteStore: what is refused and why, creation, migration, and how each connection is set up."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import apsw
import apsw.sqlite_extra

from exoflow.errors import StorageFullError, StoreCorruptError, StoreOpenError
from exoflow.store.blobs import Files, make_folders

APPLICATION_ID = 0x45784F66  # "ExOf"
_VERSION_NEEDED = 3_051_003  # before it, one connection's checkpoint could lose what another was writing
_CHECKSUM_VFS, _CHECKSUM_BYTES = "cksmvfs", 8
_BUSY_POLL_S = 0.001
_TRIES = 5_000
# fmt: off
_NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "davfs",
    "fuse.ceph", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs",
})
# fmt: on

_connections: weakref.WeakKeyDictionary[apsw.Connection, tuple[int, int]] = weakref.WeakKeyDictionary()
_inherited: set[tuple[int, int]] = set()
"""Device and inode of the files that were open in the process from which this one was forked."""
_opening = threading.Lock()
"""Held while a file is created: closing any descriptor of a file drops all locks that this process has on it, SQLite's included."""


def prepare(path: Path, busy_timeout_s: float, files: Files) -> Path:
    """Create the store's file or upgrade it, and return its real path. Raises StoreOpenError."""
    try:
        path = path.resolve()
        make_folders(path.parent, files)
        _refuse_network(path.parent)
        with _opening:
            with contextlib.suppress(FileExistsError):
                files.make_file(path)  # SQLite gives its log files the same rights
            _refuse_foreign(path)
            _load_checksums(path)
            _initialise(path, busy_timeout_s)
    except (OSError, ValueError, RuntimeError) as error:  # the last two: a NUL in the name, links in a circle
        raise _refused(path, str(error)) from error
    except apsw.Error as error:
        raise _open_fault(path, error) from error
    return path


def connect(path: Path, busy_timeout_s: float, *, read_only: bool = False) -> apsw.Connection:
    """A connection to a prepared file, with all settings made and the ones that matter checked."""
    try:
        db = _bare_connection(path, busy_timeout_s)
        try:
            db.pragma("synchronous", "FULL")
            db.pragma("fullfsync", True)  # macOS: otherwise a flush stops at the disk's own cache
            db.pragma("trusted_schema", False)
            db.pragma("cell_size_check", True)
            db.pragma("journal_size_limit", 64 << 20)
            db.pragma("cache_size", -4_000)  # kB; with 16,000, 30,000 workflows take as long and 14 MB more
            if read_only:
                db.pragma("query_only", True)
            for setting, wanted in (("journal_mode", "wal"), ("synchronous", 2), ("checksum_verification", "1")):
                if (got := db.pragma(setting)) != wanted:
                    raise _refused(path, f"SQLite has {setting} = {got}, and not {wanted}")
        except BaseException:
            db.close()
            raise
        _connections[db] = _identity(path.stat())
        return db
    except apsw.Error as error:
        raise _open_fault(path, error) from error


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is at ``path``, if any."""
    try:
        return _identity(path.stat())
    except OSError:
        return None


def code_of(error: Exception) -> int:
    """SQLite's detailed code."""
    return getattr(error, "extendedresult", 0)


def damage(error: Exception) -> str | None:
    """What is not as it was written, if that is what SQLite says by ``error``."""
    if code_of(error) in {apsw.SQLITE_IOERR_DATA, apsw.SQLITE_IOERR_CORRUPTFS}:
        return "a page of its file"
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError, apsw.ConstraintError)):
        return f"its file ({error})"
    return None


def network_filesystem(path: Path, mounts: str) -> str | None:
    """The type of the network file system that holds ``path``, or None. ``mounts`` is the text of /proc/mounts."""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, kind_here, *_ = line.split(" ")
        mounted = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point).rstrip("/")
        if f"{path}/".startswith(f"{mounted}/") and len(mounted) >= len(best):  # of two mounts at one point the later one counts
            best, kind = mounted, kind_here
    return kind if kind in _NETWORK else None


def _refused(path: Path, reason: str) -> StoreOpenError:
    return StoreOpenError(store=f"sqlite:{path}", reason=reason)


def _open_fault(path: Path, error: apsw.Error) -> StoreOpenError | StoreCorruptError | StorageFullError:
    if isinstance(error, apsw.NotADBError):
        return _refused(path, "it is not an SQLite database")
    if isinstance(error, apsw.FullError):
        return StorageFullError(store=f"sqlite:{path}", reason=str(error))
    if isinstance(error, apsw.BusyError):
        return _refused(path, "another process keeps it locked")
    if isinstance(error, apsw.ReadOnlyError):
        return _refused(path, "permission denied: its folder is read-only for this user, and SQLite has to make files beside it")
    if what := damage(error):
        return StoreCorruptError(store=f"sqlite:{path}", what=what)
    return _refused(path, str(error))


def _refuse_network(folder: Path) -> None:
    try:
        mounts = Path("/proc/mounts").read_text("utf-8", "replace")
    except OSError:  # not Linux
        return
    kind = network_filesystem(folder, mounts)
    if kind:
        raise _refused(folder, f"it is on a network file system ({kind}), where SQLite's locks and flushes do not hold; use a local disk")


def _refuse_foreign(path: Path) -> None:
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise _refused(path, "it is not a file")
    if info.st_uid != os.geteuid():
        raise _refused(path, f"it belongs to user {info.st_uid} and this process runs as {os.geteuid()}")
    if info.st_mode & 0o022:
        raise _refused(path, f"others may write to it (mode {stat.S_IMODE(info.st_mode):o}); chmod 600 it")
    if _identity(info) in _inherited:
        reason = "this process was forked from one that had it open, and SQLite's locks do not survive that; fork first, then open"
        raise _refused(path, reason)
    if not os.access(path, os.R_OK | os.W_OK):
        raise _refused(path, "permission denied: it is read-only for this user")


def _load_checksums(path: Path) -> None:
    """Make SQLite's page checksums known in this process, without making them the default for the rest of it."""
    if apsw.SQLITE_VERSION_NUMBER < _VERSION_NEEDED:
        raise _refused(path, f"SQLite {apsw.sqlite_lib_version()} can lose data in WAL mode; install apsw 3.51.3 or newer")
    default, *others = apsw.vfs_names()
    if _CHECKSUM_VFS in (default, *others):
        return
    db = apsw.Connection(":memory:")
    try:
        apsw.sqlite_extra.load(db, "cksumvfs")
    except (apsw.sqlite_extra.NotAvailable, LookupError, apsw.Error) as error:
        raise _refused(path, "this build of apsw lacks the module cksumvfs; install apsw from PyPI") from error
    finally:
        db.close()
    apsw.set_default_vfs(default)


def _bare_connection(path: Path, busy_timeout_s: float) -> apsw.Connection:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=_CHECKSUM_VFS)
    polls = int(busy_timeout_s / _BUSY_POLL_S)

    def wait(polled: int) -> bool:
        """Not SQLite's own timeout: it polls ever more rarely, and beside a process that commits all the time it never gets the lock."""
        time.sleep(_BUSY_POLL_S)
        return polled < polls

    db.set_busy_handler(wait)
    db.wal_autocheckpoint(0)
    return db


def _initialise(path: Path, busy_timeout_s: float) -> None:
    """Bring the file to the newest schema.

    With a connection of its own that never checkpoints: whether pages get checksums is decided when SQLite first sees the file, and
    a connection that was made while the file was empty may have decided wrongly.
    """
    scripts = {int(script.name[:4]): script.read_text("utf-8") for script in Path(__file__).with_name("schema").iterdir()}
    db = _bare_connection(path, busy_timeout_s)
    try:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        if db.readonly("main"):
            raise _refused(path, "the file or its file system is read-only")
        _refuse_other_content(db, path, max(scripts))
        _restore_header(db)
        _switch_to_wal(db)
        for number, script in sorted(scripts.items()):
            _migrate(db, number, script)
    finally:
        db.close()


def _refuse_other_content(db: apsw.Connection, path: Path, newest: int) -> None:
    db.execute("BEGIN")  # all of it at one moment: another process may be making the file
    try:
        pages, identity, version = (db.pragma(name) for name in ("page_count", "application_id", "user_version"))
        empty = not db.execute("SELECT count(*) FROM sqlite_schema").get
    finally:
        db.execute("ROLLBACK")
    if pages == 0:
        db.reserve_bytes("main", _CHECKSUM_BYTES)
        return
    reserved = db.reserve_bytes("main")
    unfinished = identity == 0 and reserved == _CHECKSUM_BYTES and empty
    if identity != APPLICATION_ID and not unfinished:
        raise _refused(path, "it is an SQLite database of another program")
    if reserved != _CHECKSUM_BYTES:
        raise StoreCorruptError(store=f"sqlite:{path}", what="the header of its file")
    if version > newest:
        raise _refused(path, f"its schema {version} is newer than this program's ({newest}); upgrade exoflow-engine")


def _restore_header(db: apsw.Connection) -> None:
    """From the first page in the file itself it is known that pages have checksums. If the power went while a checkpoint wrote that page,
    it may be torn; the log still has it, so the checkpoint is done again."""
    if db.pragma("page_count") and db.pragma("checksum_verification") != "1":
        _insist(lambda: db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL))


def _switch_to_wal(db: apsw.Connection) -> None:
    _insist(lambda: db.pragma("journal_mode", "wal"))


def _insist(action: Callable[[], object]) -> None:
    """Of two that want such a thing at once, SQLite sends one away instead of letting it wait."""
    for left in reversed(range(_TRIES)):
        try:
            action()
            return
        except apsw.BusyError:
            if not left:
                raise
            time.sleep(_BUSY_POLL_S)


def _migrate(db: apsw.Connection, number: int, script: str) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        if db.pragma("user_version") < number:  # asked inside the transaction: another process may have been faster
            db.execute(script)
            db.pragma("application_id", APPLICATION_ID)
            db.pragma("user_version", number)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _abandon_after_fork() -> None:
    """Keep connections that came through a fork from ever being closed: even that is forbidden, it would touch the parent's files."""
    import ctypes  # only children of a process with open stores need it

    for db, identity in _connections.items():
        if bool(db):  # open
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
            _inherited.add(identity)


os.register_at_fork(after_in_child=_abandon_after_fork)
