"""Random workflows in random worlds: whatever crashes, gets lost, fails or is cancelled, the outcome is that of a run without failures.

Each seed draws a workflow and a schedule of faults (``world.py``). A failing seed is repeated by ``drawn(seed, **knobs).run()``.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from exoflow.core.checks import check, repair
from exoflow.core.spec.annotations import Kind
from exoflow.core.state import Status
from exoflow.testing.machine.graphs import random_graph
from exoflow.testing.machine.world import Knobs, World

# Knobs, and how many seeds, of each situation.
SETTINGS: dict[str, tuple[dict[str, Any], int]] = {
    "a few faults of each sort": ({}, 1200),
    "no fault at all": ({"crash": 0, "lose": 0, "fail": 0, "die": 0, "undo_fails": 0}, 300),
    "crash upon crash": ({"crash": 0.15, "lose": 0.1, "faults_max": 40}, 800),
    "outputs are lost all the time": ({"lose": 0.2, "crash": 0, "faults_max": 30}, 600),
    "tasks fail and workers die": ({"fail": 0.15, "die": 0.1, "faults_max": 25}, 700),
    "somebody cancels": ({"cancel": 0.02}, 800),
    "tasks return workflows": ({"grow": 0.5}, 700),
    "a failure undoes what was done": ({"fail": 0.1, "undo_on_failure": True}, 700),
    "auto mode turns on what is missing": ({"auto": True, "grow": 0.3}, 200),
}


def drawn(seed: int, *, undo_on_failure: bool = False, auto: bool = False, **knobs: Any) -> World | None:
    """A world whose workflow is safe, or None if the drawn one is refused and cannot be repaired."""
    rng = random.Random(seed)
    graph = random_graph(rng, rng.randint(1, 8), doubts=True)
    if check(graph):
        if rng.random() < 0.5:
            return None
        graph, changed = repair(graph)
        if not changed:
            return None
    return World(graph, seed, Knobs(**knobs), auto=auto, undo_on_failure=undo_on_failure)


def settled(world: World) -> None:
    """Nothing of an undoable task stands behind a workflow that says that all of it was undone."""
    ended = world.machine.state.outcome
    if ended is not None and ended.undone and world.status in (Status.FAILED, Status.CANCELLED):
        tasks = world.machine.state.tasks
        assert not [name for name, standing in world.effects.items() if standing and name in tasks and tasks[name].kind is Kind.UNDOABLE]


@pytest.mark.slow
@pytest.mark.parametrize("situation", SETTINGS)
def test_the_outcome_is_that_of_a_run_without_failures(situation: str) -> None:
    """Whatever happens on the way, one version of each task is seen by everyone and each effect stands once. Slow: hundreds of seeds."""
    knobs, seeds = SETTINGS[situation]
    worlds = 0
    for seed in range(seeds):
        world = drawn(seed, **knobs)
        if world is None:
            continue
        worlds += 1
        try:
            world.run()
            world.judge()
            settled(world)
        except Exception as error:
            error.add_note(f"seed {seed}: {situation} {knobs}")
            raise
    assert worlds > seeds / 2
