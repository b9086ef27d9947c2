"""How a workflow ends: success, failure, cancel, doubt; and the rollback of everything, where that was asked for."""

from __future__ import annotations

from collections import deque

from exoflow.core import demand
from exoflow.core.commands import Stop
from exoflow.core.journal import Failure, UnwindDecided, WorkflowEnded
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.state import Phase, Saving, State, Status, Task


class Ending:
    """Why the workflow is winding down, from the moment that is known until the record of it is durable."""

    __slots__ = ("attempt", "decided", "failure", "status", "task", "undo")

    def __init__(self, status: Status, task: str = "", attempt: int = 0, failure: Failure | None = None, *, undo: bool = False) -> None:
        self.status, self.task, self.attempt, self.failure, self.undo = status, task, attempt, failure, undo
        self.decided = True  # that this is how it ends is on record; until then nothing may be undone


def review(state: State) -> None:
    """Append the record of the end, once nothing is under way that still belongs to the workflow."""
    if state.outcome is not None or state.status is not Status.RUNNING or state.active:
        return
    if state.cancelling and not state.cancelled:  # it will end CANCELLED, whatever has failed meanwhile
        return
    ending = state.ending
    if ending is None:
        if not state.cancelling:
            _succeed(state)
        return
    if ending.undo and not (ending.decided and _unwound(state)):
        return
    if state.encoding and ending.status is not Status.CANCELLED:
        return
    _end(
        state,
        WorkflowEnded(
            status=ending.status,
            task=ending.task,
            attempt=ending.attempt,
            failure=ending.failure,
            undone=state.undone,
            standing=tuple(standing(state)),
        ),
    )


def _succeed(state: State) -> None:
    root = state.root
    if root is None or root.phase is not Phase.DONE or state.busy or state.encoding:
        return
    if root.durable or root.saving is Saving.APPENDED:
        _end(state, WorkflowEnded(status=Status.SUCCEEDED, task=root.id))


def _end(state: State, record: WorkflowEnded) -> None:
    state.outcome = record
    state.records.append(record)


def fail(state: State, task: Task, failure: Failure) -> None:
    """``task`` has failed for good: start nothing more, let what runs finish (its work is kept)."""
    state.move(task, Phase.FAILED)
    task.failure = failure
    if state.ending is None:
        state.ending = Ending(Status.FAILED, task.id, task.attempt, failure, undo=state.undo_on_failure)
        if state.undo_on_failure:
            state.unwind = UnwindDecided(task=task.id, attempt=task.attempt, failure=failure)
            state.ending.decided = False
            state.records.append(state.unwind)
    elif state.unwinding is not None and task.version != UNEXECUTED:  # a rollback needs its output
        block(state, task, failure)


def block(state: State, task: Task | None, failure: Failure) -> None:
    """Something outside must be repaired before the workflow can go on."""
    name, attempt = (task.id, task.attempt) if task is not None else ("", 0)
    state.ending = Ending(Status.BLOCKED, name, attempt, failure)
    state.unwinding = None


def unwind(state: State, decision: UnwindDecided) -> None:
    """The decision is durable: undo what was done."""
    if state.ending is None:
        state.ending = Ending(Status.FAILED, decision.task, decision.attempt, decision.failure, undo=True)
    state.ending.decided = True


def cancel(state: State, *, undo: bool) -> None:
    """The decision is durable: stop what runs. Effects that stand stay, unless ``undo``, or they are being undone already."""
    state.cancelled = True
    state.ending = Ending(Status.CANCELLED, undo=undo or state.unwind is not None)
    for task in list(state.tasks.values()):
        if state.unwinding is not None and task.version != UNEXECUTED:
            continue  # it is being made again for a rollback
        if task.phase is Phase.RUNNING:
            state.commands.append(Stop(task=task.id, attempt=task.attempt))
            if task.kind is Kind.COMMITTING:
                task.effect = True  # it may have acted: the report must say so
            state.move(task, Phase.STOPPING if task.kind is Kind.UNDOABLE else Phase.IDLE)
        elif task.phase is Phase.PAUSED:
            state.move(task, Phase.IDLE)
        elif task.phase is Phase.IN_DOUBT:
            state.move(task, Phase.IDLE)


def standing(state: State) -> list[str]:
    """Tasks whose external outputs stand, or may."""
    return [
        task.id
        for task in state.tasks.values()
        if task.effect or (task.kind is Kind.COMMITTING and (task.version != UNEXECUTED or task.phase is Phase.IN_DOUBT))
    ]


_WANTED = frozenset({Phase.WAITING, Phase.HELD, Phase.PAUSED})
"""To run, because somebody wants the output."""
_UNDONE = frozenset({Phase.UNDO_WAITING, Phase.UNDO_PAUSED})


def _unwound(state: State) -> bool:
    """Undo the external outputs of all undoable tasks, one by one, downstream first. True when none is left."""
    if state.unwinding is None:
        state.unwinding = deque()
        for task in state.tasks.values():  # from here on, only rollbacks say what is needed
            # What was to be undone before, because it was to run again or because that failed, will be in its turn.
            early = (task.again or (task.giving_up and task.version != UNEXECUTED)) and task.phase in _UNDONE
            if early or task.phase in _WANTED or (task.phase is Phase.FAILED and task.version != UNEXECUTED):
                task.again = task.giving_up = False
                demand.release_claims(state, task)
                state.move(task, Phase.DONE if task.version != UNEXECUTED else Phase.IDLE)
        for task in list(state.tasks.values()):
            if task.phase is Phase.UNDO_WAITING:
                demand.want_inputs(state, task)
                state.agenda.append(task)
        if state.agenda:
            return False
    queue = state.unwinding
    while queue and not queue[0].effect:
        queue.popleft()
    if not queue:
        queue += [task for task in reversed(upstream_first(state)) if task.effect and task.kind is Kind.UNDOABLE]
    if not queue:
        return True
    if queue[0].phase not in (Phase.UNDO_WAITING, Phase.UNDO_PAUSED):
        state.undone = True
        demand.want(state, queue[0], Phase.UNDO_WAITING)
    return False


def upstream_first(state: State) -> list[Task]:
    """All tasks, each behind its inputs."""
    order: list[Task] = []
    seen: set[Task] = set()
    stack = [(task, False) for task in reversed(state.tasks.values())]
    while stack:
        task, done = stack.pop()
        if done:
            order.append(task)
        elif task not in seen:
            seen.add(task)
            stack.append((task, True))
            stack += [(up, False) for up in task.ups if up not in seen]
    return order
