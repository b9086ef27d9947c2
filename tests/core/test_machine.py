"""The machine, event by event: what each kind of news leads to, on the straight path and on every irregular one.

``Drill`` plays the runtime: it hands over events, keeps the commands, and makes records durable when told to (or at once).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from exoflow.core import commands as cmd
from exoflow.core import events as ev
from exoflow.core import invariants, journal, replay
from exoflow.core.machine import Machine
from exoflow.core.spec.annotations import Annotations, Checkpoint, Unknown
from exoflow.core.spec.graph import Graph, TaskSpec, ordered
from exoflow.core.spec.retry import UNDO_TRIES_MAX, RetryPolicy
from exoflow.core.state import Phase, Status, Task
from exoflow.errors import EngineBug

NONE, ASYNC, SYNC = Checkpoint.NONE, Checkpoint.ASYNC, Checkpoint.SYNC
SOMEWHERE = journal.Stored(1, b"")


def internal(name: str, *reads: str, save: Checkpoint = ASYNC, det: bool = False, **more: Any) -> TaskSpec:
    return _spec(name, reads, Annotations(checkpoint=save, deterministic=det, can_rollback=True), **more)


def undoable(name: str, *reads: str, save: Checkpoint = ASYNC, det: bool = False, **more: Any) -> TaskSpec:
    return _spec(name, reads, Annotations(checkpoint=save, deterministic=det, can_rollback=True, has_rollback=True), **more)


def committing(name: str, *reads: str, save: Checkpoint = ASYNC, det: bool = False, unknown: Unknown = "retry", **more: Any) -> TaskSpec:
    return _spec(name, reads, Annotations(checkpoint=save, deterministic=det, on_unknown=unknown), **more)


def _spec(name: str, reads: tuple[str, ...], annotations: Annotations, *, retries: int = 0, **more: Any) -> TaskSpec:
    return TaskSpec(id=name, reads=reads, annotations=annotations, retry=RetryPolicy(retries=retries, jitter=0.0), **more)


class Drill:
    def __init__(self, *specs: TaskSpec, root: str = "", auto: bool = False, undo_on_failure: bool = False) -> None:
        self.graph = ordered(specs, root or specs[-1].id)
        self.durable: list[journal.Record] = []
        self.said: list[cmd.Command] = []
        self.on_the_way: deque[cmd.Append] = deque()
        self.prompt = True  # records are durable at once
        self.epoch = 1
        self.machine = Machine(replay.new_state("w", 1), self.graph)
        self.do(ev.Began(plan=journal.Stored(0, b""), auto=auto, undo_on_failure=undo_on_failure))

    # --- the runtime's part --------------------------------------------------------------------------------------------------

    def do(self, event: ev.Event) -> list[cmd.Command]:
        """Hand over one event; returns all commands that followed."""
        start = len(self.said)
        said = self.machine.handle(event)
        self.said += said
        self.on_the_way += [command for command in said if isinstance(command, cmd.Append)]
        invariants.check(self.machine.state)
        if self.prompt:
            self.flush()
        return self.said[start:]

    def flush(self, count: int = 1000) -> list[cmd.Command]:
        """What is on its way to the store arrives there."""
        start = len(self.said)
        while self.on_the_way and count:
            count -= 1
            append = self.on_the_way.popleft()
            self.durable += append.records
            self.do(ev.Appended(ticket=append.ticket))
        return self.said[start:]

    def crash(self, *, keep: int | None = None, resumed: bool = False, **answers: bool) -> list[cmd.Command]:
        """Everything volatile is gone; the workflow is opened again. ``answers`` are what a person says who resumes it."""
        if keep is not None:
            del self.durable[keep:]
        self.on_the_way.clear()
        self.epoch += 1
        self.machine = Machine(replay.fold("w", self.epoch, self.durable))
        said = tuple(ev.DoubtAnswered(task=name, happened=happened) for name, happened in answers.items())
        return self.do(ev.Recovered(resumed=resumed, answers=said))

    # --- news ----------------------------------------------------------------------------------------------------------------

    def key(self, name: str) -> dict[str, Any]:
        return {"task": name, "attempt": self[name].attempt}

    def succeed(self, *names: str, saved: bool = True, meaning: str = "", growth: Graph | None = None) -> list[cmd.Command]:
        start = len(self.said)
        for name in names:
            stored = journal.Stored(1, b"", meaning=meaning) if saved else None
            self.do(ev.TaskSucceeded(**self.key(name), stored=stored, growth=growth))
        return self.said[start:]

    def fail(self, name: str, kind: str = "raised", text: str = "no") -> list[cmd.Command]:
        return self.do(ev.TaskFailed(**self.key(name), failure=journal.Failure(kind=kind, types=("ValueError",), text=text)))

    def stopped(self, name: str) -> list[cmd.Command]:
        return self.do(ev.TaskStopped(**self.key(name)))

    def store(self, name: str) -> list[cmd.Command]:
        return self.do(ev.OutputStored(**self.key(name), stored=SOMEWHERE))

    def unstorable(self, name: str) -> list[cmd.Command]:
        return self.do(ev.OutputUnstorable(**self.key(name), failure=journal.Failure(kind="final", types=(), text="too large")))

    def timer(self, name: str, key: str) -> list[cmd.Command]:
        return self.do(ev.TimerFired(**self.key(name), key=key))

    def undone(self, name: str) -> list[cmd.Command]:
        return self.do(ev.UndoSucceeded(**self.key(name)))

    def undo_fails(self, name: str) -> list[cmd.Command]:
        return self.do(ev.UndoFailed(**self.key(name), failure=journal.Failure(kind="raised", types=(), text="jammed")))

    def lose(self, *names: str) -> list[cmd.Command]:
        return self.do(ev.OutputsLost(tasks=names))

    def inputs_lost(self, name: str, *lost: str, spoiled: tuple[str, ...] = ()) -> list[cmd.Command]:
        return self.do(ev.InputsLost(**self.key(name), lost=lost, spoiled=spoiled))

    def cancel(self, *, undo: bool = False) -> list[cmd.Command]:
        return self.do(ev.CancelAsked(undo=undo))

    def answer(self, name: str, *, happened: bool) -> list[cmd.Command]:
        said = self.do(ev.DoubtAnswered(task=name, happened=happened))
        return said + self.store(name) if happened else said

    # --- looking in ----------------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Task:
        return self.machine.state.tasks[name]

    @property
    def status(self) -> Status:
        return self.machine.state.status

    @property
    def why(self) -> str:
        ended = self.machine.state.outcome
        assert ended is not None
        assert ended.failure is not None
        return ended.failure.text + " " + " ".join(ended.failure.types)

    @property
    def standing(self) -> tuple[str, ...]:
        ended = self.machine.state.outcome
        assert ended is not None
        return ended.standing

    def recorded(self, kind: type) -> list[Any]:
        return [record for record in self.durable if isinstance(record, kind)]


def of(said: list[cmd.Command], kind: type) -> list[str]:
    """The tasks that commands of this kind are for."""
    return [command.task for command in said if isinstance(command, kind)]  # type: ignore[attr-defined]


def runs(said: list[cmd.Command]) -> list[str]:
    return of(said, cmd.Run)


def dag(*specs: TaskSpec) -> Graph:
    return ordered(specs, specs[-1].id)


# --- the straight path -----------------------------------------------------------------------------------------------------------


def test_a_chain_runs_task_by_task_and_its_result_is_durable_before_anyone_is_told() -> None:
    drill = Drill(internal("a"), internal("b", "a"), root="b")
    drill.prompt = False
    assert runs(drill.said) == ["a"]
    assert runs(drill.succeed("a")) == ["b"]
    drill.succeed("b")
    assert drill.status is Status.RUNNING
    drill.flush()
    assert drill.status is Status.SUCCEEDED
    assert [command.status for command in drill.said if isinstance(command, cmd.Announce)] == [Status.RUNNING, Status.SUCCEEDED]
    assert drill.durable[-1].task == "b"


def test_nothing_runs_before_the_submission_is_durable() -> None:
    machine = Machine(replay.new_state("w", 1), dag(internal("a")))
    said = machine.handle(ev.Began(plan=SOMEWHERE))
    assert [type(command) for command in said] == [cmd.Append]
    assert runs(machine.handle(ev.Appended(ticket=1))) == ["a"]


def test_a_machine_without_a_graph_cannot_begin() -> None:
    with pytest.raises(EngineBug, match="without a graph"):
        Machine(replay.new_state("w", 1)).handle(ev.Began(plan=SOMEWHERE))


def test_a_journal_without_a_beginning_is_refused() -> None:
    with pytest.raises(ValueError, match="no beginning"):
        replay.fold("w", 1, [])


def test_a_result_that_is_never_saved_otherwise_is_saved_because_it_is_the_result() -> None:
    drill = Drill(internal("a", save=NONE, det=True))
    assert [command.save for command in drill.said if isinstance(command, cmd.Run)] == [True]
    assert of(drill.succeed("a", saved=False), cmd.Save) == ["a"]
    assert drill.status is Status.RUNNING
    drill.store("a")
    assert drill.status is Status.SUCCEEDED


def test_an_output_that_nobody_needs_any_more_leaves_memory_once_it_is_saved() -> None:
    drill = Drill(internal("a"), internal("b", "a"), internal("c", "b"))
    drill.succeed("a", saved=False)
    assert of(drill.succeed("b"), cmd.Release) == []
    assert of(drill.store("a"), cmd.Release) == ["a"]
    assert of(drill.succeed("c"), cmd.Release) == ["b"]


def test_consumers_of_a_sync_checkpoint_wait_until_it_is_durable() -> None:
    drill = Drill(internal("a", save=SYNC), internal("b", "a"), internal("c", "b", after=("a",)))
    drill.prompt = False
    assert runs(drill.succeed("a")) == []
    assert runs(drill.flush()) == ["b"]
    assert runs(drill.succeed("b")) == ["c"]


def test_an_order_only_edge_makes_a_task_wait_without_reading() -> None:
    drill = Drill(internal("a", save=NONE, det=True), internal("b", after=("a",)), internal("c", "b", "a"))
    assert runs(drill.said) == ["a"]
    assert list(drill.machine.inputs_of("b")) == []
    assert runs(drill.succeed("a", saved=False)) == ["b"]
    # what comes after does not hold on to the output, only who reads it does
    assert runs(drill.succeed("b")) == ["c"]


def test_an_order_only_edge_to_a_finished_task_stays_satisfied_when_its_output_is_lost() -> None:
    drill = Drill(internal("a", save=NONE, det=True), internal("x"), internal("b", "x", after=("a",)), internal("c", "b"))
    drill.succeed("a", saved=False)
    drill.lose("a")
    assert runs(drill.succeed("x")) == ["b"]


def test_a_committing_task_waits_for_the_save_of_its_input() -> None:
    drill = Drill(internal("a"), committing("c", "a"))
    assert runs(drill.succeed("a", saved=False)) == []
    assert drill["c"].phase is Phase.HELD
    assert "the commit rule holds it back" in drill.machine.story("c")
    assert runs(drill.store("a")) == ["c"]


def test_an_undoable_task_leaves_its_intent_before_it_starts() -> None:
    drill = Drill(undoable("u"), internal("r", "u"))
    assert isinstance(drill.durable[1], journal.AttemptIntended)
    drill.prompt = False
    drill = Drill(internal("a"), undoable("u", "a"))
    drill.prompt = False
    drill.succeed("a")
    assert runs(drill.flush(1)) == []
    assert drill["u"].phase is Phase.STARTING
    assert runs(drill.flush()) == ["u"]


# --- late news -------------------------------------------------------------------------------------------------------------------


def test_the_result_of_an_abandoned_attempt_is_refused_however_late_it_comes() -> None:
    drill = Drill(internal("a", timeout_s=1.0, retries=1), internal("b", "a"))
    drill.timer("a", "timeout")
    drill.timer("a", "retry")
    assert drill["a"].attempt == 2
    assert drill.do(ev.TaskSucceeded(task="a", attempt=1, stored=SOMEWHERE)) == []
    assert "late: refused" in drill.machine.story("a")
    assert runs(drill.succeed("a")) == ["b"]


@pytest.mark.parametrize(
    "event",
    [
        ev.TaskSucceeded(task="ghost", attempt=1),
        ev.TaskStopped(task="ghost", attempt=1),
        ev.OutputStored(task="ghost", attempt=1, stored=SOMEWHERE),
        ev.DoubtAnswered(task="ghost", happened=True),
        ev.OutputsLost(tasks=("ghost",)),
        ev.TimerFired(task="ghost", attempt=1, key="retry"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_news_of_a_task_that_does_not_exist_changes_nothing(event: ev.Event) -> None:
    assert Drill(internal("a")).do(event) == []


def test_news_in_the_wrong_phase_changes_nothing() -> None:
    drill = Drill(internal("a"), internal("b", "a"))
    drill.succeed("a")
    for late in (ev.TaskSucceeded, ev.TaskStopped, ev.UndoSucceeded):
        assert drill.do(late(**drill.key("a"))) == []
    assert drill.store("a") == []  # it is durable
    assert drill.unstorable("a") == []
    assert drill.timer("b", "retry") == []  # it runs
    assert drill.timer("b", "undo") == []
    assert drill.fail("a") == []


# --- failures ------------------------------------------------------------------------------------------------------------------


def test_a_task_that_raises_runs_again_after_the_pause_and_the_count_is_durable() -> None:
    drill = Drill(internal("a", retries=2))
    for pause in (1.0, 2.0):
        said = drill.fail("a")
        timers = [(command.key, command.delay_s) for command in said if isinstance(command, cmd.SetTimer)]
        assert timers == [("retry", pause)]
        assert runs(drill.timer("a", "retry")) == ["a"]
    drill.crash()
    assert drill["a"].failures == 2
    drill.fail("a")
    assert drill.status is Status.FAILED
    assert drill.why == "no ValueError"


def test_the_pause_begins_when_the_failure_is_on_record() -> None:
    drill = Drill(internal("a", retries=1))
    drill.prompt = False
    assert of(drill.fail("a"), cmd.SetTimer) == []
    assert drill["a"].phase is Phase.PAUSED
    assert of(drill.flush(), cmd.SetTimer) == ["a"]


def test_a_final_failure_is_not_worth_a_retry() -> None:
    drill = Drill(internal("a", retries=5))
    drill.fail("a", "final")
    assert drill.status is Status.FAILED


def test_a_worker_that_dies_costs_no_retry_but_the_third_death_is_poison() -> None:
    drill = Drill(internal("a"))
    for _ in range(2):
        drill.fail("a", "died")
        assert runs(drill.timer("a", "retry")) == ["a"]
    drill.fail("a", "died", "signal 9")
    assert drill.status is Status.FAILED
    assert "killed its worker 3 times, last: signal 9" in drill.why
    assert "PoisonTaskError" in drill.why


def test_a_task_is_not_blamed_for_the_machine_it_ran_on() -> None:
    """Between the death of a node and the moment when Ray noticed, three attempts were sent there, and the task counted as poison."""
    drill = Drill(internal("a"))
    pauses = []
    for _ in range(7):
        (timer,) = [command for command in drill.fail("a", "stranded", "no node") if isinstance(command, cmd.SetTimer)]
        pauses.append(timer.delay_s)
        assert runs(drill.timer("a", "retry")) == ["a"]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert drill.machine.state.tasks["a"].deaths == 0
    drill.fail("a", "stranded", "no node")
    assert drill.status is Status.FAILED
    assert "what it ran on, or had called, was gone or silent 8 times, last: no node" in drill.why
    assert "WorkerDiedError" in drill.why


def test_a_task_that_returns_what_is_gone_does_not_run_for_ever() -> None:
    drill = Drill(internal("a"))
    for _ in range(19):
        drill.succeed("a", saved=False)
        assert runs(drill.do(ev.OutputsLost(tasks=("a",), unsaved="a", reason="no object"))) == ["a"]
    drill.succeed("a", saved=False)
    drill.do(ev.OutputsLost(tasks=("a",), unsaved="a", reason="no object"))
    assert drill.status is Status.FAILED
    assert "lost 20 times before it was saved, at last: no object" in drill.why


def test_deaths_are_counted_across_crashes() -> None:
    drill = Drill(internal("a"))
    drill.fail("a", "died")
    drill.crash()
    drill.fail("a", "died")
    drill.crash()
    drill.fail("a", "died")
    assert drill.status is Status.FAILED


def test_an_undoable_task_that_dies_is_rolled_back_before_it_runs_again() -> None:
    drill = Drill(undoable("u"))
    drill.fail("u", "died")
    assert of(drill.timer("u", "retry"), cmd.Undo) == ["u"]
    assert runs(drill.undone("u")) == ["u"]
    drill.succeed("u")
    assert drill.status is Status.SUCCEEDED


def test_an_undoable_task_that_fails_for_good_is_undone_before_the_workflow_fails() -> None:
    drill = Drill(undoable("u"))
    assert of(drill.fail("u"), cmd.Undo) == ["u"]
    assert drill.status is Status.RUNNING
    drill.undone("u")
    assert drill.status is Status.FAILED
    assert drill.standing == ()


def test_a_caught_failure_is_an_output_and_is_saved() -> None:
    drill = Drill(internal("a", catch=True), internal("b", "a"))
    said = drill.fail("a")
    assert of(said, cmd.Adopt) == ["a"]
    assert runs(said) == ["b"]
    assert of(said, cmd.Save) == ["a"]
    drill.store("a")
    drill.succeed("b")
    assert drill.status is Status.SUCCEEDED
    assert drill.recorded(journal.OutputSaved)[0].caught


def test_a_caught_failure_of_an_undoable_task_is_seen_after_its_rollback() -> None:
    drill = Drill(undoable("u", catch=True), internal("b", "u"))
    assert of(drill.fail("u"), cmd.Undo) == ["u"]
    said = drill.undone("u")
    assert of(said, cmd.Adopt) == ["u"]
    assert runs(said) == ["b"]


def test_what_runs_elsewhere_when_a_task_fails_is_finished_and_kept() -> None:
    drill = Drill(internal("a"), internal("b"), internal("c", "a", "b"))
    drill.fail("a")
    assert drill.status is Status.RUNNING
    assert runs(drill.succeed("b", saved=False)) == []
    assert drill.status is Status.RUNNING, "its output is still being saved"
    drill.store("b")
    assert drill.status is Status.FAILED
    said = drill.crash(resumed=True)
    assert runs(said) == ["a"]
    drill.succeed("a", "c")
    assert drill.status is Status.SUCCEEDED


def test_of_two_failures_the_first_is_the_reason() -> None:
    drill = Drill(internal("a"), internal("b"), internal("c", "a", "b"))
    drill.fail("a", text="first")
    drill.fail("b", text="second")
    assert drill.why.startswith("first")


def test_a_failed_workflow_stays_failed_until_it_is_resumed() -> None:
    drill = Drill(internal("a"))
    drill.fail("a")
    said = drill.crash()
    assert runs(said) == []
    assert [command.status for command in said if isinstance(command, cmd.Announce)] == [Status.FAILED]
    assert runs(drill.crash(resumed=True)) == ["a"]
    assert drill["a"].failures == 0


def test_a_failure_undoes_everything_downstream_first_if_the_user_asked_for_that() -> None:
    drill = Drill(undoable("u"), undoable("v", "u"), internal("x", "v"), undo_on_failure=True)
    drill.succeed("u", "v")
    assert of(drill.fail("x"), cmd.Undo) == ["v"]
    assert of(drill.undone("v"), cmd.Undo) == ["u"]
    drill.undone("u")
    assert drill.status is Status.FAILED
    assert drill.machine.state.outcome is not None
    assert drill.machine.state.outcome.undone
    assert drill.standing == ()


def test_a_rollback_during_unwinding_gets_its_arguments_made_again() -> None:
    drill = Drill(internal("d", save=NONE, det=True), undoable("u", "d"), internal("x", "u"), undo_on_failure=True)
    drill.succeed("d", saved=False)
    drill.succeed("u")
    said = drill.fail("x")
    assert runs(said) == ["d"]
    assert of(drill.succeed("d", saved=False), cmd.Undo) == ["u"]
    drill.undone("u")
    assert drill.status is Status.FAILED


# --- rollbacks that fail -------------------------------------------------------------------------------------------------------


def test_a_rollback_that_fails_is_tried_again_after_a_pause_and_a_person_must_look_after_the_fifth() -> None:
    drill = Drill(undoable("u"))
    drill.fail("u", "died")
    drill.timer("u", "retry")
    for _ in range(UNDO_TRIES_MAX - 1):
        said = drill.undo_fails("u")
        assert [command.key for command in said if isinstance(command, cmd.SetTimer)] == ["undo"]
        assert of(drill.timer("u", "undo"), cmd.Undo) == ["u"]
    drill.undo_fails("u")
    assert drill.status is Status.BLOCKED
    assert "failed 5 times: jammed" in drill.why
    assert drill.standing == ("u",)
    assert of(drill.crash(resumed=True), cmd.Undo) == ["u"]
    assert runs(drill.undone("u")) == ["u"]
    drill.succeed("u")
    assert drill.status is Status.SUCCEEDED


def test_a_crash_during_a_rollback_repeats_it_three_times_in_a_row() -> None:
    """R5: the rollback is idempotent, and its effect counts as standing until the record says otherwise."""
    drill = Drill(undoable("u"))
    drill.fail("u", "died")
    for _ in range(3):
        assert of(drill.crash(), cmd.Undo) == ["u"]
    assert runs(drill.undone("u")) == ["u"]


# --- timeouts ------------------------------------------------------------------------------------------------------------------


def test_an_internal_task_that_takes_too_long_is_abandoned_at_once() -> None:
    drill = Drill(internal("a", timeout_s=5.0))
    assert [(command.key, command.delay_s) for command in drill.said if isinstance(command, cmd.SetTimer)] == [("timeout", 5.0)]
    said = drill.timer("a", "timeout")
    assert of(said, cmd.Stop) == ["a"]
    assert drill.status is Status.FAILED
    assert "longer than its timeout of 5.0 s" in drill.why
    assert "TaskTimeoutError" in drill.why


@pytest.mark.parametrize("end", ["stopped", "succeed", "fail", "inputs_lost"])
def test_an_undoable_task_that_takes_too_long_is_awaited_then_undone(end: str) -> None:
    """However the attempt ends once it was told to stop, it timed out."""
    drill = Drill(undoable("u", timeout_s=5.0))
    assert of(drill.timer("u", "timeout"), cmd.Stop) == ["u"]
    assert drill["u"].phase is Phase.STOPPING
    began = end != "inputs_lost"
    assert of(getattr(drill, end)("u"), cmd.Undo) == ["u"] * began
    if began:
        drill.undone("u")
    assert drill.status is Status.FAILED
    assert "timeout" in drill.why


def test_an_attempt_that_was_stopped_before_it_could_begin_says_what_was_missing() -> None:
    drill = Drill(internal("d", det=True, save=NONE), undoable("u", "d", timeout_s=5.0, retries=1))
    drill.succeed("d", saved=False)
    drill.timer("u", "timeout")
    drill.inputs_lost("u", "d")
    assert runs(drill.timer("u", "retry")) == ["d"]


def test_an_undoable_task_that_timed_out_is_undone_then_tried_again() -> None:
    drill = Drill(undoable("u", timeout_s=5.0, retries=1))
    drill.timer("u", "timeout")
    assert of(drill.stopped("u"), cmd.SetTimer) == ["u"]
    assert of(drill.timer("u", "retry"), cmd.Undo) == ["u"]
    assert runs(drill.undone("u")) == ["u"]


def test_a_committing_task_that_timed_out_and_may_run_once_only_is_asked_about() -> None:
    drill = Drill(committing("c", timeout_s=5.0, unknown="ask"))
    assert of(drill.timer("c", "timeout"), cmd.Stop) == ["c"]
    assert of(drill.stopped("c"), cmd.Ask) == ["c"]
    drill.answer("c", happened=True)
    assert drill.status is Status.SUCCEEDED


# --- doubt ---------------------------------------------------------------------------------------------------------------------


def test_an_idempotent_committing_task_that_dies_simply_runs_again_on_the_same_inputs() -> None:
    drill = Drill(internal("a"), committing("c", "a"))
    drill.succeed("a")
    basis = drill["c"].basis
    drill.fail("c", "died")
    assert runs(drill.timer("c", "retry")) == ["c"]
    assert drill["c"].basis == basis


def test_a_committing_task_in_doubt_stops_the_workflow_until_a_person_decides() -> None:
    drill = Drill(committing("c", unknown="fail"))
    drill.crash()
    assert drill.status is Status.IN_DOUBT
    assert drill.standing == ("c",)
    assert runs(drill.crash()) == []
    drill.crash(resumed=True)
    assert drill.status is Status.IN_DOUBT, "resuming alone decides nothing"
    assert runs(drill.crash(resumed=True, c=False)) == ["c"]
    drill.succeed("c")
    assert drill.status is Status.SUCCEEDED


@pytest.mark.parametrize("happened", [True, False])
def test_the_function_that_is_asked_settles_a_doubt(happened: bool) -> None:
    drill = Drill(committing("c", unknown="ask"), internal("r", "c"))
    assert of(drill.crash(), cmd.Ask) == ["c"]
    said = drill.answer("c", happened=happened)
    assert runs(said) == (["r"] if happened else ["c"])
    assert drill.answer("c", happened=False) == [], "a second answer comes too late"


def test_if_the_function_that_is_asked_fails_a_person_must_decide() -> None:
    drill = Drill(committing("c", unknown="ask"))
    drill.crash()
    drill.do(ev.DoubtUnanswered(task="c", failure=journal.Failure(kind="raised", types=(), text="registry is down")))
    assert drill.status is Status.IN_DOUBT
    assert drill.why.strip() == "registry is down"


def test_what_runs_elsewhere_when_a_doubt_arises_is_finished() -> None:
    drill = Drill(committing("c", unknown="fail"), internal("b"), internal("r", "b", "c"))
    drill.crash()
    assert drill.status is Status.RUNNING
    drill.succeed("b")
    assert drill.status is Status.IN_DOUBT


def test_two_doubts_at_once_are_one_end() -> None:
    drill = Drill(committing("c", unknown="fail"), committing("d", unknown="fail"), internal("r", "c", "d"))
    drill.crash()
    assert drill.status is Status.IN_DOUBT
    assert set(drill.standing) == {"c", "d"}


# --- cancel --------------------------------------------------------------------------------------------------------------------


def test_cancel_is_acknowledged_when_it_is_durable_and_nothing_starts_after() -> None:
    drill = Drill(internal("a"), internal("b", "a"))
    drill.prompt = False
    assert not any(isinstance(command, cmd.CancelAccepted) for command in drill.cancel())
    said = drill.flush()
    assert any(isinstance(command, cmd.CancelAccepted) for command in said)
    assert of(said, cmd.Stop) == ["a"]
    assert drill.status is Status.CANCELLED
    assert drill.succeed("a") == [], "late"
    assert drill.cancel() == [], "there is nothing left to cancel"


def test_cancel_while_the_decision_is_on_its_way_starts_nothing() -> None:
    drill = Drill(internal("a"), internal("b", "a"))
    drill.prompt = False
    drill.cancel()
    assert runs(drill.succeed("a")) == []
    drill.flush()
    assert drill.status is Status.CANCELLED


def test_cancel_waits_for_an_undoable_task_that_runs() -> None:
    drill = Drill(undoable("u"), internal("r", "u"))
    drill.cancel()
    assert drill["u"].phase is Phase.STOPPING
    drill.stopped("u")
    assert drill.status is Status.CANCELLED
    assert drill.standing == ("u",)


def test_cancel_with_undo_rolls_back_what_stands_downstream_first() -> None:
    drill = Drill(undoable("u"), undoable("v", "u"), internal("r", "v"))
    drill.succeed("u")
    drill.cancel(undo=True)
    assert of(drill.stopped("v"), cmd.Undo) == ["v"]
    assert of(drill.undone("v"), cmd.Undo) == ["u"]
    drill.undone("u")
    assert drill.status is Status.CANCELLED
    assert drill.standing == ()


def test_cancel_with_undo_goes_on_after_a_crash() -> None:
    drill = Drill(undoable("u"), undoable("v", "u"), internal("r", "v"))
    drill.succeed("u", "v")
    drill.cancel(undo=True)
    drill.undone("v")
    assert of(drill.crash(), cmd.Undo) == ["u"]
    drill.undone("u")
    assert drill.status is Status.CANCELLED
    assert drill.standing == ()


def test_cancel_finds_a_task_whose_intent_is_being_written() -> None:
    drill = Drill(internal("a"), undoable("u", "a"))
    drill.prompt = False
    drill.succeed("a")
    drill.flush(1)
    assert drill["u"].phase is Phase.STARTING
    drill.cancel()
    assert runs(drill.flush()) == []
    assert drill.status is Status.CANCELLED


@pytest.mark.parametrize("kind", ["raised", "died"])
def test_cancel_finds_a_task_that_pauses(kind: str) -> None:
    drill = Drill(internal("a", retries=3))
    drill.fail("a", kind)
    drill.cancel()
    assert drill.status is Status.CANCELLED
    assert drill.timer("a", "retry") == []


def test_cancel_reports_that_a_running_committing_task_may_have_acted() -> None:
    drill = Drill(committing("c"), internal("r", "c"))
    drill.cancel()
    assert drill.status is Status.CANCELLED
    assert drill.standing == ("c",)


def test_a_cancelled_workflow_that_a_person_resumes_goes_on() -> None:
    drill = Drill(internal("a"), internal("b", "a"))
    drill.succeed("a")
    drill.cancel()
    assert runs(drill.crash()) == []
    assert runs(drill.crash(resumed=True)) == ["b"]
    drill.succeed("b")
    assert drill.status is Status.SUCCEEDED


def test_cancel_after_the_end_is_refused() -> None:
    drill = Drill(internal("a"))
    drill.succeed("a")
    assert drill.cancel() == []
    assert drill.status is Status.SUCCEEDED


# --- saving ----------------------------------------------------------------------------------------------------------------------


def test_an_output_that_cannot_be_saved_fails_the_workflow_and_names_the_task() -> None:
    drill = Drill(internal("a"), internal("b", "a"))
    drill.succeed("a", saved=False)
    drill.unstorable("a")
    drill.succeed("b")
    assert drill.status is Status.FAILED
    assert drill.durable[-1].task == "a"


def test_an_output_lost_while_it_is_encoded_is_made_again_if_a_commit_needs_it() -> None:
    drill = Drill(internal("a", det=True), internal("n", "a"), committing("c", "n"))
    drill.succeed("a", saved=False)
    drill.succeed("n", saved=False)
    assert runs(drill.lose("n")) == ["n"]
    assert drill.store("n") == [], "what the old attempt stored is refused"
    drill.succeed("n")
    drill.store("a")
    drill.succeed("c")
    assert drill.status is Status.SUCCEEDED


def test_a_commit_does_not_wait_for_ever_for_a_checkpoint_that_was_lost() -> None:
    """The consumer has run, so nobody else wants the output; the commit rule still needs it."""
    drill = Drill(internal("n"), internal("m", "n", det=True, save=NONE), committing("c", "m"))
    drill.succeed("n", "m", saved=False)
    assert drill["c"].phase is Phase.HELD
    said = drill.lose("n")
    assert runs(said) == ["n"]
    said = drill.succeed("n")
    assert runs(said) == ["m"]
    assert runs(drill.succeed("m", saved=False)) == ["c"]


def test_an_output_lost_while_its_record_is_on_the_way_is_loaded_once_it_arrives() -> None:
    drill = Drill(internal("a"), internal("x"), internal("b", "a", "x"))
    drill.prompt = False
    drill.succeed("a")
    assert runs(drill.lose("a")) == []
    drill.succeed("x")
    assert runs(drill.flush()) == ["b"]
    assert runs(drill.said).count("a") == 1


def test_a_durable_output_that_is_lost_is_loaded_and_not_made_again() -> None:
    drill = Drill(internal("a"), internal("x"), internal("b", "a", "x"))
    drill.succeed("a")
    assert runs(drill.lose("a")) == []
    assert runs(drill.succeed("x")) == ["b"]


def test_a_lost_result_that_was_not_saved_is_made_again() -> None:
    drill = Drill(internal("a"))
    drill.succeed("a", saved=False)
    assert runs(drill.lose("a")) == ["a"]
    drill.succeed("a")
    assert drill.status is Status.SUCCEEDED


# --- inputs are gone when they are needed ------------------------------------------------------------------------------------------


def test_a_task_whose_input_is_gone_when_it_starts_waits_for_it_to_be_made_again() -> None:
    drill = Drill(internal("a", save=NONE, det=True), internal("b", "a"))
    drill.succeed("a", saved=False)
    assert runs(drill.inputs_lost("b", "a", "ghost")) == ["a"]
    assert runs(drill.succeed("a", saved=False)) == ["b"]


def test_inputs_lost_while_an_intent_is_being_written_void_the_intent() -> None:
    drill = Drill(internal("a", save=NONE, det=True), undoable("u", "a"))
    drill.prompt = False
    drill.succeed("a", saved=False)
    assert drill["u"].phase is Phase.STARTING
    drill.lose("a")
    assert runs(drill.flush()) == ["a"]
    assert not drill["u"].effect
    assert drill.recorded(journal.EffectSettled)
    drill.succeed("a", saved=False)
    assert runs(drill.flush()) == ["u"]


def test_inputs_that_are_gone_when_an_undoable_task_starts_void_its_intent() -> None:
    drill = Drill(internal("a", save=NONE, det=True), undoable("u", "a"))
    drill.succeed("a", saved=False)
    assert runs(drill.inputs_lost("u", "a")) == ["a"]
    assert not drill["u"].effect


def test_a_rollback_whose_arguments_are_gone_waits_for_them_to_be_made_again() -> None:
    drill = Drill(internal("a", save=NONE, det=True), undoable("u", "a"))
    drill.succeed("a", saved=False)
    drill.fail("u", "died")
    assert of(drill.timer("u", "retry"), cmd.Undo) == ["u"]
    assert runs(drill.inputs_lost("u", "a")) == ["a"]
    assert of(drill.succeed("a", saved=False), cmd.Undo) == ["u"]


# --- a loss makes a new version: withdrawal ------------------------------------------------------------------------------------------


def test_a_running_reader_of_a_lost_version_is_abandoned_and_its_output_refused() -> None:
    drill = Drill(internal("n", save=NONE), internal("b", "n"), internal("z"), internal("r", "b", "n", "z"))
    drill.succeed("n", saved=False)
    old = drill["b"].attempt
    drill.succeed("z")
    said = drill.lose("n")
    assert of(said, cmd.Stop) == ["b"]
    assert runs(said) == ["n"]
    assert drill.do(ev.TaskSucceeded(task="b", attempt=old, stored=SOMEWHERE)) == []
    assert runs(drill.succeed("n", saved=False)) == ["b"]


def test_saved_outputs_that_rest_on_a_lost_version_are_void_also_after_a_crash() -> None:
    drill = Drill(internal("n", save=NONE), internal("b", "n"), internal("z"), internal("r", "b", "n", "z"))
    drill.succeed("n", saved=False)
    drill.succeed("b")
    said = drill.lose("n")
    assert runs(said) == ["n"]
    assert drill.recorded(journal.TasksWithdrawn)[0].tasks == ("b",)
    assert "b" in runs(drill.crash()) + runs(drill.succeed("n", saved=False))


# --- spoiled checkpoints ---------------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_of_a_deterministic_task_is_made_again() -> None:
    drill = Drill(internal("a", det=True), internal("b", "a"))
    drill.succeed("a")
    drill.crash()
    said = drill.inputs_lost("b", spoiled=("a", "ghost"))
    assert drill.recorded(journal.OutputSpoiled)
    assert runs(said) == ["a"]
    drill.succeed("a", "b")
    assert drill.status is Status.SUCCEEDED


def test_a_damaged_checkpoint_whose_output_is_still_in_memory_is_saved_again() -> None:
    drill = Drill(internal("a"), internal("b", "a"), internal("c", "a"), internal("r", "b", "c"))
    drill.succeed("a")
    said = drill.inputs_lost("b", spoiled=("a",))
    assert of(said, cmd.Save) == ["a"]
    assert runs(said) == ["b"]


def test_a_damaged_checkpoint_under_a_commit_blocks_the_workflow() -> None:
    drill = Drill(internal("a"), committing("c", "a"), internal("b", "a"), internal("r", "b", "c"))
    drill.succeed("a", "c")
    drill.crash()
    drill.inputs_lost("b", spoiled=("a",))
    assert drill.status is Status.BLOCKED
    assert "'a' fails its digest" in drill.why
    assert "CheckpointCorruptError" in drill.why


def test_a_damaged_checkpoint_that_no_commit_rests_on_is_drawn_anew_and_its_readers_withdrawn() -> None:
    drill = Drill(internal("a"), internal("b", "a"), internal("c", "a"), internal("r", "b", "c"))
    drill.succeed("a", "b")
    drill.crash()
    assert runs(drill.inputs_lost("c", spoiled=("a",))) == ["a"]
    drill.succeed("a", "b", "c", "r")
    assert drill.status is Status.SUCCEEDED


# --- sub-workflows ---------------------------------------------------------------------------------------------------------------


def test_a_task_that_returns_a_dag_is_replaced_by_it() -> None:
    drill = Drill(internal("a"), internal("b", "a"))
    said = drill.succeed("a", growth=dag(internal("x"), internal("y", "x")))
    assert [(command.scope, command.names) for command in said if isinstance(command, cmd.Grow)] == [("a", ("x", "y"))]
    assert runs(said) == ["a/x"]
    assert list(drill.machine.inputs_of("a/x")) == ["a"]
    drill.succeed("a/x")
    assert runs(drill.succeed("a/y")) == ["b"]
    assert list(drill.machine.inputs_of("b")) == ["a/y"]


def test_a_root_that_returns_a_dag_hands_the_result_on_to_it() -> None:
    drill = Drill(internal("a"))
    drill.succeed("a", growth=dag(internal("x")))
    assert drill.status is Status.RUNNING
    drill.succeed("a/x")
    assert drill.status is Status.SUCCEEDED
    assert drill.durable[-1].task == "a/x"


def test_a_loop_written_as_recursion_has_names_of_constant_length() -> None:
    drill = Drill(internal("f"))
    again = dag(internal("f"))
    name = "f"
    for expected in ("f/f", "f~2/f", "f~3/f", "f~4/f"):
        said = drill.succeed(name, growth=again)
        grown = [f"{command.scope}/{command.names[0]}" for command in said if isinstance(command, cmd.Grow)]
        assert grown == [expected]
        name = expected
    drill.succeed(name)
    assert drill.status is Status.SUCCEEDED


def test_an_unsafe_dag_is_refused_before_any_of_its_tasks_runs() -> None:
    drill = Drill(internal("a"))
    said = drill.succeed("a", growth=dag(internal("n", save=NONE), committing("c", "n")))
    assert runs(said) == []
    assert drill.status is Status.FAILED
    assert "UnsafeWorkflowError" in drill.why
    assert "'a/n' is nondeterministic and not saved" in drill.why


def test_an_unsafe_dag_is_repaired_in_auto_mode() -> None:
    drill = Drill(internal("a"), auto=True)
    drill.succeed("a", growth=dag(internal("n", save=NONE), committing("c", "n")))
    assert drill["a/n"].spec.annotations.checkpoint is ASYNC
    drill.succeed("a/n", "a/c")
    assert drill.status is Status.SUCCEEDED


def test_the_dag_of_a_task_that_could_return_another_one_next_time_is_saved_whatever_the_annotation_says() -> None:
    drill = Drill(internal("a", save=NONE), internal("b", "a"))
    drill.succeed("a", growth=dag(internal("x")))
    assert [record.task for record in drill.recorded(journal.OutputSaved)] == ["a"]
    drill.succeed("a/x")
    assert runs(drill.crash()) == ["b"]


def test_sub_workflows_within_sub_workflows_survive_a_crash() -> None:
    drill = Drill(internal("a"), internal("b", "a"))
    inner = dag(internal("p"), internal("q", "p"))
    drill.succeed("a", growth=dag(internal("x"), internal("y", "x")))
    drill.succeed("a/x", growth=inner)
    drill.succeed("a/x/p")
    assert runs(drill.crash()) == ["a/x/q"]
    drill.succeed("a/x/q", "a/y", "b")
    assert drill.status is Status.SUCCEEDED


def test_a_dag_belongs_to_the_version_that_returned_it_and_goes_with_it() -> None:
    """The parent is made again: the tasks of its sub-workflow do not exist any more, and it may return another one."""
    drill = Drill(internal("n", save=NONE), internal("a", "n"), internal("z"), internal("r", "a", "n", "z"))
    drill.succeed("n", saved=False)
    drill.succeed("a", growth=dag(internal("x"), internal("y", "x"), internal("w", "y")))
    drill.succeed("a/x", growth=dag(internal("deep")))
    said = drill.lose("n")
    assert runs(said) == ["n"]
    drill.succeed("n", saved=False)
    assert "a/x" not in drill.machine.state.tasks
    assert {"a/x", "a/y"} <= {name for command in drill.said if isinstance(command, cmd.Forget) for name in command.tasks}
    drill.succeed("a", growth=dag(internal("other")))
    drill.succeed("a/other", "z", "r")
    assert drill.status is Status.SUCCEEDED


def test_a_new_sub_workflow_comes_after_everything_that_saw_the_old_one_is_gone() -> None:
    """Although the task whose output was read, the last of the old one, is void already."""
    drill = Drill(internal("p"), internal("q", "p"), internal("r", "p", "q"))
    drill.succeed("p", saved=False, growth=dag(internal("k")))
    drill.succeed("p/k", saved=False)
    drill.prompt = False
    drill.succeed("q", growth=dag(undoable("u")))
    drill.flush(1)
    assert drill["q/u"].phase is Phase.STARTING
    assert runs(drill.lose("p", "p/k")) == []
    drill.prompt = True
    drill.flush()
    assert runs(drill.undone("q/u")) == ["p"]
    assert runs(drill.succeed("p", saved=False, growth=dag(internal("j"), committing("k", "j", det=True)))) == ["p/j"]
    drill.store("p")
    drill.succeed("p/j", "p/k", "q", "r")
    assert drill.status is Status.SUCCEEDED


def test_what_a_sub_workflow_left_behind_is_found_again_when_its_deterministic_parent_returned_it_again() -> None:
    drill = Drill(internal("a", save=NONE, det=True), internal("b", "a"))
    shape = dag(internal("x"), undoable("y", "x"))
    drill.succeed("a", saved=False, growth=shape)
    drill.succeed("a/x")
    said = drill.crash()
    assert runs(said) == ["a"]
    assert "a/x" in drill.machine.state.orphans
    assert runs(drill.succeed("a", saved=False, growth=shape)) == [], "x is durable, y waits for the shape to be saved"
    assert runs(drill.store("a")) == ["a/y"]


def test_a_deterministic_task_that_returns_another_dag_the_second_time_blocks_the_workflow() -> None:
    drill = Drill(internal("a", save=NONE, det=True), internal("b", "a"), internal("z"), internal("r", "a", "b", "z"))
    drill.succeed("a", saved=False, growth=dag(internal("x", save=NONE, det=True)))
    said = drill.lose("a")
    assert runs(said) == []
    drill.inputs_lost("a/x", "a")
    drill.succeed("a", saved=False, growth=dag(internal("other", save=NONE, det=True)))
    drill.succeed("z")
    assert drill.status is Status.BLOCKED
    assert "DeterminismViolationError" in drill.why


def test_a_deterministic_task_that_returns_other_bytes_the_second_time_blocks_the_workflow() -> None:
    drill = Drill(internal("a", det=True), internal("b", "a"))
    drill.succeed("a", meaning="one")
    drill.crash()
    drill.inputs_lost("b", spoiled=("a",))
    drill.succeed("a", meaning="two")
    assert drill.status is Status.BLOCKED
    assert "one before, two now" in drill.why


# --- looking in ----------------------------------------------------------------------------------------------------------------


def test_the_story_says_where_a_task_is_and_what_it_waits_for() -> None:
    drill = Drill(internal("a"), internal("b", "a"))
    assert "waits for a" in drill.machine.story("b")
    drill.succeed("a")
    assert "turn 3: a: TaskSucceeded" in drill.machine.story()
    assert "RUNNING, epoch 1" in drill.machine.story()
    assert "present, durable" in drill.machine.story("a")
    assert drill.machine.story("ghost") == ""
    assert "<a DONE" in repr(drill["a"])


def test_a_broken_law_is_reported_with_the_story_of_the_task() -> None:
    drill = Drill(internal("n", save=NONE), internal("m", "n"), committing("c", "m"), root="c")
    drill.succeed("n", "m", saved=False)
    drill["c"].version = 5  # as if it had run although the rule forbids it
    with pytest.raises(EngineBug, match="now: ") as caught:
        drill.inputs_lost("c", "n")
        drill.machine.state.tasks["m"].phase = Phase.RUNNING
        drill.inputs_lost("m", "n")
    assert "committing task 'c' started" in str(caught.value)
