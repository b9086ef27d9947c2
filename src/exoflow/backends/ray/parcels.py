"""How values cross to a Ray worker and back: small ones inside the message, large ones as objects of Ray's own store."""

from __future__ import annotations

import pickle
from typing import Any

from exoflow import codec
from exoflow.codec import Encoded

INLINE_BYTES_MAX = 64 * 1024
"""Up to here a value travels inside its message, which Ray sends on without its object store (its own limit is 100 KB)."""

Body = list[Any]
"""A large value as Ray is given it: the header, then the buffers, which Ray copies into shared memory once and maps wherever they are."""


def pack(encoded: Encoded) -> tuple[bytes, Body | None]:
    """``encoded`` as what goes inside the message and what goes beside it; one of the two is empty."""
    if encoded.size <= INLINE_BYTES_MAX:
        return b"".join(codec.frame(encoded)), None
    return b"", [encoded.header, *map(pickle.PickleBuffer, encoded.buffers)]


def unpack(inside: bytes | memoryview, body: Body | None) -> Encoded:
    """The inverse of :func:`pack`. Nobody can write to the buffers."""
    if body is None:
        return codec.parse(inside)
    header, *buffers = body
    return Encoded(header, tuple(memoryview(each).toreadonly() for each in buffers))
