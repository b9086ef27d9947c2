"""The paper's recovery cases with real processes, each killed at the very moment that the case is about.

The rest of a case (that effects stand once and all that survives agrees) is what the harness judges anyway.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.crash.conftest import Ask
from tests.crash.runs import Outcome

pytestmark = pytest.mark.slow  # processes are started and killed


def told(ask: Ask, workflow: str, *traps: dict[str, Any]) -> Outcome:
    outcome = ask(workflow, traps=traps)
    assert not outcome.violations, "\n".join(outcome.violations)
    assert outcome.kills == len(traps), f"{outcome.kills} of {len(traps)} moments came"
    return outcome


@pytest.mark.parametrize("workflow", ["e1_nondeterministic", "e1_deterministic", "e1_undoable", "e1_committing"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_r1_an_output_is_lost_between_its_two_consumers(ask: Ask, workflow: str, when: str) -> None:
    told(ask, workflow, {"op": "began", "task": "B", "when": when})


MOMENTS = {
    "before the lock is written": {"op": "began", "task": "acquire", "when": "after"},
    "after the lock is written": {"what": "locked"},
    "before the shadow is written": {"op": "began", "task": "reserve", "when": "after"},
    "after the shadow is written": {"what": "shadow written"},
    "before the order is committed": {"what": "before the commit"},
    "between the two writes of the commit": {"what": "between the two writes"},
    "after the commit, before anybody knows": {"what": "committed"},
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_r2_a_transaction_is_killed(ask: Ask, moment: str) -> None:
    """One order, one room less, no lock left: twice at the same place, then once in the rollback if there is one."""
    told(ask, "e2_transaction", MOMENTS[moment])
    told(ask, "e2_transaction", MOMENTS[moment], MOMENTS[moment])


@pytest.mark.parametrize("what", ["releasing", "released"])
def test_r2_and_killed_again_while_its_lock_is_released(ask: Ask, what: str) -> None:
    told(ask, "e2_transaction", MOMENTS["after the lock is written"], {"what": what}, {"what": what})


@pytest.mark.parametrize("workflow", ["chain", "async_commits", "commits_side_by_side"])
def test_r3_a_save_never_arrives(ask: Ask, workflow: str) -> None:
    """The store is busy with what the commit rests on, everything else goes on, and then all is over: the commit had better not begun."""
    for call in (3, 4):
        told(ask, workflow, {"cut": {"call": call, "when": "instead", "after_s": 0.05}})


@pytest.mark.parametrize("workflow", ["counter_example_other_consumer", "counter_example_closure"])
def test_r4_right_after_the_commit(ask: Ask, workflow: str) -> None:
    told(ask, workflow, {"op": "apply", "what": "charge"}, {"op": "apply", "what": "charge", "when": "before"})


@pytest.mark.parametrize("step", ["slow 0", "slow 9", "after 0", "after 9"])
def test_r5_killed_in_the_same_rollback_three_times(ask: Ask, step: str) -> None:
    in_the_rollback = {"what": step, "task": "book_slow"}
    told(ask, "rollback_that_is_slow", {"op": "apply", "what": "slow", "hit": 2}, *[in_the_rollback] * 3)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("op", ["began", "apply"])
def test_r6_killed_while_an_undoable_task_runs(ask: Ask, op: str, when: str) -> None:
    told(ask, "saga", {"op": op, "task": "book_2", "when": when}, {"op": op, "task": "book_3", "when": when})


@pytest.mark.parametrize("victim", ["worker", "engine", "family"])
def test_r6_in_a_worker_process(ask: Ask, victim: str) -> None:
    trap = {"op": "apply", "what": "book", "victim": victim}
    outcome = ask("process_chain", traps=[trap])
    assert not outcome.violations, "\n".join(outcome.violations)
    assert (outcome.kills, outcome.worker_kills) == ((0, 1) if victim == "worker" else (1, 0))
    assert outcome.situations["rollbacks"] == 1
