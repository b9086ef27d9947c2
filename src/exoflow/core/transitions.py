"""One small handler per kind of event: it notes on the tasks what the event says, and puts on the agenda whoever it may concern.

``TASK_EVENTS`` is the table of what may happen to a task in which phase; an event about an attempt that is not in such a phase is
*late* and changes nothing. ``docs/state_machine.md`` is generated from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exoflow.core import demand, ending, growth, journal, outcomes, readiness
from exoflow.core import events as ev
from exoflow.core.commands import Announce, CancelAccepted, Keep, Save, SetTimer, Stop
from exoflow.core.journal import Failure
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.spec.retry import LOSSES_MAX, UNDO_POLICY, delay_s, may_retry
from exoflow.core.state import Phase, Saving, State, Status, Task


def inputs_lost(state: State, task: Task, event: ev.InputsLost) -> None:
    """The attempt (or the rollback) did not begin, or not get far; its number is used up."""
    undoing = task.phase is Phase.UNDOING
    state.move(task, Phase.UNDO_WAITING if undoing else Phase.WAITING)
    if not undoing and not event.began:
        _settle_intent(state, task)
    _note_losses(state, event)
    if event.began and _too_often(state, task):
        text = f"what its inputs refer to was lost {LOSSES_MAX} times while it ran"
        outcomes.give_up(state, task, Failure(kind="final", types=("exoflow.errors.RefLostError",), text=text))
        return
    blocked = state.ending is not None and state.ending.status is Status.BLOCKED
    if blocked:
        demand.release_claims(state, task)
        state.move(task, Phase.IDLE)
    elif undoing:
        demand.want(state, task, Phase.UNDO_WAITING)
    elif task.phase is Phase.WAITING:  # and not condemned with what it read
        demand.wait_again(state, task)


def _never_began(state: State, task: Task) -> None:
    """Its inputs went while it was about to start."""
    _settle_intent(state, task)
    demand.wait_again(state, task)


def never_began_and_stopped(state: State, task: Task, event: ev.InputsLost) -> None:
    """It was told to stop before it was known that it could not begin."""
    if not event.began:
        _settle_intent(state, task)
    _note_losses(state, event)
    outcomes.stopped(state, task, event)


def _note_losses(state: State, event: ev.InputsLost) -> None:
    for name in event.spoiled:
        spoiled(state, name)
    for name in event.lost:
        if name in state.tasks:
            demand.lose(state, state.tasks[name])


def _too_often(state: State, task: Task) -> bool:
    state.losses[task.id] = state.losses.get(task.id, 0) + 1
    return task.phase is Phase.WAITING and state.losses[task.id] >= LOSSES_MAX


def _settle_intent(state: State, task: Task) -> None:
    """The intent on record (if any) is void: the function did not run."""
    if task.effect:
        task.effect = False
        state.records.append(journal.EffectSettled(task=task.id))


# --- saving ------------------------------------------------------------------------------------------------------------------


def output_stored(state: State, task: Task, event: ev.OutputStored) -> None:
    if task.saving is Saving.ENCODING:
        outcomes.append_saved(state, task, event.stored)
        demand.release(state, task)


def output_unstorable(state: State, task: Task, event: ev.OutputUnstorable) -> None:
    """Whoever has used the output already was wrong to: the workflow fails, and says which output it was."""
    if task.saving is Saving.ENCODING:
        state.set_saving(task, Saving.NOT)
        if not state.winding_down:
            ending.fail(state, task, event.failure)
            demand.lose(state, task)


def lost_unsaved_too_often(state: State, task: Task, reason: str) -> bool:
    """A task that returns what is gone already would run for ever."""
    if task.saving is not Saving.ENCODING:
        return False
    times = state.losses[task.id] = state.losses.get(task.id, 0) + 1
    if times < LOSSES_MAX:
        return False
    text = f"the output of task '{task.id}' was lost {times} times before it was saved, at last: {reason}"
    failure = Failure(kind="unusable", types=("exoflow.errors.CheckpointFailedError",), text=text)
    output_unstorable(state, task, ev.OutputUnstorable(task=task.id, attempt=task.attempt, failure=failure))
    return True


def spoiled(state: State, name: str) -> None:
    """Saved bytes are damaged. If the version can be had again, or nothing committed can rest on it, it is made again."""
    task = state.tasks.get(name)
    if task is None or not task.durable:
        return
    task.durable = False
    if not task.present and not _may_be_made_again(task):
        task.durable = True
        text = f"the saved output of '{name}' fails its digest, and a commit or a rollback may need that very value"
        failure = Failure(kind="final", types=("exoflow.errors.CheckpointCorruptError",), text=text)
        ending.block(state, task, failure)  # once the bytes are repaired it can go on
        return
    state.lossy = True
    state.records.append(journal.OutputSpoiled(task=name))
    state.stability.reset()
    demand.recount_downstream(state, task)
    if task.present:
        state.set_saving(task, Saving.ENCODING)
        state.commands.append(Save(task=name, attempt=task.attempt))
    elif task.claims and demand.still_needed(task):
        demand.want(state, task)  # or else it is on its way out, and will run again in its turn


def _may_be_made_again(task: Task) -> bool:
    """Of the task, and of whatever has to run again for it or because of it, nothing has acted that must not act twice, and nothing is
    drawn anew that a commit or a rollback rests on."""
    first = (task, not task.deterministic)
    seen, stack = {first}, [first]
    while stack:
        here, is_replaced = stack.pop()
        if here.kind is Kind.COMMITTING and here.spec.annotations.on_unknown != "retry":
            return False
        if not here.deterministic and (_commit_may_rest_on(here) or _rollback_needs(here)):
            return False
        more = [(up, not up.deterministic) for up in here.ups if not up.durable]  # what is in memory now may be gone in a moment
        if is_replaced:
            more += [(down, True) for down in here.downs if down.dirty]
        stack += [each for each in more if each not in seen]
        seen.update(more)
    return True


def _commit_may_rest_on(task: Task) -> bool:
    """Whether a committing task downstream has started, or may have in an earlier life: one that is not undoable leaves no trace before
    its end, but cannot have started before all its inputs were executed."""
    seen, stack = {task}, [task]
    while stack:
        for down in stack.pop().downs:
            if down not in seen:
                seen.add(down)
                stack.append(down)
                if down.kind is Kind.COMMITTING and all(map(_may_have_run, down.ups)):
                    return True
    return False


def _may_have_run(task: Task) -> bool:
    """Whether it was executed, or may have been in an earlier life without leaving a record: then it makes the same output again."""
    seen, stack = {task}, [task]
    while stack:
        here = stack.pop()
        if here.version == UNEXECUTED:
            if not here.deterministic:
                return False
            stack += [up for up in here.ups if up not in seen]
            seen.update(here.ups)
    return True


def _rollback_needs(task: Task) -> bool:
    """Whether an effect stands whose rollback takes arguments that are made from this output."""
    seen, stack = {task}, [task]
    while stack:
        for reader in stack.pop().readers:
            if reader not in seen:
                seen.add(reader)
                if reader.effect and reader.kind is Kind.UNDOABLE:
                    return True
                if not reader.durable:  # what is in memory now may be gone in a moment
                    stack.append(reader)
    return False


# --- undoing, doubt, time ----------------------------------------------------------------------------------------------------


def undo_succeeded(state: State, task: Task, _event: ev.UndoSucceeded) -> None:
    task.effect = False
    task.undo_tries = 0
    state.records.append(journal.EffectUndone(task=task.id, attempt=task.attempt))
    again, task.again = task.again, False
    if task.giving_up and (not task.condemned or task.holds) and task.failure is not None:  # or else nobody needs it any more
        outcomes.outcome_of_failure(state, task, task.failure)
    elif not again or not demand.still_needed(task):
        demand.release_claims(state, task)
        state.move(task, Phase.DONE if task.version != UNEXECUTED else Phase.IDLE)
        state.agenda.append(task)
    else:
        demand.wait_again(state, task)


def undo_failed(state: State, task: Task, event: ev.UndoFailed) -> None:
    task.undo_tries += 1
    if may_retry(UNDO_POLICY, task.undo_tries, ()):
        state.move(task, Phase.UNDO_PAUSED)
        pause_s = delay_s(UNDO_POLICY, task.undo_tries, event.chance)
        state.commands.append(SetTimer(task=task.id, attempt=task.attempt, key="undo", delay_s=pause_s))
        return
    text = f"rollback of task '{task.id}' failed {task.undo_tries} times: {event.failure.text}"
    failure = Failure(kind="final", types=("exoflow.errors.RollbackFailedError",), text=text, traceback=event.failure.traceback)
    state.move(task, Phase.IDLE)
    ending.block(state, task, failure)


_OWN_COURSE = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.PAUSED})


def doubt_answered(state: State, task: Task, event: ev.DoubtAnswered) -> None:
    """From the ``on_unknown`` function, or from a person when the workflow was resumed. (One that is needed again although something was
    built on its output has been renewed by now.)"""
    if not task.effect or task.kind is not Kind.COMMITTING or task.at_hand or task.phase in _OWN_COURSE:
        return
    if event.happened:
        if task.version != UNEXECUTED and not task.wanting:
            return  # what was built on its output is saved, and nobody needs another
        state.commands.append(Keep(task=task.id, attempt=task.attempt))
        outcomes.executed(state, task, None)
        return
    task.effect = False
    state.records.append(journal.EffectSettled(task=task.id))
    if task.wanting:
        demand.wait_again(state, task)
    else:
        state.move(task, Phase.IDLE)


def doubt_unanswered(state: State, task: Task, event: ev.DoubtUnanswered) -> None:
    task.failure = event.failure
    readiness.in_doubt(state, task)


def timer_fired(state: State, task: Task, event: ev.TimerFired) -> None:
    if event.key == "timeout" and task.phase is Phase.RUNNING:
        text = f"attempt {task.attempt} ran longer than its timeout of {task.spec.timeout_s} s"
        types = ("exoflow.errors.TaskTimeoutError", "builtins.TimeoutError")
        task.failure = Failure(kind="timeout", types=types, text=text)
        state.commands.append(Stop(task=task.id, attempt=task.attempt))
        if task.effect:
            state.move(task, Phase.STOPPING)
        else:
            outcomes.failed(state, task, ev.TaskFailed(task=task.id, attempt=task.attempt, failure=task.failure))
    elif event.key == "retry" and task.phase is Phase.PAUSED:
        demand.wait_again(state, task)
    elif event.key == "undo" and task.phase is Phase.UNDO_PAUSED:
        demand.want(state, task, Phase.UNDO_WAITING)


Handler = Callable[[State, Task, Any], None]
_ANY = frozenset(Phase)
_RUNS = frozenset({Phase.RUNNING})
_STOPS = frozenset({Phase.STOPPING})
_EXECUTED = frozenset({Phase.DONE, Phase.UNDO_WAITING})

TASK_EVENTS: dict[type, list[tuple[frozenset[Phase], Handler]]] = {
    ev.TaskSucceeded: [(_RUNS, outcomes.succeeded), (_STOPS, outcomes.stopped)],
    ev.TaskFailed: [(_RUNS, outcomes.failed), (_STOPS, outcomes.stopped)],
    ev.TaskStopped: [(_STOPS, outcomes.stopped)],
    ev.InputsLost: [(_RUNS | {Phase.UNDOING}, inputs_lost), (_STOPS, never_began_and_stopped)],
    ev.OutputStored: [(_EXECUTED, output_stored)],
    ev.OutputUnstorable: [(_EXECUTED, output_unstorable)],
    ev.UndoSucceeded: [(frozenset({Phase.UNDOING}), undo_succeeded)],
    ev.UndoFailed: [(frozenset({Phase.UNDOING}), undo_failed)],
    ev.TimerFired: [(frozenset({Phase.RUNNING, Phase.PAUSED, Phase.UNDO_PAUSED}), timer_fired)],
}
"""Events about one attempt: in which phases of the task they count. The attempt must be the task's current one."""

