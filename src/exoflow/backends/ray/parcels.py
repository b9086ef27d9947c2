"""How values cross to a Ray worker and back: small ones inside a message, large ones, and those with Refs, as objects that Ray knows."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import ray

from exoflow import codec
from exoflow.codec import Encoded

INLINE_BYTES_MAX = 64 * 1024
"""Up to here a value travels inside its message, which Ray sends on without its object store (its own limit is 100 KB)."""


class Parcel:
    """An encoded value as Ray is given it. Ray copies its buffers into shared memory once and maps them wherever they are wanted, and it
    knows the references to objects and actors of its own that are among ``refs``."""

    __slots__ = ("encoded",)

    def __init__(self, header: bytes, buffers: Sequence[Any], refs: tuple[Any, ...] = ()) -> None:
        self.encoded = Encoded(header, tuple(memoryview(each).toreadonly() for each in buffers), refs)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        encoded = self.encoded
        return Parcel, (encoded.header, [pickle.PickleBuffer(view) for view in encoded.buffers], encoded.refs)


def pack(encoded: Encoded) -> tuple[bytes, Parcel | None]:
    """``encoded`` as what goes inside a message and what goes beside it; one of the two is empty."""
    if encoded.size <= INLINE_BYTES_MAX and not encoded.refs:
        return b"".join(codec.frame(encoded)), None
    return b"", Parcel(encoded.header, encoded.buffers, encoded.refs)


def unpack(inside: bytes | memoryview, parcel: Parcel | None) -> Encoded:
    """The inverse of :func:`pack`. Nobody can write to the buffers."""
    return codec.parse(inside) if parcel is None else parcel.encoded


class Remote:
    """A value that is in Ray's store as a :class:`Parcel`, behind ``ref``, while its own Refs are here. Pickled, it is that value."""

    def __init__(self, ref: Any, refs: tuple[Any, ...]) -> None:
        self._ref, self._refs = ref, refs

    def __reduce__(self) -> Any:
        return _fetched, (self._ref, self._refs)


def _fetched(ref: Any, refs: tuple[Any, ...]) -> Any:
    encoded = ray.get(ref).encoded
    return codec.decode(Encoded(encoded.header, encoded.buffers, refs))
