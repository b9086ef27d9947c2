"""The Ray executor: the common suite on a real Ray, and calls that share a task of Ray."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import msgspec
import pytest

from exoflow.backends.ray import cluster, lots
from exoflow.backends.ray.executor import RayExecutor
from exoflow.backends.ray.far_end import Job
from exoflow.backends.ray.lots import Attempt, Lot, Packed
from exoflow.testing.executor_suite import ExecutorSuite, Ticket, same
from exoflow.worker.attempt import Died, Returned
from tests.executors.asking import make_call
from tests.patience import until

pytestmark = pytest.mark.slow  # on a real Ray


class TestRayExecutor(ExecutorSuite):
    @pytest.fixture
    def make_executor(self, local_ray):
        return lambda: RayExecutor(slots=4)

    def test_close_leaves_no_thread_and_no_file(self, make_executor):
        """Connections between Ray's processes come and go; what is ours is a thread."""
        self._use_and_close(make_executor())
        assert [thread for thread in threading.enumerate() if thread.name == "exoflow-ray"] == []


def job(number, size=0):
    call = make_call(same, number)
    return Packed(Attempt(call, Ticket(call.key)), Job(call.context, False, bytes(size)), None)


def lot_of(count, size=0):
    lot = Lot(same, {}, b"", None)
    for number in range(count):
        lot.add(job(number, size))
    return lot


def test_calls_of_an_unknown_function_go_alone_and_few_at_first():
    lot = lot_of(100)
    assert [len(packed) for packed in lot.ready()] == [1] * lots.SCOUTS
    assert list(lot.ready()) == []
    until(lambda: lot.patience_s() == 0)
    assert [len(packed) for packed in lot.ready()] == [1] * (100 - lots.SCOUTS)


@pytest.mark.parametrize(("longest_s", "together"), [(0.0001, 16), (0.001, 4), (0.003, 1), (60.0, 1)])
def test_short_calls_go_together_and_long_ones_alone(longest_s, together):
    lot = lot_of(64)
    lot.learn(longest_s)
    assert [len(packed) for packed in lot.ready()] == [together] * (64 // together)


def test_a_long_call_is_forgotten_in_time():
    lot = lot_of(0)
    lot.learn(0.1)
    for _ in range(100):
        lot.learn(0.0001)
    for number in range(64):
        lot.add(job(number))
    assert [len(packed) for packed in lot.ready()] == [16] * 4


def test_calls_with_many_bytes_do_not_go_together():
    lot = lot_of(4, lots.TOGETHER_BYTES)
    lot.learn(0.0001)
    assert [len(packed) for packed in lot.ready()] == [1] * 4


def die_once(marks, number):
    """Kill the worker of number 7, the first time."""
    mark = Path(marks, "died")
    if number == 7 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.fixture
def executor(local_ray):
    executor = RayExecutor()
    yield executor
    executor.close()


def harmless(executor, function, *args):
    call = msgspec.structs.replace(make_call(function, *args), harmless=True)
    ticket = Ticket(call.key)
    executor.submit(call, ticket)
    return ticket


def test_calls_that_go_together_have_an_answer_each(executor):
    for _ in range(3):
        tickets = [harmless(executor, same, number) for number in range(300)]
        assert [ticket.value() for ticket in tickets] == list(range(300))


def test_ray_is_told_of_a_function_once_for_equal_options(executor):
    """Each sub-workflow, and each workflow that is resumed, comes with options of its own that say the same."""
    for number in range(3):
        call = msgspec.structs.replace(make_call(same, number), options={"num_cpus": 0.5})
        ticket = Ticket(call.key)
        executor.submit(call, ticket)
        assert ticket.value() == number
    assert len(executor._lots) == 1


def test_those_that_die_with_another_are_told_so(executor, tmp_path):
    for _ in range(3):
        assert [harmless(executor, die_once, tmp_path, 0).value() for _ in range(20)] == [0] * 20
    tickets = [harmless(executor, die_once, tmp_path, number) for number in range(16)]
    outcomes = [ticket.wait() for ticket in tickets]
    assert isinstance(outcomes[7], Died)
    assert {type(outcome) for outcome in outcomes} <= {Died, Returned}
    assert harmless(executor, die_once, tmp_path, 7).value() == 7


def slow_last(number):
    """Short, until it is not."""
    if number >= 100:
        threading.Event().wait(0.05)
    return number


def test_none_begins_behind_one_that_took_long(executor):
    for _ in range(3):
        assert [harmless(executor, slow_last, 0).value() for _ in range(20)] == [0] * 20
    tickets = [harmless(executor, slow_last, number) for number in range(100, 108)]
    assert [ticket.value() for ticket in tickets] == list(range(100, 108))


def large_at(number):
    return bytes(200_000 if number == 5 else 1)


def test_one_of_several_may_return_much(executor):
    for _ in range(30):
        harmless(executor, large_at, 0).value()
    tickets = [harmless(executor, large_at, number) for number in range(16)]
    assert [len(ticket.value()) for ticket in tickets] == [1] * 5 + [200_000] + [1] * 10


def test_where_there_is_no_ray_all_calls_are_told_so(monkeypatch):
    asked = []

    def enter(address):
        asked.append(address)
        raise ConnectionError("nobody there")

    monkeypatch.setattr(cluster, "enter", enter)
    executor = RayExecutor(address="nowhere:1")
    outcomes = [harmless(executor, same, number).wait() for number in range(50)]
    executor.close()
    assert {outcome.info.type_name for outcome in outcomes} == {"exoflow.errors.ExecutorUnavailable"}
    assert asked == ["nowhere:1"]


def test_equal_options_are_one_lot(executor):
    """Each DAG that a task returns brings options of its own."""
    for _ in range(5):
        call = msgspec.structs.replace(make_call(same, 1), options={"num_cpus": 0.5})
        ticket = Ticket(call.key)
        executor.submit(call, ticket)
        assert ticket.value() == 1
    assert len(executor._lots) == 1
