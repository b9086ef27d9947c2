"""Joint conditions: when a task may start, when a rollback may run. ``review`` is called for every task that something may have changed
for, and takes it as far as it can go."""

from __future__ import annotations

from exoflow.core import demand, withdrawal
from exoflow.core.commands import Ask, Run, SetTimer, Undo
from exoflow.core.ending import Ending
from exoflow.core.journal import AttemptIntended, UndoIntended
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.ids import UNEXECUTED, basis_of
from exoflow.core.stability import Prop
from exoflow.core.state import Phase, Saving, State, Status, Task

GATE = {Kind.COMMITTING: Prop.STABLE, Kind.UNDOABLE: Prop.RECOVERABLE}


def review(state: State, task: Task) -> None:
    """Take ``task`` as far as it can go now."""
    if not state.has(task) or state.outcome is not None:
        return
    if task.pressed:
        task.pressed = False
        if task.checkpoint_lost and state.stability.wants_save(task):
            demand.want(state, task)
            return
    if task.phase is Phase.WAITING or task.phase is Phase.HELD:
        # A condemned task that waits to run is wanted by a rollback downstream, which is what it would have to wait for.
        if task.missing == 0 and (task.holds == 0 or task.condemned) and state.may_start(task):
            _start(state, task)
    elif task.phase is Phase.UNDO_WAITING:
        if task.missing == 0 and (task.holds == 0 or task.again or task.giving_up):
            _undo(state, task)
    elif task.condemned:
        withdrawal.review(state, task)


def _start(state: State, task: Task) -> None:
    if task.effect:  # of an earlier attempt, whose output is not to be had
        if task.kind is Kind.UNDOABLE:
            task.again = True
            _undo(state, task)
            return
        if task.terms.annotations.on_unknown != "retry":
            _doubt(state, task)
            return
    gate = GATE.get(task.kind)
    if gate is not None and not task.condemned and not state.stability.ask(gate, task):
        state.move(task, Phase.HELD)
        _press(state, task, gate)
        return
    if task.kids is not None and not task.deterministic:
        withdrawal.collapse(state, task)
    task.attempt += 1
    task.asked = 0
    task.caught = False
    task.failure = None
    task.basis = basis_of([up.version for up in task.reads])
    if task.terms.leaves_intent:
        task.effect = True
        if state.unwinding is not None:  # an effect more to undo, in its turn
            state.unwinding.clear()
        state.records.append(
            AttemptIntended(
                task=task.id,
                attempt=task.attempt,
                epoch=state.epoch,
                basis=task.basis,
                parent=task.parent_id,
                parent_version=task.parent_version,
            )
        )
        state.move(task, Phase.STARTING)
    else:
        run(state, task)


def run(state: State, task: Task) -> None:
    """Everything that must be durable before the function starts is."""
    state.move(task, Phase.RUNNING)
    save = task.needs_saving or task is state.root
    state.commands.append(Run(task=task.id, attempt=task.attempt, basis=task.basis, save=save))
    if task.terms.timeout_s is not None:
        state.commands.append(SetTimer(task=task.id, attempt=task.attempt, key="timeout", delay_s=task.terms.timeout_s))


def _undo(state: State, task: Task) -> None:
    """Roll back. If the task was executed, a later life must not take its output or its effect for granted from here on."""
    if task.version == UNEXECUTED and not task.recorded:
        undo(state, task)
        return
    state.move(task, Phase.UNDO_STARTING)
    state.records.append(UndoIntended(task=task.id, attempt=task.attempt))
    state.set_saving(task, Saving.NOT)
    task.recorded = task.deterministic and task.grew  # see replay: it will return the same DAG again, parts of which stand
    if task.durable:
        task.durable = False
        demand.recount_downstream(state, task)
        state.stability.reset()


def undo(state: State, task: Task) -> None:
    """Run the rollback."""
    state.move(task, Phase.UNDOING)
    state.commands.append(Undo(task=task.id, attempt=task.attempt, basis=task.basis))


def _doubt(state: State, task: Task) -> None:
    """Nobody knows whether the effect of a committing task happened."""
    if task.terms.annotations.on_unknown == "ask":
        task.attempt += 1  # the answer may be an output, and each output is the work of an attempt of its own
        state.move(task, Phase.ASKING)
        state.commands.append(Ask(task=task.id, attempt=task.attempt, basis=task.basis))
    else:
        in_doubt(state, task)


def in_doubt(state: State, task: Task) -> None:
    """Only a person can tell: stop there, and let what runs elsewhere finish."""
    state.move(task, Phase.IN_DOUBT)
    if state.ending is None:
        state.ending = Ending(Status.IN_DOUBT, task.id, task.attempt, task.failure)


def _press(state: State, held: Task, gate: Prop) -> None:
    """If ``held`` waits for a checkpoint that will never land, because the output was lost before, have that output made again."""
    if not state.lossy:
        return
    for blocked in state.stability.blame_path(gate, held):
        if blocked.wants_save and blocked.task.checkpoint_lost:
            demand.want(state, blocked.task)
            return
