"""Running workflows: under a name, again, after a failure or a crash; looking at them, stopping them; opening and closing engines."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import traceback

import msgspec
import pytest

import exoflow
from exoflow import InputNode, task
from exoflow.errors import (
    ClosedError,
    ForkedHandleError,
    InvalidIdError,
    InvalidOptionError,
    InvalidStateError,
    RollbackFailedError,
    StoreConfigError,
    TaskFailed,
    TaskNotFoundError,
    WorkflowAlreadyExistsError,
    WorkflowBlockedError,
    WorkflowCancelledError,
    WorkflowIdConflictError,
    WorkflowInDoubtError,
    WorkflowNotFoundError,
    WrongContextError,
)
from exoflow.store.memory import MemoryStore
from tests.api import plant
from tests.api.damage import change_payload
from tests.api.plant import book, breaks_unless, mark
from tests.api.scene import PATIENCE_S, run_python
from tests.patience import until


class Meeting:
    """Where a task waits until the test lets it go on."""

    def __init__(self):
        self.arrived, self.leave = threading.Semaphore(0), threading.Semaphore(0)
        self.visits = 0

    def visit(self):
        self.visits += 1
        self.arrived.release()
        assert self.leave.acquire(timeout=PATIENCE_S)

    def wait_for_arrival(self):
        assert self.arrived.acquire(timeout=PATIENCE_S)


meetings: dict[str, Meeting] = {}


@pytest.fixture
def meeting():
    meetings["m"] = Meeting()
    yield meetings["m"]
    for _ in range(100):
        meetings["m"].leave.release()


@task
def meets(name="m"):
    meetings[name].visit()
    return "met"


@task(can_rollback=True)
def meets_again(*_):
    meetings["m"].visit()
    return "met"


@task
async def meets_async():
    await asyncio.to_thread(meetings["m"].visit)
    return "met"


@task
def identity(value):
    return value


@task
def fails(*_):
    raise ValueError("broken")


# --- running and attaching ---------------------------------------------------------------------------------------------------


def test_the_same_call_again_gives_the_result_without_running_anything(engine, ledger):
    dag = mark.bind(ledger.path, "a")
    assert [engine.run(dag, name="w") for _ in range(3)] == ["a"] * 3
    assert engine.run(mark.bind(ledger.path, "a"), name="w") == "a", "an equal DAG that was built anew counts too"
    assert ledger.lines() == ["a"]


def test_who_comes_while_it_runs_gets_the_same_result(engine, meeting):
    """A second run() of the same name attaches."""
    first = engine.run_async(meets.bind(), name="w")
    meeting.wait_for_arrival()
    second = engine.run_async(meets.bind(), name="w")
    assert engine.get_status("w") == "RUNNING"
    meeting.leave.release()
    assert first.result(PATIENCE_S) == second.result(PATIENCE_S) == engine.wait("w") == "met"
    assert meeting.visits == 1


@pytest.mark.slow
def test_sixty_four_threads_run_it_at_once(engine, ledger):
    """One execution, sixty-four results. (Takes a while for the threads.)"""
    barrier = threading.Barrier(64)
    results = []

    def go():
        barrier.wait(PATIENCE_S)
        results.append(engine.run(mark.bind(ledger.path, "once"), name="many"))

    threads = [threading.Thread(target=go) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert results == ["once"] * 64
    assert ledger.lines() == ["once"]


def test_futures_work_in_threads_and_with_await(engine):
    future = engine.run_async(identity.bind(5), name="w")
    assert future.name == "w"
    assert future.result(PATIENCE_S) == 5

    async def both():
        first, second = engine.run_async(identity.bind(1)), engine.run_async(identity.bind(2))
        with pytest.raises(TaskFailed, match="broken"):
            await engine.run_async(fails.bind())
        return await asyncio.gather(first, second, first)

    assert asyncio.run(both()) == [1, 2, 1]


def test_giving_up_waiting_does_not_disturb_others(engine, meeting):
    """asyncio.wait_for() that runs out cancels what it waits for; the workflow and other waiters must not notice."""

    async def impatient():
        future = engine.run_async(meets.bind(), name="w")
        await asyncio.to_thread(meeting.wait_for_arrival)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.001)
        meeting.leave.release()
        return await engine.run_async(meets.bind(), name="w")

    assert asyncio.run(impatient()) == "met"
    assert engine.wait("w") == "met"


def test_a_callback_may_run_the_next_workflow(engine):
    """future.add_done_callback(lambda f: engine.run(...)): it runs on a thread of its own, so nothing is held up."""
    results = []
    done = threading.Event()

    def go_on(future):
        results.append(engine.run(identity.bind(future.result() + 1)))
        done.set()

    engine.run_async(identity.bind(1)).add_done_callback(go_on)
    assert done.wait(PATIENCE_S)
    assert results == [2]


def test_a_callback_that_fails_is_logged(engine, caplog):
    logged = threading.Event()

    def broken(_):
        logged.set()
        raise ValueError("in the callback")

    future = engine.run_async(identity.bind(1), name="w")
    future.result(PATIENCE_S)
    future.add_done_callback(broken)
    assert logged.wait(PATIENCE_S)


def test_wait_is_for_any_workflow_and_may_run_out(engine, meeting):
    engine.run_async(meets.bind(), name="w")
    meeting.wait_for_arrival()
    with pytest.raises(TimeoutError):
        engine.wait("w", 0.001)
    meeting.leave.release()
    assert engine.wait("w", PATIENCE_S) == "met"
    with pytest.raises(WorkflowNotFoundError, match="no workflow 'nope' in store"):
        engine.wait("nope")


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (lambda: identity.bind(2), "arguments of identity"),
        (fails.bind, "tasks gone: identity; new: fails"),
        (lambda: identity.options(retries=3).bind(1), "edges or annotations of identity"),
        (lambda: identity.options(executor="inline").bind(1), "arguments of identity|executor"),
        (lambda: identity.bind(True), "arguments of identity"),
        (lambda: identity.bind([identity.bind(1)]), "tasks gone|new: identity_2"),
    ],
)
def test_another_workflow_under_a_taken_name_is_a_conflict(engine, other, text):
    """Nothing is run, nothing is changed, and the text says what differs."""
    engine.run(identity.bind(1), name="w")
    before = engine.list_all()
    with pytest.raises(WorkflowIdConflictError, match=f"workflow 'w' exists with another definition or other arguments .*({text})"):
        engine.run(other(), name="w")
    assert engine.list_all() == before
    assert engine.run(identity.bind(1), name="w") == 1


def test_a_conflict_is_found_while_the_first_still_runs(engine, meeting):
    engine.run_async(meets.bind(), name="w")
    meeting.wait_for_arrival()
    with pytest.raises(WorkflowIdConflictError):
        engine.run_async(identity.bind(1), name="w")
    meeting.leave.release()
    assert engine.wait("w") == "met"


def test_equal_arguments_are_equal_however_they_were_made(url):
    """A sliced array, a set that grew in another order, an object from another place: what is compared is the value."""
    np = pytest.importorskip("numpy")
    whole = np.arange(100).reshape(10, 10)
    for first, again in (
        (whole[:, ::2], np.ascontiguousarray(whole[:, ::2])),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        ({"k": [1, (2,)]}, {"k": [1, (2,)]}),
    ):
        with exoflow.Engine(url) as engine:
            engine.run(identity.bind(first), name="w")
            engine.run(identity.bind(again), name="w")
            engine.delete("w")


def test_on_existing_fail_refuses_even_the_same_workflow(engine):
    engine.run_async(identity.bind(1), name="w", on_existing="fail").result()
    with pytest.raises(WorkflowAlreadyExistsError, match="workflow 'w' already exists with status SUCCEEDED, begun 20"):
        engine.run_async(identity.bind(1), name="w", on_existing="fail")


def test_name_and_workflow_id_mean_the_same(engine):
    assert engine.run(identity.bind(1), workflow_id="x") == 1
    assert engine.get_output("x") == 1
    with pytest.raises(InvalidOptionError, match="name and workflow_id"):
        engine.run_async(identity.bind(1), name="a", workflow_id="b")


def test_ids_are_made_up_if_none_is_given(engine):
    names = {engine.run_async(identity.bind(1)).name for _ in range(20)}
    assert len(names) == 20
    assert all(re.fullmatch(r"wf-[0-9a-f]{32}", name) for name in names)


def test_ids_may_be_long_and_have_dots_and_colons(engine):
    for name in ("a", "A.b_c:d-e", "9" * 200):
        assert engine.run(identity.bind(1), name=name) == 1
        assert engine.get_status(name) == "SUCCEEDED"


# --- failing and resuming ----------------------------------------------------------------------------------------------------


def test_after_a_failure_resume_keeps_finished_work(engine, ledger):
    """The failed task runs again, what had succeeded does not."""
    dag = breaks_unless.bind(ledger.path, "repaired", mark.bind(ledger.path, "a"))
    for _ in range(2):
        with pytest.raises(TaskFailed, match="RuntimeError: no repaired yet"):
            engine.run(dag, name="w")
    assert ledger.lines() == ["a", "tried"], "run() of a failed workflow tells its failure and runs nothing"
    with pytest.raises(TaskFailed):
        engine.resume("w").result()
    assert engine.get_status("w") == "FAILED"
    ledger.add("repaired")
    assert engine.resume("w").result() == "fine"
    assert ledger.count("a") == 1
    assert ledger.count("tried") == 3
    assert engine.run(dag, name="w") == "fine"


def test_retries_start_anew_after_resume(engine, ledger):
    dag = breaks_unless.options(retries=1, backoff=0).bind(ledger.path, "repaired")
    with pytest.raises(TaskFailed, match="attempt 2"):
        engine.run(dag, name="w")
    with pytest.raises(TaskFailed):
        engine.resume("w").result()
    assert ledger.count("tried") == 4


def test_what_runs_beside_a_failure_is_finished_and_kept(engine, meeting, ledger):
    """A failure starts nothing more, but lets what runs come to its end."""
    slow = mark.bind(ledger.path, "slow", meets.bind())
    future = engine.run_async(identity.bind([breaks_unless.bind(ledger.path, "repaired"), slow]), name="w")
    meeting.wait_for_arrival()
    meeting.leave.release()
    with pytest.raises(TaskFailed):
        future.result(PATIENCE_S)
    ledger.add("repaired")
    assert engine.resume("w").result(PATIENCE_S) == ["fine", ("met",)]
    assert meeting.visits == 1


def test_resume_of_what_has_succeeded_gives_the_result(engine):
    engine.run(identity.bind(1), name="w")
    assert engine.resume("w").result() == 1
    with pytest.raises(WorkflowNotFoundError):
        engine.resume("nope")


@pytest.mark.slow
def test_after_a_crash_the_same_command_goes_on(url, ledger):
    """kill -9 in the second of three tasks; the first is not run again. (Starts two processes.)"""
    run_python(plant.RUN, url, ledger.path, "chain", "w", code_wanted=9)
    assert run_python(plant.RUN, url, ledger.path, "chain", "w") == "(('a',),)\n"
    assert ledger.lines() == ["a", "b", "b", "c"]


@pytest.mark.slow
def test_after_a_crash_resume_and_resume_all_go_on(url, ledger):
    """Each from another process than the one that began. (Starts two processes.)"""
    for name in ("w1", "w2"):
        run_python(plant.RUN, url, f"{ledger.path}-{name}", "chain", name, code_wanted=9)
    with exoflow.Engine(url) as engine:
        assert [head.status for head in engine.list_all()] == ["RUNNING", "RUNNING"]
        assert engine.resume("w1").result(PATIENCE_S) == (("a",),)
        futures = engine.resume_all()
        assert list(futures) == ["w2"]
        futures["w2"].result(PATIENCE_S)
        assert [head.status for head in engine.list_all()] == ["SUCCEEDED", "SUCCEEDED"]
        assert engine.resume_all() == {}


def test_closing_leaves_workflows_that_can_be_resumed(url, ledger):
    """close() lets what runs finish, and keeps its work; the rest goes on when somebody resumes it."""
    meetings["m"] = Meeting()
    engine = exoflow.Engine(url)
    future = engine.run_async(mark.bind(ledger.path, "b", meets.bind(), mark.bind(ledger.path, "a")), name="w")
    meetings["m"].wait_for_arrival()
    closer = threading.Thread(target=engine.close)
    closer.start()
    meetings["m"].leave.release()
    closer.join(PATIENCE_S)
    with pytest.raises(ClosedError):
        future.result(PATIENCE_S)
    with exoflow.Engine(url) as engine:
        assert engine.get_output("w", task="meets") == "met"
        assert list(engine.resume_all()) == ["w"]
        assert engine.wait("w", PATIENCE_S) == ("met", "a")
    assert meetings["m"].visits == 1
    assert ledger.count("b") == 1


def test_closing_does_not_wait_longer_than_drain_s(url):
    meetings["m"] = Meeting()
    engine = exoflow.Engine(url, drain_s=0.01)
    future = engine.run_async(meets.bind(), name="w")
    meetings["m"].wait_for_arrival()
    engine.close()
    with pytest.raises(ClosedError):
        future.result(0)
    meetings["m"].leave.release()


def takes_back(waits):
    ledger_of_late.append("undone")


@exoflow.task(rollback=takes_back)
def late(waits):
    """Undoable; its effect comes after somebody has let it go on."""
    meetings["m"].visit()
    ledger_of_late.append("done")
    return len(ledger_of_late)


ledger_of_late: list[str] = []


def test_nobody_goes_on_before_a_task_has_ended_that_close_could_not_stop(url):
    """It was taken for dead, so its rollback came before its effect, which then stood beside that of the next attempt. Found by the replay
    of power loss."""
    meetings["m"] = Meeting()
    ledger_of_late.clear()
    with exoflow.Engine(url) as other:
        with exoflow.Engine(url, drain_s=0.01) as first:
            first.run_async(late.bind(1), name="w")
            meetings["m"].wait_for_arrival()
        assert other.resume_all() == {}
        future = other.run_async(late.bind(1), name="w")
        assert not future.done()
        meetings["m"].leave.release(2)
        assert future.result(PATIENCE_S) == 3
        assert ledger_of_late == ["done", "undone", "done"]
        assert [row.owner for row in other.store.owners()] == [other._owner.id]


def test_resume_all_goes_on_with_the_others_when_one_cannot(url, ledger):
    """The future of the one that cannot go on holds the reason."""
    meetings["m"] = Meeting()
    with exoflow.Engine(url, drain_s=0.01) as engine:
        for name in ("bad", "good"):
            engine.run_async(identity.bind([meets.bind(), name]), name=name)
            meetings["m"].wait_for_arrival()
    meetings["m"].leave.release(10)
    with exoflow.Engine(url) as engine:
        change_payload(url, "bad", seq=1)  # its definition
        until(lambda: not engine.store.owners(), "the tasks that were left running end")
        futures = engine.resume_all()
        assert sorted(futures) == ["bad", "good"]
        assert futures["good"].result(PATIENCE_S) == ["met", "good"]
        with pytest.raises(exoflow.ExoflowError, match="the definition of workflow 'bad'"):
            futures["bad"].result(PATIENCE_S)


def test_a_workflow_that_the_engine_gave_up_is_not_waited_for_in_vain(engine, meeting):
    """After an error of the engine itself nobody drives it: whoever asks for it is told so, and does not wait for ever."""
    from exoflow.errors import EngineBug

    future = engine.run_async(meets.bind(), name="w")
    meeting.wait_for_arrival()
    run = engine._loop.runs["w"]
    engine._loop.post(run, lambda: engine._loop.abandon(run, EngineBug(message="made up", story="")))
    with pytest.raises(EngineBug):
        future.result(PATIENCE_S)
    for ask in (lambda: engine.run(meets.bind(), name="w"), lambda: engine.wait("w", PATIENCE_S)):
        with pytest.raises(InvalidStateError, match="this engine gave it up after an error; close it, and go on with it in another"):
            ask()
    meeting.leave.release()


# --- looking -----------------------------------------------------------------------------------------------------------------


def test_looking_at_a_workflow_that_has_ended(engine, ledger):
    engine.run(mark.options(name="last").bind(ledger.path, "b", mark.options(name="first").bind(ledger.path, "a")), name="w")
    assert engine.get_status("w") == "SUCCEEDED"
    assert engine.get_output("w") == ("a",)
    assert engine.get_output("w", task="first") == "a"
    report = engine.get_metadata("w")
    assert (report.workflow_id, report.status, report.rolled_back) == ("w", "SUCCEEDED", False)
    first, last = report.tasks
    assert (first.task, first.state, first.durable, first.attempts, first.failures) == ("first", "SUCCEEDED", True, 1, 0)
    assert last.inputs == ("first",)
    assert last.size_bytes
    assert last.started_ms
    assert last.ended_ms
    assert last.ended_ms >= last.started_ms
    text = engine.story("w")
    assert "the workflow was accepted, 2 tasks" in text
    assert "the workflow ended SUCCEEDED" in text
    assert "last" not in engine.story("w", "first")
    assert "output of attempt 1" in engine.story("w", "first")


def test_looking_at_a_workflow_that_runs(engine, meeting):
    engine.run_async(identity.bind(meets.bind()), name="w")
    meeting.wait_for_arrival()
    with pytest.raises(InvalidStateError, match="workflow 'w' is RUNNING; it has no result yet; wait"):
        engine.get_output("w")
    with pytest.raises(TaskNotFoundError, match="workflow 'w' has no saved output of 'meets'"):
        engine.get_output("w", task="meets")
    assert "now: RUNNING, attempt 1" in engine.story("w", "meets")
    assert "RUNNING" in engine.story("w")
    meeting.leave.release()
    engine.wait("w", PATIENCE_S)


def test_looking_at_a_workflow_that_failed(engine):
    with pytest.raises(TaskFailed):
        engine.run(fails.options(name="f").bind(identity.bind(1)), name="w")
    assert engine.get_status("w") == "FAILED"
    with pytest.raises(TaskFailed, match="ValueError: broken") as caught:
        engine.get_output("w")
    assert isinstance(caught.value.__cause__, ValueError)
    assert engine.get_output("w", task="identity") == 1
    report = {t.task: t for t in engine.get_metadata("w").tasks}
    assert (report["f"].state, report["f"].error) == ("FAILED", "broken")
    assert engine.list_all("FAILED")[0].note == "broken"


def test_listing_by_status(engine):
    for n in range(3):
        engine.run(identity.bind(n), name=f"ok-{n}")
    with pytest.raises(TaskFailed):
        engine.run(fails.bind(), name="bad")
    assert [head.workflow_id for head in engine.list_all()] == ["bad", "ok-0", "ok-1", "ok-2"]
    assert [(head.workflow_id, head.epoch) for head in engine.list_all("FAILED", "BLOCKED")] == [("bad", 1)]
    with pytest.raises(InvalidOptionError, match=r"status must be one of 'PENDING', .*, got 'failed'"):
        engine.list_all("failed")


def test_listing_more_than_a_page(memory):
    for n in range(501):
        memory.run(identity.options(executor="inline").bind(n), name=f"w-{n:04}")
    assert len(memory.list_all()) == 501


def test_what_does_not_exist(engine):
    for look in (engine.get_status, engine.get_output, engine.get_metadata, engine.story, engine.cancel, engine.delete, engine.resume):
        with pytest.raises(WorkflowNotFoundError, match="no workflow 'nope' in store"):
            look("nope")
        with pytest.raises(InvalidIdError):
            look("../nope")
    engine.run(identity.bind(1), name="w")
    with pytest.raises(TaskNotFoundError, match="workflow 'w' has no saved output of 'nope'"):
        engine.get_output("w", task="nope")


# --- cancelling and deleting -------------------------------------------------------------------------------------------------


def test_cancel(engine, meeting, ledger):
    """When it returns, no new task starts and the results of those that run are refused."""
    future = engine.run_async(mark.bind(ledger.path, "b", meets.bind()), name="w")
    meeting.wait_for_arrival()
    engine.cancel("w")
    meeting.leave.release()
    with pytest.raises(WorkflowCancelledError, match="workflow 'w' was cancelled; external outputs that stand: meets"):
        future.result(PATIENCE_S)
    assert engine.get_status("w") == "CANCELLED"
    assert ledger.lines() == []
    with pytest.raises(InvalidStateError, match="workflow 'w' is CANCELLED; nothing to cancel"):
        engine.cancel("w")
    with pytest.raises(InvalidStateError, match="workflow 'w' is CANCELLED; start a new workflow"):
        engine.resume("w")
    with pytest.raises(WorkflowCancelledError):
        engine.run(mark.bind(ledger.path, "b", meets.bind()), name="w")


def test_cancel_of_what_has_succeeded(engine):
    engine.run(identity.bind(1), name="w")
    with pytest.raises(InvalidStateError, match="workflow 'w' is SUCCEEDED; nothing to cancel"):
        engine.cancel("w")


def test_two_cancels_at_once_agree(engine, meeting):
    future = engine.run_async(meets.bind(), name="w")
    meeting.wait_for_arrival()
    verdicts = []

    def cancel():
        try:
            engine.cancel("w")
        except InvalidStateError as error:
            verdicts.append(str(error))
        else:
            verdicts.append("cancelled")

    threads = [threading.Thread(target=cancel) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(verdicts) == 4
    assert "cancelled" in verdicts
    assert {v for v in verdicts if v != "cancelled"} <= {"workflow 'w' is CANCELLED; nothing to cancel"}
    with pytest.raises(WorkflowCancelledError):
        future.result(PATIENCE_S)
    assert engine.get_status("w") == "CANCELLED"


def test_a_cancel_that_comes_too_late_says_so(memory):
    """The workflow ends while the cancel is on its way: the caller must not believe that it was cancelled."""

    class Slow(MemoryStore):
        """Ends a workflow between the question whether it runs and the decision."""

        def __init__(self):
            super().__init__()
            self.ending = threading.Event()

        def commit(self, writes):
            if any(write.head is not None and write.head.status == "SUCCEEDED" for write in writes):
                self.ending.set()
                asked.wait(PATIENCE_S)
            return super().commit(writes)

    asked = threading.Event()
    store = Slow()
    with exoflow.Engine(store) as engine:
        future = engine.run_async(identity.bind(1), name="w")
        assert store.ending.wait(PATIENCE_S)
        verdict = []

        def cancel():
            try:
                engine.cancel("w")
            except InvalidStateError as error:
                verdict.append(str(error))

        thread = threading.Thread(target=cancel)
        thread.start()
        asked.set()
        thread.join(PATIENCE_S)
        assert future.result(PATIENCE_S) == 1
        assert len(verdict) == 1
        assert "SUCCEEDED" in verdict[0]


def test_delete(engine):
    engine.run(identity.bind(1), name="w")
    engine.delete("w")
    assert engine.list_all() == []
    assert engine.run(identity.bind(2), name="w") == 2, "the name is free again"


def test_what_runs_is_not_deleted(engine, meeting):
    engine.run_async(meets.bind(), name="w")
    meeting.wait_for_arrival()
    with pytest.raises(InvalidStateError, match="workflow 'w' is RUNNING; cancel it first"):
        engine.delete("w")
    meeting.leave.release()
    engine.wait("w", PATIENCE_S)


# --- undoing -----------------------------------------------------------------------------------------------------------------


def trip(ledger, last):
    hotel = book.options(name="hotel").bind(ledger.path, "hotel")
    flight = book.options(name="flight").bind(ledger.path, "flight", hotel)
    car = book.options(name="car").bind(ledger.path, "car", flight)
    return last(car)


def test_on_failure_rollback_undoes_in_reverse_order(engine, ledger):
    dag = trip(ledger, lambda car: breaks_unless.bind(ledger.path, "never", car))
    with pytest.raises(TaskFailed):
        engine.run_async(dag, name="w", on_failure="rollback").result(PATIENCE_S)
    assert ledger.lines() == ["book hotel", "book flight", "book car", "tried", "undo car", "undo flight", "undo hotel"]
    report = engine.get_metadata("w")
    assert report.rolled_back
    assert not any(t.effect_stands for t in report.tasks)
    with pytest.raises(InvalidStateError, match="its external outputs were rolled back; start a new workflow"):
        engine.resume("w")


def test_without_it_a_failure_keeps_everything(engine, ledger):
    dag = trip(ledger, lambda car: breaks_unless.bind(ledger.path, "repaired", car))
    with pytest.raises(TaskFailed):
        engine.run(dag, name="w")
    assert not any(line.startswith("undo") for line in ledger.lines())
    ledger.add("repaired")
    assert engine.resume("w").result(PATIENCE_S) == "fine"
    assert ledger.count("book hotel") == 1


def test_cancel_with_rollback_undoes_in_reverse_order(engine, ledger, meeting):
    future = engine.run_async(trip(ledger, meets_again.bind), name="w")
    meeting.wait_for_arrival()
    engine.cancel("w", rollback=True)
    meeting.leave.release()
    with pytest.raises(WorkflowCancelledError, match="external outputs that stand: none"):
        future.result(PATIENCE_S)
    assert ledger.lines()[3:] == ["undo car", "undo flight", "undo hotel"]


def test_cancel_without_rollback_says_what_stands(engine, ledger, meeting):
    future = engine.run_async(trip(ledger, meets_again.bind), name="w")
    meeting.wait_for_arrival()
    engine.cancel("w")
    meeting.leave.release()
    with pytest.raises(WorkflowCancelledError, match="external outputs that stand: hotel, flight, car"):
        future.result(PATIENCE_S)
    assert not any(line.startswith("undo") for line in ledger.lines())


@pytest.mark.slow
def test_a_workflow_whose_owner_died_can_be_cancelled_with_rollback(url, ledger):
    """Bookings of a process that died are undone by another. (Starts a process.)"""
    run_python(plant.RUN, url, ledger.path, "booking", "w", code_wanted=9)
    with exoflow.Engine(url) as engine:
        engine.cancel("w", rollback=True)
        with pytest.raises(WorkflowCancelledError):
            engine.wait("w", PATIENCE_S)
    assert ledger.lines() == ["book hotel", "book flight", "die", "undo flight", "undo hotel"]


def undo_breaks(ledger):
    plant.Ledger(ledger).add("undo tried")
    if "undo works" not in plant.Ledger(ledger).lines():
        raise OSError("the airline does not answer")


@task(rollback=undo_breaks)
def book_stubborn(ledger):
    return "seat"


async def undo_async(ledger):
    plant.Ledger(ledger).add("undone async")


def undo_plain(ledger):
    plant.Ledger(ledger).add("undone plain")


@task(rollback=undo_async)
async def book_async(ledger):
    return "seat"


@task(rollback=undo_plain)
async def book_async_undo_plain(ledger):
    return "seat"


@pytest.mark.parametrize(("kind", "line"), [(book_async, "undone async"), (book_async_undo_plain, "undone plain")])
def test_async_tasks_are_undone_by_async_and_by_plain_functions(engine, ledger, kind, line):
    with pytest.raises(TaskFailed):
        engine.run_async(breaks_unless.bind(ledger.path, "never", kind.bind(ledger.path)), on_failure="rollback").result(PATIENCE_S)
    assert ledger.lines() == ["tried", line]


def test_a_rollback_that_fails_is_tried_five_times_and_then_blocks(any_url, ledger, clock):
    """A person must look; after the repair the rollback goes on where it stopped."""
    with exoflow.Engine(any_url, clock=clock) as engine:
        dag = breaks_unless.bind(ledger.path, "never", book_stubborn.bind(ledger.path))
        future = engine.run_async(dag, name="w", on_failure="rollback")
        for _ in range(4):
            clock.fire_next()
        with pytest.raises(WorkflowBlockedError, match="rollback of task 'book_stubborn' failed 5 times: the airline does not answer"):
            future.result(PATIENCE_S)
        assert ledger.count("undo tried") == 5
        assert engine.get_status("w") == "BLOCKED"
        assert RollbackFailedError.code == "rollback_failed"


# --- doubt -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def doubtful(url, ledger):
    """An engine on a store in which the owner of workflow w died while its task ran, which asks for a person."""
    run_python(plant.RUN, url, ledger.path, "paying", "w", code_wanted=9)
    with exoflow.Engine(url) as engine:
        with pytest.raises(WorkflowInDoubtError, match=r"nobody knows whether task 'pay_or_ask' \(attempt 1\) had its effect"):
            engine.run(plant.paying(ledger.path), name="w")
        assert engine.get_status("w") == "IN_DOUBT"
        assert ledger.lines() == ["pay"]
        yield engine


@pytest.mark.slow
def test_in_doubt_it_happened(doubtful, ledger):
    """(Starts a process, as the next ones do.)"""
    assert doubtful.resume("w", outcomes={"pay_or_ask": True}).result(PATIENCE_S) == (None,)
    assert ledger.lines() == ["pay", "after"]


@pytest.mark.slow
def test_in_doubt_it_happened_and_this_was_its_output(doubtful, ledger):
    assert doubtful.resume("w", outcomes={"pay_or_ask": "receipt 5"}).result(PATIENCE_S) == ("receipt 5",)
    assert ledger.lines() == ["pay", "after"]


@pytest.mark.slow
def test_in_doubt_it_did_not_happen(doubtful, ledger):
    assert doubtful.resume("w", outcomes={"pay_or_ask": False}).result(PATIENCE_S) == ("pay",)
    assert ledger.lines() == ["pay", "pay", "after"]


@pytest.mark.slow
def test_in_doubt_without_an_answer_it_stays_so(doubtful, ledger):
    with pytest.raises(TaskNotFoundError, match="workflow 'w' has no task 'nope'"):
        doubtful.resume("w", outcomes={"nope": True})
    assert doubtful.get_status("w") == "IN_DOUBT", "a wrong answer changes nothing"
    with pytest.raises(WorkflowInDoubtError):
        doubtful.resume("w").result(PATIENCE_S)
    assert ledger.lines() == ["pay"]


def test_a_function_may_be_asked(ledger, clock):
    """An attempt ran out of time; on_unknown looks at the outside and gives the output."""
    with exoflow.Engine("memory:", clock=clock) as engine:
        meetings["m"] = Meeting()
        future = engine.run_async(pays_slowly.bind(ledger.path), name="w")
        meetings["m"].wait_for_arrival()
        clock.fire_next(3)
        meetings["m"].leave.release()
        assert future.result(PATIENCE_S) == "looked it up"
    assert ledger.lines() == ["asked"]


def look_it_up(ledger):
    plant.Ledger(ledger).add("asked")
    return "looked it up"


@task(on_unknown=look_it_up, timeout=3)
def pays_slowly(ledger):
    meetings["m"].visit()
    return "paid"


# --- what a task may know and do ---------------------------------------------------------------------------------------------


@task
def who_am_i(*_):
    me = exoflow.current_task()
    return me.workflow_id, me.task_id, me.attempt, me.idempotency_key


@task
async def who_am_i_async():
    await asyncio.sleep(0)
    return exoflow.current_task().task_id


def test_a_task_knows_who_it_is(engine):
    workflow, name, attempt, key = engine.run(who_am_i.options(name="me").bind(), name="w")
    assert (workflow, name, attempt) == ("w", "me", 1)
    assert re.fullmatch(r"[0-9a-f]{40}", key)
    assert engine.run(who_am_i_async.bind()) == "who_am_i_async"


@pytest.mark.slow
def test_a_task_in_a_process_knows_who_it_is(engine):
    """(Starts a worker process.)"""
    assert engine.run(who_am_i.options(executor="process", name="me").bind(), name="w")[:3] == ("w", "me", 1)


def test_outside_a_task_nobody_is_anybody():
    with pytest.raises(WrongContextError, match="outside a running task; pass what you need as an argument"):
        exoflow.current_task()


def test_idempotency_keys_differ_by_task_workflow_and_input(engine):
    dag = identity.bind([who_am_i.bind(), who_am_i.bind(), who_am_i.bind(who_am_i.bind())])
    keys = {found[3] for name in ("w", "v") for found in engine.run(dag, name=name)}
    assert len(keys) == 6


def test_an_idempotency_key_is_the_same_in_a_retry(engine, ledger):
    engine.run(plant.key_of_attempt.options(retries=1, backoff=0).bind(ledger.path, "k", False), name="w")
    first, second = ledger.lines()
    assert first == second


@pytest.mark.slow
def test_an_idempotency_key_is_the_same_after_a_crash(url, ledger):
    """(Starts two processes.)"""
    run_python(plant.RUN, url, ledger.path, "keyed", "w", code_wanted=9)
    run_python(plant.RUN, url, ledger.path, "keyed", "w")
    first, second = ledger.lines()
    assert first == second


def test_a_task_that_waits_for_its_own_workflow(engine):
    engines["e"] = engine
    with pytest.raises(TaskFailed, match="SelfWaitError: a task of workflow 'w' waits for that same workflow; return a DAG"):
        engine.run(waits_for_itself.options(retries=3, backoff=0).bind(), name="w")
    assert engine.get_metadata("w").tasks[0].failures == 0, "trying again would not help"


engines: dict[str, exoflow.Engine] = {}


@task
def waits_for_itself():
    return engines["e"].wait("w")


@task
def runs_inside(how):
    return getattr(engines["e"], how)(identity.bind(1), name="inner")


@task
async def runs_inside_async():
    return await engines["e"].run_async(identity.bind(1), name="inner")


@pytest.mark.parametrize(
    "dag", [runs_inside.bind("run"), runs_inside.bind("run_async"), runs_inside_async.bind()], ids=["run", "async", "await"]
)
def test_run_inside_a_task_is_refused(engine, dag):
    """Nothing would record that it was called: after a crash it would be called again."""
    engines["e"] = engine
    with pytest.raises(TaskFailed, match=r"WrongContextError: run\(\) was called inside task '\w+' of workflow 'w'.*return the DAG"):
        engine.run(dag, name="w")
    assert [head.workflow_id for head in engine.list_all()] == ["w"]


def test_a_task_may_look_at_other_workflows(engine):
    engines["e"] = engine
    engine.run(identity.bind(5), name="other")
    assert engine.run(reads_other.bind(), name="w") == (5, 5)


@task
def reads_other():
    return engines["e"].get_output("other"), engines["e"].wait("other")


# --- opening and closing -----------------------------------------------------------------------------------------------------


def every_call(engine):
    """One call of each public method of an engine that needs an engine that is open, and in its own process."""
    calls = {
        "run": lambda: engine.run(identity.bind(1)),
        "run_async": lambda: engine.run_async(identity.bind(1), name="w"),
        "resume": lambda: engine.resume("w"),
        "resume_all": engine.resume_all,
        "wait": lambda: engine.wait("w"),
        "get_status": lambda: engine.get_status("w"),
        "get_output": lambda: engine.get_output("w"),
        "get_metadata": lambda: engine.get_metadata("w"),
        "story": lambda: engine.story("w"),
        "list_all": engine.list_all,
        "cancel": lambda: engine.cancel("w"),
        "delete": lambda: engine.delete("w"),
        "collect_garbage": engine.collect_garbage,
    }
    public = {name for name in vars(exoflow.Engine) if not name.startswith("_")}
    assert public == {*calls, "check", "close"}, "a new method belongs here too"
    return calls


def test_an_engine_that_was_closed(any_url):
    with exoflow.Engine(any_url) as engine:
        engine.run(identity.bind(1), name="w")
    engine.close()
    for call in every_call(engine).values():
        with pytest.raises(ClosedError, match="is closed; open a new one"):
            call()


def test_async_with(any_url):
    async def main():
        async with exoflow.Engine(any_url) as engine:
            return await engine.run_async(identity.bind(3))

    assert asyncio.run(main()) == 3


def test_closing_leaves_no_threads(any_url):
    before = set(threading.enumerate())
    with exoflow.Engine(any_url) as engine:
        engine.run(identity.bind(1))
        engine.run(identity.options(retries=1).bind(1))
        engine.run(who_am_i_async.bind())
    assert set(threading.enumerate()) <= before


def test_an_engine_is_not_for_a_forked_child(any_url):
    with exoflow.Engine(any_url) as engine:
        engine.run(identity.bind(1), name="w")
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            said = []
            try:
                for call in every_call(engine).values():
                    try:
                        call()
                        said.append("no error")
                    except ForkedHandleError as error:
                        said.append(f"{type(error).__name__} {error}")
                engine.close()
                os.write(writer, "\n".join(said).encode())
            except BaseException:
                os.write(writer, traceback.format_exc().encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as file:
            lines = file.read().splitlines()
        assert os.waitpid(pid, 0)[1] == 0
        assert len(lines) == len(every_call(engine))
        for line in lines:
            assert re.search(rf"^ForkedHandleError .* was opened in process {os.getpid()} and used in {pid}, a fork of it", line), lines
        assert engine.run(identity.bind(1), name="w") == 1, "the parent's engine is as it was"


DEFAULT = """
import exoflow, sys
from tests.api.plant import mark
print(exoflow.run(mark.bind(sys.argv[1], "a"), name="w"))
print(exoflow.get_status("w"), exoflow.get_output("w"), [h.workflow_id for h in exoflow.list_all()])
print(exoflow.run_async(mark.bind(sys.argv[1], "a"), name="w").result(), exoflow.resume("w").result(), exoflow.resume_all())
print(exoflow.wait("w"), len(exoflow.get_metadata("w").tasks), "accepted" in exoflow.story("w"))
exoflow.delete("w")
try:
    exoflow.cancel("w")
