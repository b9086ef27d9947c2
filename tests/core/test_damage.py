"""Saved bytes that turn out damaged: what may be made again is, what may not blocks the workflow, and the journal says which it was."""

from __future__ import annotations

import pytest

from exoflow.core import commands as cmd
from exoflow.core import events as ev
from exoflow.core import journal
from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.state import Status
from tests.core.test_machine import NONE, Drill, committing, internal, of, runs, undoable


@pytest.mark.parametrize("unknown", ["ask", "fail"])
@pytest.mark.parametrize("det", [True, False])
def test_a_task_that_must_not_act_twice_is_not_run_again_because_its_output_is_damaged(unknown, det: bool) -> None:
    drill = Drill(committing("c", unknown=unknown, det=det), internal("d", "c"))
    drill.succeed("c")
    drill.crash()
    assert runs(drill.inputs_lost("d", spoiled=("c",))) == []
    assert drill.status is Status.BLOCKED


def test_an_idempotent_task_is() -> None:
    drill = Drill(committing("c"), internal("d", "c"))
    drill.succeed("c")
    drill.crash()
    assert runs(drill.inputs_lost("d", spoiled=("c",))) == ["c"]


def test_a_damaged_version_that_is_replaced_is_void_also_after_a_crash() -> None:
    """Else the next life takes the task for executed, and what was never run for a thing that left no record."""
    drill = Drill(internal("n"), internal("d", "n"))
    drill.succeed("n")
    drill.crash()
    assert runs(drill.inputs_lost("d", spoiled=("n",))) == ["n"]
    assert drill.recorded(journal.TasksWithdrawn)[-1].tasks == ("n",)
    drill.crash()
    assert drill["n"].version == UNEXECUTED


def test_the_effect_of_a_task_whose_output_is_damaged_is_undone_only_when_that_is_on_record() -> None:
    """If the bytes come back after a crash, its effect would be missing."""
    drill = Drill(undoable("u"), internal("d", "u"))
    drill.succeed("u")
    drill.crash()
    drill.prompt = False
    assert of(drill.inputs_lost("d", spoiled=("u",)), cmd.Undo) == []
    assert of(drill.flush(), cmd.Undo) == ["u"]
    drill.prompt = True
    assert runs(drill.undone("u")) == ["u"]


def test_an_output_that_cannot_be_saved_leaves_its_readers_where_they_are() -> None:
    """It is lost for good, and whoever waits for it goes on waiting."""
    drill = Drill(internal("a"), internal("b", "a"), internal("c", "a", "b"))
    drill.succeed("a", saved=False)
    drill.unstorable("a")
    assert drill.status is Status.RUNNING
    drill.succeed("b")
    assert drill.status is Status.FAILED
    assert runs(drill.crash(resumed=True)) == ["a"]


def test_an_output_that_cannot_be_saved_is_good_enough_for_a_rollback() -> None:
    drill = Drill(internal("a", det=True), undoable("u", "a"), internal("d", "u"))
    drill.succeed("a", saved=False)
    drill.succeed("u")
    drill.lose("a")
    drill.cancel(undo=True)
    drill.succeed("a", saved=False)
    drill.unstorable("a")
    drill.undone("u")
    assert drill.status is Status.CANCELLED


def test_each_answer_to_a_doubt_is_an_output_of_its_own() -> None:
    drill = Drill(committing("c", unknown="ask"), internal("d", "c"))
    drill.crash()
    versions = set()
    for _ in range(2):
        drill.do(ev.DoubtAnswered(task="c", happened=True))
        versions.add(drill["c"].version)
        drill.inputs_lost("d", "c")
    assert len(versions - {UNEXECUTED}) == 2


def test_who_cancels_while_an_argument_of_a_rollback_is_made_again_does_not_stop_that() -> None:
    drill = Drill(internal("d", det=True, save=NONE), undoable("u", "d"), internal("e", "d", "u"), undo_on_failure=True)
    drill.succeed("d", "u", saved=False)
    drill.lose("d")
    drill.fail("e")
    assert runs(drill.said)[-1] == "d"
    drill.cancel(undo=True)
    assert of(drill.succeed("d", saved=False), cmd.Undo) == ["u"]
    drill.undone("u")
    assert drill.status is Status.CANCELLED


def test_a_reader_that_is_condemned_with_its_damaged_input_is_dropped_and_runs_again() -> None:
    drill = Drill(internal("n"), internal("d", "n", det=True, save=NONE), internal("r", "d"))
    drill.succeed("n")
    drill.succeed("d", saved=False)
    drill.lose("d", "n")
    drill.inputs_lost("r", "d")
    assert runs(drill.inputs_lost("d", spoiled=("n",))) == ["n"]
    drill.succeed("n")
    drill.succeed("d", saved=False)
    drill.succeed("r")
    assert drill.status is Status.SUCCEEDED


@pytest.mark.parametrize("det", [True, False])
def test_a_damaged_output_is_not_made_again_if_that_would_redraw_what_a_commit_rests_on(det: bool) -> None:
    """Whether its own version comes again is not enough: so must that of everything that has to run for it."""
    drill = Drill(
        internal("draw", save=NONE), internal("s", "draw", det=det), internal("t", "draw"), committing("c", "t"), internal("e", "s", "c")
    )
    drill.succeed("draw", saved=False)
    drill.succeed("s", "t", "c")
    drill.crash()
    assert runs(drill.inputs_lost("e", spoiled=("s",))) == []
    assert drill.status is Status.BLOCKED


def test_a_commit_may_rest_on_a_damaged_output_by_way_of_a_task_that_left_no_record() -> None:
    """It had run, and makes the same output again; the commit behind it may have run too, and its record never arrived."""
    drill = Drill(internal("n"), internal("d", "n", det=True, save=NONE), committing("c", "d"))
    drill.succeed("n")
    drill.succeed("d", saved=False)
    drill.crash()
    assert runs(drill.inputs_lost("d", spoiled=("n",))) == []
    assert drill.status is Status.BLOCKED


def test_of_two_damaged_inputs_one_is_withdrawn_because_of_the_other() -> None:
    drill = Drill(undoable("u"), internal("n", "u"), internal("r", "u", "n"))
    drill.succeed("u", "n")
    drill.crash()
    assert of(drill.inputs_lost("r", spoiled=("u", "n")), cmd.Undo) == ["u"]
    assert runs(drill.undone("u")) == ["u"]
    drill.succeed("u", "n", "r")
    assert drill.status is Status.SUCCEEDED


def test_an_answer_of_a_person_withdraws_what_is_saved_on_the_output_that_was_lost() -> None:
    drill = Drill(committing("c", unknown="ask"), internal("d", "c"), internal("r", "c", "d"))
    drill.succeed("c", saved=False)
    drill.succeed("d")
    drill.fail("r")
    drill.crash(resumed=True, c=True)
    drill.store("c")
    assert drill.recorded(journal.TasksWithdrawn)[-1].tasks == ("d",)
    drill.succeed("d", "r")
    assert drill.status is Status.SUCCEEDED
