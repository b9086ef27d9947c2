"""Blobs as files: the order of flushes, damage, full disks, leftovers, and what others put in the way."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exoflow.codec import digest
from exoflow.errors import StorageFullError, StoreOpenError, StoreUnavailable
from exoflow.store import blobs as module
from exoflow.store.blobs import FileBlobs, Files


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
    before = (blobs.directory / name[:2] / name).stat()
    files.done.clear()
    assert blobs.put([b"data"]) == name
    assert files.done == ["write", f"flush_folder {name[:2]}"]
    another = Recorder()
    assert FileBlobs(blobs.directory, files=another).put([b"data"]) == name
    assert another.done[-3:] == ["write", "flush_folder blobs", f"flush_folder {name[:2]}"]
    assert (blobs.directory / name[:2] / name).stat() == before
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
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    make(blobs.directory / "tmp-guessed", victim)
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
    blobs.delete(["engine.lock", "../blobs/engine.lock", f"{name[:2]}/notes.txt"])
    assert (blobs.directory / "engine.lock").exists()


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
    view = blobs.open(name)
    files.fail = "write", errno.ENOSPC
    with contextlib.suppress(StorageFullError):
        blobs.put([b"other"])
    with contextlib.suppress(LookupError):
        blobs.open("0" * 32)
    assert bytes(view) == b"data"
    assert len(os.listdir("/proc/self/fd")) == before