except exoflow.ExoflowError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_default_engine(tmp_path, ledger):
    """exoflow.run() and its siblings use .exoflow/exoflow.db of the working directory. (Starts a process, as the next one does.)"""
    lines = run_python(DEFAULT, ledger.path, cwd=tmp_path).splitlines()
    assert lines[:4] == ["a", "SUCCEEDED a ['w']", "a a {}", "a 1 True"]
    assert re.match(r"no workflow 'w' in store sqlite:.*\.exoflow/exoflow\.db$", lines[4])
    assert (tmp_path / ".exoflow" / "exoflow.db").exists()


WHERE = """
import exoflow
from tests.api.plant import mark
from exoflow.client.default import default_engine
print(default_engine().store.url, default_engine().settings.threads, default_engine().settings.drain_s)
"""


@pytest.mark.slow
def test_where_settings_come_from(tmp_path):
    """pyproject.toml, then the environment over it."""
    (tmp_path / "pyproject.toml").write_text('[tool.exoflow]\nstore = "sqlite:here/a.db"\nthreads = 3\ndrain_s = 2\n')
    assert run_python(WHERE, cwd=tmp_path).strip() == f"sqlite:{tmp_path}/here/a.db 3 2.0"
    found = run_python(WHERE, cwd=tmp_path, env={"EXOFLOW_STORE": "memory:", "EXOFLOW_THREADS": "7"})
    assert found.strip() == "memory: 7 2.0"


