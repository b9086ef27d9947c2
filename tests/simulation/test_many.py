"""Ranges of seeds, and what is found in them: with an engine that has a fault."""

from __future__ import annotations

import pytest

from exoflow.runtime.commit import GroupCommitter
from exoflow.testing.simulation import situations
from exoflow.testing.simulation.driver import simulate_one
from exoflow.testing.simulation.generate import scenario
from exoflow.testing.simulation.many import run_many
from exoflow.testing.simulation.shrink import shrink


def test_a_range_is_counted() -> None:
    tally = run_many(3, 9)
    assert tally.schedules == 7
    assert tally.last_seed == 9
    assert sum(tally.statuses.values()) >= 7
    assert not tally.found
    assert set(tally.reached) <= set(situations.ALL)
    assert set(tally.never) == set(situations.ALL) - set(tally.reached)


@pytest.mark.slow  # two processes start
def test_two_processes_share_a_range() -> None:
    tally, alone = run_many(0, 59, jobs=2), run_many(0, 59)
    assert (tally.schedules, tally.statuses, tally.reached, tally.fired) == (60, alone.statuses, alone.reached, alone.fired)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """A committer that says "done" before anything is."""

    def put(self: GroupCommitter, write: object, answer: object) -> None:
        answer("applied")  # type: ignore[operator]
        original(self, write, lambda _verdict: None)  # type: ignore[arg-type]

    original = GroupCommitter.put
    monkeypatch.setattr(GroupCommitter, "put", put)


@pytest.mark.slow  # hundreds of schedules
@pytest.mark.usefixtures("forgetful")
def test_a_fault_of_the_engine_is_found_and_made_small() -> None:
    tally = run_many(0, 200, found_max=1)
    assert tally.found
    seed = tally.found[0].seed
    assert f"exoflow simulate --seed {seed} --shrink" in str(tally.found[0])
    given = scenario(seed)
    small = shrink(given, rounds_max=100)
    broken = {violation.invariant for violation in simulate_one(given).violations}
    assert broken & {violation.invariant for violation in simulate_one(small).violations}
    assert sum(len(workflow.dag.tasks) for workflow in small.workflows) <= sum(len(workflow.dag.tasks) for workflow in given.workflows)
    assert len(small.faults) <= len(given.faults)
