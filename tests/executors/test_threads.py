"""Threads: what cannot be ended, and what is reused."""

from __future__ import annotations

import threading

import pytest

from exoflow.errors import ExecutorUnavailable, InvalidOptionError
from exoflow.executors.threads import ThreadExecutor
from exoflow.testing.executor_suite import Ticket, same
from exoflow.worker.attempt import Returned, Stopped
from tests.executors.asking import make_call, submit


@pytest.fixture
def executor():
    executor = ThreadExecutor(1)
    yield executor
    executor.close()


def hold_a_thread(executor):
    """A call that runs until the event is set, and the event."""
    running, let_go = threading.Event(), threading.Event()

    def hold():
        running.set()
        let_go.wait()
        return "let go"

    ticket = submit(executor, hold)
    assert running.wait(10)
    return ticket, let_go


@pytest.fixture
def held(executor):
    ticket, let_go = hold_a_thread(executor)
    yield ticket, let_go
    let_go.set()


def test_a_waiting_call_is_stopped_at_once(executor, held):
    waiting = submit(executor, same, 1)
    executor.stop(waiting.key)
    assert waiting.outcomes == [Stopped(began=False)]


def test_a_stopped_function_that_returns_has_returned(executor, held):
    ticket, let_go = held
    executor.stop(ticket.key)
    assert not ticket.outcomes
    let_go.set()
    assert ticket.wait() == Returned("let go")


def test_close_answers_for_waiting_calls_and_leaves_what_never_returns():
    executor = ThreadExecutor(1, grace_s=0.01)
    stuck, let_go = hold_a_thread(executor)
    waiting = submit(executor, same, 1)
    executor.close()
    assert waiting.wait() == Stopped(began=False)
    assert not stuck.outcomes
    let_go.set()
    assert stuck.wait() == Returned("let go")


def test_close_waits_for_a_function_that_returns_in_time():
    executor = ThreadExecutor(1, grace_s=30)
    started, ended = threading.Event(), []

    def work():
        started.set()
        sum(range(1_000_000))
        ended.append(True)

    submit(executor, work)
    started.wait(10)
    executor.close()
    assert ended == [True]


def test_close_may_come_from_an_answer():
    executor = ThreadExecutor(1)
    closed = threading.Event()

    def close(_):
        executor.close()
        closed.set()

    executor.submit(make_call(same, 1), close)
    assert closed.wait(10)


def test_threads_come_on_demand_and_are_reused():
    executor = ThreadExecutor(3)
    before = threading.active_count()
    names = {submit(executor, lambda: threading.current_thread().name).value() for _ in range(20)}
    assert names == {"exoflow-thread-0"}
    meeting = threading.Barrier(3)
    tickets = [submit(executor, meeting.wait, 10) for _ in range(3)]
    assert sorted(ticket.value() for ticket in tickets) == [0, 1, 2]
    assert threading.active_count() == before + 3
    executor.close()
    assert threading.active_count() == before


def test_without_a_single_thread_the_call_is_refused(monkeypatch):
    executor = ThreadExecutor(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
        with pytest.raises(ExecutorUnavailable, match="can't start new thread"):
            executor.submit(make_call(same, 1), Ticket("refused"))
    assert submit(executor, same, 1).value() == 1
    executor.close()


def test_with_fewer_threads_than_wanted_the_work_goes_on(monkeypatch, held, executor):
    executor._crew._workers = 2
    monkeypatch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
    waiting = submit(executor, same, 1)
    held[1].set()
    assert waiting.value() == 1


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_a_senseless_number_of_workers_is_refused(workers):
    with pytest.raises(InvalidOptionError, match="workers of executor 'thread'"):
        ThreadExecutor(workers)


class Following(list):
    """What ran, in order, and in which thread; ``done`` is set after the last."""

    def __init__(self, executor, last):
        self.executor, self.last, self.done = executor, last, threading.Event()

    def __call__(self, name):
        self.append((name, threading.current_thread().name))
        if name == self.last:
            self.done.set()

    def submit(self, *names, then=lambda: None):
        for name in names:
            self.executor.submit(make_call(self, name), lambda _: then())
        return self


def test_what_follows_from_an_answer_stays_in_its_thread():
    executor = ThreadExecutor(3)
    ran = Following(executor, "c")
    ran.submit("a", then=lambda: ran.submit("b", then=lambda: ran.submit("c")))
    assert ran.done.wait(10)
    executor.close()
    assert ran == [(name, "exoflow-thread-0") for name in "abc"]


def test_several_that_follow_from_an_answer_run_in_order(executor):
    ran = Following(executor, "f")
    ran.submit("a", then=lambda: ran.submit("b", "c", "d", then=lambda: None)).submit("x", then=lambda: ran.submit("f"))
    assert ran.done.wait(10)
    assert [name for name, _ in ran] in (["a", "x", "b", "c", "d", "f"], ["a", "x", "f", "b", "c", "d"], ["a", "b", "c", "d", "x", "f"])


def test_what_waits_for_its_thread_to_answer_can_be_stopped(executor):
    outcomes, answered = [], threading.Event()

    def answer(_):
        call = make_call(same, 1)
        executor.submit(call, outcomes.append)
        executor.stop(call.key)
        answered.set()

    executor.submit(make_call(same, 1), answer)
    assert answered.wait(10)
    assert outcomes == [Stopped(began=False)]
    assert submit(executor, same, 2).value() == 2


def test_a_function_that_submits_does_not_hold_up_what_it_submitted():
    executor = ThreadExecutor(2)
    ran = threading.Event()

    def waits_for_another():
        executor.submit(make_call(ran.set), lambda _: None)
        return ran.wait(10)

    assert submit(executor, waits_for_another).value() is True
    executor.close()
