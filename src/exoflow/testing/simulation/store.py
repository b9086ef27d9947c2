"""A durable store in memory that outlives simulated processes, and the handles by which they reach it, where everything may go wrong.

What a call does is one atomic change of the :class:`Disk`. Before and after it others may come first, the answer may be lost, the process
may die. Without a fault a handle keeps every promise of ``store/base.py`` and passes its suite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from exoflow.codec import Bytes
from exoflow.errors import StorageFullError, StoreCorruptError, StoreUnavailable
from exoflow.store.base import BlobStore, Collected, Entry, Head, OwnerRow, Verdict, Write
from exoflow.store.handle import Guard, check_write
from exoflow.store.memory import MemoryBlobs, MemoryStore
from exoflow.testing.simulation import situations
from exoflow.testing.simulation.scenario import Fault
from exoflow.testing.simulation.scheduler import Killed, Process, Scheduler

T = TypeVar("T")

URL = "sim:"


class Watcher:
    """Is told what the disk did. Does nothing by itself."""

    def granted(self, workflow_id: str, epoch: int, before: str | None) -> None:
        """An owner got a workflow, which ``before`` had."""

    def written(self, write: Write) -> None:
        """A write was applied."""

    def deleted(self, workflow_id: str) -> None:
        """A workflow is gone."""


class Disk:
    """The truth. ``unflushed`` are blobs that a loss of power would take, with the host that wrote them."""

    def __init__(self, watcher: Watcher | None = None) -> None:
        self.truth = MemoryStore()
        self.blobs: MemoryBlobs = self.truth._blobs  # noqa: SLF001 - pins and names are kept there
        self.unflushed: dict[str, str] = {}
        self._put_at: dict[str, float] = {}
        self.damages = 0
        self.originals: dict[str, bytes] = {}
        """Blobs as they were before they were damaged: for the judge."""
        self._watcher = watcher or Watcher()
        self._stale: dict[str, list[Any]] = {}

    def commit(self, writes: Sequence[Write]) -> list[Verdict]:
        verdicts = self.truth.commit(writes)
        for write, verdict in zip(writes, verdicts, strict=True):
            if verdict == "applied":
                if write.create:
                    self._watcher.granted(write.workflow_id, write.epoch, None)
                self._watcher.written(write)
        return verdicts

    def claim(self, workflow_id: str, epoch: int, owner: str | None) -> int | None:
        before = self.truth.head(workflow_id)
        got = self.truth.claim(workflow_id, epoch=epoch, owner=owner)
        if got is not None:
            self._watcher.granted(workflow_id, got, before.owner if before is not None else None)
        return got

    def delete(self, workflow_id: str, epoch: int) -> bool:
        gone = self.truth.delete(workflow_id, epoch=epoch)
        if gone:
            self._watcher.deleted(workflow_id)
        return gone

    def read(self, what: str, call: Callable[[], Any], *, stale: bool) -> Any:
        """What ``call`` gives; if ``stale``, what the same question was answered some time ago."""
        answers = self._stale.setdefault(what, [])
        if stale and answers:
            return answers[-1]
        answer = call()
        if not answers or answers[-1] != answer:
            answers.append(answer)
            del answers[:-1]
        return answer

    def put_blob(self, pieces: Iterable[Bytes], host: str, now_s: float) -> str:
        """Written and renamed, but not flushed yet."""
        before = set(self.blobs.names())
        name = self.blobs.put(pieces)
        self._put_at[name] = now_s
        if name not in before:
            self.unflushed[name] = host
        return name

    def collect(self, grace_s: float, now_s: float, *, dry_run: bool) -> Collected:
        """Remove what nobody needs and was not put lately."""
        young = [name for name, put_at in self._put_at.items() if now_s - put_at < grace_s]
        for name in young:
            self.blobs._pins[name] += 1  # noqa: SLF001 - as if it was still on its way
        collected = self.blobs.collect(grace_s=grace_s, dry_run=dry_run)
        self.blobs.answer(young)
        return collected

    def lose_power(self, host: str) -> int:
        """What processes of ``host`` had written and not flushed is gone."""
        lost = [name for name, writer in self.unflushed.items() if writer == host]
        for name in lost:
            self.lose(name)
            del self.unflushed[name]
        return len(lost)

    def lose(self, name: str) -> None:
        """A blob is gone."""
        self.blobs._blobs.pop(name, None)  # noqa: SLF001 - losses come from outside

    def damage_blob(self, name: str, at: float) -> None:
        """Change one byte of it."""
        blob = bytearray(self.blobs._blobs[name])  # noqa: SLF001 - damage comes from outside
        blob[int(at * len(blob)) % len(blob)] ^= 1
        self.blobs._blobs[name] = bytes(blob)  # noqa: SLF001

    def flip(self, workflow_id: str, seq: int, at: float) -> bool:
        """Damage one byte of a saved value."""
        self.damages += 1
        return damage(self.truth, workflow_id, seq, at)


def damage(store: MemoryStore, workflow_id: str, seq: int, at: float) -> bool:
    """Change one byte of the payload of an entry. False if it has none."""
    workflow = store._workflows.get(workflow_id)  # noqa: SLF001 - damage comes from outside
    if workflow is None or not 1 <= seq <= len(workflow.journal):
        return False
    entry = workflow.journal[seq - 1]
    if not entry.payload:
        return False
    payload = bytearray(entry.payload)
    payload[int(at * len(payload)) % len(payload)] ^= 1
    workflow.journal[seq - 1] = msgspec.structs.replace(entry, payload=bytes(payload))
    return True


_TELLING = (
    ("unknown", "commit", situations.COMMIT_UNKNOWN_DONE),
    ("fail", "commit", situations.COMMIT_UNKNOWN_LOST),
    ("unknown", "claim", situations.CLAIM_UNKNOWN),
    ("full", "", situations.FULL),
    ("stale", "", situations.STALE),
)
"""What it means that a fault happens at a call, if it has a name."""


class Line:
    """The way of one process to the disk: what happens on it, ``point`` says. Without a scheduler it is perfect."""

    def __init__(
        self,
        scheduler: Scheduler | None = None,
        process: Process | None = None,
        point: Callable[[str], Fault | None] = lambda _: None,
        happen: Callable[[Fault], None] = lambda _: None,
        reach: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.scheduler, self.process, self._point, self.happen, self.reach = scheduler, process, point, happen, reach
        self.on_its_way = 0
        self.busy: list[str] = []
        """Calls under way."""

    @property
    def now_s(self) -> float:
        """Virtual time."""
        return 0.0 if self.scheduler is None else self.scheduler.now

    def call(self, at: str, apply: Callable[[], T], odd: Callable[[Fault], Any] | None = None) -> T:
        """Do ``apply`` at the far end. ``odd`` knows what a fault means that only this call has. Raises StoreUnavailable,
        StorageFullError, Killed."""
        scheduler = self.scheduler
        if scheduler is None:
            return apply()
        if self.process is not None and not self.process.alive:
            raise Killed
        self.busy.append(at)
        try:
            scheduler.step()
            fault = self._point(at)
            if fault is None:
                answer = apply()
                scheduler.note(at)
                scheduler.step()
                return answer
            return self._call_badly(scheduler, at, apply, fault, odd)
        finally:
            self.busy.remove(at)

    def _call_badly(self, scheduler: Scheduler, at: str, apply: Callable[[], T], fault: Fault, odd: Callable[[Fault], Any] | None) -> T:
        scheduler.note(f"{at}: {fault.do}")
        for do, where, situation in _TELLING:
            if fault.do == do and where in ("", at):
                self.reach(situation)
        match fault.do:
            case "fail":
                raise StoreUnavailable(store=URL, reason="a fault before anything was done")
            case "full":
                raise StorageFullError(store=URL, reason="a fault: no room")
            case "unknown":
                apply()
                scheduler.step()
                raise StoreUnavailable(store=URL, reason="a fault after everything was done")
            case "delay":
                scheduler.park(fault.much)
                return apply()
            case "slow":
                answer = apply()
                scheduler.park(fault.much)
                return answer
            case "twice":  # it was delivered, the answer took long, and it was sent again
                answer = apply()
                apply()
                scheduler.step()
                return answer
            case "crash_before" | "pause" | "power" | "jump":
                self.happen(fault)
            case "crash_after":
                apply()
                self.happen(fault)
            case "late":
                self.on_its_way += 1
                scheduler.at(scheduler.now + fault.much, lambda: self._deliver(at, apply))
                self.happen(fault)
            case _:
                if odd is not None:
                    answer = odd(fault)
                    scheduler.step()
                    return answer
        answer = apply()
        scheduler.step()
        return answer

    def _deliver(self, at: str, apply: Callable[[], Any]) -> None:
        answer = apply()
        self.on_its_way -= 1
        if self.process is not None:
            for action in self.process.on_death:
                action()
        refused = answer is None or answer is False or (isinstance(answer, list) and "fenced" in answer)
        self.reach(situations.LATE_REFUSED if refused else situations.LATE_WRITE)


class SimBlobs:
    """Blobs of one process's handle."""

    def __init__(self, disk: Disk, line: Line) -> None:
        self._disk, self._line = disk, line
        self._pinned = Counter[str]()
        if line.process is not None:
            line.process.on_death.append(self.release)

    def answered(self, names: Iterable[str]) -> None:
        """A write that names these was answered."""
        for name in names:
            if self._pinned[name] > 0:
                self._pinned[name] -= 1

    def release(self) -> None:
        """The kernel lets go of what a process had put when it dies; with a write of it still on its way, when that has arrived."""
        if not self._line.on_its_way:
            self._disk.blobs.answer(self._pinned.elements())
            self._pinned.clear()

    def put(self, pieces: Iterable[Bytes]) -> str:
        """Store the concatenation of ``pieces`` and return its name."""
        data = [bytes(piece) for piece in pieces]
        line, disk = self._line, self._disk

        def write() -> str:
            name = disk.put_blob(data, line.process.host if line.process is not None else "", line.now_s)
            self._pinned[name] += 1
            return name

        name = line.call("blob.put", write)
        line.call("blob.flush", lambda: disk.unflushed.pop(name, None))
        return name

    def open(self, name: str) -> memoryview:
        """The blob, verified."""
        return self._line.call("blob.open", lambda: self._disk.blobs.open(name), lambda fault: self._damaged(name, fault))

    def _damaged(self, name: str, fault: Fault) -> memoryview:
        self._disk.damages += 1
        self._disk.originals.setdefault(name, self._disk.blobs._blobs.get(name, b""))  # noqa: SLF001
        if fault.do == "lose":
            self._disk.lose(name)
            self._line.reach(situations.LOST_BLOB)
        else:
            self._disk.damage_blob(name, fault.much)
            self._line.reach(situations.FLIPPED_BLOB)
        return self._disk.blobs.open(name)

    def collect(self, *, grace_s: float, dry_run: bool = False) -> Collected:
        """Remove what no journal names and nobody has put without having it named."""
        now_s = self._line.now_s
        return self._line.call("blob.collect", lambda: self._disk.collect(grace_s, now_s, dry_run=dry_run))

    def names(self) -> Iterable[str]:
        """Every blob that is stored."""
        return self._disk.blobs.names()


