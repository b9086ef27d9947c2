"""Messages between an engine and its worker process, over a stream socket.

A message is a note (bytes) and a body (:class:`~exoflow.codec.Encoded`). What is small travels in the stream. Large buffers travel as
shared memory (:mod:`exoflow.worker.shared`), whose descriptors go with the message. Buffers arrive read-only, whatever their size, so
that a task which writes to its input fails in the first test and not with the first large input.

Calls go by sockets of their own (:class:`Calls`): a worker finds the next one there when it is done, and the engine can take it back
as long as it has not begun.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import socket
import struct
from collections.abc import Callable, Sequence

from exoflow.codec import Bytes, Encoded
from exoflow.worker import shared
from exoflow.worker.shared import Block, Mapped, Spare

INLINE_BYTES_MAX = 256 * 1024
"""Up to here, two copies through the socket cost less than a file."""
FILES_MAX = 32
"""Blocks that go with one message; buffers in others are copied."""
GROWN = b"grown"
"""Note of an answer whose body is a plan; no note means a plain output, any other than these two is an ErrorInfo."""
DIED = b"died"
"""Note of an answer whose body is the reason of a :class:`~exoflow.worker.attempt.Died`, said by the function itself."""

CALL_BYTES_MAX = 2048
"""Up to here a call is one datagram; more than that, some systems do not take."""
_LARGE = b"L"
"""Instead of a call: it comes in the stream."""
_END = b""
"""Instead of a call: there will be none."""

_HEAD = struct.Struct("<QIIH")  # length of the message, length of the note, number of pieces of the body, number of files
_PLACE = struct.Struct("<hQQ")  # of a piece: number of its file, or -1 for the message itself; where it begins; its length
_HERE = -1
_ALIGN = 64
_AHEAD_BYTES = 64 * 1024
_HEAD_BYTES = _HEAD.size
_CLOEXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_FILES_SPACE = socket.CMSG_SPACE(FILES_MAX * array.array("i").itemsize)


class Parcel:
    """A message made ready; it can be sent more than once. Must be closed. With ``spare``, a block of those is written, if one fits."""

    def __init__(self, note: bytes, body: Encoded, spare: Spare | None = None) -> None:
        self._spare = spare
        self._blocks: list[Block] = []
        self._lent: list[memoryview] = []
        self._mappings: list[mmap.mmap] = []
        self._files: list[int] = []
        pieces: list[Bytes] = [body.header, *body.buffers]
        places = self._elsewhere(pieces) if body.size > INLINE_BYTES_MAX else {}
        head_length = _HEAD_BYTES + len(pieces) * _PLACE.size + len(note)
        head, stream, at = [], list[Bytes](), head_length
        for index, piece in enumerate(pieces):
            place = places.get(index)
            if place is None:
                padding = -at % _ALIGN if index else 0
                stream += (bytes(padding), piece)
                at += padding
                place = _HERE, at
                at += len(piece)
            head.append(_PLACE.pack(*place, len(piece)))
        self._data = b"".join((_HEAD.pack(at, len(note), len(pieces), len(self._files)), *head, note, *stream))

    def _elsewhere(self, pieces: Sequence[Bytes]) -> dict[int, tuple[int, int]]:
        """Which of ``pieces`` are not in the stream: in which file, and where. Those that came in a block go on in it, unless they are but
        a small part of it: that would keep all of it alive."""
        found: dict[int, list[tuple[int, int]]] = {}  # by descriptor: which pieces are there, and where
        blocks: dict[int, tuple[Mapped, mmap.mmap]] = {}
        for index, piece in enumerate(pieces):
            known = shared.find(piece) if isinstance(piece, memoryview) and piece.nbytes else None
            if known is not None:
                blocks[known[0].fd] = known[:2]
                found.setdefault(known[0].fd, []).append((index, known[2]))
        places: dict[int, tuple[int, int]] = {}
        for fd, there in found.items():
            block, mapping = blocks[fd]
            if len(self._files) < FILES_MAX - 1 and 2 * sum(len(pieces[index]) for index, _ in there) >= block.size:
                places.update((index, (len(self._files), at)) for index, at in there)
                self._files.append(fd)
                self._mappings.append(mapping)
        if self._spare is None:  # in the engine, whose values are inputs of many tasks
            places.update(self._borrowed({index: piece for index, piece in enumerate(pieces) if index not in places}))
        rest = [index for index in range(len(pieces)) if index not in places]
        written: Block | None = None
        if sum(len(pieces[index]) for index in rest) > INLINE_BYTES_MAX:
            written = shared.write([pieces[index] for index in rest], self._spare)
        if written is not None:
            places.update((index, (len(self._files), at)) for index, at in zip(rest, written.offsets, strict=True))
            self._files.append(written.fd)
            self._blocks.append(written)
            for index, at in zip(rest, written.offsets, strict=True):
                piece = pieces[index]
                if self._spare is None and isinstance(piece, memoryview) and len(piece) > INLINE_BYTES_MAX:
                    self._lent.append(piece)
                    shared.lend(piece, written, at)
        return places

    def _borrowed(self, pieces: dict[int, Bytes]) -> dict[int, tuple[int, int]]:
        """Which of ``pieces`` another message that is being answered holds, too: they need not be written again."""
        places = {}
        for index, piece in pieces.items():
            if isinstance(piece, memoryview) and len(piece) > INLINE_BYTES_MAX and len(self._files) < FILES_MAX - 1:
                found = shared.borrow(piece)
                if found is not None:
                    places[index] = len(self._files), found[1]
                    self._files.append(found[0].fd)
                    self._blocks.append(found[0])
                    self._lent.append(piece)
        return places

    @property
    def datagram(self) -> bytes | None:
        """All of it, if it is small."""
        return self._data if len(self._data) <= CALL_BYTES_MAX and not self._files else None

    def send(self, sock: socket.socket) -> None:
        """If the other side is gone, nothing happens: :func:`receive` will tell."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if not self._files:
                sock.sendall(self._data)
                return
            files = array.array("i", self._files)
            sent = sock.sendmsg([self._data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
            sock.sendall(memoryview(self._data)[sent:])

    def close(self) -> None:
        """Give back the files. What the other side has of them stays."""
        self._mappings.clear()
        while self._blocks:
            self._blocks.pop().sent(self._spare)
        self._lent.clear()


def receive(sock: socket.socket, ahead: int = _AHEAD_BYTES) -> tuple[bytes, Encoded] | None:
    """The next message, or None when the other side is gone. Raises OSError when it came but cannot be taken in.

    ``ahead`` bytes may be taken from the stream at once; where another message may follow this one, :data:`FIRST`.
    """
    try:
        data, ancillary, _, _ = sock.recvmsg(ahead, _FILES_SPACE, _CLOEXEC)
    except ConnectionResetError:  # it went without having read all that we sent
        return None
    files = array.array("i")
    for _, _, content in ancillary:
        files.frombytes(content[: len(content) - len(content) % files.itemsize])
    try:
        message = _completed(sock, data)
        if message is None:
            return None
        file_count = _HEAD.unpack_from(message)[3]
        if file_count > len(files):
            raise OSError("a file descriptor of a message was lost; this process has too many open files")
        blocks = [shared.opened(files.pop(0)) for _ in range(file_count)]
    finally:
        for fd in files:
            os.close(fd)
    return _read(message, blocks)


def _read(message: bytes | bytearray, blocks: Sequence[memoryview] = ()) -> tuple[bytes, Encoded]:
    _, note_length, count, _ = _HEAD.unpack_from(message)
    view = memoryview(message).toreadonly()
    at = _HEAD_BYTES + count * _PLACE.size
    pieces = []
    for place in range(_HEAD_BYTES, at, _PLACE.size):
        file, begin, length = _PLACE.unpack_from(message, place)
        pieces.append((view if file == _HERE else blocks[file])[begin : begin + length])
    return bytes(view[at : at + note_length]), Encoded(bytes(pieces[0]), tuple(pieces[1:]))


FIRST = _HEAD_BYTES


def _completed(sock: socket.socket, data: bytes) -> bytes | bytearray | None:
    """The whole message that begins with ``data``; None if the other side is gone."""
    while len(data) < _HEAD_BYTES:
        more = sock.recv(_HEAD_BYTES - len(data))
        if not more:
            return None
        data += more
    (length,) = struct.unpack_from("<Q", data)
    if len(data) == length:
        return data
    whole = bytearray(length)
    whole[: len(data)] = data
    view = memoryview(whole)[len(data) :]
    while view:
        count = sock.recv_into(view, len(view), socket.MSG_WAITALL)
        if not count:
            return None
        view = view[count:]
    return whole


class Calls:
    """The calls that a worker has been given and has not begun, seen from the engine.

    Each lies as a datagram in a socket whose far end both sides hold. The kernel gives it to one of them: to the worker, and it begins,
    or back to the engine, and it never will. There are two sockets, used in turn, for the call that runs and the one that follows it;
    so neither side can take the one and mean the other. Once the worker has a call, it marks that in memory that both see: a worker that
    was killed may have had the datagram without ever knowing.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as held:
            ends = [held.enter_context(end) for _ in range(2) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)]
            self._near, self._far = ends[::2], ends[1::2]
            self._file = shared.unnamed_file()
            held.callback(os.close, self._file)
            os.truncate(self._file, 2)
            self._marks = held.enter_context(mmap.mmap(self._file, 2))
            self.close = held.pop_all().close
        self._turn = 0
        self.is_over = False
        """Whether the worker has ended."""

    @property
    def fds(self) -> tuple[int, ...]:
        """What the worker gets, see :class:`Tray`."""
        return (self._file, *(end.fileno() for end in self._far))

    def put(self, parcel: Parcel, sock: socket.socket) -> None:
        """Give it to the worker, at the other side of ``sock``. Behind a call that runs, only one with a ``datagram``."""
        self._marks[self._turn] = 0
        near = self._near[self._turn]
        self._turn ^= 1
        if parcel.datagram is not None:
            near.send(parcel.datagram)
        else:
            near.send(_LARGE)
            parcel.send(sock)

    def take_back(self) -> bool:
        """Whether the last call has not begun. Then it never will; the one before it, if there is one, is now the last."""
        last = self._turn ^ 1
        if self.is_over:
            if self._marks[last]:
                return False
        else:
            try:
                self._far[last].recv(CALL_BYTES_MAX, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
        self._turn = last
        return True

    def end(self) -> None:
        """Tell an idle worker that it is no longer needed."""
        self._near[self._turn].send(_END)


class Tray:
    """The same, seen from the worker."""

    def __init__(self, fds: tuple[int, ...]) -> None:
        self._marks = mmap.mmap(fds[0], len(fds) - 1)
        self._ends = [socket.socket(fileno=fd) for fd in fds[1:]]
        self._turn = 0

    def take(self, sock: socket.socket, wait: Callable[[socket.socket], object]) -> tuple[bytes, Encoded] | None:
        """The next call, which begins with this; None if there are to be no more. ``wait`` may do so before."""
        end = self._ends[self._turn]
        wait(end)
        datagram = end.recv(CALL_BYTES_MAX)
        message = receive(sock) if datagram == _LARGE else _read(datagram) if datagram else None
        if message is not None:
            self._marks[self._turn] = 1
            self._turn ^= 1
        return message

    def close(self) -> None:
        for end in self._ends:
            end.close()
