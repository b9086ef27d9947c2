"""Sub-workflows: a task that returned a DAG. The DAG's tasks read their parent (its output holds their arguments, and its version their
existence); whoever read the parent reads the DAG's root instead."""

from __future__ import annotations

from collections.abc import Iterable

from exoflow.core import checks, demand
from exoflow.core.commands import Forget, Grow
from exoflow.core.journal import Orphan, RoundsDropped, TasksWithdrawn
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.graph import Graph
from exoflow.core.spec.ids import UNEXECUTED, UNKNOWN, child_scope
from exoflow.core.spec.terms import terms_of
from exoflow.core.stability import Prop
from exoflow.core.state import Phase, Saving, State, Task
from exoflow.core.withdrawal import collapse
from exoflow.errors import EngineBug


def build(state: State, graph: Graph) -> Task:
    """The tasks of a whole workflow; returns the root's."""
    tasks = _link(state, graph, None, "")
    return tasks[graph.root]


def _link(state: State, graph: Graph, parent: Task | None, scope: str) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    readers: dict[Task, list[Task]] = {}
    before: dict[Task, list[Task]] = {}
    shared: dict[tuple[Task, ...], tuple[Task, ...]] = {}  # those that many have: of a wide DAG, half of what the collector has to walk
    for spec in graph.tasks:
        task = Task(f"{scope}/{spec.id}" if scope else spec.id, terms_of(spec), parent)
        reads = tuple([tasks[up] for up in spec.reads])
        after = tuple([tasks[up] for up in spec.after])
        if parent is not None:
            reads = (parent, *reads)
        task.follow(shared.setdefault(reads, reads), after)
        alone = (task,)
        for up in task.reads:
            if up.readers:
                readers.setdefault(up, []).append(task)
            else:
                up.readers = alone
        for up in after:
            before.setdefault(up, []).append(task)
        tasks[spec.id] = state.add(task)
    for up, found in readers.items():
        up.readers += tuple(found)
        up.readers = shared.setdefault(up.readers, up.readers)
    for up, found in before.items():
        up.before += tuple(found)
    return tasks


def grow(state: State, task: Task, graph: Graph, *, first: bool = False) -> None:
    """Put the DAG that ``task`` returned in the place of its output. With ``first``, nobody has counted that output among what is there."""
    tail_of_parent = task.parent is not None and task.parent.tail is task
    scope = child_scope(task.id, tail=tail_of_parent)
    moved = sum(reader.wanting for reader in task.readers)
    kids = _link(state, graph, task, scope)
    tail = kids[graph.root]
    task.kids, task.tail, task.growth, task.grew = list(kids.values()), tail, graph, True
    downs = task.hand_over(tail, but=set(task.kids))
    tail.holds = sum(down.condemned for down in tail.downs)
    if state.root is task:
        state.root = tail
        moved += state.claimed
    task.claims -= moved
    tail.claims += moved
    state.commands.append(Grow(task=task.id, scope=scope, names=tuple(kids)))
    for kid in task.kids:
        _adopt(state, kid)
    if not state.folding:
        mark_forgotten(state, (*task.kids, *downs))
    if not first or tail.version != UNEXECUTED:  # or else whoever waited for one waits for the other
        demand.recount_downstream(state, tail)
    state.stability.rewire(task)


def mark_forgotten(state: State, tasks: Iterable[Task]) -> None:
    """Every ancestor of a task that ran has run too, even if it left no record of its version. A condemned task's may be others by now."""
    stack = [task for task in tasks if (task.version != UNEXECUTED or task.effect) and not task.condemned]
    while stack:
        for up in stack.pop().ups:
            if up.version == UNEXECUTED:  # and IDLE: of what makes a new version, everything downstream is condemned
                state.move(up, Phase.DONE)
                up.version = UNKNOWN
                stack.append(up)


def want_owed(state: State) -> None:
    """Effects that were undone in order to be made again are made again, even if nobody needs the outputs any more."""
    if not state.owes:
        return
    for task in list(state.tasks.values()):
        if task.owed and task.deterministic and not task.condemned and task.version != UNEXECUTED and task.phase is Phase.DONE:
            demand.want(state, task)


def start(state: State, task: Task) -> None:
    """Want what the sub-workflow of ``task`` owes to those who wait for it."""
    want_owed(state)
    tail = task
    while tail.tail is not None:
        tail = tail.tail
    if not tail.at_hand and (tail.version == UNEXECUTED or tail.claims):
        demand.want(state, tail)


