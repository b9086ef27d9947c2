"""Folding a journal: records → state. Every prefix of a journal gives a state from which the workflow can go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from exoflow.core import growth, journal, withdrawal
from exoflow.core.journal import Orphan
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.stability import Stability
from exoflow.core.state import Phase, State, Status, Task


def new_state(workflow_id: str, epoch: int) -> State:
    state = State(workflow_id, epoch)
    state.stability = Stability(state)
    return state


def fold(workflow_id: str, epoch: int, records: Iterable[journal.Record]) -> State:
    """The durable facts after ``records``. Raises ValueError if they do not start with WorkflowBegan."""
    state = new_state(workflow_id, epoch)
    state.folding = True
    for record in records:
        apply(state, record)
    state.folding = False
    if state.root is None:
        raise ValueError(f"the journal of workflow '{workflow_id}' has no beginning")
    growth.mark_forgotten(state, state.tasks.values())
    return state


def apply(state: State, record: journal.Record) -> None:
    """What ``record`` says is true from now on."""
    _APPLY[type(record)](state, record)


def begin(state: State, record: journal.WorkflowBegan) -> None:
    state.plan, state.auto, state.undo_on_failure = record.plan, record.auto, record.undo_on_failure
    state.root = growth.build(state, record.graph)
    state.status = Status.RUNNING


def _facts(state: State, task_id: str, parent: str, parent_version: int) -> Task | Orphan:
    """Where facts about this task go: the task, or a note until its parent returns its DAG again."""
    task = state.tasks.get(task_id)
    if task is not None and (task.parent is None or task.parent.version == parent_version):
        return task
    orphan = state.orphans.get(task_id)
    if orphan is None or orphan.parent_version != parent_version:
        orphan = state.orphans[task_id] = Orphan(parent, parent_version)
    return orphan


def _saved(state: State, record: journal.OutputSaved) -> None:
    where = _facts(state, record.task, record.parent, record.parent_version)
    if isinstance(where, Orphan):
        if where.saved is not None and where.saved.version != record.version:
            where.rounds = None
        where.saved, where.owed, where.lost, where.grew = record, False, False, record.growth is not None
        return
    if where.kids is not None and (record.version != where.version or record.growth != where.growth):
        withdrawal.collapse(state, where)
    orphan = Orphan(record.parent, record.parent_version)
    where.grew = False
    orphan.saved, orphan.failures, orphan.deaths = record, where.failures, where.deaths
    orphan.grew = record.growth is not None
    orphan.effect = where.effect
    orphan.intent = (where.attempt, where.basis)
    growth.restore(state, where, orphan)
    growth.shorten(state, where)


def _grew(state: State, record: journal.GraphReturned) -> None:
    where = _facts(state, record.task, record.parent, record.parent_version)
    if isinstance(where, Orphan):
        where.grew = True
    else:
        growth.note_shape(state, where)


def _intended(state: State, record: journal.AttemptIntended) -> None:
    where = _facts(state, record.task, record.parent, record.parent_version)
    where.effect = True
    if isinstance(where, Orphan):
        where.intent = (record.attempt, record.basis)
    else:
        where.attempt, where.basis = record.attempt, record.basis


def _failed(state: State, record: journal.AttemptFailed) -> None:
    where = _facts(state, record.task, record.parent, record.parent_version)
    where.failures = record.failures
    if isinstance(where, Task) and where.kind is Kind.COMMITTING and record.failure.kind != "timeout":
        where.effect = False


def _died(state: State, record: journal.WorkerDied) -> None:
    _facts(state, record.task, record.parent, record.parent_version).deaths = record.deaths


def _undoing(state: State, record: journal.UndoIntended) -> None:
    """The task counts as not executed; if something durable was built on it, its effect is owed."""
    where = state.tasks.get(record.task) or state.orphans.get(record.task)
    if where is None:
        return
    where.owed = state.owes = True
    if isinstance(where, Orphan):
        return  # what that means for it is known when it is not one any more
    if where.deterministic and where.grew:  # it will return the same DAG again, parts of which stand
        where.durable = False
    else:
        _void(state, where)


def _undone(state: State, record: journal.EffectUndone) -> None:
    state.undone = state.undone or state.unwind is not None
    where = state.tasks.get(record.task) or state.orphans.get(record.task)
    if where is not None:
        where.effect = False


def _settled(state: State, record: journal.EffectSettled) -> None:
    where = state.tasks.get(record.task) or state.orphans.get(record.task)
    if where is not None:
        where.effect = False


def _withdrawn(state: State, record: journal.TasksWithdrawn) -> None:
    for name in record.tasks:
        task = state.tasks.get(name)
        if task is not None:
            task.owed = False
            _void(state, task)
        state.orphans.pop(name, None)


def _void(state: State, task: Task) -> None:
    task.version, task.meaning = UNEXECUTED, ""
    task.durable = task.recorded = task.caught = task.grew = False
    state.move(task, Phase.IDLE)
    if task.kids is not None:
        withdrawal.collapse(state, task)


def _rounds(state: State, record: journal.RoundsDropped) -> None:
    growth.fold_rounds(state, record)


def _spoiled(state: State, record: journal.OutputSpoiled) -> None:
    """It was executed, but its output is lost."""
    task = state.tasks.get(record.task)
    if task is not None:
        task.durable = False
    elif record.task in state.orphans:
        state.orphans[record.task].lost = True


def _unwind(state: State, record: journal.UnwindDecided) -> None:
    state.unwind = record


def _cancel(state: State, record: journal.CancelDecided) -> None:
    state.cancelling, state.undo_cancelled = True, record.undo


def _resumed(state: State, _record: journal.WorkflowResumed) -> None:
    if state.outcome is None or state.outcome.status != Status.BLOCKED:  # one that was blocked on its way to this end goes on to it
        state.cancelling, state.unwind = False, None
    state.outcome = None
    state.status = Status.RUNNING
    for task in state.tasks.values():
        task.failures = task.deaths = 0
    for orphan in state.orphans.values():
        orphan.failures = orphan.deaths = 0


def _ended(state: State, record: journal.WorkflowEnded) -> None:
    state.outcome = record
    state.undone = record.undone
    state.status = Status(record.status)


_APPLY: dict[type, Callable[[State, Any], None]] = {
    journal.WorkflowBegan: begin,
    journal.OutputSaved: _saved,
    journal.GraphReturned: _grew,
    journal.AttemptIntended: _intended,
    journal.AttemptFailed: _failed,
    journal.WorkerDied: _died,
    journal.UndoIntended: _undoing,
    journal.EffectUndone: _undone,
    journal.EffectSettled: _settled,
    journal.TasksWithdrawn: _withdrawn,
    journal.RoundsDropped: _rounds,
    journal.OutputSpoiled: _spoiled,
    journal.UnwindDecided: _unwind,
    journal.CancelDecided: _cancel,
    journal.WorkflowResumed: _resumed,
    journal.WorkflowEnded: _ended,
}


def durable_facts(state: State) -> dict[str, tuple[object, ...]]:
    """What folding must rebuild, for tests: version (of saved outputs), standing effect, counts."""
    facts: dict[str, tuple[object, ...]] = {
        task.id: (task.version if task.durable else 0, task.effect, task.failures, task.deaths)
        for task in state.tasks.values()
        if task.durable or task.effect or task.failures or task.deaths
    }
    for name, orphan in state.orphans.items():
        facts[name] = (orphan.durable.version if orphan.durable else 0, orphan.effect, orphan.failures, orphan.deaths)
    return facts
