"""Taking a workflow up again: load its journal, fold it, check that the code is still what it was, hand it to the loop."""

from __future__ import annotations

from typing import Any, Literal

from exoflow import codec
from exoflow.core import events as ev
from exoflow.core import journal, replay
from exoflow.core.commands import Grow
from exoflow.core.machine import Machine
from exoflow.core.spec.annotations import Kind
from exoflow.core.state import AT_REST
from exoflow.define import registry
from exoflow.define.plan import Plan
from exoflow.define.task import Task
from exoflow.errors import (
    CheckpointCorruptError,
    CodeChangedError,
    ExoflowError,
    InvalidOptionError,
    InvalidStateError,
    PayloadUnreadableError,
    StoreCorruptError,
    TaskNotFoundError,
    WorkflowNotFoundError,
)
from exoflow.runtime.attempts import settle_doubt
from exoflow.runtime.ownership import life_of
from exoflow.runtime.refs import PLAN, marks
from exoflow.runtime.run import Run
from exoflow.runtime.threads import Threads
from exoflow.runtime.values import Saved, Spoiled, Values, decode, fetch
from exoflow.store.base import Entry, Head, Store

OnCodeChange = Literal["fail", "accept"]


def read_records(store: Store, workflow_id: str, entries: list[Entry]) -> list[journal.Record]:
    """The records of a journal. Raises StoreCorruptError if one is not a record, WorkflowNotFoundError if it has just been deleted."""
    if not entries:
        if store.head(workflow_id) is None or store.entries(workflow_id):  # or deleted, and begun anew under this name
            raise WorkflowNotFoundError(workflow_id=workflow_id, store=store.url)
        raise StoreCorruptError(store=store.url, what=f"the journal of workflow '{workflow_id}' (it is empty)")
    try:
        return [journal.decode(entry.body) for entry in entries]
    except ValueError as error:
        raise StoreCorruptError(store=store.url, what=f"the journal of workflow '{workflow_id}' ({error})") from error


def read_plan(store: Store, workflow_id: str, records: list[journal.Record], entries: list[Entry], values: Values | None = None) -> Plan:
    """The definition that a workflow was submitted with. With ``values``, its Refs are restored, and held there; otherwise, something that
    has their identity stands for each. Raises StoreCorruptError, PayloadUnreadableError, and what restoring raises."""
    if not records or not isinstance(records[0], journal.WorkflowBegan):
        raise StoreCorruptError(store=store.url, what=f"the journal of workflow '{workflow_id}' (it has no beginning)")
    try:
        kept = records[0].plan.refs
        encoded = fetch(store, workflow_id, Saved(records[0].plan, entries[0].seq, entries[0].payload))
        refs = marks(kept) if values is None else values.refs.restored(PLAN, kept, values.read_ref)
    except Spoiled as error:
        raise StoreCorruptError(store=store.url, what=f"the definition of workflow '{workflow_id}'") from error
    plan = decode(codec.Encoded(encoded.header, encoded.buffers, refs), workflow_id)
    if not isinstance(plan, Plan):
        raise PayloadUnreadableError(what=workflow_id, reason="it is not a plan")
    return plan


def script_of(store: Store, workflow_id: str) -> str | None:
    """The script to which functions or arguments of the workflow belong, if any do and if that can be told without loading them."""
    try:
        entries = store.entries(workflow_id, seqs=(1,))
        records = read_records(store, workflow_id, entries)
        if not isinstance(records[0], journal.WorkflowBegan):
            return None
        plan = sketched(store, workflow_id, Saved(records[0].plan, entries[0].seq, entries[0].payload), mentions=b"__main__")
    except ExoflowError:
        return None
    return plan.main if plan is not None else None


def sketched(store: Store, workflow_id: str, saved: Saved, *, mentions: bytes = b"") -> Plan | None:
    """A plan without what belongs to the user's code, none of which is imported. None if it cannot be read, or does not mention that."""
    try:
        encoded = fetch(store, workflow_id, saved)
        plan = codec.sketch(encoded) if mentions in encoded.header else None
    except (ExoflowError, Spoiled, codec.Unreadable):
        return None
    return plan if isinstance(plan, Plan) else None


