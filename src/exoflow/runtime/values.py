"""The outputs of one workflow: objects in memory, or bytes in the journal or a blob, decoded when somebody reads them."""

from __future__ import annotations

from typing import Any

import msgspec

from exoflow import codec
from exoflow.codec import Encoded
from exoflow.core.journal import KeptRef, Stored
from exoflow.errors import CheckpointFailedError, PayloadTooLargeError, PayloadUnreadableError, StoreCorruptError
from exoflow.runtime.refs import Beside, Refs
from exoflow.runtime.threads import SYSTEM_THREADS, Threads
from exoflow.store.base import Store

_REF_INLINE_BYTES = 4096
"""What the checkpoint of a Ref gave is in the record of the output up to here; beyond it is a blob."""


class Spoiled(Exception):
    """Saved bytes are missing or fail their digest."""


class Saved(msgspec.Struct, gc=False):
    """Where a saved value is: its ``stored`` description, and for an inline one the journal entry, or the bytes while they are at hand."""

    stored: Stored
    seq: int
    payload: bytes | None = None


def store_bytes(
    store: Store, encoded: Encoded, *, inline_bytes: int, limit_bytes: int, what: str, meaning: str = "", refs: tuple[KeptRef, ...] = ()
) -> tuple[Stored, bytes | None]:
    """Put a value's bytes where they belong: small ones are returned, to go into the journal entry; large ones are flushed as a blob
    first. ``refs`` are its Refs, saved. Raises PayloadTooLargeError before anything is written."""
    size = encoded.size
    if size > limit_bytes:
        raise PayloadTooLargeError(what=what, size_bytes=size, limit_bytes=limit_bytes)
    pieces = codec.frame(encoded)
    if size <= inline_bytes:
        payload = b"".join(pieces)
        return Stored(size, codec.digest((payload,)), None, meaning, refs), payload
    blob = store.blobs.put(pieces)
    return Stored(size, bytes.fromhex(blob), blob, meaning, refs), None


def store_ref(store: Store, what: str, ref: str, data: Any, limit_bytes: int) -> tuple[bytes, str | None]:
    """Put what the checkpoint of a Ref of ``what`` gave where it belongs: into the record, or into a blob, which is flushed first. Raises
    CheckpointFailedError, PayloadTooLargeError."""
    try:
        encoded = codec.encode(data)
    except codec.NotSerializable as error:
        raise CheckpointFailedError(what=what, ref=ref, reason=f"what it gave cannot be pickled: {error}") from error
    if encoded.refs:
        raise CheckpointFailedError(what=what, ref=ref, reason="its data holds Refs; return those from the task instead")
    if encoded.size > limit_bytes:
        raise PayloadTooLargeError(what=f"data of Ref '{ref}'", size_bytes=encoded.size, limit_bytes=limit_bytes)
    pieces = codec.frame(encoded)
    return (b"".join(pieces), None) if encoded.size <= _REF_INLINE_BYTES else (b"", store.blobs.put(pieces))


def fetch_ref(store: Store, kept: KeptRef) -> Encoded:
    """What its checkpoint gave, as bytes that were checked. Raises Spoiled."""
    try:
        return codec.parse(bytearray(kept.data) if kept.blob is None else store.blobs.open(kept.blob))
    except (LookupError, ValueError) as error:
        raise Spoiled(str(error)) from error


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

    def __init__(self, store: Store, workflow_id: str, threads: Threads = SYSTEM_THREADS) -> None:
        self.store, self.workflow_id = store, workflow_id
        self._present: dict[str, Any] = {}
        self._arrived: dict[tuple[str, int], Any] = {}
        self.saved: dict[str, Saved] = {}
        self.held: Refs | None = None  # of the outputs that have been seen to hold any
        self.beside: Beside | None = None
        self._threads = threads

    @property
    def refs(self) -> Refs:
        """The Refs of the workflow; ``held`` is None until it is first asked for them."""
        if self.held is None:
            self.held = Refs(self._threads, self.beside)
        return self.held

    def arrive(self, task: str, attempt: int, value: Any, *, save: bool = False) -> None:
        """An attempt returned ``value``, which will be saved or not; whether it counts is not known yet."""
        if codec.identities:
            if isinstance(value, Encoded) and value.refs:
                value = Encoded(value.header, value.buffers, self.refs.known(value.refs))
            refs = value.refs if isinstance(value, Encoded) else codec.refs_in(value)
            if refs:
                self.refs.arrive(task, attempt, refs, save=save)
        self._arrived[task, attempt] = value

    def keep(self, task: str, attempt: int) -> None:
        """It counts."""
        self._present[task] = self._arrived.pop((task, attempt))
        if self.held is not None:
            self.held.keep(task, attempt)

    def discard(self, task: str, attempt: int) -> None:
        """It does not, or has been kept."""
        self._arrived.pop((task, attempt), None)
        if self.held is not None:
            self.held.drop((task, attempt))

    def put(self, task: str, value: Any) -> None:
        self._present[task] = value

    def release(self, task: str) -> None:
        self._present.pop(task, None)
        if self.held is not None:
            self.held.drop(task)
        saved = self.saved.get(task)
        if saved is not None:
            saved.payload = None

    def forget(self, task: str) -> None:
        self._present.pop(task, None)
        if self.held is not None:
            self.held.drop(task)
        self.saved.pop(task, None)

    def raw(self, task: str) -> Any:
        """What is in memory: an object, or Encoded. Raises KeyError."""
        return self._present[task]

    def load(self, task: str, reader: str | None = None, *, as_it_is: bool = False) -> Any:
        """The output as an object, for the task ``reader``. With ``as_it_is``, one that is encoded stays so, inside what will be encoded
        with it. Raises Spoiled, KeyError (it is nowhere), PayloadUnreadableError, RefLostError (it is in memory, but not for this reader),
        and whatever restoring a Ref raises."""
        missing = object()
        value = self._present.get(task, missing)
        if value is missing:
            value = self._fetched(task, reader)
        elif reader is not None and self.held is not None:
            self.held.require_fresh(task, reader)
        if isinstance(value, Encoded):
            if as_it_is and b"__main__" not in value.header:
                return codec.Nested(value)
            refs = value.refs
            value = decode(value, f"{self.workflow_id}/{task}")
            if task in self._present and not refs:  # what a Ref stands for may be large, and shall stay where it is
                self._present[task] = value  # for the next reader
        return value

    def _fetched(self, task: str, reader: str | None) -> Encoded:
        saved = self.saved[task]
        encoded = fetch(self.store, self.workflow_id, saved)
        kept = saved.stored.refs
        if not kept:
            return encoded
        try:
            return Encoded(encoded.header, encoded.buffers, self.refs.restored(task, kept, self.read_ref, reader))
        except Spoiled:
            self.refs.forget(kept)
            raise

    def argument(self, ref: Any, reader: str) -> Any:
        """A Ref that is in the arguments of ``reader`` from the beginning."""
        return self.refs.argument(ref, self.read_ref, reader)

    def read_ref(self, kept: KeptRef) -> Any:
        """What its checkpoint gave. Raises Spoiled, PayloadUnreadableError."""
        return decode(fetch_ref(self.store, kept), kept.version)