def shorten(state: State, tail: Task) -> None:
    """Drop the last finished round of a loop written as recursion, so that a loop of any length takes the space of a few rounds.

    ``tail`` is the last task of a round, saved, and has returned the next one. It can never be replaced (of one that commits that is known
    even while folding a journal), and everything else of its round is upstream of it. Its parent goes, and what was beside it; it takes
    its parent's place.
    """
    parent = tail.parent
    above = parent.parent if parent is not None else None
    if parent is None or above is None or above.tail is not parent or parent.tail is not tail or tail.kids is None or not tail.durable:
        return
    beside = [kid for kid in parent.kids or () if kid is not tail]
    if not parent.durable or parent.effect or tail.effect or not all(map(_is_past, beside)):
        return
    if tail.kind is not Kind.COMMITTING and (state.folding or not state.stability.holds(Prop.STABLE, (tail,))):
        return
    _take_place(state, above, parent, tail)
    for task in beside:
        state.remove(task)
    gone = tuple(task.id for task in (parent, *beside))
    state.commands.append(Forget(tasks=gone))
    past = state.past.setdefault(above.id, [])
    past += gone
    if not state.folding and state.outcome is None and len(past) >= state.rounds_kept and _is_on_record(above):
        del state.past[above.id]
        state.records.append(RoundsDropped(task=tail.id, spec=tail.spec, parent=above.id, past=tuple(past)))


def _take_place(state: State, above: Task, old: Task, new: Task) -> None:
    """Put ``new`` in the place of ``old``, the last task of the sub-workflow of ``above``. It comes after what ``old`` came after, because
    effects are undone in reverse order."""
    new.parent = above
    new.follow((above,), old.ups[1:])
    above.kids = [new if kid is old else kid for kid in above.kids or ()]
    above.tail = new
    above.readers = tuple(new if reader is old else reader for reader in above.readers)
    for up in new.after:
        up.readers = tuple(reader for reader in up.readers if reader is not old)
        up.before = (*(later for later in up.before if later is not old), new)
        state.stability.rewire(up)
    state.remove(old)


def _is_on_record(task: Task) -> bool:
    """Folding the journal finds it, because the shape of every sub-workflow that it is in is saved."""
    here: Task | None = task
    while here is not None:
        if not here.durable:
            return False
        here = here.parent
    return True


def fold_rounds(state: State, record: RoundsDropped) -> None:
    """What is left of a loop, of whose past rounds the journal holds nothing any more."""
    if record.parent in state.orphans:  # it is in a round that was dropped later
        state.orphans[record.parent].rounds = record
        return
    above, orphan = state.tasks.get(record.parent), state.orphans.get(record.task)
    if above is None or above.tail is None or orphan is None:
        return  # the rounds are still here, or a later record says where the last one stands
    del state.orphans[record.task]
    old, new = above.tail, Task(record.task, terms_of(record.spec), above)
    state.past[above.id] = [old.id, *(kid.id for kid in old.kids or ())]  # whatever the journal still says of them
    if old.kids is not None:
        collapse(state, old)
    old.hand_over(new)
    if state.root is old:
        state.root = new
    _take_place(state, above, old, state.add(new))
    restore(state, new, orphan)


def shorten_all(state: State) -> None:
    """Drop whatever rounds folding had to keep."""
    for task in list(state.tasks.values()):
        if state.has(task):
            shorten(state, task)


def _is_past(task: Task) -> bool:
    """Nobody will ask for it again, given that what reads it cannot be replaced."""
    kept = task.durable or (task.deterministic and task.phase is Phase.DONE)
    return kept and task.saving is Saving.NOT and task.kids is None and not task.effect


def _adopt(state: State, kid: Task) -> None:
    """Give a task back what the journal says of it, if that belongs to this version of its parent."""
    orphan = state.orphans.pop(kid.id, None)
    if orphan is None:
        return
    parent = kid.parent
    if parent is None or orphan.parent_version != parent.version:
        if orphan.effect:
            raise EngineBug(message=f"the effect of '{kid.id}' stands on a version of '{orphan.parent}' that is gone", story="")
        if orphan.saved is not None:
            state.records.append(TasksWithdrawn(tasks=(kid.id,)))
        return
    restore(state, kid, orphan)


def note_shape(state: State, task: Task) -> None:
    """``task`` returned a DAG of which no more than that is known. It will be saved when it comes again."""
    task.grew = task.recorded = True
    checks.save_shape(state, task)


def restore(state: State, task: Task, orphan: Orphan) -> None:
    """Set the durable facts of ``task``."""
    task.failures, task.deaths, task.effect = orphan.failures, orphan.deaths, orphan.effect
    attempt, task.basis = orphan.intent
    task.attempt = max(task.attempt, attempt)
    task.owed = orphan.owed
    saved = orphan.saved
    if orphan.grew:
        note_shape(state, task)
    if saved is None or (orphan.owed and not (task.deterministic and orphan.grew)):
        return
    task.effect = task.effect and task.kind is Kind.UNDOABLE
    task.version, task.basis, task.caught = saved.version, saved.basis, saved.caught
    task.attempt = max(task.attempt, saved.attempt)
    task.times, task.meaning = (saved.started_ms, saved.ended_ms), saved.stored.meaning
    task.recorded = True
    task.durable = not (orphan.owed or orphan.lost)
    state.move(task, Phase.DONE)
    if saved.growth is not None and task.kids is None:
        grow(state, task, saved.growth)
    if orphan.rounds is not None:
        fold_rounds(state, orphan.rounds)
