"""How a workflow ends that does not succeed: what was decided is on record before anything is undone, and nothing else runs any more."""

from __future__ import annotations

import pytest

from exoflow.core import commands as cmd
from exoflow.core import journal
from exoflow.core.state import Status
from tests.core.test_machine import NONE, SYNC, Drill, committing, dag, internal, of, runs, undoable


def failing() -> Drill:
    """``a`` is done and ``b`` has committed on it when ``c`` fails for good; what was done is to be undone."""
    drill = Drill(undoable("a"), committing("b", "a"), internal("c", "b"), undo_on_failure=True)
    drill.succeed("a", "b")
    return drill


def test_nothing_is_undone_before_the_decision_to_undo_is_durable() -> None:
    drill = failing()
    drill.prompt = False
    assert of(drill.fail("c"), cmd.Undo) == []
    drill.flush()
    assert of(drill.said, cmd.Undo) == ["a"]


def test_a_crash_while_everything_is_undone_changes_nothing_about_it() -> None:
    """Going forward again would run a committing task a second time, on another version."""
    drill = failing()
    drill.fail("c")
    said = drill.crash()
    assert runs(said) == []
    assert of(said, cmd.Undo) == ["a"]
    drill.undone("a")
    assert drill.status is Status.FAILED
    assert "no" in drill.why


def test_who_cancels_while_everything_is_undone_does_not_stop_that() -> None:
    drill = failing()
    drill.fail("c")
    drill.cancel(undo=False)
    assert drill.status is Status.RUNNING
    drill.undone("a")
    assert drill.status is Status.CANCELLED
    assert drill.standing == ("b",)


def test_a_rollback_that_a_person_had_to_repair_is_gone_on_with() -> None:
    drill = failing()
    drill.fail("c")
    for _ in range(5):
        drill.undo_fails("a")
        drill.timer("a", "undo")
    assert drill.status is Status.BLOCKED
    said = drill.crash(resumed=True)
    assert runs(said) == []
    assert of(said, cmd.Undo) == ["a"]
    drill.undone("a")
    assert drill.status is Status.FAILED


def test_an_output_that_is_lost_while_everything_is_undone_is_not_made_again() -> None:
    """Nobody wants it any more, and a new version would withdraw what committed on the old one."""
    drill = Drill(undoable("u"), internal("n", "u", save=SYNC), committing("c", "n"), internal("d", "n", "c"), undo_on_failure=True)
    drill.succeed("u", "n", "c")
    drill.fail("d")
    assert runs(drill.lose("n")) == []
    drill.undone("u")
    assert drill.status is Status.FAILED


def test_an_attempt_that_lost_its_inputs_while_others_fail_is_let_go() -> None:
    drill = Drill(internal("a", save=NONE), internal("b", "a"), internal("c"), internal("d", "b", "c"))
    drill.succeed("a", saved=False)
    drill.fail("c")
    said = drill.inputs_lost("b", "a")
    assert runs(said) == []
    assert drill.status is Status.FAILED


def test_the_effect_of_a_committing_task_whose_dag_is_refused_stands() -> None:
    """The function returned, so its work is done: that what it returned cannot be run says nothing of its effect."""
    drill = Drill(committing("c", unknown="fail"), internal("r", "c"))
    drill.succeed("c", growth=dag(internal("n", save=NONE), committing("x", "n")))
    assert drill.status is Status.FAILED
    assert drill.standing == ("c",)
    assert drill.recorded(journal.EffectSettled) == []
    drill.crash(resumed=True)
    assert drill.status is Status.IN_DOUBT


def test_a_damaged_argument_of_a_rollback_blocks_the_workflow() -> None:
    """Made anew it would be another value than the one that the task got."""
    drill = Drill(internal("n"), undoable("u", "n"), internal("d", "n", "u"))
    drill.succeed("n", "u")
    drill.crash()
    drill.inputs_lost("d", spoiled=("n",))
    assert drill.status is Status.BLOCKED
    assert "rollback" in drill.why


