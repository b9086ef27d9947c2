"""A store of another package: everything in memory, and a log of every change in one file. docs/writing-a-store.md explains it."""

import fcntl
import os
import threading
from pathlib import Path

import msgspec

from exoflow.codec import seal, unseal
from exoflow.errors import StorageFullError, StoreCorruptError, StoreOpenError, StoreUnavailable
from exoflow.store.base import Entry, Head, OwnerRow, Write
from exoflow.store.blobs import FULL, FileBlobs, Files
from exoflow.store.handle import Guard, check_write, replaced


class Step(msgspec.Struct, array_like=True):
    """Something that changed the store: what is written to the log. One of the fields is set."""

    writes: list[Write] = []
    claim: tuple[str, int, str | None] | None = None
    delete: tuple[str, int] | None = None
    row: OwnerRow | None = None
    gone: str = ""
    wish: tuple[str, str] | None = None


class Workflow:
    def __init__(self, head: Head):
        self.head, self.journal, self.retired, self.blobs, self.wish = head, [], set(), set(), ""


class LogStore:
    """Opening it plays the log again. For one process at a time."""

    durable = True

    def __init__(self, path: Path):
        self.url = f"log:{path}"
        self._guard, self._lock = Guard(f"store {self.url}"), threading.Lock()
        self._workflows, self._owners = {}, {}
        self._log = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._log)
            raise StoreOpenError(store=self.url, reason="another process has it open") from None
        self._play(path.read_bytes())
        Files().flush_folder(path.parent)
        self.directory = path.with_name(path.name + "-blobs")  # also the place for locks: it shows that an engine lives
        self.blobs = self._blobs = FileBlobs(self.directory, files=Files(), named=self._named)

    def _play(self, log: bytes):
        at = 0
        while at + 4 <= len(log):
            end = at + 4 + int.from_bytes(log[at : at + 4], "big")
            if end > len(log):
                break  # cut off by a crash: nobody was told of it
            try:
                self._apply(msgspec.msgpack.decode(unseal(log[at + 4 : end]), type=Step))
            except ValueError:
                raise StoreCorruptError(store=self.url, what=f"its log at byte {at}") from None
            at = end
        os.ftruncate(self._log, at)
        self._end = at

    def _do(self, step: Step):
        """Write it down, flush, and only then let anybody see it."""
        with self._lock:
            self._guard.check()
            line = seal(msgspec.msgpack.encode(step))
            try:
                Files().write(self._log, memoryview(len(line).to_bytes(4, "big") + line))
                os.fsync(self._log)
            except OSError as error:
                os.ftruncate(self._log, self._end)  # half a line must not stay in front of the next
                kind = StorageFullError if error.errno in FULL else StoreUnavailable
                raise kind(store=self.url, reason=str(error)) from error
            self._end += 4 + len(line)
            return self._apply(step)

    def _apply(self, step: Step):
        if step.claim is not None:
            name, epoch, owner = step.claim
            workflow = self._at(name, epoch)
            if workflow is not None:
                workflow.head = msgspec.structs.replace(workflow.head, epoch=epoch + 1, owner=owner)
            return None if workflow is None else epoch + 1
        if step.delete is not None:
            return self._workflows.pop(step.delete[0], None) if self._at(*step.delete) else None
        if step.row is not None:
            self._owners[step.row.owner] = step.row
        if step.wish is not None and step.wish[0] in self._workflows:
            self._workflows[step.wish[0]].wish = step.wish[1]
        self._owners.pop(step.gone, None)
        return [self._write(write) for write in step.writes]

    def _at(self, name: str, epoch: int) -> Workflow | None:
        workflow = self._workflows.get(name)
        return workflow if workflow is not None and workflow.head.epoch == epoch else None

    def _write(self, write: Write):
        workflow = self._workflows.get(write.workflow_id)
        if write.create:
            if workflow is not None:
                return "exists"
            workflow = self._workflows[write.workflow_id] = Workflow(write.head)
        elif workflow is None:
            return "missing"
        elif workflow.head.epoch != write.epoch:
            return "fenced"
        elif write.head is not None:
            workflow.head, workflow.wish = replaced(workflow.head, write.head), ""
        workflow.journal += [Entry(len(workflow.journal) + n, *entry) for n, entry in enumerate(write.entries, 1)]
        workflow.retired.update(seq for seq in write.retire if 1 <= seq <= len(workflow.journal))
        workflow.blobs.update(write.blobs)
        return "applied"

    # --- what an engine calls

    def commit(self, writes):
        self._guard.check()
        for write in writes:
            check_write(write)
        verdicts = self._do(Step(writes=list(writes)))
        self._blobs.answer(name for write in writes for name in write.blobs)
        return verdicts

    def claim(self, workflow_id, *, epoch, owner):
        return self._do(Step(claim=(workflow_id, epoch, owner)))

    def delete(self, workflow_id, *, epoch):
        workflow = self._do(Step(delete=(workflow_id, epoch)))
        if workflow is not None:
            self._blobs.free(workflow.blobs)
        return workflow is not None

    def beat(self, row, *, owner=""):
        self._do(Step(row=row) if row is not None else Step(gone=owner))
        named = row.owner if row is not None else None
        return [(name, each.wish) for name, each in list(self._workflows.items()) if each.wish and each.head.owner == named]

    def wish(self, workflow_id, wish):
        self._do(Step(wish=(workflow_id, wish)))
        return workflow_id in self._workflows

    def head(self, workflow_id):
        self._guard.check()
        workflow = self._workflows.get(workflow_id)
        return workflow.head if workflow is not None else None

    def heads(self, *, status=(), after="", limit=500):
        self._guard.check()
        with self._lock:
            heads = [each.head for each in self._workflows.values()]
        chosen = [head for head in heads if head.workflow_id > after and (not status or head.status in status)]
        return sorted(chosen, key=lambda head: head.workflow_id)[:limit]

    def entries(self, workflow_id, *, retired=False, seqs=()):
        self._guard.check()
        with self._lock:
            workflow = self._workflows.get(workflow_id)
            journal = workflow.journal if workflow is not None else []
            if seqs:
                return [entry for entry in journal if entry.seq in set(seqs)]
            return [entry for entry in journal if retired or entry.seq not in workflow.retired]

    def owners(self):
        self._guard.check()
        with self._lock:
            return list(self._owners.values())

    def _named(self, names):
        with self._lock:
            return [name for name in names if any(name in each.blobs for each in self._workflows.values())]

    def close(self):
        self._guard.check_process()
        if not self._guard.closed:
            self._guard.closed = True
            os.close(self._log)
            self._blobs.close()


def open_store(url: str) -> LogStore:
    """For the entry point ``exoflow.stores``: ``log:PATH``."""
    return LogStore(Path(url.removeprefix("log:")))
