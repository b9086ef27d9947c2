"""Messages between an engine and its worker process, over a stream socket.

A message is a note (bytes) and a body (:class:`~exoflow.codec.Encoded`). A small body travels in the stream. A large one travels as an
unnamed file whose descriptor goes with the message: the receiver maps it, copy-on-write, so that its buffers are neither copied nor
shared for writing. Nothing is ever left behind by whoever dies, because there is no name under which it could be.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import socket
import struct
import tempfile
import weakref

from exoflow import codec
from exoflow.codec import Bytes, Encoded

INLINE_BYTES_MAX = 256 * 1024
"""Up to here, two copies through the socket cost less than a file."""
GROWN = b"grown"
"""Note of an answer whose body is a plan; no note means a plain output, any other is an ErrorInfo."""
MAPPINGS_MAX = 128
"""Each mapping holds a file descriptor for as long as a value lives on it; beyond this many, bodies are copied instead."""

_HEAD = struct.Struct("<QQ?")  # length of the body, length of the note, whether the body is in a file
_HEAD_FLAGS = socket.MSG_WAITALL | getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_FD_BYTES = array.array("i").itemsize
_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


class Parcel:
    """A message made ready; it can be sent more than once. Must be closed."""

    def __init__(self, note: bytes, body: Encoded) -> None:
        pieces = codec.frame(body)
        size = sum(len(piece) for piece in pieces)
        self._file = _filled(pieces) if size > INLINE_BYTES_MAX else None
        head = _HEAD.pack(size, len(note), self._file is not None)
        self._data = b"".join((head, note) if self._file is not None else (head, *pieces, note))

    def send(self, sock: socket.socket) -> None:
        """If the other side is gone, nothing happens: :func:`receive` will tell."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sent = 0
            if self._file is not None:
                sent = sock.sendmsg([self._data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self._file]))])
            sock.sendall(memoryview(self._data)[sent:])

    def close(self) -> None:
        """Give back the file. What the other side has of it stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def receive(sock: socket.socket) -> tuple[bytes, Encoded] | None:
    """The next message, or None when the other side is gone. Raises OSError when it came but cannot be taken in."""
    try:
        head, ancillary, _, _ = sock.recvmsg(_HEAD.size, socket.CMSG_SPACE(_FD_BYTES), _HEAD_FLAGS)
    except ConnectionResetError:  # it went without having read all that we sent
        return None
    if len(head) < _HEAD.size:
        return None
    body_length, note_length, in_file = _HEAD.unpack(head)
    body = memoryview(b"")
    if in_file:
        if not ancillary:
            raise OSError("the file descriptor of a message was lost; this process has too many open files")
        (fd,) = array.array("i", ancillary[0][2])
        try:
            body = _contents(fd, body_length)
        finally:
            os.close(fd)
        body_length = 0
    rest = bytearray(body_length + note_length)  # not bytes: arrays on top of it shall be writable
    view = memoryview(rest)
    while view:
        count = sock.recv_into(view, len(view), socket.MSG_WAITALL)
        if not count:
            return None
        view = view[count:]
    view = memoryview(rest)
    return bytes(view[body_length:]), codec.parse(body if in_file else view[:body_length])


def unnamed_file() -> int:
    """A descriptor of an empty file in memory that has no name; where the system has none, of one in the temporary folder."""
    try:
        return os.memfd_create("exoflow")
    except (AttributeError, OSError):
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def _filled(pieces: list[Bytes]) -> int | None:
    """A file that holds ``pieces``, or None where there is no room for it; then the body has to go through the socket."""
    fd = -1
    try:
        fd = unnamed_file()
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
    except OSError:
        if fd >= 0:
            os.close(fd)
        return None
    return fd


def _contents(fd: int, size: int) -> memoryview:
    if len(_mappings) < MAPPINGS_MAX:
        mapping = mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
        _mappings.add(mapping)
        return memoryview(mapping)
    content = bytearray(size)
    view = memoryview(content)
    while view:
        view = view[os.preadv(fd, [view], size - len(view)) :]
    return memoryview(content)
