"""What must hold in a world: the promises of docs/semantics.md, each looked at where it could be broken. Raises Violation.

Online: what may start, be rolled back, be announced; what a version means. After each crash: that what is saved, what was committed and
what stands agree, and that the journal knows of every effect. At the end: agreement, counts, order, reports, bounded work, and that the
end is still the end for the next life.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from exoflow.core import commands as cmd
from exoflow.core import events as ev
from exoflow.core import journal, replay
from exoflow.core.machine import Machine
from exoflow.core.readiness import GATE
from exoflow.core.spec.annotations import Checkpoint, Kind
from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.stability import inputs
from exoflow.core.state import Phase, Status, Task
from exoflow.testing.machine.definition import by_definition
from exoflow.testing.machine.outside import Violation
from exoflow.testing.machine.parts import Entry, Provenance

if TYPE_CHECKING:
    from collections.abc import Collection

    from exoflow.testing.machine import scenario as sc
    from exoflow.testing.machine.world import World

# --- online ------------------------------------------------------------------------------------------------------------------


def may_run(world: World, task: Task, command: cmd.Run) -> None:
    """A function starts: not one whose output is saved, not after a cancel, not before what must be durable is."""
    name, parent = task.id, task.parent
    entry = world.latest.get(name)
    if _counts_as_saved(entry) and entry.record.parent_version == (parent.version if parent else 0):  # type: ignore[union-attr]
        raise Violation(f"{name} runs again, although its output is saved")
    for_a_rollback = world.machine.state.unwinding is not None and task.deterministic and world.runs.get(name)
    if world.cancelled is not None and not for_a_rollback:
        raise Violation(f"{name} starts after the cancel was acknowledged")
    if world.failing and not for_a_rollback:
        raise Violation(f"{name} starts although the workflow has failed")
    if task.spec.annotations.leaves_intent and (name, command.attempt) not in world.intents:
        raise Violation(f"{name} starts before its intent is durable")
    if not task.condemned:
        for up in task.reads:
            if up.spec.annotations.checkpoint is Checkpoint.SYNC:
                saved = world.latest.get(up.id)
                if saved is None or not saved.landed:
                    raise Violation(f"{name} starts before the output of {up.id}, which is checkpoint=sync, is durable")
        _may_act(world, task)


def _may_act(world: World, task: Task) -> None:
    """The commit rule, by its definition, from what has landed."""
    gate = GATE.get(task.kind)
    if gate is None:
        return
    state = world.machine.state
    for other in state.tasks.values():
        if other.durable:
            saved = world.latest.get(other.id)
            if saved is None or not saved.landed or saved.record.version != other.version:  # type: ignore[union-attr]
                raise Violation(f"{other.id} counts as durable, and is not")
    holds = by_definition(state)[gate]
    for up in inputs(gate, task):
        if up not in holds:
            raise Violation(f"{task.id} starts before {up.id} is {gate.name.lower()}")


def _counts_as_saved(entry: Entry | None) -> bool:
    return entry is not None and entry.landed and not entry.damaged


def may_be_written(world: World, entries: list[Entry]) -> None:
    """Whoever resumes a workflow that has ended relies on having seen its last record."""
    before = world.appends[-1][1] if world.appends else world.durable
    for earlier, later in itertools.pairwise([*before[-1:], *entries]):
        if isinstance(earlier.record, journal.WorkflowEnded) and not isinstance(later.record, journal.WorkflowResumed):
            raise Violation(f"the journal goes on after its end, with {later.record}")


def may_undo(world: World, task: Task) -> None:
    """A rollback starts: not while the output still counts, not before what was built on this version is rolled back."""
    entry = world.latest.get(task.id)
    if _counts_as_saved(entry):
        raise Violation(f"{task.id} is rolled back while its output counts as saved")
    value = world.memory.get(task.id) or (world.saved[task.id].value if task.id in world.saved else None)
    draw = value.get(task.id) if value else None
    if draw is not None:
        for other, effect in world.outside.effects.items():
            if other != task.id and effect.seen.get(task.id) == draw:
                raise Violation(f"{task.id} is rolled back before {other}, which was built on it")
    if task.condemned:
        world.reached.add("a rollback withdraws a task")
    if not (task.again or task.giving_up) and (task.condemned or world.machine.state.unwinding is not None):
        standing = _first_standing(world, task)
        if standing:
            raise Violation(f"{task.id} is rolled back before {standing}, which depends on it")


def _first_standing(world: World, task: Task) -> str:
    """A task downstream of this one whose effect stands."""
    seen, stack = {task}, [task]
    while stack:
        for down in stack.pop().downs:
            if down not in seen:
                if down.id in world.outside.effects:
                    return down.id
                seen.add(down)
                stack.append(down)
    return ""


def same_meaning(world: World, task: Task, value: Provenance, seen: Provenance) -> None:
    """One version is one output; and a deterministic task makes the same version of the same inputs."""
    if world.meanings.setdefault((task.id, task.version), value) != value:
        raise Violation(f"two outputs of {task.id} are one version: {value} and {world.meanings[task.id, task.version]}")
    if task.deterministic and world.derived.setdefault((task.id, frozenset(seen.items())), task.version) != task.version:
        raise Violation(f"{task.id}, which is deterministic, made another version of the same inputs")


def may_announce(world: World, status: Status) -> None:
    """An end is told to somebody: it must be durable."""
    if status.ended:
        for entry in reversed(world.durable):
            if isinstance(entry.record, journal.WorkflowEnded):
                if entry.record.status != status:
                    raise Violation(f"{status} is announced, the journal says {entry.record.status}")
                return
        raise Violation(f"{status} is announced before it is durable")


def note_held(world: World) -> None:
    """Count what the commit rule holds back."""
    if (
        "a commit waits for the commit rule" not in world.reached
        or "an undoable task waits for its inputs to be recoverable" not in world.reached
    ):
        for task in world.machine.state.tasks.values():
            if task.phase is Phase.HELD:
                committing = task.kind is Kind.COMMITTING
                world.reached.add(
                    "a commit waits for the commit rule" if committing else "an undoable task waits for its inputs to be recoverable"
                )
                if task.missing == 0 and any(up.checkpoint_lost or up.pressed for up in world.machine.state.tasks.values()):
                    world.reached.add("a checkpoint that a commit waits for was lost")


# --- crashes -----------------------------------------------------------------------------------------------------------------


def note_crash(world: World, step: sc.Crash, quiet: int) -> None:
    """Count what the crash hits."""
    reached = world.reached
    if world.epoch > 1 and quiet <= 3:
        reached.add("a crash comes during recovery")
    if world.appends:
        arrived = min(step.arrived, len(world.appends))
        how = "none of the" if arrived == 0 else "all" if arrived == len(world.appends) else "some of the"
        reached.add(f"a crash loses the acknowledgement: {how} appends on the way arrived")
    for attempt in world.running:
        when = "after it acted" if attempt.task in step.acted else "before it acted"
        if attempt.kind == "ask":
            reached.add("a crash hits an on_unknown function")
        elif attempt.kind == "undo":
            reached.add(f"a crash hits a rollback {when}")
        elif attempt.spec.annotations.kind is not Kind.INTERNAL:
            reached.add(f"a crash hits {'a committing' if attempt.may_haunt else 'an intended'} task {when}")
    if world.saves:
        reached.add("a crash loses an output that is being saved")
    if any(timer.key != "timeout" for timer in world.timers):
        reached.add("a crash comes during back-off")
    if world.machine.state.cancelling and world.cancelled is None:
        reached.add("a crash comes before a cancel is durable")


def note_recovery(world: World) -> None:
    """What is durable, what was committed and what stands must agree, and every effect must be known."""
    state = world.machine.state
    if state.orphans:
        reached = "facts of a sub-workflow wait for its shape"
        world.reached.add(reached)
    survivors = _outside(world)
    survivors += [(f"saved {task.id}", world.saved[task.id].value or {}) for task in state.tasks.values() if task.durable]
    _agree(survivors)
    for name in world.outside.effects:
        task, orphan = state.tasks.get(name), state.orphans.get(name)
        if not (task is not None and task.effect) and not (orphan is not None and orphan.effect):
            raise Violation(f"the effect of {name} stands, and the journal does not know of it")


def _outside(world: World) -> list[tuple[str, Provenance]]:
    outside = world.outside
    found = [(f"commit {task}", effect.seen) for (task, _), effect in outside.commits.items()]
    found += [(f"effect {task}", effect.seen) for task, effect in outside.effects.items()]
    return found


def _agree(survivors: list[tuple[str, Provenance]]) -> None:
    truth: Provenance = {}
    for who, seen in survivors:
        for name, draw in seen.items():
            if truth.setdefault(name, draw) != draw:
                raise Violation(f"{who} saw draw {draw} of {name}, others draw {truth[name]}: {survivors}")


# --- the end -----------------------------------------------------------------------------------------------------------------


def judge(world: World) -> None:
    """The whole of it, once the workflow has ended."""
    state, outcome = world.machine.state, world.machine.state.outcome
    if outcome is None:
        raise Violation(f"it is {world.status} without an outcome")
    survivors = _outside(world)
    if world.status is Status.SUCCEEDED:
        survivors.append(("result", world.saved[outcome.task].value or {}))
    survivors += [(f"saved {task.id}", world.saved[task.id].value or {}) for task in state.tasks.values() if task.durable]
    _agree(survivors)
    committed = [task for task, _ in world.outside.commits]
    if len(committed) != len(set(committed)):
        raise Violation(f"a commit stands twice: {sorted(world.outside.commits)}")
    if world.status is Status.SUCCEEDED:
        _counts(world, set(committed))
        _order(world)
    else:
        _standing(world, outcome, set(committed))
    _journal(world)
    _bounded(world)
    _still_ended(world)


def _counts(world: World, committed: set[str]) -> None:
    state, effects = world.machine.state, world.outside.effects
    for task in state.tasks.values():
        stands, caught = task.id in effects, task.id in world.caught
        if task.kind is Kind.UNDOABLE and stands == caught:
            raise Violation(f"the effect of {task.id} {'stands, although it failed' if stands else 'does not stand'}")
        if task.kind is Kind.COMMITTING and task.id not in committed and not caught:
            raise Violation(f"{task.id} never committed")
    known = {name for name, orphan in state.orphans.items() if orphan.effect}
    gone = set(effects) - set(state.tasks) - known
    if gone:
        raise Violation(f"effects of tasks that do not exist: {gone}")


def _order(world: World) -> None:
    """Effects that stand came in the order of dependencies."""
    outside = world.outside
    latest: dict[str, int] = {}
    committed = {task: effect.at for (task, _), effect in outside.commits.items() if task not in world.caught}  # a zombie may be late

    def walk(task: Task) -> int:
        found = latest.get(task.id)
        if found is None:
            before = max((walk(up) for up in task.ups), default=0)
            effect = outside.effects.get(task.id)
            at = committed.get(task.id, before) if effect is None else effect.at
            if at < before:
                raise Violation(f"{task.id} acted before what it depends on")
            if effect is not None and task.deterministic:  # it may have been made again under what was built on it
                at = outside.first_applied[task.id, frozenset(effect.seen.items())]
            found = latest[task.id] = max(at, before)
        return found

    for task in world.machine.state.tasks.values():
        walk(task)


def _standing(world: World, outcome: journal.WorkflowEnded, committed: set[str]) -> None:
    """Whoever asks is told of all that stands; and nothing undoable does if that was promised. (A committing task that leaves no intent
    may have acted in an earlier life without a trace.)"""
    tasks, effects = world.machine.state.tasks, world.outside.effects
    promised = (world.status is Status.FAILED and world.undo_on_failure) or (world.status is Status.CANCELLED and world.cancelled)
    if (promised or (outcome.undone and world.status in (Status.FAILED, Status.CANCELLED))) and effects:
        raise Violation(f"effects stand, although everything was to be undone: {sorted(effects)}")
    intended = [name for name in committed if name in tasks and tasks[name].spec.annotations.leaves_intent]
    silent = sorted(name for name in (*effects, *intended) if name in tasks and name not in outcome.standing)
    if silent:
        raise Violation(f"{world.status}: the report does not say that effects stand: {silent}, only {outcome.standing}")
    if outcome.undone and world.status is not Status.BLOCKED:
        _undone_in_order(world)


def _undone_in_order(world: World) -> None:
    """What was rolled back was so downstream first."""
    undone = world.outside.undone
    earliest: dict[str, int] = {}

    def walk(task: Task) -> int:
        """When the first of what is downstream of it, itself included, was undone for the last time; infinity: none was."""
        found = earliest.get(task.id)
        if found is None:
            found = earliest[task.id] = max([undone.get(task.id, 0), *(walk(down) for down in task.downs)])
        return found

    for task in world.machine.state.tasks.values():
        if task.id in undone and any(walk(down) > undone[task.id] for down in task.downs):
            raise Violation(f"{task.id} was rolled back before something that depends on it")
    if len(undone) >= 3:
        world.reached.add("three effects or more are undone in order")


def _journal(world: World) -> None:
    """Counts in the journal only grow, but for tasks of a sub-workflow that was withdrawn and came again; and epochs too."""
    counts: dict[tuple[str, str, int], int] = {}
    parents: dict[str, str] = {}
    epoch = ends = 0
    for entry in world.durable:
        record = entry.record
        if parent := getattr(record, "parent", ""):
            parents[record.task] = parent  # type: ignore[union-attr]
        if isinstance(record, journal.WorkflowResumed):
            counts.clear()
            ends = 0
        elif isinstance(record, journal.TasksWithdrawn):
            counts = {key: count for key, count in counts.items() if not _is_below(key[1], record.tasks, parents)}
        elif isinstance(record, journal.WorkflowEnded):
            ends += 1
            if ends > 1:
                raise Violation("the journal says twice that the workflow ended")
        elif isinstance(record, (journal.OutputSaved, journal.AttemptIntended)):
            if record.epoch < epoch:
                raise Violation(f"a record of epoch {record.epoch} comes behind one of epoch {epoch}")
            epoch = record.epoch
        elif isinstance(record, (journal.AttemptFailed, journal.WorkerDied)):
            key = (type(record).__name__, record.task, record.parent_version)
            count = record.failures if isinstance(record, journal.AttemptFailed) else record.deaths
            counts_more = isinstance(record, journal.AttemptFailed) or not record.stranded
            if count < counts.get(key, 0) + counts_more:  # a failure that was caught counts too, and leaves no such record
                raise Violation(f"the count of failures of {record.task} goes from {counts.get(key, 0)} to {count}")
            counts[key] = count


def _is_below(task: str, withdrawn: Collection[str], parents: dict[str, str]) -> bool:
    while task := parents.get(task, ""):
        if task in withdrawn:
            return True
    return False


def _bounded(world: World) -> None:
    """No task runs more often than once, and once more for each fault and each output lost, for each new version of another task, and for
    each rollback that needs its output."""
    outcome = world.machine.state.outcome
    undone = sum(world.undos.values()) if outcome is not None and outcome.undone else 0
    bound = 1 + world.faults + world.lost_besides + world.resumed + undone
    drawn = {spec.id: world.runs.get(spec.id, 1) - 1 for spec in world.graph.tasks if not spec.deterministic}
    for name, runs in world.runs.items():
        if "/" not in name and runs > bound + sum(drawn.values()) - drawn.get(name, 0):
            raise Violation(f"{name} ran {runs} times, and there were {world.faults} faults")


def _still_ended(world: World) -> None:
    """A later life says the same and does nothing."""
    machine = Machine(replay.fold("w", world.epoch + 1, [entry.record for entry in world.durable]))
    said = [command for command in machine.handle(ev.Recovered()) if not isinstance(command, cmd.Grow | cmd.Forget | cmd.Release)]
    if said != [cmd.Announce(status=world.status)]:
        raise Violation(f"it had ended {world.status}; the next life says {said}")
    if any(task.version == UNEXECUTED and task.durable for task in machine.state.tasks.values()):
        raise Violation("the next life knows of a saved output without a version")
