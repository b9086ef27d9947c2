"""What is refused before it runs, what is said about it, and what would repair it."""

from __future__ import annotations

import itertools
import random

import pytest

from exoflow.core.checks import Repair, check, repair, with_checkpoints
from exoflow.core.spec.annotations import Checkpoint
from exoflow.testing.machine.graphs import random_graph
from tests.core.test_machine import NONE, committing, dag, internal, undoable


def test_a_finding_says_who_what_why_and_what_next() -> None:
    graph = dag(internal("n", save=NONE), internal("d", "n", det=True, save=NONE), committing("c", "d"))
    (finding,) = check(graph)
    assert (finding.task, finding.culprit, finding.path) == ("c", "n", ("n", "d", "c"))
    assert len(finding.repairs) == 1
    assert finding.deterministic_would_do
    text = str(finding)
    assert "'c' commits, but what it depends on could change after a crash" in text
    assert "n -> d -> c" in text
    assert "(or deterministic=True on 'n', if it is)" in text
    assert str(Repair("n", "checkpoint", True)) == "checkpoint=True on 'n'"


def test_a_rollback_whose_arguments_could_be_lost_is_a_finding() -> None:
    (finding,) = check(dag(internal("n", save=NONE), undoable("u", "n")))
    assert "has a rollback, whose arguments could be lost in a crash" in str(finding)


def test_one_checkpoint_where_several_paths_meet_is_preferred_to_many() -> None:
    graph = dag(internal("m", save=NONE), internal("n", save=NONE), internal("j", "m", "n", save=NONE), committing("c", "j"))
    assert repair(graph)[1] == ("j",)


def test_only_the_tasks_that_may_be_changed_are() -> None:
    graph = dag(internal("n", save=NONE), committing("c", "n"))
    assert repair(graph, only={"c"})[1] == ()
    assert repair(graph, only={"n"})[1] == ("n",)


@pytest.mark.slow
def test_each_repair_works_and_seldom_costs_more_than_the_fewest_checkpoints() -> None:
    """Compared with all subsets, over random DAGs of up to 5 tasks. Slow: a dry run for each subset."""
    unsafe = larger = 0
    for seed in range(1500):
        rng = random.Random(seed)
        graph = random_graph(rng, rng.randint(2, 5))
        findings = check(graph)
        repaired, changed = repair(graph)
        if not findings:
            assert not changed
            continue
        unsafe += 1
        for finding in findings:
            assert finding.path[0] == finding.culprit
            assert finding.path[-1] == finding.task
            names = [each.task for each in finding.repairs]
            assert not names or not check(with_checkpoints(graph, names))
        unsaved = [spec.id for spec in graph.tasks if spec.annotations.checkpoint is Checkpoint.NONE]
        sets = (names for size in range(len(unsaved) + 1) for names in itertools.combinations(unsaved, size))
        fewest = next((names for names in sets if not check(with_checkpoints(graph, names))), None)
        if fewest is None:
            assert not changed
            continue
        assert changed
        assert not check(repaired), f"seed {seed}: the repair does not work"
        larger += len(changed) > len(fewest)
    assert unsafe > 100
    assert larger <= unsafe / 20, f"{larger} of {unsafe} repairs are larger than need be"
