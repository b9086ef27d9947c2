"""The reference store: everything in dicts of this process, written to be read. For tests, and for workflows that need not survive."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from exoflow.codec import Bytes, digest
from exoflow.store.base import BlobStore, Collected, Entry, Head, OwnerRow, Verdict, Write
from exoflow.store.handle import Guard, check_write, replaced


class MemoryBlobs:
    """Blobs in a dict. A view is a private copy, as writable as the private mapping that a file gives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[str, bytes] = {}
        self._pins = Counter[str]()  # how often put, and not yet named by a write
        self._named = Counter[str]()  # by how many workflows

    def put(self, pieces: Iterable[Bytes]) -> str:
        """Keep the concatenation of ``pieces``; its digest is its name."""
        blob = b"".join(pieces)
        name = digest([blob]).hex()
        with self._lock:
            self._blobs[name] = blob
            self._pins[name] += 1
        return name

    def name(self, names: Iterable[str]) -> None:
        """One more workflow names these."""
        with self._lock:
            self._named.update(names)

    def answer(self, names: Iterable[str]) -> None:
        """Writes that name these were answered: each needs one pin less."""
        with self._lock:
            _less(self._pins, names)

    def free(self, names: set[str]) -> None:
        """One workflow less names these: remove those that now nobody needs."""
        with self._lock:
            _less(self._named, names)
            for name in self._garbage(names):
                del self._blobs[name]

    def _garbage(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name in self._blobs and name not in self._named and name not in self._pins]

    def open(self, name: str) -> memoryview:
        """The blob, verified. Raises LookupError if absent, ValueError if a byte has changed."""
        blob = self._blobs.get(name)
        if blob is None:
            raise LookupError(f"there is no blob {name!r:.40}")
        if digest([blob]).hex() != name:
            raise ValueError(f"blob {name} fails its digest")
        return memoryview(bytearray(blob))

    def collect(self, *, grace_s: float, dry_run: bool = False) -> Collected:
        """Remove what no journal names and nobody has put without having it named."""
        with self._lock:
            garbage = {name: len(self._blobs[name]) for name in self._garbage(self._blobs)}
            spared = len(self._blobs.keys() - self._named.keys()) - len(garbage)
            if not dry_run:
                for name in garbage:
                    del self._blobs[name]
        return Collected(removed=len(garbage), size_bytes=sum(garbage.values()), spared=spared)

    def names(self) -> Iterable[str]:
        """Every blob that is stored."""
        return list(self._blobs)


def _less(counts: Counter[str], names: Iterable[str]) -> None:
    for name in names:
        counts[name] -= 1
        if counts[name] <= 0:
            del counts[name]


class _Workflow:
    def __init__(self, head: Head) -> None:
        self.head = head
        self.journal: list[Entry] = []
        self.retired: set[int] = set()
        self.blobs: set[str] = set()
        self.wish = ""


class MemoryStore:
    """A store that lives and dies with its process. See :class:`~exoflow.store.base.Store` for what each method promises."""

    durable = False

    def __init__(self) -> None:
        self.url = "memory:"
        self._blobs = MemoryBlobs()
        self.blobs: BlobStore = self._blobs
        self._guard = Guard("store memory:")
        self._lock = threading.Lock()
        self._workflows: dict[str, _Workflow] = {}
        self._owners: dict[str, OwnerRow] = {}

    def commit(self, writes: Sequence[Write]) -> list[Verdict]:
        """Apply ``writes``; one verdict each, in order."""
        self._guard.check()
        for write in writes:
            check_write(write)
        with self._lock:
            verdicts = [self._apply(write) for write in writes]
            self._blobs.answer(name for write in writes for name in write.blobs)
            return verdicts

    def _apply(self, write: Write) -> Verdict:
        workflow = self._workflows.get(write.workflow_id)
        if write.create and write.head is not None:
            if workflow is not None:
                return "exists"
            workflow = self._workflows[write.workflow_id] = _Workflow(write.head)
        elif workflow is None:
            return "missing"
        elif workflow.head.epoch != write.epoch:
            return "fenced"
        elif write.head is not None:
            workflow.head = replaced(workflow.head, write.head)
            workflow.wish = ""
        for body, payload in write.entries:
            workflow.journal.append(Entry(len(workflow.journal) + 1, body, payload))
        self._blobs.name(set(write.blobs) - workflow.blobs)
        workflow.blobs.update(write.blobs)
        workflow.retired.update(seq for seq in write.retire if 1 <= seq <= len(workflow.journal))
        return "applied"

    def claim(self, workflow_id: str, *, epoch: int, owner: str | None) -> int | None:
        """Move the workflow to the next epoch and to ``owner``, if its epoch is ``epoch``."""
        self._guard.check()
        with self._lock:
            workflow = self._workflows.get(workflow_id)
            if workflow is None or workflow.head.epoch != epoch:
                return None
            workflow.head = msgspec.structs.replace(workflow.head, epoch=epoch + 1, owner=owner)
            return epoch + 1

    def head(self, workflow_id: str) -> Head | None:
        """The head, or None."""
        self._guard.check()
        workflow = self._workflows.get(workflow_id)
        return workflow.head if workflow else None

    def heads(self, *, status: Sequence[str] = (), after: str = "", limit: int = 500) -> list[Head]:
        """Up to ``limit`` heads behind ``after``, in the order of ids."""
        self._guard.check()
        with self._lock:
            heads = [workflow.head for workflow in self._workflows.values()]
        chosen = [head for head in heads if head.workflow_id > after and (not status or head.status in status)]
        return sorted(chosen, key=lambda head: head.workflow_id)[:limit]

    def entries(self, workflow_id: str, *, retired: bool = False, seqs: Sequence[int] = ()) -> list[Entry]:
        """The journal in order, with or without what was retired, or some of it."""
        self._guard.check()
        with self._lock:
            workflow = self._workflows.get(workflow_id)
            if workflow is None:
                return []
            if seqs:
                return [workflow.journal[seq - 1] for seq in sorted(set(seqs)) if 1 <= seq <= len(workflow.journal)]
            return [entry for entry in workflow.journal if retired or entry.seq not in workflow.retired]

    def delete(self, workflow_id: str, *, epoch: int) -> bool:
        """Forget the workflow and what only it named, if its epoch is ``epoch``."""
        self._guard.check()
        with self._lock:
            workflow = self._workflows.get(workflow_id)
            if workflow is None or workflow.head.epoch != epoch:
                return False
            del self._workflows[workflow_id]
            self._blobs.free(workflow.blobs)
            return True

    def beat(self, row: OwnerRow | None, *, owner: str = "") -> list[tuple[str, str]]:
        """Insert or replace ``row``; with None, remove the row of ``owner``. Returns the owner's open wishes."""
        self._guard.check()
        with self._lock:
            if row is None:
                self._owners.pop(owner, None)
                return []
            self._owners[row.owner] = row
            return [(name, each.wish) for name, each in self._workflows.items() if each.wish and each.head.owner == row.owner]

    def wish(self, workflow_id: str, wish: str) -> bool:
        """Leave a request for whoever drives the workflow."""
        self._guard.check()
        with self._lock:
            workflow = self._workflows.get(workflow_id)
            if workflow is not None:
                workflow.wish = wish
            return workflow is not None

    def owners(self) -> list[OwnerRow]:
        """Every owner's row."""
        self._guard.check()
        with self._lock:
            return list(self._owners.values())

    def close(self) -> None:
        """Forget everything."""
        self._guard.check_process()
        self._guard.closed = True
        self._workflows.clear()
        self._owners.clear()
