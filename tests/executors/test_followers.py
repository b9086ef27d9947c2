"""Calls that lie ready for a worker which runs another: nobody waits for nothing, and nobody pays for another's death."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

import pytest

from exoflow.executors import process_pool
from exoflow.executors.process_pool import ProcessExecutor
from exoflow.testing.executor_suite import PATIENCE_S, Data, Gate, Ticket, die, hold, raise_odd, same
from exoflow.worker.attempt import Died, Raised, Returned, Stopped, TaskCall
from tests.executors.asking import failure, make_call, submit
from tests.patience import until


@pytest.fixture
def one():
    """An executor with one worker."""
    executor = ProcessExecutor(1)
    yield executor
    executor.close()


@pytest.fixture
def two():
    executor = ProcessExecutor(2)
    yield executor
    executor.close()


@pytest.fixture
def gate(tmp_path, one, two):
    gate = Gate(tmp_path)
    yield gate
    gate.close()


def pid_and_hold(folder, path):
    Path(path).write_text(str(os.getpid()), "ascii")
    return hold(folder)


def submit_in_a_row(executor, *calls):
    """Submit calls so that when the first is given to a worker the others are there."""
    there = threading.Event()
    (function, *args), *others = calls
    call = make_call(function)
    first = Ticket(call.key)

    def load():
        assert there.wait(PATIENCE_S)
        return tuple(args), {}

    executor.submit(TaskCall(key=call.key, function=function, load=load, context=call.context), first)
    tickets = [first, *(submit(executor, *other) for other in others)]
    there.set()
    return tickets


@pytest.fixture
def held(one, gate, tmp_path):
    """A call that runs, its worker's number, and the call that follows: the worker has it, and has not begun it."""
    first, follower = submit_in_a_row(one, (pid_and_hold, gate.folder, str(tmp_path / "pid")), (os.getpid,))
    gate.wait_for_arrival()
    until(lambda: any(station._ahead is not None for station in list(one._crew._followers)))
    return first, int((tmp_path / "pid").read_text("ascii")), follower


def test_the_next_call_is_in_the_worker_before_the_first_is_answered(held, gate):
    first, pid, follower = held
    gate.let_go()
    assert first.value() == "let go"
    assert follower.value() == pid


def test_a_death_is_not_told_for_the_call_that_followed(held):
    first, pid, follower = held
    os.kill(pid, signal.SIGKILL)
    assert isinstance(first.wait(), Died)
    assert follower.value() != pid


def test_a_follower_is_stopped_at_once(one, held, gate):
    first, pid, follower = held
    one.stop(follower.key)
    assert follower.wait() == Stopped(began=False)
    last = submit(one, os.getpid)
    gate.let_go()
    assert first.value() == "let go"
    assert last.value() == pid
    assert len(follower.outcomes) == 1


def test_a_stop_of_the_call_that_runs_leaves_its_follower_alone(one, held):
    first, pid, follower = held
    one.stop(first.key)
    assert first.wait() == Stopped()
    assert follower.value() != pid


def test_close_answers_both(one, held):
    first, _, follower = held
    one.close()
    assert first.wait() == Stopped()
    assert follower.wait() == Stopped(began=False)


def test_a_worker_that_is_idle_takes_what_follows_another(two, tmp_path):
    gates = []
    for name in ("long", "short"):
        (tmp_path / name).mkdir()
        gates.append(Gate(tmp_path / name))
    short = submit(two, hold, gates[1].folder)
    gates[1].wait_for_arrival()
    long, *others = submit_in_a_row(two, (hold, gates[0].folder), *((same, number) for number in range(6)))
    gates[0].wait_for_arrival()
    until(lambda: two._crew._followers)
    gates[1].let_go()
    assert short.value() == "let go"
    assert [other.value() for other in others] == list(range(6))
    assert not long.outcomes
    for gate in gates:
        gate.let_go()
        gate.close()


