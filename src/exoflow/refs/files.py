"""Refs to files and folders."""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
import shutil
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

from exoflow.errors import InvalidOptionError, RefLostError
from exoflow.refs.base import Ref
from exoflow.refs.values import beside

_RESTORED = "exoflow-"


class FileRef(Ref):
    """A Ref to the file or folder at ``path`` as it is now; whoever changes it later makes the Ref lost. ``get()`` gives its path.

    A checkpoint holds the contents, names and permission bits (of a folder: regular files and folders; anything else in it is refused).
    What is restored comes to the old place if nothing is there, else to a new temporary folder. With ``owned`` it is deleted when no task
    can want it any more. Raises InvalidOptionError if there is neither a file nor a folder.
    """

    portable = True

    def __init__(self, path: str | os.PathLike[str], *, owned: bool = False) -> None:
        self.path = Path(path).absolute()
        self._owned = owned
        signature = _signature(self.path)
        if signature is None:
            raise InvalidOptionError(message=f"FileRef: there is neither a file nor a folder at {self.path}")
        self._id = f"{self.path}@{signature}"
        self._signature = signature

    def id(self) -> str:
        return self._id

    def get(self) -> Path:
        """Where it is. Raises RefLostError if it is gone or was changed since."""
        now = _signature(self.path)
        if now != self._signature:
            reason = "there is nothing of that name" if now is None else "it was changed after the Ref was made"
            raise RefLostError(kind=f"{__name__}:FileRef", ref=self._id, reason=reason)
        return self.path

    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002
        return beside(lambda: _contents(self.get()), "file-ref")

    @classmethod
    def restore(cls, value: Any) -> Self:
        path, members = Path(value["path"]), value["members"]
        folder = Path(tempfile.mkdtemp(prefix=_RESTORED, dir=path.parent if path.parent.is_dir() else None))
        _write(folder / path.name, members)
        if not path.exists() and folder.parent == path.parent:
            try:
                os.rename(folder / path.name, path)
            except OSError:  # somebody else was quicker
                return cls(folder / path.name, owned=True)
            folder.rmdir()
            return cls(path, owned=True)
        return cls(folder / path.name, owned=True)

    def release(self) -> None:
        if not self._owned or _signature(self.path) != self._signature:
            return
        if self.path.parent.name.startswith(_RESTORED):
            shutil.rmtree(self.path.parent, ignore_errors=True)
        elif self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def _members(path: Path) -> list[Path]:
    """Everything below a folder, in an order that depends on names alone; of a file, itself."""
    return [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]


def _signature(path: Path) -> str | None:
    """Changes when a name, a size or a time of change does; None if there is nothing."""
    if not path.exists():
        return None
    hasher = hashlib.blake2b(digest_size=12)
    for each in _members(path):
        info = each.lstat()
        about = (info.st_size, info.st_mtime_ns) if each.is_file() else ()
        hasher.update(repr((str(each.relative_to(path)), info.st_mode, about)).encode())
    return hasher.hexdigest()


def _contents(path: Path) -> dict[str, Any]:
    """``members`` by relative path: permission bits, and the content of a file, which is mapped and not read."""
    members: dict[str, tuple[int, pickle.PickleBuffer | bytes | None]] = {}
    for each in _members(path):
        info = each.lstat()
        if each.is_symlink() or not (each.is_file() or each.is_dir()):
            raise InvalidOptionError(message=f"FileRef: {each} is neither a regular file nor a folder, so it cannot be saved")
        content: pickle.PickleBuffer | bytes | None = None
        if each.is_file():
            with each.open("rb") as file:
                content = pickle.PickleBuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if info.st_size else b""
        members[str(each.relative_to(path))] = info.st_mode & 0o777, content
    return {"path": str(path), "members": members}


def _write(path: Path, members: dict[str, tuple[int, Any]]) -> None:
    for name, (_, content) in members.items():
        if content is None:
            (path / name).mkdir(parents=True)
        else:
            (path / name).write_bytes(content)
    for name, (mode, _) in reversed(members.items()):
        (path / name).chmod(mode)