DOUBT_EVENTS: dict[type, Handler] = {ev.DoubtAnswered: doubt_answered, ev.DoubtUnanswered: doubt_unanswered}


# --- records become durable --------------------------------------------------------------------------------------------------


def saved(state: State, record: journal.OutputSaved) -> None:
    task = state.tasks.get(record.task)
    if task is None or task.saving is not Saving.APPENDED or task.version != record.version or task.attempt != record.attempt:
        return
    state.set_saving(task, Saving.NOT)
    task.durable = True
    task.effect = task.effect and task.kind is Kind.UNDOABLE
    if task.condemned:  # while its record was on the way: only what goes with it may read it
        demand.recount_downstream(state, task)
    elif task.read_when_saved:
        demand.became_usable(state, task)
    elif not task.present:  # it was lost, or nobody was there to read it, while its record was on the way
        demand.became_readable(state, task)
    demand.release(state, task)
    state.stability.touch(task)
    growth.shorten(state, task)


def intended(state: State, record: journal.AttemptIntended) -> None:
    task = state.tasks.get(record.task)
    if task is None or task.phase is not Phase.STARTING or task.attempt != record.attempt:
        return
    if not demand.still_needed(task) or not state.may_start(task):
        demand.release_claims(state, task)
        state.move(task, Phase.DONE if task.version != UNEXECUTED else Phase.IDLE)
        state.agenda.append(task)
    elif all(up.usable_by(task) for up in task.reads):
        readiness.run(state, task)
    else:
        _never_began(state, task)


