"""Withdrawal: what has seen a version that will be replaced is undone, in reverse order of dependencies, before the new version is made.

A condemned task stays in the old world until it is *dropped*: its old inputs may still be read by rollbacks downstream (which get the
very values that their tasks got). It may be dropped when no condemned task downstream is left (``holds``), nothing of it runs, and its
effect no longer stands. The task whose new version is the cause waits for the same ``holds``.
"""

from __future__ import annotations

from exoflow.core import demand
from exoflow.core.commands import Forget, Release, Stop
from exoflow.core.journal import TasksWithdrawn
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.state import Phase, Saving, State, Task
from exoflow.errors import EngineBug


def condemn_downstream(state: State, origin: Task) -> None:
    """Condemn everything that has seen the version of ``origin``, however far downstream; and what is void already but still holds
    something back, or else its inputs would be withdrawn before what was built on its output."""
    found: list[Task] = []
    stack = [origin]
    while stack:
        for down in stack.pop().downs:
            if (down.dirty or down.holds) and not down.condemned:
                if down.dirty and down.kind is Kind.COMMITTING:
                    raise EngineBug(
                        message=f"committing task '{down.id}' started on a version of '{origin.id}' that must be replaced", story=""
                    )
                down.condemned = True
                found.append(down)
                stack.append(down)
    for task in (origin, *found):  # what has to go may have been condemned because of another already
        task.holds = sum(down.condemned for down in task.downs)
    if not found:
        return
    for task in found:
        _interrupt(state, task)
        demand.recount_downstream(state, task)
    state.agenda.extend(found)
    state.stability.reset()


def _interrupt(state: State, task: Task) -> None:
    """End whatever goes on with a condemned task. What may have effects is awaited; the rest is abandoned at once."""
    if task.phase is Phase.RUNNING:
        state.commands.append(Stop(task=task.id, attempt=task.attempt))
        if task.effect:
            state.move(task, Phase.STOPPING)
            return
    elif task.phase in (Phase.STARTING, Phase.STOPPING, Phase.UNDO_STARTING, Phase.UNDOING, Phase.UNDO_WAITING, Phase.UNDO_PAUSED):
        return  # ends with an event of its own, or is on its way to being undone
    demand.release_claims(state, task)
    state.move(task, Phase.DONE if task.version != UNEXECUTED else Phase.IDLE)


def review(state: State, task: Task) -> None:
    """Take a condemned task one step further out of the world."""
    if task.phase in (Phase.IDLE, Phase.DONE) and task.holds == 0:
        if task.effect:
            demand.want(state, task, Phase.UNDO_WAITING)
        else:
            drop(state, task)


def drop(state: State, task: Task) -> None:
    """Void the version: from here on the task has not been executed."""
    withdraw_record(state, task)
    if task.present:
        state.commands.append(Release(task=task.id))
    state.set_saving(task, Saving.NOT)
    task.version = UNEXECUTED
    task.present = task.durable = task.condemned = task.caught = task.giving_up = task.grew = False
    task.meaning = ""
    if task.kids is not None:
        collapse(state, task)
    for up in task.ups:
        if up.holds:
            up.holds -= 1
            if up.holds == 0:
                state.agenda.append(up)
    state.move(task, Phase.IDLE)
    if state.unwinding is None:  # or else it will never run, and what it reads must not be made for it
        demand.want(state, task)


def withdraw_record(state: State, task: Task) -> None:
    """Folding the journal shall not find that ``task`` was executed."""
    if not task.recorded:
        return
    task.recorded = False
    last = state.records[-1] if state.records else None
    if isinstance(last, TasksWithdrawn):
        state.records[-1] = TasksWithdrawn(tasks=(*last.tasks, task.id))
    else:
        state.records.append(TasksWithdrawn(tasks=(task.id,)))


def collapse(state: State, task: Task) -> None:
    """The sub-workflow that ``task`` returned belongs to a version that is void: remove it, and give its consumers back."""
    kids = task.kids or []
    state.past.pop(task.id, None)
    for kid in kids:
        if kid.kids is not None:
            collapse(state, kid)
    tail, mine = task.tail, set(kids)
    task.kids = task.tail = task.growth = None
    task.grew = False
    if tail is not None:
        task.readers = ()  # they were the kids
        tail.hand_over(task, but=mine)
        if state.root is tail:
            state.root = task
    for kid in kids:
        state.move(kid, Phase.IDLE)
        state.set_saving(kid, Saving.NOT)
        state.forget(kid)
    task.claims = sum(reader.wanting for reader in task.readers) + (task is state.root and state.claimed)
    state.commands.append(Forget(tasks=tuple(kid.id for kid in kids)))
    demand.recount_downstream(state, task)
    state.stability.reset()