def load(store: Store, head: Head, epoch: int, threads: Threads, *, checked: bool = False) -> Run:
    """A run of the workflow under ``epoch``, ready for the event Recovered. Raises StoreCorruptError, PayloadUnreadableError,
    CheckpointCorruptError; nothing has been written then."""
    name = head.workflow_id
    entries = store.entries(name)
    records = read_records(store, name, entries)
    values = Values(store, name, threads)
    plan = read_plan(store, name, records, entries, values)
    state = replay.fold(name, life_of(epoch), records)
    run = Run(name, epoch, Machine(state, checked=checked), plan, values, threads, digest=head.digest, created_ms=head.created_ms)
    run.next_seq = entries[-1].seq + 1
    for entry, record in zip(entries, records, strict=True):
        run.note_entry(record, entry.seq)
        if isinstance(record, journal.OutputSaved):
            values.saved[record.task] = Saved(record.stored, entry.seq, entry.payload)
    grown = {command.task: command for command in state.commands if isinstance(command, Grow)}  # the last shape of each; others are void
    state.commands = []
    for name, command in grown.items():
        if name in state.tasks and state.tasks[name].kids is not None:
            _grow(store, run, command)
    return run


def _grow(store: Store, run: Run, command: Grow) -> None:
    try:
        run.grow(command, run.values.load(command.task))
    except (Spoiled, KeyError) as error:
        why = "it is a sub-workflow whose tasks may have had effects"
        raise CheckpointCorruptError(workflow_id=run.workflow_id, task=command.task, what=store.url, why=why) from error


def read_end(store: Store, head: Head) -> tuple[journal.WorkflowEnded, Saved | None]:
    """How a workflow that has ended did so, and where its result is if it succeeded. Raises InvalidStateError, StoreCorruptError."""
    name = head.workflow_id
    entries = store.entries(name)
    outcome: journal.WorkflowEnded | None = None
    saved: dict[str, Saved] = {}
    for entry, record in zip(entries, read_records(store, name, entries), strict=True):
        if isinstance(record, journal.WorkflowEnded):
            outcome = record
        elif isinstance(record, journal.OutputSaved):
            saved[record.task] = Saved(record.stored, entry.seq, entry.payload)
    if outcome is None:
        if store.head(name) != head:  # it was deleted, and begun anew under this name
            raise WorkflowNotFoundError(workflow_id=name, store=store.url)
        raise InvalidStateError(workflow_id=name, status=head.status, reason="its journal says otherwise; see exoflow doctor")
    return outcome, saved.get(outcome.task)


def decide_doubt(run: Run, task: str, verdict: Any) -> ev.DoubtAnswered:
    """For the event Recovered: what a person found out about a task in doubt. Raises TaskNotFoundError, InvalidOptionError."""
    found = run.machine.state.tasks.get(task)
    if found is None:
        raise TaskNotFoundError(workflow_id=run.workflow_id, what="task", task=task, hint="")
    if not found.effect or found.kind is not Kind.COMMITTING:
        raise InvalidOptionError(message=f"task '{task}' of workflow '{run.workflow_id}' is not in doubt; leave it out of outcomes")
    return settle_doubt(run, task, verdict)


def decide_cancel(run: Run, decision: journal.CancelDecided) -> None:
    """Before the event Recovered: the workflow is taken over to be cancelled, so none of its tasks shall start."""
    state = run.machine.state
    if not state.cancelling:
        replay.apply(state, decision)
        state.records.append(decision)


def check_code(run: Run, on_code_change: OnCodeChange) -> None:
    """After the event Recovered: functions of the tasks that are to run must be there, and be what they were unless a change was
    accepted. Raises CodeChangedError."""
    wanted = {run.calls[name].task for name, task in run.machine.state.tasks.items() if task.phase not in AT_REST}
    changed = []
    for key in sorted(wanted):
        found = run.find(key)
        before = run.code.get(key)
        if not isinstance(found, Task):
            trouble = registry.trouble(key, run.homes.get(key, ""))
            changed.append(f"'{key}' missing{trouble and f' ({trouble})'}")
        elif before is not None and on_code_change != "accept":
            now = found.code.fingerprint()
            if now != before and now.partition(":")[0] == before.partition(":")[0]:
                changed.append(f"'{key}' changed")
    if changed:
        raise CodeChangedError(workflow_id=run.workflow_id, changed=", ".join(changed))
