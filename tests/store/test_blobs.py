"""Blobs as files: the order of flushes, damage, full disks, leftovers, and what others put in the way."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exoflow.codec import digest
from exoflow.errors import StorageFullError, StoreOpenError, StoreUnavailable
from exoflow.store import blobs as module
from exoflow.store.base import Collected
from exoflow.store.blobs import FileBlobs, Files

PATIENCE_S = 30.0


class Recorder(Files):
    """Remembers what was done, and lets one operation fail."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fail: tuple[str, int] | None = None

    def note(self, operation: str, name: str = "") -> None:
        self.done.append(f"{operation} {name}".strip())
        if self.fail and self.fail[0] == operation:
            raise OSError(self.fail[1], os.strerror(self.fail[1]))

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self.note("make_folder", path.name)

    def write(self, fd: int, data: memoryview) -> None:
        self.note("write")
        super().write(fd, data)

    def flush(self, fd: int) -> None:
        self.note("flush")
        super().flush(fd)

    def rename(self, source: Path, target: Path) -> None:
        self.note("rename", target.name)
        super().rename(source, target)

    def flush_folder(self, path: Path) -> None:
        self.note("flush_folder", path.name)
        super().flush_folder(path)


@pytest.fixture
def files() -> Recorder:
    return Recorder()


@pytest.fixture
def blobs(tmp_path: Path, files: Recorder) -> FileBlobs:
    return FileBlobs(tmp_path / "blobs", files=files)


def leftovers(blobs: FileBlobs) -> list[str]:
    return [path.name for path in blobs.directory.iterdir() if path.is_file()]


def names_in_one_folder() -> Iterator[bytes]:
    first = digest([b"0"]).hex()[:2]
    return (data for data in (b"%d" % number for number in range(10_000)) if digest([data]).hex().startswith(first))


def test_the_flushes_that_make_it_durable_come_in_order(blobs: FileBlobs, files: Recorder) -> None:
    above = f"flush_folder {blobs.directory.parent.name}"
    assert files.done == ["make_folder blobs", above, above]
    first, second, *_ = names_in_one_folder()
    for data, new_folder in ((first, True), (second, False)):
        files.done.clear()
        name = blobs.put([data])
        settled = [f"make_folder {name[:2]}", "flush_folder blobs"] if new_folder else []
        assert files.done == ["write", *settled, "flush", f"rename {name}", f"flush_folder {name[:2]}"]


def test_a_blob_that_is_there_is_not_written_again_but_its_folder_is_flushed(blobs: FileBlobs, files: Recorder) -> None:
    name = blobs.put([b"data"])
    before = (blobs.directory / name[:2] / name).stat().st_ino
    files.done.clear()
    assert blobs.put([b"data"]) == name
    assert files.done == ["write", f"flush_folder {name[:2]}"]
    another = Recorder()
    assert FileBlobs(blobs.directory, files=another).put([b"data"]) == name
    assert another.done[-3:] == ["write", "flush_folder blobs", f"flush_folder {name[:2]}"]
    assert (blobs.directory / name[:2] / name).stat().st_ino == before
    assert leftovers(blobs) == []