class SimStore:
    """A handle on the disk. See :class:`~exoflow.store.base.Store` for what each method promises."""

    durable = True

    def __init__(self, disk: Disk, line: Line | None = None) -> None:
        self.url = URL
        self.disk, self._line = disk, line or Line()
        self._blobs = SimBlobs(disk, self._line)
        self.blobs: BlobStore = self._blobs
        self._guard = Guard("store sim:")

    def commit(self, writes: Sequence[Write]) -> list[Verdict]:
        """Apply ``writes``; one verdict each, in order."""
        self._guard.check()
        for write in writes:
            check_write(write)
        if len(writes) > 1:
            self._line.reach(situations.MANY_WRITES)
        return self._line.call("commit", lambda: self._apply(writes), lambda fault: self._torn(writes, fault))

    def _apply(self, writes: Sequence[Write]) -> list[Verdict]:
        verdicts = self.disk.commit(writes)
        self._blobs.answered(name for write in writes for name in write.blobs)
        if "fenced" in verdicts:
            self._line.reach(situations.FENCED_WRITE)
        if "exists" in verdicts:
            self._line.reach(situations.EXISTS)
        return verdicts

    def _torn(self, writes: Sequence[Write], fault: Fault) -> list[Verdict]:
        count = int(fault.much) % (len(writes) + 1)
        self._apply(writes[:count])
        if 0 < count < len(writes):
            self._line.reach(situations.TORN)
        if fault.do == "crash_inside":
            self._line.happen(fault)
        raise StoreUnavailable(store=URL, reason=f"a fault after {count} of {len(writes)} writes")

    def claim(self, workflow_id: str, *, epoch: int, owner: str | None) -> int | None:
        """Move the workflow to the next epoch and to ``owner``, if its epoch is ``epoch``."""
        self._guard.check()
        return self._line.call("claim", lambda: self.disk.claim(workflow_id, epoch, owner))

    def head(self, workflow_id: str) -> Head | None:
        """The head, or None."""
        self._guard.check()

        def read(*, stale: bool) -> Head | None:
            head: Head | None = self.disk.read(f"head {workflow_id}", lambda: self.disk.truth.head(workflow_id), stale=stale)
            return head

        return self._line.call("head", lambda: read(stale=False), lambda _: read(stale=True))

    def heads(self, *, status: Sequence[str] = (), after: str = "", limit: int = 500) -> list[Head]:
        """Up to ``limit`` heads behind ``after``, in the order of ids."""
        self._guard.check()

        def read(*, stale: bool) -> list[Head]:
            what = f"heads {','.join(status)} {after} {limit}"
            heads: list[Head] = self.disk.read(what, lambda: self.disk.truth.heads(status=status, after=after, limit=limit), stale=stale)
            return heads

        return self._line.call("heads", lambda: read(stale=False), lambda _: read(stale=True))

    def entries(self, workflow_id: str, *, retired: bool = False, seqs: Sequence[int] = ()) -> list[Entry]:
        """The journal in order, with or without what was retired, or some of it."""
        self._guard.check()

        def read() -> list[Entry]:
            return self.disk.truth.entries(workflow_id, retired=retired, seqs=seqs)

        def damaged(fault: Fault) -> list[Entry]:
            if fault.do == "corrupt":
                self.disk.damages += 1
                raise StoreCorruptError(store=URL, what=f"an entry of workflow '{workflow_id}'")
            there = [entry.seq for entry in read() if entry.payload and entry.seq > 1]
            if there and self.disk.flip(workflow_id, there[int(fault.much * len(there)) % len(there)], fault.much):
                self._line.reach(situations.FLIPPED)
            return read()

        return self._line.call("entries", read, damaged)

    def delete(self, workflow_id: str, *, epoch: int) -> bool:
        """Forget the workflow, if its epoch is ``epoch``."""
        self._guard.check()
        return self._line.call("delete", lambda: self.disk.delete(workflow_id, epoch))

    def beat(self, row: OwnerRow | None, *, owner: str = "") -> list[tuple[str, str]]:
        """Insert or replace ``row``; with None, remove the row of ``owner``. Returns the owner's open wishes."""
        self._guard.check()
        return self._line.call("beat", lambda: self.disk.truth.beat(row, owner=owner))

    def wish(self, workflow_id: str, wish: str) -> bool:
        """Leave a request for whoever drives the workflow."""
        self._guard.check()
        return self._line.call("wish", lambda: self.disk.truth.wish(workflow_id, wish))

    def owners(self) -> list[OwnerRow]:
        """Every owner's row."""
        self._guard.check()

        def read(*, stale: bool) -> list[OwnerRow]:
            rows: list[OwnerRow] = self.disk.read("owners", self.disk.truth.owners, stale=stale)
            return rows

        return self._line.call("owners", lambda: read(stale=False), lambda _: read(stale=True))

    def close(self) -> None:
        """This handle is of no more use; the disk is."""
        self._guard.check_process()
        if not self._guard.closed:
            self._guard.closed = True
            self._blobs.release()
