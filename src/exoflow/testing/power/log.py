"""What is recorded of a run: the operations on files in the order in which they happened, and between them what was promised to whom.

The promises are what power loss must not break. A request to the store is promised once it was answered, a blob once its name was given,
the end of a workflow once its future had a result, an external output the moment it happened.
"""

from __future__ import annotations

from typing import Any

import msgspec

from exoflow.store.base import OwnerRow, Store, Write
from exoflow.testing import ledger


class _Event(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Paths are relative to the folder that stands for the disk. ``node`` numbers a file or folder, whatever its names."""


# --- what happens to the disk ----------------------------------------------------------------------------------------------------


class Made(_Event, frozen=True):
    """A new file or folder, empty."""

    path: str
    node: int
    is_folder: bool


class Wrote(_Event, frozen=True):
    """``data`` at ``offset``."""

    node: int
    offset: int
    data: bytes


class Resized(_Event, frozen=True):
    """Cut or extended to ``size`` bytes."""

    node: int
    size: int


class Renamed(_Event, frozen=True):
    """From ``path`` to ``target``, in place of what was there."""

    path: str
    target: str


class Removed(_Event, frozen=True):
    """The name is gone."""

    path: str


class Flushed(_Event, frozen=True):
    """The content and size of a file are on the disk, or the names in a folder."""

    node: int


# --- what is asked of the store ----------------------------------------------------------------------------------------------------


class Commit(_Event, frozen=True):
    """Of ``Store.commit``."""

    writes: tuple[Write, ...]


class Claim(_Event, frozen=True):
    """Of ``Store.claim``."""

    workflow_id: str
    epoch: int
    owner: str | None


class Delete(_Event, frozen=True):
    """Of ``Store.delete``."""

    workflow_id: str
    epoch: int


class Beat(_Event, frozen=True):
    """Of ``Store.beat``."""

    row: OwnerRow | None
    owner: str


class Wish(_Event, frozen=True):
    """Of ``Store.wish``."""

    workflow_id: str
    wish: str


Request = Commit | Claim | Delete | Beat | Wish


def perform(request: Request, store: Store) -> Any:
    """Ask ``store`` and return what it answers."""
    match request:
        case Commit():
            return store.commit(request.writes)
        case Claim():
            return store.claim(request.workflow_id, epoch=request.epoch, owner=request.owner)
        case Delete():
            return store.delete(request.workflow_id, epoch=request.epoch)
        case Beat():
            return store.beat(request.row, owner=request.owner)
        case Wish():
            return store.wish(request.workflow_id, request.wish)


# --- what is promised --------------------------------------------------------------------------------------------------------------


class Asked(_Event, frozen=True):
    """The store got a request. One at a time: the next comes after the answer."""

    request: Request


class Answered(_Event, frozen=True):
    """It answered, so what was asked has happened for good."""

    answer: Any


class Kept(_Event, frozen=True):
    """A blob of that name is stored."""

    blob: str


class Happened(_Event, frozen=True):
    """Something was done to the outside world, which has its own power."""

    entry: ledger.Entry


class Ended(_Event, frozen=True):
    """Somebody was told the result of a workflow, of which this is the digest."""

    workflow_id: str
    digest: str


Event = Made | Wrote | Resized | Renamed | Removed | Flushed | Asked | Answered | Kept | Happened | Ended


class Log(msgspec.Struct, kw_only=True):
    """One run.

    Attributes:
        workload, seed: what ran. root: the folder that stood for the disk; the store remembers paths, so it must be replayed there.
        disk: files at the beginning, all flushed, by path; a folder has None.
        requests: what the store had been asked for before that; entries: what had happened to the world.
        blobs: which were kept. ended: what was told of the ends of workflows, by workflow.
        events: what happened since.
    """

    workload: str
    seed: int
    root: str
    disk: dict[str, bytes | None] = {}
    requests: list[Request] = []
    entries: list[ledger.Entry] = []
    blobs: list[str] = []
    ended: dict[str, str] = {}
    events: list[Event] = []


encode = msgspec.msgpack.encode
decode = msgspec.msgpack.Decoder(Log).decode