def test_new_folders_are_flushed_up_to_one_that_was_there(tmp_path: Path, files: Recorder) -> None:
    FileBlobs(tmp_path / "a" / "b" / "c", files=files)
    expected = ["make_folder a", f"flush_folder {tmp_path.name}", "make_folder b", "flush_folder a", "make_folder c", "flush_folder b"]
    assert files.done == [*expected, "flush_folder b"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")} == {0o700}


def test_files_are_for_this_user_only(blobs: FileBlobs) -> None:
    before = os.umask(0)
    try:
        name = blobs.put([b"data"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((blobs.directory / name[:2] / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((blobs.directory / name[:2]).stat().st_mode) == 0o700


@pytest.mark.parametrize("size", [50, 1 << 20])
def test_every_changed_byte_is_noticed(blobs: FileBlobs, size: int) -> None:
    data = os.urandom(size)
    name = blobs.put([data])
    path = blobs.directory / name[:2] / name
    positions = range(size) if size < 100 else [0, 1, 4095, 4096, size // 2, size - 1]
    for position in positions:
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x40]) + data[position + 1 :])
        with pytest.raises(ValueError, match=name):
            blobs.open(name)
    for damaged in (b"", data[:-1], data + b"\0", data[1:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=name):
            blobs.open(name)
    path.write_bytes(data)
    assert bytes(blobs.open(name)) == data


def test_large_blobs_are_hashed_by_threads_and_in_chunks(blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1 << 18)
    monkeypatch.setattr(module, "_THREADS_FROM", 1 << 20)
    data = os.urandom((1 << 20) + 7)
    name = blobs.put([data[:300_000], data[300_000:]])
    assert name == digest([data]).hex()
    assert bytes(blobs.open(name)) == data


@pytest.mark.parametrize("size", [1000, (1 << 20) + 1])
def test_reads_and_writes_that_stop_short_are_continued(blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    read, write, data = os.preadv, os.write, os.urandom(size)
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: read(fd, [views[0][: size // 3]], at))
    monkeypatch.setattr(os, "write", lambda fd, view: write(fd, view[: size // 3]))
    assert bytes(blobs.open(blobs.put([data]))) == data


def test_putting_and_opening_do_not_hold_the_blob_in_memory(blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1 << 18)
    piece = bytes(1 << 18)
    tracemalloc.start()
    try:
        view = blobs.open(blobs.put(piece for _ in range(40)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(view) == 40 << 18
    assert peak < 3 << 18


# --- large ones, which are in memory as a whole ---


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGE_FROM", 20_000)


LARGE = bytes(range(250)) * 100


@pytest.mark.usefixtures("small_is_large")
def test_a_large_blob_is_written_and_flushed_as_a_small_one(blobs: FileBlobs, files: Recorder) -> None:
    files.done.clear()
    name = blobs.put([b"", LARGE, memoryview(LARGE).cast("I")])
    assert name == digest([LARGE, LARGE]).hex()
    settled = [f"make_folder {name[:2]}", "flush_folder blobs"]
    assert files.done == ["write", "write", *settled, "flush", f"rename {name}", f"flush_folder {name[:2]}"]
    assert bytes(blobs.open(name)) == 2 * LARGE


@pytest.mark.usefixtures("small_is_large")
def test_a_large_blob_that_is_there_is_not_written_again(blobs: FileBlobs, files: Recorder) -> None:
    name = blobs.put([LARGE])
    files.done.clear()
    assert blobs.put([LARGE]) == name
    assert files.done == [f"flush_folder {name[:2]}"]
    assert leftovers(blobs) == []
    assert bytes(blobs.open(name)) == LARGE


@pytest.mark.usefixtures("small_is_large")
def test_what_only_looks_like_one_that_is_there_is_written(blobs: FileBlobs) -> None:
    """Alike at both ends and of the same size."""
    other = LARGE[:10_000] + b"!" + LARGE[10_001:]
    names = blobs.put([LARGE]), blobs.put([other])
    assert [bytes(blobs.open(name)) for name in names] == [LARGE, other]


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("how", ["damaged", "removed"])
def test_to_put_a_damaged_large_blob_again_repairs_it(blobs: FileBlobs, how: str) -> None:
    name = blobs.put([LARGE])
    path = blobs.directory / name[:2] / name
    if how == "damaged":
        path.write_bytes(LARGE[::-1])
    else:
        path.unlink()
        path.parent.rmdir()
        blobs._settled.clear()
    assert blobs.put([LARGE]) == name
    assert bytes(blobs.open(name)) == LARGE


@pytest.mark.usefixtures("small_is_large")
def test_a_large_blob_that_is_there_and_whose_folder_cannot_be_flushed(blobs: FileBlobs, files: Recorder) -> None:
    blobs.put([LARGE])
    open_files = len(os.listdir("/dev/fd"))
    files.fail = "flush_folder", errno.EIO
    with pytest.raises(StoreUnavailable):
        blobs.put([LARGE])
    assert len(os.listdir("/dev/fd")) == open_files
    with pytest.raises(StoreUnavailable, match="flushing failed"):
        blobs.put([b"small"])


@pytest.mark.usefixtures("small_is_large")
def test_no_more_is_remembered_of_what_was_written_than_is_of_use(blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GLANCES_MAX", 3)
    for number in range(5):
        blobs.put([b"%d" % number, LARGE])
    assert len(blobs._glances) == 3


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("known", [True, False])
def test_a_large_blob_is_written_in_pieces_whether_or_not_the_system_can_begin_to_flush_them(
    blobs: FileBlobs, files: Recorder, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 10_000)
    monkeypatch.setattr(module, "_BEGIN_FROM", 10_000)
    if not known:
        monkeypatch.setattr(module, "_sync_file_range", lambda: None)
    files.done.clear()
    name = blobs.put([LARGE, LARGE])
    assert files.done[:6] == ["write"] * 6
    assert (blobs.directory / name[:2] / name).read_bytes() == 2 * LARGE


@pytest.mark.usefixtures("small_is_large")
def test_while_a_large_blob_is_put_threads_take_turns_faster(blobs: FileBlobs, files: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.getswitchinterval()
    seen = []
    monkeypatch.setattr(Recorder, "note", lambda *_: seen.append(sys.getswitchinterval()))
    blobs.put([LARGE])
    assert max(seen) < 0.001 < before
    assert sys.getswitchinterval() == before
    with module._BRISK, module._BRISK:
        sys.setswitchinterval(0.1)  # by somebody else
    assert sys.getswitchinterval() == pytest.approx(0.1)
    sys.setswitchinterval(before)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("operation", ["write", "flush", "make_folder", "rename"])
def test_a_full_disk(blobs: FileBlobs, files: Recorder, operation: str, code: int) -> None:
    files.fail = operation, code
    with pytest.raises(StorageFullError):
        blobs.put([b"data"])
    files.fail = None
    assert leftovers(blobs) == []
    assert list(blobs.names()) == []
    assert bytes(blobs.open(blobs.put([b"data"]))) == b"data"


@pytest.mark.parametrize("operation", ["flush", "flush_folder"])
def test_after_a_failed_flush_nothing_is_written_any_more(blobs: FileBlobs, files: Recorder, operation: str) -> None:
    kept = blobs.put([b"kept"])
    files.fail = operation, errno.EIO
    with pytest.raises(StoreUnavailable):
        blobs.put([b"data"])
    files.fail = None
    with pytest.raises(StoreUnavailable, match="flushing failed"):
        blobs.put([b"other"])
    assert bytes(blobs.open(kept)) == b"kept"
    assert leftovers(blobs) == []
    assert FileBlobs(blobs.directory).put([b"data"])


def test_a_write_that_fails_otherwise_may_be_tried_again(blobs: FileBlobs, files: Recorder) -> None:
    files.fail = "write", errno.EIO
    with pytest.raises(StoreUnavailable):
        blobs.put([b"data"])
    files.fail = None
    assert bytes(blobs.open(blobs.put([b"data"]))) == b"data"


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_are_not(blobs: FileBlobs) -> None:
    dead, living, foreign = (blobs.directory / name for name in ("tmp-dead", "tmp-living", "engine.lock"))
    for path in (dead, living, foreign):
        path.write_bytes(b"half")
    (blobs.directory / "tmp-link").symlink_to(foreign)
    with living.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        FileBlobs(blobs.directory)
        assert sorted(leftovers(blobs)) == ["engine.lock", "tmp-link", "tmp-living"]
    FileBlobs(blobs.directory)
    assert sorted(leftovers(blobs)) == ["engine.lock", "tmp-link"]
    assert foreign.read_bytes() == b"half"
    assert list(blobs.names()) == []


def test_a_temporary_file_that_was_tidied_away_before_it_was_locked_is_made_again(
    blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tidied = fcntl.flock, list[Path]()

    def late(fd: int, operation: int) -> None:
        if not tidied:
            tidied.append(next(blobs.directory.glob("tmp-*")))
            tidied[0].unlink()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert bytes(blobs.open(blobs.put([b"data"]))) == b"data"
    assert tidied


@pytest.mark.parametrize("make", [lambda path, victim: path.symlink_to(victim), lambda path, victim: path.hardlink_to(victim)])
def test_what_is_in_the_place_of_a_temporary_file_is_not_written_to(
    blobs: FileBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path, Path], None]
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    monkeypatch.setattr(os, "urandom", bytes)
    make(blobs.directory / f"tmp-{bytes(16).hex()}", victim)
    with pytest.raises(StoreUnavailable):
        blobs.put([b"evil"])
    assert victim.read_bytes() == b"precious"


def test_a_link_in_place_of_a_blob_is_not_followed(blobs: FileBlobs, tmp_path: Path) -> None:
    name = blobs.put([b"data"])
    path, secret = blobs.directory / name[:2] / name, tmp_path / "secret"
    secret.write_bytes(b"data")
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(StoreUnavailable):
        blobs.open(name)
    assert blobs.put([b"data"]) == name
    assert not path.is_symlink()
    assert bytes(blobs.open(name)) == b"data"


def test_a_folder_that_others_control_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "blobs"
    directory.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(directory)
    (tmp_path / "file").touch()
    for path in (tmp_path / "link", tmp_path / "file"):
        with pytest.raises(StoreOpenError):
            FileBlobs(path)
    directory.chmod(0o730)
    with pytest.raises(StoreOpenError, match="mode 730"):
        FileBlobs(directory)
    directory.chmod(0o700)
    FileBlobs(directory)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StoreOpenError, match="user of this process"):
        FileBlobs(directory)


def test_foreign_files_are_no_blobs(blobs: FileBlobs) -> None:
    name = blobs.put([b"data"])
    folder = blobs.directory / name[:2]
    for path in (blobs.directory / ("0" * 32), folder / "notes.txt", folder / f"{name}.bak", blobs.directory / "engine.lock"):
        path.touch()
    (blobs.directory / "lost+found").mkdir()
    assert list(blobs.names()) == [name]
    collector = FileBlobs(blobs.directory, named=lambda _: ())
    collector.free(["engine.lock", "../blobs/engine.lock", f"{name[:2]}/notes.txt", "*"])
    blobs.close()
    assert collector.collect(grace_s=0).removed == 1
    assert (blobs.directory / "engine.lock").exists()
    assert (folder / "notes.txt").exists()


def test_a_bad_sector_is_an_error(blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    name = blobs.put([bytes(2 << 20)])

    def unreadable(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", unreadable)
        with pytest.raises(StoreUnavailable):
            blobs.open(name)
        blobs.put([bytes(2 << 20)])  # what cannot be read is written again
    assert bytes(blobs.open(name)) == bytes(2 << 20)


def test_no_descriptor_is_left_open(blobs: FileBlobs, files: Recorder) -> None:
    before = len(os.listdir("/proc/self/fd"))
    name = blobs.put([b"data"])
    assert blobs.put([b"data"]) == name
    view = blobs.open(name)
    files.fail = "write", errno.ENOSPC
    with contextlib.suppress(StorageFullError):
        blobs.put([b"other"])
    with contextlib.suppress(LookupError):
        blobs.open("0" * 32)
    FileBlobs(blobs.directory, named=lambda _: ()).collect(grace_s=0)
    assert bytes(view) == b"data"
    assert len(os.listdir("/proc/self/fd")) == before + 2  # what holds the blob until its record is written
    blobs.answer([name, name, "0" * 32])
    assert len(os.listdir("/proc/self/fd")) == before


# --- collecting ------------------------------------------------------------------------------------------------------------------


class Journals:
    """What a store says is named, and what happens while it is asked."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(self, names: Collection[str]) -> Collection[str]:
        self.meanwhile()
        return self.names & set(names)


@pytest.fixture
def journals() -> Journals:
    return Journals()


@pytest.fixture
def collector(blobs: FileBlobs, journals: Journals) -> FileBlobs:
    """As another process would have it."""
    return FileBlobs(blobs.directory, named=journals)


def test_what_is_put_again_while_it_is_collected_survives(blobs: FileBlobs, collector: FileBlobs, journals: Journals) -> None:
    """Content has one address, so a blob that nobody names can be wanted again the very moment it goes."""
    name = blobs.put([b"data"])
    blobs.close()

    class Says(Files):
        wrote = threading.Event()

        def write(self, fd: int, data: memoryview) -> None:
            super().write(fd, data)
            self.wrote.set()

    other = FileBlobs(blobs.directory, files=Says())
    putting = threading.Thread(target=other.put, args=([b"data"],))

    def put_again() -> None:
        putting.start()
        assert Says.wrote.wait(PATIENCE_S)  # it has a copy, and is about to see that the blob is there already

    journals.meanwhile = put_again
    assert collector.collect(grace_s=0).removed == 1
    putting.join(PATIENCE_S)
    assert bytes(blobs.open(name)) == b"data"
    journals.meanwhile = lambda: None
    assert collector.collect(grace_s=0) == Collected(removed=0, size_bytes=0, spared=1)


def test_a_record_written_while_a_collection_looks_is_seen(blobs: FileBlobs, collector: FileBlobs, journals: Journals) -> None:
    name = blobs.put([b"data"])

    def commit() -> None:
        journals.names.add(name)
        blobs.answer([name])

    real = collector.names
    collector.names = lambda: [*real(), commit()][:-1]  # type: ignore[method-assign, func-returns-value, return-value]
    assert collector.collect(grace_s=0) == Collected(removed=0, size_bytes=0, spared=0)
    assert bytes(blobs.open(name)) == b"data"


def test_a_collection_that_crashed_half_way_is_gone_on_with(blobs: FileBlobs, journals: Journals) -> None:
    names = [blobs.put([data]) for data, _ in zip(names_in_one_folder(), range(10), strict=False)]
    journals.names = set(names[:3])
    blobs.close()

    class Killed(Files):
        left = 4

        def unlink(self, path: Path) -> None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            super().unlink(path)

    with pytest.raises(KeyboardInterrupt):
        FileBlobs(blobs.directory, files=Killed(), named=journals).collect(grace_s=0)
    assert len(list(blobs.names())) == 6
    assert FileBlobs(blobs.directory, named=journals).collect(grace_s=0).removed == 3
    assert sorted(blobs.names()) == sorted(names[:3])


def test_two_collections_at_once_remove_each_blob_once(blobs: FileBlobs, journals: Journals) -> None:
    count = 100
    for number in range(count):
        blobs.put([b"%d" % number])
    blobs.close()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: FileBlobs(blobs.directory, named=journals).collect(grace_s=0), range(3)))
    assert sum(each.removed for each in found) == count
    assert list(blobs.names()) == []


def test_the_age_of_a_blob_counts_from_when_it_was_put_last(blobs: FileBlobs, collector: FileBlobs) -> None:
    name = blobs.put([b"data"])
    blobs.close()
    path = blobs.directory / name[:2] / name
    os.utime(path, (0, 0))
    assert collector.collect(grace_s=3600, dry_run=True).removed == 1
    blobs.put([b"data"])
    blobs.close()
    assert collector.collect(grace_s=3600) == Collected(removed=0, size_bytes=0, spared=1)


def test_of_many_puts_without_a_record_the_oldest_are_protected_by_their_age_alone(
    collector: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda _: (47, 47))  # not many files may be open
        blobs = FileBlobs(collector.directory)
    names = [blobs.put([b"%d" % number]) for number in range(8)]
    assert collector.collect(grace_s=3600).removed == 0
    assert collector.collect(grace_s=0) == Collected(removed=3, size_bytes=3, spared=5)
    assert sorted(blobs.names()) == sorted(names[3:])


def test_freeing_does_not_wait_for_whoever_is_putting_and_comes_back(blobs: FileBlobs, collector: FileBlobs) -> None:
    name = blobs.put([b"data"])
    blobs.close()
    folder = os.open(blobs.directory / name[:2], os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    collector.free([name])
    assert list(blobs.names()) == [name]
    os.close(folder)
    collector.free([])
    assert list(blobs.names()) == []


def test_without_a_store_to_ask_nothing_is_collected(blobs: FileBlobs) -> None:
    name = blobs.put([b"data"])
    blobs.close()
    assert blobs.collect(grace_s=0).removed == 0
    assert list(blobs.names()) == [name]


@pytest.mark.slow
def test_a_killed_process_holds_no_blob(blobs: FileBlobs, collector: FileBlobs) -> None:
    """Slow: it starts a process."""
    code = (
        "import os, sys; from pathlib import Path; from exoflow.store.blobs import FileBlobs\n"
        "FileBlobs(Path(sys.argv[1])).put([b'data']); print('put', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(blobs.directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "put\n"
        assert collector.collect(grace_s=0) == Collected(removed=0, size_bytes=0, spared=1)
        process.kill()
    assert collector.collect(grace_s=0).removed == 1
