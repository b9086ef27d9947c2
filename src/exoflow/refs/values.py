"""Refs to values in memory: of one process, or shared between processes of this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

from exoflow import codec
from exoflow.refs.base import Ref
from exoflow.worker import shared


def settled(value: Any) -> Future[Any]:
    """A Future that has ended."""
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def beside(action: Callable[[], Any], name: str) -> Future[Any]:
    """What comes of ``action``, which runs on a thread of its own."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name=f"exoflow-{name}", daemon=True).start()
    return future


class ValueRef(Ref):
    """A Ref to ``value``, which stays in the memory of the process that made it. In another process it arrives pickled, is unpickled when
    somebody asks for it, and goes on as it came; large arrays in it travel as shared memory and are then read-only."""

    portable = True

    def __init__(self, value: Any) -> None:
        self._id = os.urandom(12).hex()
        self._value, self._encoded = value, None

    _encoded: codec.Encoded | None

    def __reduce_ex__(self, protocol: Any) -> Any:
        header, buffers, refs = codec.Nested(self._encoded or codec.encode(self._value)).parts()
        pieces = buffers if protocol >= 5 else [bytes(each) for each in buffers]
        return object.__new__, (type(self),), (self._id, (header, pieces, refs))

    def __setstate__(self, state: Any) -> None:
        self._id, (header, buffers, refs) = state
        self._value, self._encoded = None, codec.Encoded(header, tuple(memoryview(each) for each in buffers), refs)

    def id(self) -> str:
        return self._id

    def get(self) -> Any:
        """The value: the very object in the process that made it."""
        encoded = self._encoded
        if encoded is not None:
            self._value = codec.decode(encoded)
            self._encoded = None if not encoded.buffers else encoded
        return self._value

    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002
        return settled(self._value if self._encoded is None else codec.Nested(self._encoded))

    @classmethod
    def restore(cls, value: Any) -> Self:
        return cls(value)


class SharedRef(ValueRef):
    """A Ref to ``value`` whose large arrays are put into shared memory at once: any number of processes of this machine read the same
    bytes, and nobody can write to them. The memory is freed by the kernel when the last of them lets go, however that ends."""

    def __init__(self, value: Any) -> None:
        super().__init__(None)
        encoded = codec.encode(value)
        block = shared.write(encoded.buffers, None) if encoded.buffers else None
        if block is not None:
            try:
                whole = shared.opened(os.dup(block.fd))
            finally:
                offsets, lengths = block.offsets, [view.nbytes for view in encoded.buffers]
                block.sent(None)
            views = tuple(whole[at : at + length] for at, length in zip(offsets, lengths, strict=True))
            encoded = codec.Encoded(encoded.header, views, encoded.refs)
        self._encoded = encoded
