"""The examples of the paper and of docs/semantics.md, section 4, each as a list of events or under thousands of crash schedules."""

from __future__ import annotations

import pytest

from exoflow.core import commands as cmd
from exoflow.core import events as ev
from exoflow.core.checks import check, repair
from exoflow.core.spec.annotations import Checkpoint
from exoflow.core.spec.graph import Graph
from exoflow.core.spec.ids import drawn_version
from exoflow.core.state import Status
from exoflow.testing.machine.schedules import Knobs
from exoflow.testing.machine.world import World
from tests.core.test_machine import ASYNC, NONE, SOMEWHERE, Drill, committing, dag, internal, of, runs, undoable


def survives(graph: Graph, seeds: range) -> None:
    """Crashes and losses only; each run succeeds as if there had been none."""
    assert check(graph) == []
    for seed in seeds:
        knobs = Knobs(crash=0.1, lose=0.1, fail=0, die=0, grow=0, undo_fails=0)
        world = World(graph, seed, knobs, checked=seed % 8 == 0)
        try:
            assert world.run() is Status.SUCCEEDED
            world.judge()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


# E1: a -> {b, c}; c has finished, b runs, a's output is lost before b could read it


@pytest.mark.parametrize("det", [True, False])
def test_e1_an_output_is_lost_before_its_second_reader_ran(det: bool) -> None:
    """Nondeterministic: what c made of the old version is dropped. Deterministic: c is untouched."""
    drill = Drill(internal("a", save=NONE, det=det), internal("b", "a"), internal("c", "a"), internal("r", "b", "c"))
    drill.succeed("a", saved=False)
    drill.succeed("c")
    said = drill.inputs_lost("b", "a")
    assert runs(said) == ["a"]
    again = runs(drill.succeed("a", saved=False))
    assert sorted(again) == (["b"] if det else ["b", "c"])


def test_e1_an_external_reader_needs_its_nondeterministic_input_saved_or_a_rollback() -> None:
    def graph(b, *, save=NONE, det=False):
        return dag(internal("a", save=save, det=det), b, internal("c", "a"), internal("r", "b", "c"))

    assert [finding.task for finding in check(graph(committing("b", "a")))] == ["b"]
    assert check(graph(committing("b", "a"), save=ASYNC)) == []
    assert check(graph(committing("b", "a"), det=True)) == [], "no checkpoint is needed although b is external"


# E2: begin -> acquire -> reserve -> commit


def transaction(*, begin: Checkpoint = ASYNC, acquire: Checkpoint = ASYNC, reserve: Checkpoint = NONE) -> Graph:
    return dag(
        internal("begin", save=begin),
        undoable("acquire", "begin", save=acquire),
        internal("reserve", "acquire", det=True, save=reserve),
        committing("commit", "reserve", save=NONE),
    )


def test_e2_either_acquire_or_reserve_must_be_saved() -> None:
    assert check(transaction()) == []
    findings = check(transaction(acquire=NONE, reserve=NONE))
    assert [(finding.code, finding.task, finding.culprit) for finding in findings] == [("unstable_input", "commit", "acquire")]
    assert findings[0].path == ("acquire", "reserve", "commit")


def test_e2_the_transaction_id_must_be_saved_because_the_rollback_needs_it() -> None:
    finding = check(transaction(begin=NONE))[0]
    assert (finding.code, finding.task, finding.culprit) == ("unrecoverable_input", "acquire", "begin")
    assert [str(each) for each in finding.repairs] == ["checkpoint=True on 'begin'"]


@pytest.mark.slow
def test_e2_any_crash_leaves_one_transaction() -> None:
    """Slow: 500 schedules."""
    survives(transaction(), range(500))


# E3: everything is seeded, so nothing has to be saved for correctness


def test_e3_a_deterministic_pipeline_needs_no_checkpoint() -> None:
    graph = dag(
        internal("ingest", det=True), internal("augment", "ingest", det=True, save=NONE), committing("train", "augment", "ingest", det=True)
    )
    assert check(graph) == []
    survives(graph, range(200))


# semantics.md, section 4

FIRST = dag(internal("a", save=NONE), internal("b", "a"), internal("d", "a", save=NONE), committing("c", "b"), internal("r", "d", "c"))
SECOND = dag(
    internal("u", save=NONE),
    internal("u2", save=NONE),
    internal("w", "u", "u2"),
    internal("a", "u"),
    committing("y", "a"),
    committing("c", "u2"),
    internal("r", "w", "y", "c"),
)


@pytest.mark.slow
@pytest.mark.parametrize("graph", [FIRST, SECOND], ids=["a cut is not enough", "nor are the ancestors alone"])
def test_the_counter_examples_are_refused_and_survive_once_repaired(graph: Graph) -> None:
    """Slow: 3,000 crash schedules each."""
    assert check(graph)
    repaired, changed = repair(graph)
    assert changed
    survives(repaired, range(3000))


# Recovery cases


def test_r3_a_commit_does_not_start_between_finished_and_durable() -> None:
    drill = Drill(
        internal("n"), internal("d", "n", det=True, save=NONE), internal("e", "d", det=True, save=NONE), committing("c", "e"), root="c"
    )
    drill.succeed("n", "d", "e", saved=False)
    assert "c" not in runs(drill.said)
    drill.crash()
    assert "c" not in runs(drill.said)
    drill.succeed("n")
    drill.succeed("d", "e", saved=False)
    assert runs(drill.said).count("c") == 1


def test_r6_a_crash_while_an_undoable_task_runs_undoes_it_first() -> None:
    drill = Drill(undoable("u"))
    assert of(drill.crash(), cmd.Undo) == ["u"]
    assert runs(drill.undone("u")) == ["u"]


def test_r7_the_checkpoint_of_a_zombie_is_refused() -> None:
    drill = Drill(internal("a"), internal("b", "a"))
    drill.succeed("a", saved=False)
    drill.crash()
    drill.do(ev.OutputStored(task="a", attempt=7, stored=SOMEWHERE))
    assert not drill["a"].durable
    drill.succeed("a")
    assert drill["a"].durable
    assert drill["a"].version == drawn_version("a", 2, 1)
