"""An observer between SQLite and the disk: sees each operation that changes files, and may change it, fail it, or die in it.

It is a VFS (SQLite's own seam for files) over the usual one, and *below* the page checksums, so what it sees is what the disk gets. Stores
need not know: while :func:`watched` is active, every SqliteStore that this process opens goes through it.

Not seen: reading, locks, the ``-shm`` file (SQLite makes it anew after a crash) and temporary files without a name.
"""
# ruff: noqa: N802 - methods are named as SQLite names them

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import apsw
import apsw.sqlite_extra
import msgspec

_CHECKSUMS = "cksmvfs"
_NAME = "exoflow-watched"
_FIND, _UNREGISTER = 141, 143  # places of sqlite3_vfs_find and sqlite3_vfs_unregister in that table

Op = Literal["open", "write", "truncate", "sync", "delete"]
"""``open`` may create the file. ``delete`` removes it from its folder."""


class Call(msgspec.Struct, kw_only=True):
    """One operation. An observer may change ``data``, for instance to leave a write half done.

    ``offset`` is where ``data`` goes; of a truncation, the new size in bytes. ``flags`` are SQLite's, for ``open`` and ``sync``.
    ``file`` tells the open files of one path apart. ``flushes_folder``: a deletion that must be durable when it returns.
    """

    op: Op
    path: str
    file: int = 0
    data: bytes = b""
    offset: int = 0
    flags: int = 0
    flushes_folder: bool = False


Around = Callable[[Call, Callable[[], Any]], Any]
"""Called instead of the operation. Its second argument performs it; what that returns must be returned."""


@contextlib.contextmanager
def watched(around: Around) -> Iterator[None]:
    """Lead the file operations of all SqliteStores that are opened meanwhile through ``around``. They must be closed before the end."""
    base = next(name for name in apsw.vfs_names() if name != _CHECKSUMS)
    vfs = _Vfs(around, base)
    try:
        _put_checksums_over(_NAME)
        apsw.set_default_vfs(base)
        yield
    finally:
        _put_checksums_over(base)
        apsw.set_default_vfs(base)
        vfs.unregister()


def _put_checksums_over(base: str) -> None:
    """SQLite lays the checksums over whatever is the default when they are loaded, unless they are there; then they must go first, and
    apsw has no word for that. But the table of SQLite's functions that every extension gets (sqlite3ext.h) only ever grows at its end."""
    if _CHECKSUMS in apsw.vfs_names():
        (library,) = Path(apsw.__file__).parent.glob("sqlite_extra_binaries/cksumvfs.*")
        table = ctypes.c_void_p.in_dll(ctypes.CDLL(str(library)), "sqlite3_api").value
        assert table is not None
        functions = (ctypes.c_void_p * (_UNREGISTER + 1)).from_address(table)
        find = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(functions[_FIND] or 0)
        unregister = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(functions[_UNREGISTER] or 0)
        unregister(find(_CHECKSUMS.encode()))
    apsw.set_default_vfs(base)
    db = apsw.Connection(":memory:")
    try:
        apsw.sqlite_extra.load(db, "cksumvfs")
    finally:
        db.close()


class _Vfs(apsw.VFS):
    def __init__(self, around: Around, base: str) -> None:
        super().__init__(_NAME, base)
        self.around, self.base_name, self.opened = around, base, 0

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:
        if name is None:
            return apsw.VFSFile(self.base_name, name, flags)
        self.opened += 1
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        call = Call(op="open", path=path, file=self.opened, flags=flags[0])
        opened: apsw.VFSFile = self.around(call, lambda: _File(self, name, flags, call))
        return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001 - as SQLite calls it
        call = Call(op="delete", path=filename, flushes_folder=bool(syncdir))
        self.around(call, lambda: super(_Vfs, self).xDelete(filename, syncdir))


class _File(apsw.VFSFile):
    def __init__(self, vfs: _Vfs, name: apsw.URIFilename | str, flags: list[int], opening: Call) -> None:
        self.around, self.path, self.number = vfs.around, opening.path, opening.file
        super().__init__(vfs.base_name, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        call = Call(op="write", path=self.path, file=self.number, data=data, offset=offset)
        self.around(call, lambda: super(_File, self).xWrite(call.data, offset))

    def xTruncate(self, newsize: int) -> None:
        call = Call(op="truncate", path=self.path, file=self.number, offset=newsize)
        self.around(call, lambda: super(_File, self).xTruncate(newsize))

    def xSync(self, flags: int) -> None:
        call = Call(op="sync", path=self.path, file=self.number, flags=flags)
        self.around(call, lambda: super(_File, self).xSync(flags))
