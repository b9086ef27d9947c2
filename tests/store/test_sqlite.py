"""The SQLite store where it differs from others: what is refused, damage, full disks, failing flushes, other processes, kill -9."""

from __future__ import annotations

import errno
import gc
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from exoflow.errors import ClosedError, ExoflowError, StorageFullError, StoreCorruptError, StoreOpenError, StoreUnavailable
from exoflow.store import sqlite, sqlite_file
from exoflow.store.base import Collected, Entry, OwnerRow, Write
from exoflow.store.blobs import Files
from exoflow.store.sqlite import SqliteStore
from exoflow.testing.store_suite import a_head, appending, bodies_of, content, creation

EVERYTHING = "from exoflow.testing.store_suite import *; from exoflow.store.sqlite import SqliteStore; import sys, os, resource, signal\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


def child(program: str, *args: object, **options: object) -> subprocess.Popen[str]:
    """A process that runs ``program``, with everything of this file imported."""
    command = [sys.executable, "-c", EVERYTHING + program, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


def in_fork(job: Callable[[], str]) -> str:
    """What ``job`` returns, run in a child made by fork."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = job()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def raw(path: Path) -> apsw.Connection:
    return apsw.Connection(str(path), vfs="cksmvfs")


# --- opening -----------------------------------------------------------------------------------------------------------------------


def refusal(path: Path | str) -> str:
    with pytest.raises(StoreOpenError) as caught:
        SqliteStore(path)
    return str(caught.value)


def test_missing_folders_are_made_for_this_user_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SqliteStore(tmp_path / "a" / "b" / "x.db")
        store.commit([creation("w", b"1")])
        store.blobs.put([b"blob"])
        modes = {str(each.relative_to(tmp_path)): stat.S_IMODE(each.stat().st_mode) for each in tmp_path.rglob("*")}
    finally:
        os.umask(before)
    files = {each: mode for each, mode in modes.items() if not (tmp_path / each).is_dir()}
    assert {"a/b/x.db", "a/b/x.db-wal", "a/b/x.db-shm"} < set(files)
    assert set(files.values()) == {0o600}
    assert {mode for each, mode in modes.items() if each not in files} == {0o700}
    assert store.directory == tmp_path / "a" / "b" / "x.db-blobs"
    store.close()
    assert sorted(each.name for each in (tmp_path / "a" / "b").iterdir()) == ["x.db", "x.db-blobs"]


@pytest.mark.parametrize("text", [b"hello", b"x" * 100_000, b"SQLite format 4\0" + bytes(5000)])
def test_a_file_that_is_no_database(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    path.chmod(0o600)
    assert "is not an SQLite database" in refusal(path)
    assert path.read_bytes() == text


@pytest.mark.parametrize("sql", ["CREATE TABLE t(a)", "PRAGMA application_id = 7", "PRAGMA user_version = 1", "VACUUM"])
def test_a_database_of_another_program_is_left_alone(path: Path, sql: str) -> None:
    db = apsw.Connection(str(path))
    db.execute(sql)
    db.close()
    path.chmod(0o600)
    before = path.read_bytes()
    assert "database of another program" in refusal(path)
    assert path.read_bytes() == before


def test_a_database_with_page_checksums_of_another_program_is_left_alone(path: Path) -> None:
    SqliteStore(path).close()
    db = raw(path)
    db.pragma("application_id", 7)
    db.close()
    assert "database of another program" in refusal(path)


def test_a_newer_schema_is_refused(path: Path) -> None:
    SqliteStore(path).close()
    db = raw(path)
    db.pragma("user_version", 99)
    db.close()
    assert "schema 99 is newer than this program's (2); upgrade" in refusal(path)


def test_workflows_from_before_blobs_were_counted_keep_all_of_them(path: Path) -> None:
    store = SqliteStore(path)
    name = store.blobs.put([b"blob"])
    store.commit([creation("old", b"1"), creation("new", b"1")])
    store.close()
    db = raw(path)
    db.execute("DROP TABLE named; PRAGMA user_version = 1")
    db.close()
    store = SqliteStore(path)
    assert store.blobs.collect(grace_s=0) == Collected(removed=0, size_bytes=0, spared=0)
    store.delete("new", epoch=1)
    assert list(store.blobs.names()) == [name]
    store.delete("old", epoch=1)
    assert store.blobs.collect(grace_s=0).removed == 1
    store.close()


def test_blobs_that_cannot_be_removed_do_not_keep_a_workflow(path: Path) -> None:
    class Stuck(Files):
        stuck = True

        def unlink(self, path: Path) -> None:
            if self.stuck and not path.name.startswith("tmp-"):
                raise OSError(errno.EACCES, "Permission denied")
            super().unlink(path)

    store = SqliteStore(path, files=Stuck())
    name = store.blobs.put([b"blob"])
    store.commit([creation("w", b"1"), Write(workflow_id="w", epoch=1, blobs=(name,))])
    assert store.delete("w", epoch=1) is True
    with pytest.raises(StoreUnavailable):
        store.blobs.collect(grace_s=0)
    Stuck.stuck = False
    assert store.blobs.collect(grace_s=0).removed == 1
    store.close()


def test_the_blobs_of_a_store_that_is_gone_are_kept(path: Path) -> None:
    store = SqliteStore(path)
    blobs, name = store.blobs, store.blobs.put([b"blob"])
    store.close()
    with pytest.raises(ClosedError):
        blobs.collect(grace_s=0)
    del store
    assert blobs.collect(grace_s=0).removed == 0
    assert list(blobs.names()) == [name]


def test_a_header_that_turns_page_checksums_off_is_damage(path: Path) -> None:
    SqliteStore(path).close()
    with path.open("r+b") as file:
        file.seek(20)
        file.write(b"\0")
    with pytest.raises(StoreCorruptError, match="header"):
        SqliteStore(path)


def test_the_rest_of_the_process_keeps_its_sqlite(path: Path) -> None:
    SqliteStore(path).close()
    db = apsw.Connection(str(path.with_name("other.db")))
    assert db.vfsname("main") == "unix"
    db.close()


def test_creation_goes_on_where_a_crash_stopped_it(path: Path) -> None:
    path.touch(0o600)
    db = raw(path)
    db.reserve_bytes("main", 8)
    db.pragma("journal_mode", "wal")
    db.close()
    store = SqliteStore(path)
    store.commit([creation("w", b"1")])
    store.close()


@pytest.mark.parametrize(
    "torn", [bytes(512), bytes(4096), b"\xaa" * 512, b"SQLite format 3\0" + bytes(84)], ids=["512 zeros", "4096 zeros", "garbage", "magic"]
)
def test_power_that_went_while_the_first_page_was_written(tmp_path: Path, path: Path, torn: bytes) -> None:
    """By a checkpoint: the log still has the page. Found by the replay of power loss."""
    store = SqliteStore(path)
    store.commit([creation("w", b"1")])
    copy = tmp_path / "copy.db"
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{copy}{end}")
    store.close()
    with copy.open("r+b") as file:
        file.write(torn)
    for number in (2, 3):
        store = SqliteStore(copy)
        assert store.commit([appending("w", b"%d" % number)]) == ["applied"]
        store.close()
    store = SqliteStore(copy)
    assert bodies_of(store) == [b"1", b"2", b"3"]
    assert store._writer.pragma("integrity_check") == "ok"
    store.close()


def test_paths_that_cannot_be_a_store(tmp_path: Path) -> None:
    assert "is not a file" in refusal(tmp_path)
    assert "null byte" in refusal("a\0b.db")
    (tmp_path / "loop.db").symlink_to("loop.db")
    assert "loop" in refusal(tmp_path / "loop.db").lower()
    (tmp_path / "file").touch()
    assert "file" in refusal(tmp_path / "file" / "x.db")
    fifo = tmp_path / "fifo.db"
    os.mkfifo(fifo)
    assert "is not a file" in refusal(fifo)


def test_two_names_of_one_file_are_one_store(tmp_path: Path, path: Path) -> None:
    first = SqliteStore(path)
    first.commit([creation("w", b"1")])
    (tmp_path / "link.db").symlink_to(path)
    second = SqliteStore(tmp_path / "link.db")
    assert second.url == first.url
    assert second.directory == first.directory
    second.commit([appending("w", b"2")])
    assert bodies_of(first) == [b"1", b"2"]
    first.close()
    second.close()


def test_what_others_could_change_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SqliteStore(path).close()
    path.chmod(0o620)
    assert "others may write to it (mode 620); chmod 600" in refusal(path)
    path.chmod(0o600)
    blobs = path.with_name("x.db-blobs")
    blobs.chmod(0o770)
    assert "others may write to it (mode 770)" in refusal(path)
    blobs.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "this process runs as 12345" in refusal(path)


def test_without_permission(tmp_path: Path) -> None:
    """In a child that is nobody, because root may do everything."""

    def as_nobody(job: Callable[[], object]) -> str:
        def run() -> str:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            os.chdir("/")
            job()
            return "opened"

        return in_fork(run)

    def make(mode: int) -> None:
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        as_nobody(lambda: SqliteStore(file).close())
        file.chmod(mode)

    SqliteStore(tmp_path / "warm up: imports and page checksums.db").close()
    folder = Path(f"/tmp/exoflow-test-{os.getpid()}-{random.getrandbits(64):x}")  # not in tmp_path, where nobody may not go
    file = folder / "x.db"
    try:
        make(0o600)
        assert as_nobody(lambda: SqliteStore(file)) == "opened"
        file.chmod(0o400)
        answer = as_nobody(lambda: SqliteStore(file))
        assert answer.startswith("StoreOpenError")
        assert "read-only" in answer
        file.chmod(0o600)
        folder.chmod(0o500)
        answer = as_nobody(lambda: SqliteStore(file))
        assert answer.startswith("StoreOpenError")
        assert "its folder is read-only" in answer
        folder.chmod(0o000)
        answer = as_nobody(lambda: SqliteStore(file))
        assert answer.startswith("StoreOpenError")
        assert "Permission denied" in answer
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


def test_network_file_systems_are_recognised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "/dev/vda / ext4 rw 0 0",
        "host:/e /net nfs4 rw 0 0",
        "/dev/vdb /net/local ext4 rw 0 0",
        "//h/s /with\\040space cifs rw 0 0",
        "t /t tmpfs 0 0",
        "s /t fuse.sshfs 0 0",
    )
    mounts = "\n".join(lines)
    kinds = {
        place: sqlite_file.network_filesystem(Path(place), mounts) for place in ("/", "/a", "/net", "/net/a", "/network", "/net/local/a")
    }
    assert kinds == {"/": None, "/a": None, "/net": "nfs4", "/net/a": "nfs4", "/network": None, "/net/local/a": None}
    assert sqlite_file.network_filesystem(Path("/with space/x"), mounts) == "cifs"
    assert sqlite_file.network_filesystem(Path("/t"), mounts) == "fuse.sshfs"
    monkeypatch.setattr(sqlite_file, "_NETWORK", frozenset(line.split(" ")[2] for line in Path("/proc/mounts").read_text().splitlines()))
    assert "network file system" in refusal(path)


def test_settings_that_durability_rests_on_are_checked(path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for db in (store._writer, store._reader):
        assert [db.pragma(each) for each in ("journal_mode", "synchronous", "checksum_verification")] == ["wal", 2, "1"]
    real = apsw.Connection.pragma

    class Careless(apsw.Connection):
        def pragma(self, name: str, *value: object, **options: object) -> object:
            return real(self, name, *(("OFF",) if name == "synchronous" and value else value), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(apsw, "Connection", Careless)
    assert "synchronous = 0, and not 2" in refusal(path)


def test_a_store_that_nobody_closed_is_given_back(path: Path) -> None:
    store = SqliteStore(path)
    store.commit([creation("w", b"1")])
    del store
    gc.collect()
    assert not [db for db in apsw.connections() if db.filename == str(path)]


@pytest.mark.slow
def test_many_processes_make_one_file(path: Path) -> None:
    """Slow because it starts processes."""
    program = "s = SqliteStore(sys.argv[1]); print(*s.commit([creation(sys.argv[2], b'1')])); s.close()"
    children = [child(program, path, f"w{number}") for number in range(4)]
    assert [each.communicate()[0] for each in children] == ["applied\n"] * 4
    store = SqliteStore(path)
    assert sorted(content(store)) == ["w0", "w1", "w2", "w3"]
    store.close()


# --- damage ------------------------------------------------------------------------------------------------------------------------


def furnish(store: SqliteStore) -> None:
    store.commit([creation("a", b"a1", b"a2" * 3000, b"a3"), creation("b", b"b1", status="DONE")])
    store.commit([Write(workflow_id="a", epoch=1, entries=((b"a4", b"payload"),), retire=(1, 2)), appending("b", b"b2")])
    store.beat(OwnerRow(owner="e", host="h", pid=1, lock_path="/l", beat=1, lease_s=1.0))


def everything(store: SqliteStore) -> object:
    return content(store), store.owners(), store.heads(status=["DONE"]), store.head("b"), store.head("c"), store.entries("c")


@pytest.mark.slow
def test_no_flipped_byte_gives_a_wrong_answer(path: Path) -> None:
    """Slow because it opens thousands of files: each byte of the header flipped, and every 9th byte of the rest."""
    store = SqliteStore(path)
    furnish(store)
    right = everything(store)
    store.close()
    sound = path.read_bytes()
    rng = random.Random(1)
    caught = 0
    for position in [*range(100), *range(100, len(sound), 9)]:
        damaged = bytearray(sound)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        path.with_name("x.db-wal").unlink(missing_ok=True)
        try:
            store = SqliteStore(path)
        except (StoreOpenError, StoreCorruptError):
            caught += 1
            continue
        try:
            assert everything(store) == right, f"byte {position}"
            assert store.commit([appending("a", b"a5"), appending("b", b"b3")]) == ["applied", "applied"]
            assert bodies_of(store, "a")[-1] == b"a5"
        except StoreCorruptError:
            caught += 1
        finally:
            store.close()
    assert caught > 2500


@pytest.mark.slow
def test_a_flipped_byte_in_the_log_leaves_a_state_that_was(tmp_path: Path, path: Path) -> None:
    """Commits that were not yet moved into the file may be lost to it (nobody can tell that from a power loss), but none changes.

    Slow because it opens hundreds of files.
    """
    store = SqliteStore(path)
    states = [content(store)]
    for number in range(4):
        store.commit([creation(f"w{number}", b"1"), *([appending("w0", b"%d" % number)] if number else [])])
        states.append(content(store))
    file, log = path.read_bytes(), path.with_name("x.db-wal").read_bytes()
    store.close()
    copy = tmp_path / "copy.db"
    seen = set()
    for position in range(0, len(log), 397):
        copy.write_bytes(file)
        copy.chmod(0o600)
        copy.with_name("copy.db-wal").write_bytes(log[:position] + bytes([log[position] ^ 0x10]) + log[position + 1 :])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite, "_CHECKPOINT_PAGES", 1)
            try:
                store = SqliteStore(copy)
            except StoreCorruptError:
                continue
            seen.add(states.index(content(store)))
            store.close()
    assert len(seen) > 2


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE heads SET epoch = epoch + 1 WHERE workflow_id = 'a'", "the head of workflow 'a'"),
        ("UPDATE heads SET owner = NULL WHERE workflow_id = 'a'", "the head of workflow 'a'"),
        ("UPDATE heads SET status = 'DONE' WHERE workflow_id = 'a'", "the head of workflow 'a'"),
        ("UPDATE heads SET note = 'x' WHERE workflow_id = 'a'", "the head of workflow 'a'"),
        ("UPDATE heads SET seal = x'00' WHERE workflow_id = 'a'", "the head of workflow 'a'"),
        ("UPDATE journal SET body = x'00' WHERE body = x'6133'", "entry 3 of workflow 'a'"),
        ("UPDATE journal SET id = id + 10 WHERE body = x'6133'", "entry 13 of workflow 'a'"),
        ("UPDATE heads SET number = 3 - number + 10; UPDATE heads SET number = number - 10", "of workflow 'a'"),
        ("DELETE FROM journal WHERE body = x'6133'", "the numbering of the journal of workflow 'a'"),
    ],
)
def test_rows_changed_behind_the_stores_back_are_noticed(path: Path, sql: str, what: str) -> None:
    store = SqliteStore(path)
    furnish(store)
    store.close()
    db = raw(path)
    db.execute(sql)
    db.close()
    store = SqliteStore(path)
    with pytest.raises(StoreCorruptError, match=what):
        everything(store)
    if "head of" in what:
        with pytest.raises(StoreCorruptError, match=what):
            store.commit([appending("b", b"b3"), appending("a", b"a5")])
        with pytest.raises(StoreCorruptError, match=what):
            store.claim("a", epoch=1, owner="e")
    assert store.commit([appending("b", b"b3")]) == ["applied"] or "heads SET number" in sql
    store.close()


# --- full disks and failing flushes --------------------------------------------------------------------------------------------------


class Faulty(apsw.VFS):
    """Lets the n-th operation on a file fail."""

    def __init__(self) -> None:
        super().__init__("faulty", "cksmvfs")
        self.done: list[str] = []
        self.arm("", 0, 0)

    def arm(self, operation: str, left: int, code: int, errno: int = 0) -> None:
        self.operation, self.left, self.code, self.errno, self.failed = operation, left, code, errno, False

    def xGetLastError(self) -> tuple[int, str]:
        return self.errno, os.strerror(self.errno)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> FaultyFile:
        return FaultyFile(self, name, flags)

    def hit(self, operation: str) -> None:
        self.done.append(operation)
        if operation == self.operation:
            self.left -= 1
            if self.left < 0 and not self.failed:
                self.failed = True
                raise apsw.exception_for(self.code)


class FaultyFile(apsw.VFSFile):
    def __init__(self, vfs: Faulty, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self.vfs = vfs
        super().__init__("cksmvfs", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        self.vfs.hit("read")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self.vfs.hit("write")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self.vfs.hit("sync")
        super().xSync(flags)


@pytest.fixture
def faulty(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    SqliteStore(path).close()
    vfs = Faulty()
    monkeypatch.setattr(sqlite_file, "_CHECKSUM_VFS", "faulty")
    monkeypatch.setattr(sqlite, "_CHECKPOINT_PAGES", 6)
    yield vfs
    gc.collect()
    vfs.unregister()


def commits_until_fault(store: SqliteStore) -> tuple[int, ExoflowError | None]:
    """Commits of two workflows at once, with the number of those that were acknowledged."""
    for number in range(6):
        try:
            assert store.commit([appending(each, b"%d" % number * 300) for each in "ab"]) == ["applied"] * 2
        except ExoflowError as error:
            return number, error
    return 6, None


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_disk_that_is_full_at_any_moment(tmp_path: Path, faulty: Faulty, operation: str) -> None:
    hits = 0
    for left in range(100):
        store = SqliteStore(tmp_path / f"{left}.db")
        store.commit([creation("a"), creation("b")])
        faulty.arm(operation, left, apsw.SQLITE_FULL)
        acknowledged, error = commits_until_fault(store)
        if not faulty.failed:
            store.close()
            break
        hits += error is not None
        assert error is None or isinstance(error, StorageFullError)
        expected = [b"%d" % number * 300 for number in range(acknowledged)]
        assert [bodies_of(store, each) for each in "ab"] == [expected] * 2
        assert store.commit([appending(each, b"room again") for each in "ab"]) == ["applied"] * 2
        store.close()
        store = SqliteStore(tmp_path / f"{left}.db")
        assert [bodies_of(store, each) for each in "ab"] == [[*expected, b"room again"]] * 2
        store.close()
    assert faulty.failed is False
    assert hits > 3


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_disk_that_fails_at_any_moment(tmp_path: Path, faulty: Faulty, operation: str) -> None:
    """The handle is dead from then on; what was acknowledged is there, and the rest whole or not at all."""
    hits = 0
    code = apsw.SQLITE_IOERR_FSYNC if operation == "sync" else apsw.SQLITE_IOERR_WRITE
    for left in range(100):
        store = SqliteStore(tmp_path / f"{left}.db")
        store.commit([creation("a"), creation("b")])
        faulty.arm(operation, left, code)
        acknowledged, error = commits_until_fault(store)
        if not faulty.failed:
            store.close()
            break
        hits += 1
        assert isinstance(error, StoreUnavailable) or acknowledged == 6
        for call in (lambda: store.commit([appending("a", b"more")]), lambda: store.head("a"), store.owners):
            with pytest.raises(StoreUnavailable, match="open it again"):
                call()
        faulty.done.clear()
        store.close()
        store.close()
        assert not {"write", "sync"} & set(faulty.done)  # a second flush would say that all is well
        store = SqliteStore(tmp_path / f"{left}.db")
        journals = [bodies_of(store, each) for each in "ab"]
        assert journals[0] == journals[1]
        assert journals[0][:acknowledged] == [b"%d" % number * 300 for number in range(acknowledged)]
        assert len(journals[0]) <= acknowledged + 1
        store.close()
    assert faulty.failed is False
    assert hits > 3


def test_no_room_is_told_from_broken_by_the_reason_of_the_system(path: Path, faulty: Faulty) -> None:
    """A quota that a write meets can be lifted. One that a flush meets has cost data already."""
    store = SqliteStore(path)
    store.commit([creation("w")])
    faulty.arm("write", 0, apsw.SQLITE_IOERR_WRITE, errno.EDQUOT)
    with pytest.raises(StorageFullError):
        store.commit([appending("w", b"1")])
    assert store.commit([appending("w", b"2")]) == ["applied"]
    faulty.arm("sync", 0, apsw.SQLITE_IOERR_FSYNC, errno.EDQUOT)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.commit([appending("w", b"3")])
    store.close()


def test_a_disk_that_cannot_be_read(path: Path, faulty: Faulty) -> None:
    store = SqliteStore(path)
    faulty.arm("read", 0, apsw.SQLITE_IOERR_READ)
    with pytest.raises(StoreUnavailable):
        store.commit([creation("a")])
    with pytest.raises(StoreUnavailable, match="open it again"):
        store.head("a")
    store.close()


def test_a_limit_on_the_size_of_the_file(store: SqliteStore) -> None:
    store.commit([creation("w", b"1")])
    store._writer.pragma("max_page_count", store._writer.pragma("page_count") + 3)
    with pytest.raises(StorageFullError):
        store.commit([appending("w", bytes(100_000))])
    assert store.commit([appending("w", b"2")]) == ["applied"]
    store._writer.pragma("max_page_count", 2**30)
    assert store.commit([appending("w", bytes(100_000))]) == ["applied"]
    assert len(bodies_of(store)) == 3


@pytest.mark.slow
def test_work_goes_on_when_a_quota_is_lifted(path: Path) -> None:
    """The operating system refuses to let the log grow (EFBIG), as with a quota that is reached. Slow because it starts a process."""
    program = """
store = SqliteStore(sys.argv[1])
store.commit([creation("w")])
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
done, refused = 0, []
while len(refused) < 3:
    try:
        store.commit([appending("w", b"%d" % done * 1000)])
        done += 1
    except StorageFullError as error:
        refused.append(error)
try:
    store.blobs.put([bytes(400_000)])
except StorageFullError as error:
    refused.append(error)
assert bodies_of(store) == [b"%d" % number * 1000 for number in range(done)]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert store.commit([appending("w", b"last")]) == ["applied"]
store.blobs.put([bytes(400_000)])
store.close()
print(len(refused), done)
"""
    answer, _ = child("from exoflow.errors import StorageFullError\n" + program, path).communicate()
    refused, done = map(int, answer.split())
    assert refused == 4
    store = SqliteStore(path)
    assert bodies_of(store) == [*(b"%d" % number * 1000 for number in range(done)), b"last"]
    assert len(list(store.blobs.names())) == 1
    store.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_removed_while_it_is_open(path: Path, replaced: bool) -> None:
    """SQLite would go on, with a file that nobody will find again."""
    store = SqliteStore(path)
    store.commit([creation("w", b"1")])
    path.unlink()
    if replaced:
        path.touch(0o600)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="removed or replaced"):
            store.commit([appending("w", b"2")])
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        store.head("w")
    store.close()


# --- threads and processes -----------------------------------------------------------------------------------------------------------


def test_a_lock_that_is_held_too_long(path: Path) -> None:
    store = SqliteStore(path, busy_timeout_s=0.01)
    store.commit([creation("w", b"1")])
    other = raw(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="keeps it locked"):
        store.commit([appending("w", b"2")])
    assert bodies_of(store) == [b"1"]  # reading goes on
    other.execute("ROLLBACK")
    assert store.commit([appending("w", b"2")]) == ["applied"]
    other.close()
    store.close()


def test_reading_does_not_wait_for_a_commit(store: SqliteStore) -> None:
    store.commit([creation("w", b"1")])
    inside, go = threading.Event(), threading.Event()

    def slow_work(_db: apsw.Connection) -> None:
        inside.set()
        assert go.wait(10)

    writer = threading.Thread(target=store._transact, args=(slow_work,))
    writer.start()
    assert inside.wait(10)
    assert bodies_of(store) == [b"1"]
    assert [head.workflow_id for head in store.heads()] == ["w"]
    go.set()
    writer.join()


def test_an_exception_in_the_middle_leaves_no_trace(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit([creation("w", b"1")])
    real = sqlite._Group.store

    def interrupted(group: sqlite._Group) -> None:
        real(group)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sqlite._Group, "store", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.commit([appending("w", b"2")])
    assert bodies_of(store) == [b"1"]
    assert store.commit([appending("w", b"3")]) == ["applied"]
    assert bodies_of(store) == [b"1", b"3"]


def test_text_that_is_no_text_is_refused_whole(store: SqliteStore) -> None:
    with pytest.raises(UnicodeEncodeError):
        store.commit([creation("w", b"1", note="half a pair: \ud800")])
    assert store.heads() == []
    assert store.commit([creation("w", b"1")]) == ["applied"]


@pytest.mark.slow
def test_opening_twice_in_one_process_keeps_the_locks_of_the_first(path: Path) -> None:
    """Closing any descriptor of a file drops all locks that the process has on it. Slow because it starts a process."""
    first = SqliteStore(path)
    SqliteStore(path).close()
    program = """
import fcntl
try:
    fcntl.lockf(open(sys.argv[1], "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("free")
except BlockingIOError:
    print("locked")
"""
    answer, _ = child(program, path).communicate()
    assert answer == "locked\n"
    first.close()


@pytest.mark.slow
def test_two_processes_take_turns(path: Path) -> None:
    """Each takes the workflow from the other, writes until it is fenced, and takes it again. Slow because it starts processes."""
    store = SqliteStore(path)
    store.commit([creation("shared"), creation("own0"), creation("own1")])
    program = """
store, me, applied = SqliteStore(sys.argv[1]), sys.argv[2], 0
while applied < 150:
    epoch = store.claim("shared", epoch=store.head("shared").epoch, owner=me)
    if epoch is None:
        continue
    while applied < 150:
        mine = b"%d %s %d" % (epoch, me.encode(), applied)
        verdicts = store.commit([appending("shared", mine, epoch=epoch), appending("own" + me, mine)])
        assert verdicts[1] == "applied"
        if verdicts[0] == "fenced":
            break
        applied += 1
        if applied % 10 == 0:  # so that both get their turn
            store.claim("shared", epoch=epoch, owner=None)
store.close()
"""
    children = [child(program, path, number) for number in range(2)]
    assert [each.wait(60) for each in children] == [0, 0]
    for each in children:
        each.communicate()
    shared = [body.split() for body in bodies_of(store, "shared", retired=True)]
    epochs = [int(epoch) for epoch, _, _ in shared]
    assert epochs == sorted(epochs)
    assert len({(epoch, owner) for epoch, owner, _ in shared}) == len(set(epochs))
    for me in (b"0", b"1"):
        assert [int(number) for _, owner, number in shared if owner == me] == list(range(150))
    assert len(set(epochs)) > 20
    assert {body.split()[1] for body in bodies_of(store, "own0")} == {b"0"}
    store.close()


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill_9(path: Path) -> None:
    """Killed in the middle of commits and checkpoints, again and again, on one file. Slow because it starts processes."""
    program = """
import exoflow.store.sqlite as module
module._CHECKPOINT_PAGES = 20
store = SqliteStore(sys.argv[1])
at = len(store.entries("w"))
while True:
    assert store.commit([appending("w", b"%d" % at), appending("v", b"%d" % at * 100)]) == ["applied"] * 2
    at += 1
    print(at, flush=True)
"""
    store = SqliteStore(path)
    store.commit([creation("w"), creation("v")])
    store.close()
    for kills_after in (1, 30, 100, 7):
        process = child(program, path)
        assert process.stdout is not None
        acknowledged = 0
        for count, line in enumerate(process.stdout, 1):
            acknowledged = int(line)
            if count == kills_after:
                process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        store = SqliteStore(path)
        journal = bodies_of(store, "w")
        assert journal == [b"%d" % number for number in range(len(journal))]
        assert acknowledged <= len(journal) <= acknowledged + 1
        assert [body[: len(b"%d" % number)] for number, body in enumerate(bodies_of(store, "v"))] == journal
        store.close()


def test_a_file_that_another_process_is_just_making(path: Path) -> None:
    """It was taken for the database of another program: nothing was in it at the first look, and something at the second."""
    path.touch(0o600)
    sqlite_file._load_checksums(path)
    db = sqlite_file._bare_connection(path, 5.0)
    db.reserve_bytes("main", 8)
    sqlite_file._switch_to_wal(db)

    class Meanwhile:
        """The connection, but between two looks the other process comes to the end."""

        def pragma(self, name: str) -> Any:
            found = db.pragma(name)
            if name == "application_id":
                SqliteStore(path).close()
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(db, name)

    sqlite_file._refuse_other_content(Meanwhile(), path, 1)  # type: ignore[arg-type]
    assert db.pragma("application_id") == sqlite_file.APPLICATION_ID
    db.close()


def test_a_header_is_restored_although_another_process_is_checkpointing(path: Path) -> None:
    """A newcomer that had seen the file while it was made was told that the database is locked."""
    SqliteStore(path).close()
    refusals = 3

    class Busy:
        """A connection that takes the header for damaged, while another checkpoints."""

        def pragma(self, name: str) -> Any:
            return {"page_count": 5, "checksum_verification": "0"}[name]

        def wal_checkpoint(self, *, mode: int) -> None:
            nonlocal refusals
            assert mode == apsw.SQLITE_CHECKPOINT_FULL
            if refusals:
                refusals -= 1
                raise apsw.BusyError

    sqlite_file._restore_header(Busy())  # type: ignore[arg-type]
    assert not refusals


def test_after_a_fork_the_file_cannot_be_opened_again(path: Path, tmp_path: Path) -> None:
    """SQLite would take the parent's locks for the child's own. Another file can be, and so can this one if it was closed before."""
    store = SqliteStore(path)
    store.commit([creation("w", b"1")])
    answer = in_fork(lambda: str(SqliteStore(path)))
    assert answer.startswith("StoreOpenError")
    assert "fork first, then open" in answer

    def elsewhere() -> str:
        other = SqliteStore(tmp_path / "other.db")
        other.commit([creation("w", b"1")])
        other.close()
        return "fine"

    assert in_fork(elsewhere) == "fine"
    assert store.commit([appending("w", b"2")]) == ["applied"]
    store.close()

    def after_closing() -> str:
        again = SqliteStore(path)
        found = again.entries("w")
        again.close()
        return str(found == [Entry(1, b"1"), Entry(2, b"2")])

    assert in_fork(after_closing) == "True"


def test_forks_while_writing_do_no_harm(path: Path) -> None:
    store = SqliteStore(path)
    store.commit([creation("w")])
    done = threading.Event()

    def write() -> None:
        for number in range(150):
            store.commit([appending("w", b"%d" % number)])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        in_fork(lambda: "")
    writer.join()
    assert bodies_of(store) == [b"%d" % number for number in range(150)]
    assert store._writer.pragma("integrity_check") == "ok"
    store.close()


def test_a_commit_takes_few_statements_however_many_writes(store: SqliteStore) -> None:
    """Each hands over the GIL, and with it, beside a busy thread, up to 5 ms."""
    store.commit([creation(f"w{number}", b"1") for number in range(50)])
    statements: list[str] = []

    def note(_cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
        statements.append(sql)
        return True

    store._writer.exec_trace = note
    writes = [appending(f"w{number}", b"2", b"3", head=a_head(), retire=(1,)) for number in range(50)]
    store.commit([*writes, *(creation(f"v{number}", b"1") for number in range(50))])
    store._writer.exec_trace = None
    assert len(statements) == 8, statements


def test_rows_are_found_by_index(store: SqliteStore) -> None:
    """What is asked for must not cost more the more workflows there are."""
    questions: tuple[tuple[str, tuple[str | int, ...]], ...] = (
        (sqlite._READ_HEADS, ("", 5)),
        (sqlite._READ_HEADS_OF, ("[]", "", 5)),
        (sqlite._LOAD, ("[]",)),
        (sqlite._READ_ENTRIES, ("w", 5)),
        (sqlite._READ_ENTRIES_OF, ("w", "[]")),
        (sqlite._READ_WISHES, ("e",)),
        (sqlite._UPDATE_HEADS, ("[]",)),
        (sqlite._RETIRE, ("[]",)),
        (sqlite._WISH, ("cancel", "w")),
    )
    for sql, bindings in questions:
        plan = [row[3] for row in store._writer.execute("EXPLAIN QUERY PLAN " + sql, bindings)]
        assert all("SCAN" not in step or "VIRTUAL TABLE" in step for step in plan), plan