def undo_intended(state: State, record: journal.UndoIntended) -> None:
    task = state.tasks.get(record.task)
    if task is not None and task.phase is Phase.UNDO_STARTING and task.attempt == record.attempt:
        if all(up.usable_by(task) for up in task.reads):
            readiness.undo(state, task)
        else:
            demand.want(state, task, Phase.UNDO_WAITING)


def counted(state: State, record: journal.AttemptFailed | journal.WorkerDied) -> None:
    task = state.tasks.get(record.task)
    if task is not None and task.phase is Phase.PAUSED and task.attempt == record.attempt:
        delay = state.pauses.pop(task.id, 0.0)
        state.commands.append(SetTimer(task=task.id, attempt=task.attempt, key="retry", delay_s=delay))


def began(state: State, _record: journal.WorkflowBegan) -> None:
    state.status = Status.RUNNING
    state.commands.append(Announce(status=state.status))
    start(state)


def start(state: State) -> None:
    """Want the result."""
    if state.root is not None and not state.cancelling and state.unwind is None:
        state.claimed = True
        state.root.claims += 1
        if not state.root.at_hand:
            demand.want(state, state.root)
        growth.want_owed(state)


def resumed(state: State, _record: journal.WorkflowResumed) -> None:
    state.commands.append(Announce(status=Status.RUNNING))


def unwinding(state: State, record: journal.UnwindDecided) -> None:
    if state.unwind is record:
        ending.unwind(state, record)


def cancelled(state: State, record: journal.CancelDecided) -> None:
    ending.cancel(state, undo=record.undo)
    state.commands.append(CancelAccepted())  # last: whoever is told may rely on it that what waits for a worker has been stopped


def ended(state: State, record: journal.WorkflowEnded) -> None:
    state.status = Status(record.status)
    state.commands.append(Announce(status=state.status))


DURABLE: dict[type, Callable[[State, Any], None]] = {
    journal.OutputSaved: saved,
    journal.AttemptIntended: intended,
    journal.UndoIntended: undo_intended,
    journal.AttemptFailed: counted,
    journal.WorkerDied: counted,
    journal.WorkflowBegan: began,
    journal.WorkflowResumed: resumed,
    journal.UnwindDecided: unwinding,
    journal.CancelDecided: cancelled,
    journal.WorkflowEnded: ended,
}
"""What follows when a record of this kind is acknowledged; nothing for the others."""