def test_arguments_win_over_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EXOFLOW_STORE", "sqlite:wrong.db")
    monkeypatch.setenv("EXOFLOW_THREADS", "4")
    with exoflow.Engine("memory:", threads=2) as engine:
        assert engine.store.url == "memory:"
        assert engine.settings.threads == 2
    with exoflow.Engine(tmp_path / "x.db") as engine:
        assert engine.settings.threads == 4
        assert engine.store.url == f"sqlite:{tmp_path}/x.db"


@pytest.mark.parametrize(
    ("options", "environment", "pyproject", "text"),
    [
        ({"colour": 1}, {}, "", "colour"),
        ({"threads": "many"}, {}, "", "threads"),
        ({"threads": -1}, {}, "", "threads must be a whole number from 0"),
        ({"processes": -2}, {}, "", "processes must be a whole number from 0"),
        ({"loop_tasks": 0}, {}, "", "loop_tasks must be"),
        ({"lease_s": 0}, {}, "", "lease_s must be"),
        ({"lease_s": float("nan")}, {}, "", "lease_s must be"),
        ({"inline_bytes": -1}, {}, "", "inline_bytes must be"),
        ({"payload_limit": 0}, {}, "", "payload_limit must be"),
        ({"tasks_max": 0}, {}, "", "tasks_max must be"),
        ({"drain_s": -1}, {}, "", "drain_s must be"),
        ({}, {"EXOFLOW_THREADS": "x"}, "", "threads"),
        ({}, {}, "[tool.exoflow]\nthread = 3\n", "thread"),
        ({}, {}, "[tool.exoflow]\nthreads = []\n", "threads"),
        ({}, {}, "[tool]\nexoflow = 3\n", "tool.exoflow"),
        ({}, {}, "tool = 3\n", "tool"),
        ({}, {}, "not toml", "pyproject.toml is not TOML"),
        ({}, {}, b"\xff\xfe", "pyproject.toml is not TOML"),
    ],
)
def test_settings_that_mean_nothing(monkeypatch, tmp_path, options, environment, pyproject, text):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if pyproject:
        (tmp_path / "pyproject.toml").write_bytes(pyproject.encode() if isinstance(pyproject, str) else pyproject)
    with pytest.raises(InvalidOptionError, match=text):
        exoflow.Engine("memory:", **options)


def test_a_store_that_is_none():
    for wrong in (3, b"x", object(), ["memory:"]):
        with pytest.raises(InvalidOptionError, match="store must be a URL, a path or an open store, got"):
            exoflow.Engine(wrong)
    with pytest.raises(StoreConfigError):
        exoflow.Engine("")


def test_an_open_store_may_be_given():
    with exoflow.Engine(MemoryStore()) as engine:
        assert engine.run(identity.bind(1)) == 1


def test_reports_are_data(engine):
    """What the command line prints as JSON."""
    engine.run(identity.bind(InputNode()), 5, name="w")
    report = msgspec.json.decode(msgspec.json.encode(engine.get_metadata("w")))
    assert report["tasks"][0]["task"] == "identity"
