"""Large buffers in memory that processes share: written once, by whoever has them, and mapped by whoever reads them.

A *block* is a file in memory without a name. Its descriptor travels with a message, and again with the next one, if the reader hands the
buffer on: it is recognised by its address and not written again. The kernel counts who has a block open or mapped and frees it with the
last of them, however that one ends. So nothing is owned, swept or left behind: there is no name under which it could be.

Readers map blocks read-only, through a descriptor that is read-only too: nobody can change what others read. New memory costs four times
as much as the copy (100 MB: 39 ms, and 9 ms), so a worker keeps the blocks that it wrote and writes them again when nobody reads them any
more. That the kernel tells, too: the readers' open file holds a lock until the last descriptor and the last mapping of it are gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from exoflow.codec import Bytes

MAPPINGS_MAX = 128
"""Each mapping holds two file descriptors for as long as a value lives on it; beyond this many, blocks are copied instead."""
KEPT_BYTES_MAX = 128 << 20
"""Of the blocks that a worker keeps to write them again."""

_ALIGN = 64
_WINDOW = 64 << 20
_POPULATE: int = getattr(mmap, "MAP_POPULATE", 0)


class Mapped(NamedTuple):
    """A block that this process reads. ``mapping`` gives None when nobody needs it any more."""

    fd: int
    file: tuple[int, int]
    address: int
    size: int
    mapping: weakref.ref[mmap.mmap]


_mapped: dict[int, Mapped] = {}
"""By descriptor. No lock: an entry is made by one operation, and removed by another at any time."""


def opened(fd: int) -> memoryview:
    """A read-only view of the whole block. ``fd`` is taken over. Raises OSError, MemoryError."""
    info = os.fstat(fd)
    file = info.st_dev, info.st_ino
    for each in list(_mapped.values()):
        if each.file == file and (mapping := each.mapping()) is not None:
            os.close(fd)
            return memoryview(mapping)
    try:
        if len(_mapped) >= MAPPINGS_MAX:
            return _copied(fd, info.st_size)
        mapping = mmap.mmap(fd, info.st_size, access=mmap.ACCESS_READ)
    except BaseException:
        os.close(fd)
        raise
    view = memoryview(mapping)
    _mapped[fd] = Mapped(fd, file, _address_of(view), info.st_size, weakref.ref(mapping, functools.partial(_let_go, fd)))
    return view


def _let_go(fd: int, _gone: object) -> None:
    del _mapped[fd]
    os.close(fd)


def _copied(fd: int, size: int) -> memoryview:
    content = bytearray(size)
    view = memoryview(content)
    while view:
        view = view[os.preadv(fd, [view], size - len(view)) :]
    os.close(fd)
    return memoryview(content).toreadonly()


def find(view: memoryview) -> tuple[Mapped, mmap.mmap, int] | None:
    """The block in which ``view`` lies, its mapping (which must be held while the block is used), and where in it."""
    address = _address_of(view) if _mapped else 0
    for each in list(_mapped.values()):
        # A mapping that is being freed gives None, so an address in one that lives cannot mean anything else by now.
        if each.address <= address < each.address + each.size and (mapping := each.mapping()) is not None:
            return each, mapping, address - each.address
    return None


class Block:
    """A block that this process has written. ``fd`` is for readers, ``offsets`` say where each piece begins. Must be closed by each of its
    ``users``: messages of this process that hold it."""

    def __init__(self, own: int, size: int, mapping: mmap.mmap | None = None) -> None:
        self.own, self.size, self.mapping = own, size, mapping
        self.fd = own
        self.users, self.offsets = 1, list[int]()

    def publish(self, offsets: list[int]) -> None:
        """Make ``fd`` a descriptor by which it can be read only, and which shows as long as somebody does."""
        self.users, self.offsets = 1, offsets
        try:
            fd = os.open(f"/proc/self/fd/{self.own}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # there is no /proc
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
        else:
            self.fd = fd

    def is_read(self) -> bool:
        """Whether somebody has it open or mapped."""
        try:
            fcntl.flock(self.own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.flock(self.own, fcntl.LOCK_UN)
        return False

    def sent(self, spare: Spare | None) -> None:
        """Give it back. What readers have of it stays."""
        with _lending:
            self.users -= 1
            if self.users:
                return
            for key in [key for key, (block, _) in _lent.items() if block is self]:
                del _lent[key]
        if self.fd != self.own:
            os.close(self.fd)
            if spare is not None and spare.keep(self):
                return
        self.close()

    def close(self) -> None:
        if self.mapping is not None:
            self.mapping.close()
        os.close(self.own)


_lending = threading.Lock()
_lent: dict[tuple[int, int], tuple[Block, int]] = {}
"""By address and length of a buffer: in which block it is, and where, while a message with that buffer is being answered."""


def lend(view: memoryview, block: Block, at: int) -> None:
    """Let other messages use ``block``, which holds ``view`` from ``at`` on. ``view`` must live as long as the block has users."""
    with _lending:
        _lent[_address_of(view), len(view)] = block, at


def borrow(view: memoryview) -> tuple[Block, int] | None:
    """A block that holds the bytes of ``view``, for one more user, and where. They are compared: whoever made them may have changed them
    since, which nobody should, but which must not go unnoticed. (100 MB: 23 ms, and 40 to write them.)"""
    with _lending:
        found = _lent.get((_address_of(view), len(view))) if _lent else None
        if found is None:
            return None
        found[0].users += 1
    if _holds(*found, view):
        return found
    found[0].sent(None)
    return None


def _holds(block: Block, at: int, view: memoryview) -> bool:
    """Looked at through a window, so that the pages do not count twice in the memory of this process."""
    for begin in range(0, len(view), _WINDOW):
        length = min(_WINDOW, len(view) - begin)
        skip = (at + begin) % mmap.ALLOCATIONGRANULARITY
        flags = mmap.MAP_SHARED | _POPULATE
        window = mmap.mmap(block.fd, skip + length, flags, mmap.PROT_READ, offset=at + begin - skip)
        with window, memoryview(window) as there:
            if not _are_equal(_address_of(there) + skip, _address_of(view) + begin, length):
                return False
    return True


class Spare:
    """Blocks of a worker that it may write again, :data:`KEPT_BYTES_MAX` in all. They stay mapped: to map one is dear, too."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def take(self, size: int) -> Block | None:
        """One that is large enough, not much too large, and read by nobody."""
        for block in self._blocks:
            if size <= block.size <= 2 * size and not block.is_read():
                self._blocks.remove(block)
                return block
        return None

    def keep(self, block: Block) -> bool:
        """Whether it is kept, rather than others that nobody reads."""
        if block.size > KEPT_BYTES_MAX:
            return False
        while sum(each.size for each in self._blocks) > KEPT_BYTES_MAX - block.size:
            unused = next((each for each in self._blocks if not each.is_read()), None)
            if unused is None:
                return False
            self._blocks.remove(unused)
            unused.close()
        if block.mapping is None:
            with contextlib.suppress(OSError, ValueError):
                block.mapping = mmap.mmap(block.own, block.size, flags=mmap.MAP_SHARED | _POPULATE)
        if block.mapping is None:
            return False
        self._blocks.append(block)
        return True

    def clear(self) -> None:
        """Keep none. What readers have stays."""
        while self._blocks:
            self._blocks.pop().close()


