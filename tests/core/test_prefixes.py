"""Journal records are the only truth: at every prefix, folding them gives what the machine holds to be durable; and its laws bite."""

from __future__ import annotations

import random

import pytest

from exoflow.core import events as ev
from exoflow.core import invariants, journal, replay
from exoflow.core.state import Phase, Saving, State
from exoflow.errors import EngineBug
from exoflow.testing.machine.world import World, random_world


def standing(state: State) -> dict[str, tuple[object, ...]]:
    """Versions that are saved and effects that stand. (The count of failures is ahead of its record while a task gives up.)"""
    return {name: facts[:2] for name, facts in replay.durable_facts(state).items() if facts[0] or facts[1]}


class Prompt(World):
    """A world in which every record is acknowledged before anything else happens, and compared with the fold of all so far."""

    compared = 0

    def step(self) -> bool:
        while self.appends:
            self.acknowledge()
        if self.durable:
            folded = replay.fold("w", self.epoch, [entry.record for entry in self.durable])
            assert standing(folded) == standing(self.machine.state)
            self.compared += 1
        return super().step()


@pytest.mark.parametrize("first", range(0, 240, 40))
def test_every_prefix_of_a_journal_gives_what_the_machine_held(first: int) -> None:
    """Whatever happened, a crash at that moment would lose nothing that was durable, and find nothing that was not."""
    compared = 0
    for seed in range(first, first + 40):
        drawn = random_world(seed, lose=0.0, grow=0.0)
        if drawn is not None:
            world = Prompt(drawn.graph, seed, drawn.knobs)
            world.run()
            world.judge()
            compared += world.compared
    assert compared > 100


def _state() -> State:
    world = random_world(next(seed for seed in range(100) if (drawn := random_world(seed)) and len(drawn.graph.tasks) > 3))
    assert world is not None
    while not any(task.phase is Phase.RUNNING for task in world.machine.state.tasks.values()):
        world.acknowledge()
    return world.machine.state


def _miscount_active(state: State) -> None:
    state.active += 1


def _miscount_busy(state: State) -> None:
    state.busy += 1


def _miscount_encoding(state: State) -> None:
    state.encoding += 1


def _leave_work(state: State) -> None:
    state.records.append(journal.WorkflowResumed())


def _output_without_version(state: State) -> None:
    next(iter(state.tasks.values())).present = True


def _done_without_version(state: State) -> None:
    state.move(next(iter(state.tasks.values())), Phase.DONE)


def _encode_nothing(state: State) -> None:
    state.set_saving(next(iter(state.tasks.values())), Saving.ENCODING)


def _miscount_missing(state: State) -> None:
    next(task for task in state.tasks.values() if task.phase is Phase.WAITING).missing += 1


def _miscount_claims(state: State) -> None:
    next(iter(state.tasks.values())).claims += 1


def _miscount_holds(state: State) -> None:
    next(iter(state.tasks.values())).holds += 1


def _read_a_ghost(state: State) -> None:
    last = list(state.tasks.values())[-1]
    del state.tasks[last.ups[0].id]


@pytest.mark.parametrize(
    ("break_it", "law"),
    [
        (_miscount_active, "active is miscounted"),
        (_miscount_busy, "busy is miscounted"),
        (_miscount_encoding, "encoding is miscounted"),
        (_leave_work, "work undone"),
        (_output_without_version, "without a version"),
        (_done_without_version, "DONE without a version"),
        (_encode_nothing, "encodes what is not there"),
        (_miscount_missing, "missing is"),
        (_miscount_claims, "claims are"),
        (_miscount_holds, "holds are"),
        (_read_a_ghost, "which is not there"),
    ],
)
def test_a_broken_law_is_found(break_it, law) -> None:
    """A state that the core can never reach is said to be a fault of the core."""
    state = _state()
    invariants.check(state)
    break_it(state)
    with pytest.raises(EngineBug, match=law):
        invariants.check(state)


def test_an_undoable_task_that_runs_without_an_intent_breaks_a_law() -> None:
    """Its effect could be lost in a crash."""
    for seed in range(200):
        world = random_world(seed, crash=0.0, fail=0.0, die=0.0, lose=0.0)
        if world is None:
            continue
        for _ in range(30):
            task = next((t for t in world.machine.state.tasks.values() if t.phase is Phase.RUNNING and t.effect), None)
            if task is not None:
                task.effect = False
                with pytest.raises(EngineBug, match="without an intent"):
                    invariants.check(world.machine.state)
                return
            if not world.step():
                break
    pytest.fail("no undoable task ran")


def test_a_machine_that_checks_itself_says_so_when_a_law_breaks() -> None:
    """With check_invariants, a fault shows at the turn in which it happened."""
    rng = random.Random(1)
    drawn = next(world for seed in range(50) if (world := random_world(rng.randrange(10_000) + seed)) is not None)
    drawn.machine._checked = True
    drawn.machine.state.active += 1
    with pytest.raises(EngineBug, match="active is miscounted"):
        drawn.machine.handle(ev.CancelAsked())


def test_a_journal_without_a_beginning_is_refused() -> None:
    """A store that lost the first record of a workflow is damaged."""
    with pytest.raises(ValueError, match="no beginning"):
        replay.fold("w", 1, [])
