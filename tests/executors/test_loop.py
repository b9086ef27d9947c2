"""The event loop: cancelling, and asyncio tasks that a function leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from exoflow.executors.loop import LoopExecutor
from exoflow.worker.attempt import Raised, Returned, Stopped
from tests.executors.asking import failure, submit


@pytest.fixture
def executor():
    executor = LoopExecutor()
    yield executor
    executor.close()


async def value(it):
    return it


def test_a_plain_function_is_refused(executor):
    assert "use 'thread'" in failure(submit(executor, lambda: 1)).text


def test_stop_cancels(executor):
    running = threading.Event()

    async def wait_for_ever():
        running.set()
        await asyncio.Event().wait()

    ticket = submit(executor, wait_for_ever)
    running.wait(10)
    executor.stop(ticket.key)
    assert ticket.wait() == Stopped(began=True)


def test_a_call_stopped_before_its_first_step_has_not_begun(executor):
    running, let_go = threading.Event(), threading.Event()

    async def hold_up_the_loop():
        running.set()
        let_go.wait()

    submit(executor, hold_up_the_loop)
    running.wait(10)
    ticket = submit(executor, value, 1)
    executor.stop(ticket.key)
    let_go.set()
    assert ticket.wait() == Stopped(began=False)


def test_a_coroutine_that_swallows_the_cancellation_says_what_it_did(executor):
    running = threading.Event()
    let_go = asyncio.Event()

    async def stubborn():
        running.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await let_go.wait()
        return "done anyway"

    async def release():
        let_go.set()

    ticket = submit(executor, stubborn)
    running.wait(10)
    executor.stop(ticket.key)
    submit(executor, value, 0).wait()
    assert not ticket.outcomes
    submit(executor, release)
    assert ticket.wait() == Returned("done anyway")


def test_a_cancellation_of_its_own_is_a_failure(executor):
    async def give_up():
        raise asyncio.CancelledError

    assert failure(submit(executor, give_up)).type_name == "asyncio.exceptions.CancelledError"


def test_an_exception_while_being_stopped_is_told(executor):
    running = threading.Event()

    async def fails_to_clean_up():
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("disk full")

    ticket = submit(executor, fails_to_clean_up)
    running.wait(10)
    executor.stop(ticket.key)
    assert isinstance(ticket.wait(), Raised)


def test_what_a_function_leaves_running_has_ended_when_its_answer_comes(executor):
    ended = []
    begun = asyncio.Event()

    async def child():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("child")

    async def parent():
        tasks = [asyncio.create_task(child()), asyncio.create_task(parent_of_one())]
        await begun.wait()
        return len(tasks)

    async def parent_of_one():
        task = asyncio.create_task(child())
        await asyncio.sleep(0)
        begun.set()
        await asyncio.shield(task)

    assert submit(executor, parent).wait() == Returned(2)
    assert ended == ["child", "child"]


def test_a_system_exit_in_what_a_function_started_does_not_stop_the_loop(executor):
    async def leave():
        raise SystemExit(3)

    async def parent():
        task = asyncio.create_task(leave())
        with contextlib.suppress(SystemExit):
            await task
        return "went on"

    assert submit(executor, parent).wait() == Returned("went on")
    assert submit(executor, value, 1).wait() == Returned(1)


def test_a_function_that_stops_the_loop_stops_nobody_else(executor):
    async def stop():
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)
        return "went on"

    assert submit(executor, stop).wait() == Returned("went on")
    assert submit(executor, value, 1).wait() == Returned(1)


def test_close_cancels_all_and_waits_for_their_last_words():
    executor = LoopExecutor()
    words = []

    async def says_farewell():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            words.append("farewell")

    tickets = [submit(executor, says_farewell) for _ in range(50)]
    submit(executor, value, 1).wait()
    executor.close()
    assert words == ["farewell"] * 50
    assert [ticket.outcomes for ticket in tickets] == [[Stopped()]] * 50


def test_close_leaves_what_does_not_end():
    executor = LoopExecutor(grace_s=0.01)
    running, let_go = threading.Event(), threading.Event()

    async def hold_up_the_loop():
        running.set()
        let_go.wait()
        return "let go"

    ticket = submit(executor, hold_up_the_loop)
    running.wait(10)
    executor.close()
    assert not ticket.outcomes
    let_go.set()
    assert ticket.wait() == Returned("let go")


def test_a_burst_wakes_the_loop_once(executor, monkeypatch):
    running, let_go = threading.Event(), threading.Event()

    async def hold_up_the_loop():
        running.set()
        let_go.wait()

    submit(executor, hold_up_the_loop)
    running.wait(10)
    wakes = []
    wake = executor._loop.call_soon_threadsafe
    monkeypatch.setattr(executor._loop, "call_soon_threadsafe", lambda *args: (wakes.append(args), wake(*args)))
    tickets = [submit(executor, value, number) for number in range(1000)]
    let_go.set()
    assert [ticket.wait().value for ticket in tickets] == list(range(1000))
    assert len(wakes) == 1
