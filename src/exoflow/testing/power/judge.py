"""What must be true of a disk after a power loss, whatever else was lost.

1. The store opens, by itself and without loss of words: no error, and SQLite's own ``integrity_check`` finds nothing.
2. It holds exactly what some number of requests made of it: all that were answered, at most one more that was asked. Not a row is missing,
   half there, or in another order. What each number of requests makes of a store, the store in memory says.
3. Every blob that a journal names is there, and every other that was promised and not removed; and under no name lies anything but the
   bytes that give that name.
4. It takes new work, and after closing and opening it again everything is still so.
5. The real engine brings every workflow to its end on it: what was told of an end stays true, each external output stands once, and all
   that survives goes back to one run (the ledger's judge says so).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec

from exoflow.errors import ExoflowError
from exoflow.store.base import Entry, Head, OwnerRow, Store, Write
from exoflow.store.memory import MemoryStore
from exoflow.store.sqlite import SqliteStore
from exoflow.testing.ledger import Entry as Happening
from exoflow.testing.power import log
from exoflow.testing.power.disk import Tree
from exoflow.testing.power.log import Log, Request

PROBE = "after-the-power-loss"


class Held(msgspec.Struct, frozen=True):
    """What a store holds of one workflow: head, journal, whole journal, the wish, and the blobs that it names."""

    head: Head
    active: list[Entry]
    journal: list[Entry]
    wish: str
    named: set[str]


class Snapshot(msgspec.Struct, frozen=True):
    """What a store holds."""

    workflows: dict[str, Held]
    owners: list[OwnerRow]


class Known(msgspec.Struct, frozen=True):
    """What had been promised at a moment: the store has answered ``answered`` requests of the ``asked`` that it got."""

    answered: int
    asked: int
    blobs: frozenset[str]
    entries: int
    ended: dict[str, str]


class Truth:
    """What a log says about what must be. Raises AssertionError if the recorded store did not answer as the one in memory does."""

    def __init__(self, recorded: Log) -> None:
        self.requests: list[Request] = [*recorded.requests]
        self.entries: list[Happening] = [*recorded.entries]
        self.snapshots: list[Snapshot] = []
        self._reference = MemoryStore()
        self._content: dict[str, Held] = {}
        for request in self.requests:
            self._take(log.perform(request, self._reference), request)
        self._known = Known(len(self.requests), len(self.requests), frozenset(recorded.blobs), len(self.entries), dict(recorded.ended))

    @property
    def known(self) -> Known:
        return self._known

    def follow(self, event: log.Event) -> None:
        """Take in what happened next."""
        known = self._known
        match event:
            case log.Asked(request):
                self.requests.append(request)
                self._take(log.perform(request, self._reference), request)
                self._known = msgspec.structs.replace(known, asked=known.asked + 1)
            case log.Answered(answer):
                assert known.answered + 1 == known.asked
                assert _plain(answer) == self._answer, f"the store answered {answer}, the reference {self._answer}"
                self._known = msgspec.structs.replace(known, answered=known.asked)
            case log.Kept(blob):
                self._known = msgspec.structs.replace(known, blobs=known.blobs | {blob})
            case log.Removed(path):
                self._known = msgspec.structs.replace(known, blobs=known.blobs - {path.rpartition("/")[2]})
            case log.Happened(entry):
                self.entries.append(entry)
                self._known = msgspec.structs.replace(known, entries=known.entries + 1)
            case log.Ended(workflow_id, digest):
                self._known = msgspec.structs.replace(known, ended={**known.ended, workflow_id: digest})
            case _:
                pass

    def _take(self, answer: Any, request: Request) -> None:
        self._answer = _plain(answer)
        for workflow_id in _concerned(request):
            self._content.pop(workflow_id, None)
            head = self._reference.head(workflow_id)
            if head is not None:
                inner = self._reference._workflows[workflow_id]  # noqa: SLF001 - there is no other way to see wishes
                self._content[workflow_id] = _one(self._reference, head, inner.wish, set(inner.blobs))
        self.snapshots.append(Snapshot(dict(self._content), _owners(self._reference)))

    def snapshot(self, requests: int) -> Snapshot:
        """What a store holds after so many requests."""
        return self.snapshots[requests - 1] if requests else Snapshot({}, [])


def _concerned(request: Request) -> set[str]:
    match request:
        case log.Commit(writes):
            return {write.workflow_id for write in writes}
        case log.Beat():
            return set()
        case _:
            return {request.workflow_id}


def _plain(answer: Any) -> Any:
    """Lists instead of tuples, and wishes in one order: a log that was saved has them so."""
    return (
        sorted([list(each) for each in answer]) if answer and isinstance(answer, list) and isinstance(answer[0], (list, tuple)) else answer
    )


def _one(store: Store, head: Head, wish: str, named: set[str]) -> Held:
    return Held(head, store.entries(head.workflow_id), store.entries(head.workflow_id, retired=True), wish, named)


def _owners(store: Store) -> list[OwnerRow]:
    return sorted(store.owners(), key=lambda row: row.owner)


# --- one disk ----------------------------------------------------------------------------------------------------------------------


def lay_out(root: Path, tree: Tree) -> None:
    """Make the disk ``tree`` in ``root``, in place of whatever is there."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True, mode=0o700)
    for path, content in tree.items():
        if content is None:
            os.mkdir(f"{root}/{path}", 0o700)
        else:
            with open(os.open(f"{root}/{path}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(content)


def examine(path: Path, truth: Truth, known: Known, *, twice: bool = False) -> tuple[list[str], int]:
    """What is wrong with the store in ``path`` (points 1 to 4), and how many requests it turned out to hold."""
    try:
        found, held = _examined(path, truth, range(known.asked, known.answered - 1, -1), known, _probe)
        if twice and not found:
            found, _ = _examined(path, truth, (held,), known, lambda _store: [])
    except (ExoflowError, apsw.Error, OSError, AssertionError, ValueError, TypeError, LookupError) as error:
        return [f"{type(error).__name__}: {error}"], -1
    return found, held


def _examined(
    path: Path, truth: Truth, counts: Iterable[int], known: Known, probe: Callable[[SqliteStore], list[str]]
) -> tuple[list[str], int]:
    store = SqliteStore(path)
    try:
        wishes, named, found = _inside(store)
        names = {head.workflow_id: head for head in store.heads(limit=1_000_000) if head.workflow_id != PROBE}
        workflows = {name: _one(store, head, wishes.get(name, ""), named.get(name, set())) for name, head in names.items()}
        now = Snapshot(workflows, _owners(store))
        held = next((count for count in counts if truth.snapshot(count) == now), -1)
        if held < 0:
            found += [
                f"of {known.asked} requests {known.answered} were answered; {line}"
                for line in difference(truth.snapshot(known.answered), now)
            ]
        found += _blobs(store, known.blobs.union(*named.values()))
        return found + probe(store), held
    finally:
        store.close()


def _inside(store: SqliteStore) -> tuple[dict[str, str], dict[str, set[str]], list[str]]:
    """By workflow, the wish, which a store tells only to its addressee, and the blobs that it names; and what SQLite finds wrong."""
    db = store._reader  # noqa: SLF001 - another connection would take as long as all the rest
    verdict = db.pragma("integrity_check")
    wishes = dict(db.execute("SELECT workflow_id, wish FROM heads WHERE wish IS NOT NULL"))
    named: dict[str, set[str]] = {}
    for workflow_id, blob in db.execute("SELECT workflow_id, blob FROM named LEFT JOIN heads USING (number) WHERE blob <> '*'"):
        named.setdefault(workflow_id, set()).add(blob)
    return wishes, named, [] if verdict == "ok" else [f"integrity_check: {verdict}"]


def _blobs(store: Store, promised: frozenset[str]) -> list[str]:
    found, there = [], set(store.blobs.names())
    for name in there | promised:
        try:
            store.blobs.open(name)
        except LookupError:
            found.append(f"blob {name} was promised and is gone")
        except ValueError as error:
            found.append(str(error))
    return found


def _probe(store: SqliteStore) -> list[str]:
    head = Head(workflow_id=PROBE, epoch=1, owner=None, status="SUCCEEDED", created_ms=0, updated_ms=0, digest="")
    new = Write(workflow_id=PROBE, epoch=1, entries=((b"1", b"2"),), head=head, create=True)
    verdicts = store.commit([new])
    if verdicts != ["applied"] or store.entries(PROBE) != [Entry(1, b"1", b"2")]:
        return [f"it does not take new work: {verdicts}"]
    return []


def difference(expected: Snapshot, now: Snapshot) -> Iterator[str]:
    """How they differ, for people: one line for each workflow."""
    for name in sorted(expected.workflows.keys() | now.workflows.keys()):
        if expected.workflows.get(name) != now.workflows.get(name):
            yield f"workflow '{name}' should be {_brief(expected.workflows.get(name))}, is {_brief(now.workflows.get(name))}"
    if expected.owners != now.owners:
        yield f"owners should be {expected.owners}, are {now.owners}"


def _brief(held: Held | None) -> str:
    if held is None:
        return "nothing"
    entries = f"{len(held.active)} of {len(held.journal)} entries"
    return f"at epoch {held.head.epoch} {held.head.status} with {entries}, {len(held.named)} blobs, wish '{held.wish}'"
