"""What is wanted: which outputs somebody still needs, and what must run (again) to get them.

Demand starts at the root, whose output the caller wants, and at every rollback that is to come, which needs the values that its task
got. It goes upstream only as far as outputs are not at hand. So a fresh workflow, a crash and a lost worker are one case: tasks that
nobody needs any more are never run again (docs/semantics.md, section 3).
"""

from __future__ import annotations

from exoflow.core.commands import Release
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.state import COUNTING, Phase, Saving, State, Task
from exoflow.core.withdrawal import condemn_downstream, withdraw_record
from exoflow.errors import EngineBug

_AT_REST = frozenset({Phase.IDLE, Phase.DONE})


def want(state: State, task: Task, phase: Phase = Phase.WAITING) -> None:
    """``task`` must run (or, with UNDO_WAITING, be rolled back): claim its inputs, and run whatever is needed for those."""
    stack = [(task, phase, task.condemned)]
    while stack:
        here, phase, in_old_world = stack.pop()
        if phase is Phase.WAITING and here.phase not in _AT_REST:
            continue  # on its way already
        if here.condemned and not in_old_world:
            continue  # condemned since; it is wanted again when it is dropped
        if phase is Phase.WAITING and not here.deterministic and here.dirty:
            if here.condemned:
                raise EngineBug(message=f"a rollback needs the old output of '{here.id}', which cannot be made again", story="")
            renew(state, here)
        state.move(here, phase)
        claims_new = not here.wanting
        here.wanting = True
        for up in reversed(here.reads):  # so that inputs start in the order in which they were given
            if claims_new:
                up.claims += 1
            if up.is_lost and up.phase in _AT_REST and (here.condemned or not up.condemned):
                stack.append((up, Phase.WAITING, here.condemned))
        if phase is Phase.WAITING and not here.condemned:
            for up in reversed(here.after):
                if up.is_lost and up.phase in _AT_REST and not (up.condemned or up.precedes(here)):
                    stack.append((up, Phase.WAITING, here.condemned))
        count_missing(here)
        state.agenda.append(here)


def count_missing(task: Task) -> None:
    """Set ``missing`` from the facts. A condemned task runs for the arguments of a rollback only, and those do not depend on order."""
    missing = 0
    for up in task.reads:
        missing += not up.usable_by(task)
    if task.after and task.phase is not Phase.UNDO_WAITING and not task.condemned:
        missing += sum(not up.precedes(task) for up in task.after)
    task.missing = missing


def renew(state: State, task: Task) -> None:
    """A nondeterministic task is about to make a new version: nothing that saw an old one may stay."""
    if task.effect and task.kind is Kind.UNDOABLE:  # it is undone first; what read its output may be on record, so this must be too
        task.recorded = task.recorded or task.version != UNEXECUTED
    else:
        withdraw_record(state, task)
    task.version = UNEXECUTED
    task.durable = False
    recount_downstream(state, task)
    condemn_downstream(state, task)


def release_claims(state: State, task: Task) -> None:
    """``task`` has what it needed from its inputs."""
    if not task.wanting:
        return
    task.wanting = False
    for up in task.reads:
        up.claims -= 1
        if up.claims == 0:
            release(state, up)


def release(state: State, task: Task) -> None:
    """Let the output go from memory if nothing needs it there."""
    if task.present and task.claims == 0 and task.saving is not Saving.ENCODING and task.phase is Phase.DONE:
        task.present = False
        state.commands.append(Release(task=task.id))


def became_usable(state: State, task: Task) -> None:
    """The output of ``task``, which had not been executed before, can be read from now on: count down whoever waits for it."""
    for reader in task.readers:
        if reader.phase in COUNTING:
            _count_down(state, reader)
    for later in task.before:
        if later.phase is Phase.WAITING and not later.condemned:
            _count_down(state, later)


def became_readable(state: State, task: Task) -> None:
    """The output of ``task``, which is not in memory, can be loaded from now on."""
    for reader in task.readers:
        if reader.phase in COUNTING and task.usable_by(reader):
            _count_down(state, reader)


def _count_down(state: State, task: Task) -> None:
    task.missing -= 1
    if task.missing == 0:
        state.agenda.append(task)


def recount_downstream(state: State, task: Task) -> None:
    """Whether the output of ``task`` is usable may have changed either way: count anew whoever waits for inputs."""
    for down in task.downs:
        if down.phase in COUNTING:
            recount(state, down)


def recount(state: State, task: Task) -> None:
    """Set ``missing`` of a waiting task from the facts, and let it be looked at if nothing is missing."""
    count_missing(task)
    if task.missing == 0:
        state.agenda.append(task)
    elif task.phase is Phase.HELD:
        state.move(task, Phase.WAITING)


def wait_again(state: State, task: Task) -> None:
    """A task that holds its claims (it was running, pausing or being undone) is to run again, unless nothing is to start any more."""
    if not state.may_start(task):
        release_claims(state, task)
        state.move(task, Phase.DONE if task.version != UNEXECUTED else Phase.IDLE)
        state.agenda.append(task)
        return
    state.move(task, Phase.WAITING)
    recount(state, task)
    if task.missing:  # inputs may have been lost meanwhile
        want_inputs(state, task)


def still_needed(task: Task) -> bool:
    """Whether its output, once made, would be read: of what is condemned, for a rollback only."""
    if not task.condemned:
        return True
    is_known = task.deterministic and task.version != UNEXECUTED
    return is_known and any(reader.wanting and reader.condemned for reader in task.readers)


def want_inputs(state: State, task: Task) -> None:
    in_old_world = task.condemned  # now: to want an input may condemn the task, and other inputs with it
    for up in task.reads:
        if up.is_lost and up.phase in _AT_REST and (in_old_world or not up.condemned):
            want(state, up)


def lose(state: State, task: Task) -> None:
    """The output is gone from where it was. If it is saved it will be loaded; otherwise, if somebody needs it, it is made again."""
    if not task.present:
        return
    task.present = False
    state.commands.append(Release(task=task.id))  # whatever is left of it there
    if task.saving is Saving.ENCODING:
        state.set_saving(task, Saving.NOT)
    if task.durable:
        return
    state.lossy = True
    recount_downstream(state, task)
    winding_down = state.winding_down
    needed = (task is state.root and state.claimed and not winding_down) or any(
        down.phase in COUNTING
        and down.missing
        and (down.condemned or not task.condemned)
        and (not winding_down or down.phase is Phase.UNDO_WAITING or down.version != UNEXECUTED)
        for down in task.downs
    )
    if needed and task.saving is Saving.NOT and task.phase is Phase.DONE:
        want(state, task)