@pytest.fixture
def unread(one, gate, monkeypatch):
    """A call that has ended although nobody has read its answer yet; its follower, which has begun; and what lets the answer be read."""
    read = threading.Event()
    answer = process_pool._Worker.answer

    def when_told(worker):
        assert read.wait(PATIENCE_S)
        return answer(worker)

    monkeypatch.setattr(process_pool._Worker, "answer", when_told)
    first, follower = submit_in_a_row(one, (same, 1), (hold, gate.folder))
    gate.wait_for_arrival()
    return first, follower, read


def test_a_stop_of_a_call_that_is_over_does_not_hit_its_follower(one, unread, gate):
    first, follower, read = unread
    one.stop(first.key)
    read.set()
    gate.let_go()
    assert first.value() == 1
    assert follower.value() == "let go"


def test_a_follower_that_has_begun_is_stopped_and_nobody_else(one, unread):
    first, follower, read = unread
    one.stop(follower.key)
    read.set()
    assert first.value() == 1
    assert follower.wait() == Stopped(began=True)
    assert submit(one, same, 2).value() == 2


def test_a_follower_that_has_begun_dies_its_own_death(one, gate, tmp_path, monkeypatch):
    """Also when the answer of the one before cannot be taken in, and its worker is ended for that."""
    answer = process_pool._Worker.answer

    def lost(worker):
        gate.wait_for_arrival()
        monkeypatch.setattr(process_pool._Worker, "answer", answer)

    monkeypatch.setattr(process_pool._Worker, "answer", lost)
    first, follower, last = submit_in_a_row(one, (same, 1), (hold, gate.folder), (same, 3))
    assert isinstance(first.wait(), Died)
    assert isinstance(follower.wait(), Died)
    assert last.value() == 3


def test_arguments_of_a_follower_that_cannot_be_sent_are_told_at_once(one, gate):
    first, follower, last = submit_in_a_row(one, (hold, gate.folder), (same, threading.Lock()), (same, 3))
    assert "cannot pickle" in failure(follower).text
    assert not first.outcomes
    gate.let_go()
    assert last.value() == 3


def test_a_large_call_is_not_sent_behind_another(one, gate):
    first, large, last = submit_in_a_row(one, (hold, gate.folder), (same, Data(bytes(10_000_000))), (same, 3))
    gate.wait_for_arrival()
    until(lambda: not one._crew._followers and one._crew._queue)
    gate.let_go()
    assert first.value() == "let go"
    assert bytes(large.value().content) == bytes(10_000_000)
    assert last.value() == 3


@pytest.mark.slow  # kills and starts dozens of workers
@pytest.mark.parametrize("seed", range(3))
def test_whatever_dies_or_is_stopped_among_many_each_is_answered_once_and_truly(two, seed):
    rng = random.Random(seed)
    tickets: list[tuple[Ticket, str, int]] = []
    for number in range(400):
        kind = rng.choices(["same", "die", "raise", "stop", "large"], [90, 4, 4, 10, 4])[0]
        if kind == "die":
            ticket = submit(two, die)
        elif kind == "raise":
            ticket = submit(two, raise_odd, "a cause")
        else:
            ticket = submit(two, same, bytes(3_000) if kind == "large" else number)
        tickets.append((ticket, kind, number))
        if kind == "stop":
            two.stop(tickets[rng.randrange(max(0, number - 5), number + 1)][0].key)
        if rng.random() < 0.1:
            tickets[rng.randrange(len(tickets))][0].wait()
    for ticket, kind, number in tickets:
        outcome = ticket.wait()
        if isinstance(outcome, Stopped):
            continue
        expected = {"die": Died, "raise": Raised}.get(kind, Returned)
        assert isinstance(outcome, expected), (kind, number, outcome)
        if expected is Returned:
            assert ticket.value() == (bytes(3_000) if kind == "large" else number)
    two.close()
    assert [len(ticket.outcomes) for ticket, _, _ in tickets] == [1] * len(tickets)
