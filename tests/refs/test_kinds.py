"""The Refs that we bring, against the contract of all Refs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exoflow import codec
from exoflow.errors import InvalidOptionError, RefLostError
from exoflow.refs.files import FileRef
from exoflow.refs.keys import KeyRef
from exoflow.refs.values import SharedRef, ValueRef
from exoflow.testing.ref_suite import RefSuite


class TestValueRef(RefSuite):
    """In the memory of this process, which is not lost without us."""

    can_be_lost = False

    def make(self, value: Any) -> Any:
        return ValueRef(value)


class TestSharedRef(TestValueRef):
    """In shared memory."""

    def make(self, value: Any) -> Any:
        return SharedRef(value)


class TestFileRef(RefSuite):
    """A file."""

    @pytest.fixture(autouse=True)
    def _folder(self) -> Iterator[None]:
        self.folder = Path(tempfile.mkdtemp())
        yield
        shutil.rmtree(self.folder)

    def make(self, value: Any) -> Any:
        path = self.folder / f"f{len(list(self.folder.iterdir()))}"
        path.write_text(value)
        return FileRef(path)

    def read(self, ref: Any) -> Any:
        return ref.get().read_text()

    def destroy(self, ref: Any) -> None:
        ref.path.unlink()


class TestFolderRef(TestFileRef):
    """A folder with folders in it, an empty file and one that is not."""

    def make(self, value: Any) -> Any:
        path = self.folder / f"d{len(list(self.folder.iterdir()))}"
        (path / "sub" / "empty").mkdir(parents=True)
        (path / "nothing").touch()
        (path / "sub" / "text").write_text(value)
        (path / "sub" / "text").chmod(0o750)
        return FileRef(path)

    def read(self, ref: Any) -> Any:
        path = ref.get()
        assert (path / "sub" / "empty").is_dir()
        assert (path / "nothing").read_bytes() == b""
        assert (path / "sub" / "text").stat().st_mode & 0o777 == 0o750
        return (path / "sub" / "text").read_text()

    def destroy(self, ref: Any) -> None:
        shutil.rmtree(ref.path)


class Shelf:
    """A key-value store on files."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.folder, self.durable, self.url = folder, durable, f"shelf:{folder}"

    def _path(self, key: str) -> Path:
        return self.folder / key.replace("/", "-")

    def get(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        return codec.decode(codec.parse(bytearray(self._path(key).read_bytes())))

    def __contains__(self, key: str) -> bool:
        return self._path(key).exists()

    def put(self, key: str, value: Any) -> None:
        self._path(key).write_bytes(b"".join(codec.frame(codec.encode(value))))

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)


class TestKeyRef(RefSuite):
    """A key in a store that forgets: checkpoints hold the value."""

    durable = False

    @pytest.fixture(autouse=True)
    def _shelf(self, tmp_path: Path) -> None:
        self.shelf = Shelf(tmp_path, durable=self.durable)

    def make(self, value: Any) -> Any:
        return KeyRef.put(self.shelf, value)

    def destroy(self, ref: Any) -> None:
        self.shelf.delete(ref.key)


def test_in_a_durable_store_a_checkpoint_is_the_key(tmp_path):
    shelf = Shelf(tmp_path, durable=True)
    ref = KeyRef.put(shelf, "x" * 1000)
    kept = codec.encode(ref.checkpoint("v").result(10))
    assert kept.size < 500
    ref.release()  # a checkpoint refers to it
    assert KeyRef.restore(codec.decode(kept)).get() == "x" * 1000
    other = KeyRef.put(shelf, "y")
    other.release()
    with pytest.raises(RefLostError, match="no such key"):
        other.get()
    with pytest.raises(RefLostError, match="no such key"):
        other.checkpoint("v").result(10)
    mine = KeyRef(shelf, "exoflow/mine")
    shelf.put("exoflow/mine", 1)
    mine.release()
    assert mine.get() == 1


def test_a_file_that_was_changed_is_lost(tmp_path):
    path = tmp_path / "f"
    path.write_text("one")
    ref = FileRef(path)
    path.write_text("three")
    with pytest.raises(RefLostError, match="changed"):
        ref.get()


def test_a_file_comes_back_to_its_place_if_that_is_free(tmp_path):
    path = tmp_path / "f"
    path.write_text("one")
    kept = codec.decode(codec.encode(FileRef(path).checkpoint("v").result(10)))
    beside = FileRef.restore(kept)
    assert beside.path != path
    assert beside.get().read_text() == "one"
    beside.release()
    assert not beside.path.exists()
    path.unlink()
    back = FileRef.restore(kept)
    assert back.path == path
    assert [each.name for each in tmp_path.iterdir()] == ["f"]
    back.release()
    assert not path.exists()


def test_what_is_neither_a_file_nor_a_folder_is_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match="neither a file nor a folder"):
        FileRef(tmp_path / "none")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "link").symlink_to(tmp_path)
    with pytest.raises(InvalidOptionError, match="neither a regular file nor a folder"):
        FileRef(tmp_path / "d").checkpoint("v").result(10)


def test_what_is_not_owned_is_not_deleted(tmp_path):
    path = tmp_path / "f"
    path.write_text("one")
    FileRef(path).release()
    assert path.exists()
    FileRef(path, owned=True).release()
    assert not path.exists()
    (tmp_path / "d").mkdir()
    FileRef(tmp_path / "d", owned=True).release()
    assert not (tmp_path / "d").exists()
