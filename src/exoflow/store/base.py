"""The storage seam: what a Store and a BlobStore must promise.

A store keeps, for each workflow, one **head** (a small row for listing and fencing) and a **journal** (an ordered list of opaque
entries). It never looks inside an entry and never decides anything. The promises:

1. **All or nothing, durable when it returns.** :meth:`Store.commit` takes many writes of many workflows, applies each whole or not at
   all, and returns only when everything applied survives power loss (if ``durable`` is true).
2. **Fenced.** A write is applied only if the workflow's epoch in the store equals the write's epoch, checked in the same transaction.
   A refused write changes nothing and does not disturb the others.
3. **Ordered.** Entries get consecutive ``seq`` numbers per workflow in the order in which they were committed; :meth:`Store.entries`
   returns them in that order.
4. **Honest.** What is returned passed its digest, or :class:`~exoflow.errors.StoreCorruptError` is raised (heads and entry bodies;
   the payload of an entry is the caller's to check, because a damaged payload is a loss that can be repaired).
5. **Keeps what is named.** A blob that the journal of a workflow names (``Write.blobs``) stays until that workflow is deleted, and a blob
   that was put stays until the write that names it has been answered, or the store is closed. What is neither may be collected.
6. **Thread-safe.** Any method may be called from any thread. After :meth:`Store.close` every method (blobs aside: views of them outlive
   the store) raises :class:`~exoflow.errors.ClosedError`; after a fork, :class:`~exoflow.errors.ForkedHandleError`.

Errors raised: StoreUnavailable, StorageFullError, StoreCorruptError, ClosedError, ForkedHandleError; for a ``create`` whose id or head is
malformed InvalidIdError, InvalidOptionError. After any of them, nothing of the
call was applied, or (StoreUnavailable only) it is unknown; fencing and the journal's order make a second try safe to refuse.

``testing/store_suite.py`` is this page as tests: a new store inherits it and sets one fixture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import msgspec

from exoflow.codec import Bytes


class Entry(msgspec.Struct, frozen=True):
    """One journal entry: ``body`` is a record of the core, ``payload`` an inline value, both opaque. ``seq`` counts from 1."""

    seq: int
    body: bytes
    payload: bytes | None = None


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The row of a workflow that lists show and fences check.

    ``epoch`` only grows; what it is made of is its users' affair (``runtime/ownership.py``). ``owner`` is the id of the engine that drives
    it, or None. Times are milliseconds since 1970 (UTC), for people only: nothing is decided by them. ``digest`` fingerprints the
    definition and the arguments.
    """

    workflow_id: str
    epoch: int
    owner: str | None
    status: str
    created_ms: int
    updated_ms: int
    digest: str
    note: str = ""


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """One workflow's share of a commit: append ``entries`` (body, payload), retire old ones, change the head.

    With ``create`` the workflow must not exist yet and ``head`` is stored as given. Otherwise the stored epoch must equal ``epoch``, and
    ``head``, if not None, replaces status, owner, updated_ms and note (never id, epoch, created_ms or digest).
    ``retire`` lists seqs that recovery no longer needs; they stay readable as history. ``blobs`` lists every blob that the entries name.
    """

    workflow_id: str
    epoch: int
    entries: tuple[tuple[bytes, bytes | None], ...] = ()
    retire: tuple[int, ...] = ()
    blobs: tuple[str, ...] = ()
    head: Head | None = None
    create: bool = False


Verdict = Literal["applied", "fenced", "exists", "missing"]
"""What became of a write: applied; refused because the epoch moved on, the workflow exists already, or it does not exist."""


class OwnerRow(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that drives workflows. ``beat`` grows while it lives; ``lock_path`` names a file locked by every process of it."""

    owner: str
    host: str
    pid: int
    lock_path: str
    beat: int
    lease_s: float


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection found: ``removed`` blobs of ``size_bytes`` together, and ``spared`` ones that a record may be about to name."""

    removed: int
    size_bytes: int
    spared: int


class BlobStore(Protocol):
    """Large payloads by content. A blob is immutable; its name is the digest of its bytes, so writing it twice is harmless."""

    def put(self, pieces: Iterable[Bytes]) -> str:
        """Store the concatenation of ``pieces`` and return its name. Durable (file and folder flushed) when it returns, and not collected
        before the write that names it has been answered."""

    def open(self, name: str) -> memoryview:
        """A read view of the blob, verified against its name. Raises LookupError if absent, ValueError if a byte has changed."""

    def collect(self, *, grace_s: float, dry_run: bool = False) -> Collected:
        """Remove the blobs that no journal names and no living handle has put without having them named. Beyond that, those put within the
        last ``grace_s`` seconds may be spared. With ``dry_run``, only count. Views that are open stay readable. From any process, at any
        time; a crash half-way does no harm."""

    def names(self) -> Iterable[str]:
        """Every blob that is stored, in no particular order."""


class Store(Protocol):
    """Journals, heads and owners. See the top of this module for the promises that all methods share."""

    url: str
    """How to open it again, without secrets."""
    durable: bool
    """Whether a returned commit survives the loss of this process."""
    blobs: BlobStore

    def commit(self, writes: Sequence[Write]) -> list[Verdict]:
        """Apply ``writes`` in one durable transaction; one verdict each, in order."""

    def claim(self, workflow_id: str, *, epoch: int, owner: str | None) -> int | None:
        """Take (or with ``owner=None`` give back) a workflow whose epoch is ``epoch``. Returns the new epoch, ``epoch + 1``, or None
        if someone else moved it first. Durable when it returns."""

    def head(self, workflow_id: str) -> Head | None:
        """The head, or None if there is no such workflow."""

    def heads(self, *, status: Sequence[str] = (), after: str = "", limit: int = 500) -> list[Head]:
        """Up to ``limit`` heads whose id sorts behind ``after``, in the order of ids; all statuses if none is named."""

    def entries(self, workflow_id: str, *, retired: bool = False, seqs: Sequence[int] = ()) -> list[Entry]:
        """The journal in order; without ``retired``, only what recovery needs; with ``seqs``, only those entries (retired or not). Empty
        if there is no such workflow."""

    def delete(self, workflow_id: str, *, epoch: int) -> bool:
        """Forget the workflow and its journal if its epoch is ``epoch``. True if it was deleted. Blobs that only it named are removed, now
        or, if somebody is just putting them, by the next collection."""

    def beat(self, row: OwnerRow | None, *, owner: str = "") -> list[tuple[str, str]]:
        """Insert or replace an owner's row; with ``row=None``, remove the row of ``owner``. Returns the wishes that are open for
        workflows of that owner, as (workflow id, wish)."""

    def wish(self, workflow_id: str, wish: str) -> bool:
        """Leave a request for whoever drives the workflow; it replaces an earlier one, and is gone when the workflow's head is written
        again. The only write that is not fenced: it changes nothing but the request. False if there is no such workflow."""

    def owners(self) -> list[OwnerRow]:
        """Every owner's row."""

    def close(self) -> None:
        """Release everything. Calling it twice is no error."""