def write(pieces: Sequence[Bytes], spare: Spare | None) -> Block | None:
    """A block that holds ``pieces``, each aligned to 64 bytes; None where there is no room for it."""
    offsets, size = list[int](), 0
    for piece in pieces:
        offsets.append(size)
        size += len(piece) + -len(piece) % _ALIGN
    block = spare.take(size) if spare else None
    if block is not None and block.mapping is not None:
        whole = memoryview(block.mapping)
        for piece, at in zip(pieces, offsets, strict=True):
            whole[at : at + len(piece)] = piece
        whole.release()
    else:
        block = _filled(pieces, size, _in_memory) or _filled(pieces, size, _in_temporary_folder)
    if block is not None:
        block.publish(offsets)
    return block


def _filled(pieces: Sequence[Bytes], size: int, new_file: Callable[[], int]) -> Block | None:
    try:
        fd = new_file()
    except (AttributeError, OSError):
        return None
    try:
        for piece in pieces:
            _write_all(fd, memoryview(piece))
            _write_all(fd, memoryview(bytes(-len(piece) % _ALIGN)))
    except OSError:
        os.close(fd)
        return None
    return Block(fd, size)


def _write_all(fd: int, view: memoryview) -> None:
    """Written, not mapped and copied: that takes half as long, pages do not count twice in the memory of this process, and where there is
    no room, it is an error and not a signal."""
    while view:
        view = view[os.write(fd, view) :]


def unnamed_file() -> int:
    """A descriptor of an empty file without a name, in memory where the system has such. Raises OSError."""
    try:
        return _in_memory()
    except (AttributeError, OSError):
        return _in_temporary_folder()


def _in_memory() -> int:
    return os.memfd_create("exoflow")


def _in_temporary_folder() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


# --- addresses ---------------------------------------------------------------------------------------------------------------


def _address_of(view: memoryview) -> int:
    """Where the bytes of a contiguous view are."""
    return _address_reader()(view)


def _are_equal(address: int, other: int, length: int) -> bool:
    """Whether there are the same bytes. Other threads may run meanwhile."""
    return not _memcmp()(address, other, length)


@functools.cache
def _memcmp() -> Callable[[int, int, int], int]:
    import ctypes

    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
    return compare


@functools.cache
def _address_reader() -> Callable[[memoryview], int]:
    import ctypes  # not at the top: 10 ms that only those pay who have large values

    class Buffer(ctypes.Structure):  # Py_buffer of CPython, of which only the first field is read
        _fields_ = (("address", ctypes.c_void_p), ("rest", ctypes.c_void_p * 16))

    def read(view: memoryview) -> int:
        buffer = Buffer()
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
        return buffer.address or 0

    return read
