"""The outputs of one workflow: objects in memory, or bytes in the journal or a blob, decoded when somebody reads them."""

from __future__ import annotations

from typing import Any

from exoflow import codec
from exoflow.codec import Encoded
from exoflow.core.journal import Stored
from exoflow.errors import PayloadTooLargeError, PayloadUnreadableError, StoreCorruptError
from exoflow.store.base import Store


class Spoiled(Exception):
    """Saved bytes are missing or fail their digest."""


class Saved:
    """Where a saved value is: its ``stored`` description, and for an inline one the journal entry, or the bytes while they are at hand."""

    __slots__ = ("payload", "seq", "stored")

    def __init__(self, stored: Stored, seq: int, payload: bytes | None = None) -> None:
        self.stored, self.seq, self.payload = stored, seq, payload


def store_bytes(
    store: Store, encoded: Encoded, *, inline_bytes: int, limit_bytes: int, what: str, meaning: str = ""
) -> tuple[Stored, bytes | None]:
    """Put a value's bytes where they belong: small ones are returned, to go into the journal entry; large ones are flushed as a blob
    first. Raises PayloadTooLargeError before anything is written."""
    size = encoded.size
    if size > limit_bytes:
        raise PayloadTooLargeError(what=what, size_bytes=size, limit_bytes=limit_bytes)
    pieces = codec.frame(encoded)
    if size <= inline_bytes:
        payload = b"".join(pieces)
        return Stored(size, codec.digest((payload,)), None, meaning), payload
    blob = store.blobs.put(pieces)
    return Stored(size, bytes.fromhex(blob), blob, meaning), None


def fetch(store: Store, workflow_id: str, saved: Saved) -> Encoded:
    """The bytes of a saved value, checked against their digest. Raises Spoiled."""
    stored = saved.stored
    if stored.blob is not None:
        try:
            return codec.parse(store.blobs.open(stored.blob))
        except (LookupError, ValueError) as error:
            raise Spoiled(str(error)) from error
    payload = saved.payload
    if payload is None:
        try:
            found = store.entries(workflow_id, seqs=(saved.seq,))
        except StoreCorruptError as error:
            raise Spoiled(str(error)) from error
        payload = found[0].payload if found else None
    if payload is None or codec.digest((payload,)) != stored.digest:
        raise Spoiled("its bytes fail their digest")
    return codec.parse(bytearray(payload))  # a copy that may be written to, as the original value could


def decode(encoded: Encoded, what: str) -> Any:
    """The value. Raises PayloadUnreadableError if this process lacks what it is made of."""
    try:
        return codec.decode(encoded)
    except codec.Unreadable as error:
        raise PayloadUnreadableError(what=what, reason=str(error)) from error


class Values:
    """Outputs by task. ``load`` may be called from any thread; everything else only under the loop's lock."""

    def __init__(self, store: Store, workflow_id: str) -> None:
        self.store, self.workflow_id = store, workflow_id
        self._present: dict[str, Any] = {}
        self._arrived: dict[tuple[str, int], Any] = {}
        self.saved: dict[str, Saved] = {}

    def arrive(self, task: str, attempt: int, value: Any) -> None:
        """An attempt returned ``value``; whether it counts is not known yet."""
        self._arrived[task, attempt] = value

    def keep(self, task: str, attempt: int) -> None:
        """It counts."""
        self._present[task] = self._arrived.pop((task, attempt))

    def discard(self, task: str, attempt: int) -> None:
        """It does not, or has been kept."""
        self._arrived.pop((task, attempt), None)

    def put(self, task: str, value: Any) -> None:
        self._present[task] = value

    def release(self, task: str) -> None:
        self._present.pop(task, None)
        saved = self.saved.get(task)
        if saved is not None:
            saved.payload = None

    def forget(self, task: str) -> None:
        self._present.pop(task, None)
        self.saved.pop(task, None)

    def raw(self, task: str) -> Any:
        """What is in memory: an object, or Encoded. Raises KeyError."""
        return self._present[task]

    def load(self, task: str) -> Any:
        """The output as an object. Raises Spoiled, KeyError (it is nowhere), PayloadUnreadableError."""
        missing = object()
        value = self._present.get(task, missing)
        if value is missing:
            value = fetch(self.store, self.workflow_id, self.saved[task])
        if isinstance(value, Encoded):
            value = decode(value, f"{self.workflow_id}/{task}")
            if task in self._present:
                self._present[task] = value  # for the next reader
        return value
