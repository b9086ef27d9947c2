"""Hours of back-off, timeouts and sleeps in no time, with real threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

import exoflow
from exoflow.testing.virtual_clock import VirtualClock

PATIENCE_S = 30.0


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def engine(clock):
    with exoflow.Engine("memory:", parts=clock.parts()) as engine:
        yield engine


def test_back_off_of_an_hour_passes_at_once(engine, clock):
    tried = []

    @exoflow.task(retries=3, backoff=3600, backoff_max=10_000, jitter=0.0)
    def flaky():
        tried.append(clock.now_s)
        if len(tried) < 3:
            raise ConnectionError
        return "done"

    assert engine.run(flaky.bind()) == "done"
    assert tried == [0, 3600, 3600 + 7200]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_task_that_sleeps_longer_than_its_timeout_fails(engine, clock, is_async):
    @exoflow.task(timeout=60)
    def in_a_thread():
        clock.sleep(3600)

    @exoflow.task(timeout=60)
    async def on_the_loop():
        await clock.sleep_async(3600)

    with pytest.raises(exoflow.WorkflowFailed, match="longer than its timeout of 60"):
        engine.run((on_the_loop if is_async else in_a_thread).bind())


@pytest.mark.parametrize("is_async", [False, True])
def test_a_task_that_sleeps_less_succeeds(engine, clock, is_async):
    @exoflow.task(timeout=60)
    def in_a_thread():
        clock.sleep(59)
        return clock.now_s

    @exoflow.task(timeout=60)
    async def on_the_loop():
        await clock.sleep_async(59)
        return clock.now_s

    assert engine.run((on_the_loop if is_async else in_a_thread).bind()) == 59


def test_sleepers_wake_in_the_order_of_their_times(engine, clock):
    order = []

    @exoflow.task
    async def nap(seconds):
        await clock.sleep_async(seconds)
        order.append(seconds)

    engine.run(exoflow.task(lambda naps: None).bind([nap.bind(seconds) for seconds in (30, 10, 20)]))
    assert (order, clock.now_s) == ([10, 20, 30], 30)


def test_time_stands_still_while_a_task_works_unless_the_test_says_so(engine, clock):
    began, go_on = threading.Event(), threading.Event()

    @exoflow.task(timeout=60)
    def work():
        began.set()
        go_on.wait(PATIENCE_S)

    future = engine.run_async(work.bind())
    assert began.wait(PATIENCE_S)
    assert clock.now_s == 0
    clock.advance(59)
    clock.sleep(2)  # outside of tasks that is the same
    go_on.set()
    assert isinstance(future.exception(PATIENCE_S).__cause__, TimeoutError)
    assert clock.now_s == 61


def test_engines_share_a_clock_and_the_last_one_stops_it(clock):
    begins, ends = threading.Event(), threading.Event()

    @exoflow.task
    def sleeps():
        begins.set()
        clock.sleep(1e9)
        ends.set()

    first, second = (exoflow.Engine("memory:", parts=clock.parts(), drain_s=0) for _ in range(2))
    first.close()
    assert second.run(exoflow.task(retries=1, jitter=0.0)(lambda: _fail_at_zero(clock)).bind()) == 1
    second.run_async(sleeps.bind())
    assert begins.wait(PATIENCE_S)
    second.close()
    assert ends.wait(PATIENCE_S), "whoever sleeps is woken at the end"
    assert not [thread for thread in threading.enumerate() if thread.name == "exoflow-virtual-clock"]


def _fail_at_zero(clock):
    if clock.now_s == 0:
        raise ValueError
    return clock.now_s


def test_a_coroutine_that_is_cancelled_sleeps_no_more(clock):
    async def nap():
        task = asyncio.ensure_future(clock.sleep_async(5))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(nap())
    clock.advance(5)
    assert clock.now_s == 5
