"""Looking at a workflow from its journal alone (``show``, ``get_metadata``, ``story``): it works for those of other processes too."""

from __future__ import annotations

from typing import Any

import msgspec

from exoflow.core import journal, replay
from exoflow.core.journal import Orphan
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.state import State, Task
from exoflow.errors import TaskNotFoundError
from exoflow.runtime.ownership import life_of
from exoflow.runtime.recover import read_records
from exoflow.store.base import Head, Store


class TaskReport(msgspec.Struct, frozen=True, kw_only=True):
    """One task. ``state``: WAITING, SUCCEEDED, UNKNOWN (it ran, but left no output: internal, not saved), or, of the task at which the
    workflow stopped, that status (FAILED, IN_DOUBT, BLOCKED). ``size_bytes`` and times are of the saved output; ``attempts`` counts those
    on record."""

    task: str
    kind: str
    state: str
    durable: bool
    effect_stands: bool
    attempts: int
    failures: int
    started_ms: int | None = None
    ended_ms: int | None = None
    size_bytes: int | None = None
    inputs: tuple[str, ...] = ()
    error: str | None = None


class WorkflowReport(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow and its tasks."""

    workflow_id: str
    status: str
    epoch: int
    created_ms: int
    updated_ms: int
    note: str
    rolled_back: bool
    standing: tuple[str, ...]
    tasks: tuple[TaskReport, ...]


def report(store: Store, head: Head) -> WorkflowReport:
    """What the journal says of a workflow and its tasks. Raises StoreCorruptError."""
    entries = store.entries(head.workflow_id)
    records = read_records(store, head.workflow_id, entries)
    state = replay.fold(head.workflow_id, life_of(head.epoch), records)
    failures = {r.task: r.failure.text for r in records if isinstance(r, journal.AttemptFailed)}
    sizes = {r.task: r.stored.size for r in records if isinstance(r, journal.OutputSaved)}
    outcome = state.outcome
    if outcome is not None and outcome.failure is not None:
        failures[outcome.task] = outcome.failure.text
    tasks = [_task_report(state, task, failures, sizes) for task in state.tasks.values()]
    tasks += [_orphan_report(name, orphan, failures) for name, orphan in state.orphans.items()]
    return WorkflowReport(
        workflow_id=head.workflow_id,
        status=head.status,
        epoch=life_of(head.epoch),
        created_ms=head.created_ms,
        updated_ms=head.updated_ms,
        note=head.note,
        rolled_back=outcome is not None and outcome.undone,
        standing=outcome.standing if outcome is not None else (),
        tasks=tuple(tasks),
    )


def _task_report(state: State, task: Task, failures: dict[str, str], sizes: dict[str, int]) -> TaskReport:
    outcome = state.outcome
    stopped_it = outcome is not None and outcome.task == task.id and outcome.status != "SUCCEEDED"
    if outcome is not None and stopped_it:
        word = outcome.status
    elif task.durable:
        word = "SUCCEEDED"
    elif outcome is not None and outcome.status == "SUCCEEDED":
        word = "UNKNOWN"
    else:
        word = "WAITING"
    return TaskReport(
        task=task.id,
        kind=Kind(task.kind).name.lower(),
        state=word,
        durable=task.durable,
        effect_stands=task.effect or (task.kind is Kind.COMMITTING and task.version != UNEXECUTED),
        attempts=max(task.attempt, outcome.attempt) if outcome is not None and stopped_it else task.attempt,
        failures=task.failures,
        started_ms=task.times[0] or None,
        ended_ms=task.times[1] or None,
        size_bytes=sizes.get(task.id) if task.durable else None,
        inputs=tuple(up.id for up in task.ups),
        error=failures.get(task.id),
    )


def _orphan_report(name: str, orphan: Orphan, failures: dict[str, str]) -> TaskReport:
    """Of a task of a sub-workflow whose shape is not saved, because it can be had again: the journal knows the task by its record alone."""
    saved = orphan.durable
    return TaskReport(
        task=name,
        kind="unknown",
        state="SUCCEEDED" if saved is not None else "WAITING",
        durable=saved is not None,
        effect_stands=orphan.effect,
        attempts=saved.attempt if saved is not None else orphan.intent[0],
        failures=orphan.failures,
        started_ms=saved.started_ms or None if saved is not None else None,
        ended_ms=saved.ended_ms or None if saved is not None else None,
        size_bytes=saved.stored.size if saved is not None else None,
        inputs=(orphan.parent,),
        error=failures.get(name),
    )


def story(store: Store, workflow_id: str, task: str | None) -> str:
    """The journal of a workflow (or what of it concerns ``task``) in words, oldest first."""
    entries = store.entries(workflow_id, retired=True)
    records = read_records(store, workflow_id, entries)
    lines = [f"{entry.seq:>6}  {_in_words(record)}" for entry, record in zip(entries, records, strict=True) if _concerns(record, task)]
    return "\n".join(lines)


def require_task(store: Store, head: Head, task: str) -> None:
    """Raise TaskNotFoundError, with a guess at what was meant, unless the workflow has that task."""
    names = [each.task for each in report(store, head).tasks]
    if task not in names:
        import difflib

        close = difflib.get_close_matches(str(task), names, 1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise TaskNotFoundError(workflow_id=head.workflow_id, what="task", task=task, hint=hint)


def _concerns(record: journal.Record, task: str | None) -> bool:
    named: Any = getattr(record, "task", None)
    return task is None or named in (None, "", task) or task in getattr(record, "tasks", ())


def _in_words(record: journal.Record) -> str:
    match record:
        case journal.WorkflowBegan():
            return f"the workflow was accepted, {len(record.graph.tasks)} tasks"
        case journal.OutputSaved():
            what = f"a sub-workflow of {len(record.growth.tasks)} tasks" if record.growth else f"{record.stored.size} bytes"
            return f"{record.task}: output of attempt {record.attempt} (epoch {record.epoch}) is durable: {what}"
        case journal.GraphReturned():
            return f"{record.task}: returned a sub-workflow, which is being saved"
        case journal.AttemptIntended():
            return f"{record.task}: attempt {record.attempt} (epoch {record.epoch}) may have effects from here on"
        case journal.AttemptFailed():
            return f"{record.task}: attempt {record.attempt} failed ({record.failure.text}); failure {record.failures}, another follows"
        case journal.WorkerDied():
            if record.stranded:
                return f"{record.task}: attempt {record.attempt} ended with what it ran on, or had called: gone or silent ({record.reason})"
            return f"{record.task}: attempt {record.attempt} killed its worker ({record.reason}); death {record.deaths}"
        case journal.UndoIntended():
            return f"{record.task}: the effect of attempt {record.attempt} is about to be rolled back"
        case journal.EffectUndone():
            return f"{record.task}: the effect of attempt {record.attempt} was rolled back"
        case journal.EffectSettled():
            return f"{record.task}: its effect did not happen"
        case journal.TasksWithdrawn():
            return f"{', '.join(record.tasks)}: void, because an input will be made anew"
        case journal.RoundsDropped():
            return f"{record.task}: follows {record.parent} from here on; {len(record.past)} tasks of past rounds are history"
        case journal.OutputSpoiled():
            return f"{record.task}: its saved output is damaged and counts as lost"
        case journal.UnwindDecided():
            return f"{record.task}: failed for good ({record.failure.text}); it was decided to roll back"
        case journal.CancelDecided():
            return f"it was decided to cancel{' and to roll back' if record.undo else ''}"
        case journal.WorkflowResumed():
            return "a person resumed the workflow"
        case journal.WorkflowEnded():
            why = f": {record.task}: {record.failure.text}" if record.failure is not None else ""
            return f"the workflow ended {record.status}{why}"
        case _:
            return type(record).__name__