def test_a_rollback_waits_for_an_argument_whose_task_failed_when_it_was_made_again() -> None:
    """It is tried once more, because everything that was done is to be undone."""
    drill = Drill(internal("d", det=True, save=NONE), undoable("u", "d"), internal("e", "d"), internal("r", "u", "e"), undo_on_failure=True)
    drill.succeed("d", saved=False)
    drill.lose("d")
    drill.inputs_lost("e", "d")
    drill.fail("d", kind="final")
    assert runs(drill.fail("u")) == ["d"]
    assert of(drill.succeed("d", saved=False), cmd.Undo) == ["u"]
    drill.undone("u")
    assert drill.status is Status.FAILED


def test_an_idempotent_task_that_ran_when_the_workflow_was_cancelled_is_made_again_for_a_rollback() -> None:
    drill = Drill(committing("c", save=NONE, det=True), undoable("u", "c"), internal("d", "c", "u"))
    drill.succeed("c", saved=False)
    assert runs(drill.lose("c")) == ["c"]
    drill.succeed("u")
    assert runs(drill.cancel(undo=True)) == ["c"]
    assert of(drill.succeed("c", saved=False), cmd.Undo) == ["u"]
    drill.undone("u")
    assert drill.status is Status.CANCELLED


@pytest.mark.parametrize("storable", [True, False])
def test_an_output_that_is_still_being_saved_when_it_is_to_be_undone_holds_nothing_up(storable: bool) -> None:
    drill = Drill(internal("d", det=True, save=NONE), undoable("u", "d"), internal("e", "d", "u"))
    drill.succeed("d", "u", saved=False)
    drill.lose("d")
    drill.cancel(undo=True)
    if storable:
        drill.store("u")
    else:
        drill.unstorable("u")
    drill.fail("d", kind="final")
    assert drill.status is Status.BLOCKED
    assert drill["u"].durable == storable


def test_a_rollback_waits_for_an_argument_that_was_just_about_to_be_made_again() -> None:
    """Its task had left its intent when something else failed, so it did not start; now it is started after all."""
    drill = Drill(
        undoable("u", det=True, save=NONE),
        internal("m", "u", det=True, save=NONE),
        undoable("w", "m"),
        internal("f"),
        internal("e", "m", "w", "f"),
        undo_on_failure=True,
    )
    drill.succeed("u", "m", saved=False)
    drill.succeed("w")
    drill.lose("u", "m")
    drill.prompt = False
    drill.undone("u")
    drill.fail("f")
    drill.prompt = True
    drill.flush()
    assert of(drill.said, cmd.Undo)[-1] == "u"
    drill.undone("u")
    drill.succeed("u", "m", saved=False)
    assert of(drill.said, cmd.Undo)[-1] == "w"
    drill.undone("w")
    drill.undone("u")
    assert drill.status is Status.FAILED


@pytest.mark.parametrize("undo", [True, False])
def test_a_cancel_that_is_on_its_way_when_a_task_fails_is_how_the_workflow_ends(undo: bool) -> None:
    """Whoever cancelled is told that it is cancelled, so nobody may resume it as a failure."""
    drill = Drill(undoable("u"), internal("a", "u"), internal("r", "a"))
    drill.succeed("u")
    drill.prompt = False
    drill.cancel(undo=undo)
    drill.fail("a")
    drill.flush()
    if undo:
        drill.undone("u")
        drill.flush()
    assert drill.status is Status.CANCELLED
    assert len(drill.recorded(journal.WorkflowEnded)) == 1


@pytest.mark.parametrize("crash", [False, True])
def test_effects_around_a_loop_are_undone_in_reverse_although_its_first_rounds_are_forgotten(crash: bool) -> None:
    drill = Drill(internal("p"), internal("f", "p"), undo_on_failure=True)
    drill.machine.state.rounds_kept = 1
    drill.succeed("p", growth=dag(undoable("u"), internal("m", "u")))
    drill.succeed("p/u")
    drill.succeed("p/m", growth=dag(internal("k")))
    drill.succeed("p~2/k", growth=dag(undoable("w")))
    assert "p/m" not in drill.machine.state.tasks
    drill.succeed("p~3/w")
    if crash:
        drill.durable = [record for record in drill.durable if getattr(record, "task", "") != "p/m"]  # retired
        drill.crash()
    assert of(drill.fail("f"), cmd.Undo) == ["p~3/w"]
    assert of(drill.undone("p~3/w"), cmd.Undo) == ["p/u"]
