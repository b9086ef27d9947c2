"""What surrounds the user's function."""

from __future__ import annotations

import asyncio
import gc
import pickle
import weakref

import pytest

from exoflow.errors import CheckFailed
from exoflow.testing.executor_suite import HasNoText, HoldsALock, NeedsArguments
from exoflow.worker import task_runner
from exoflow.worker.attempt import Raised, Returned
from exoflow.worker.context import current_task, inside_task
from tests.executors.asking import make_call


class Refused(ConnectionError):
    pass


def refuse(*_):
    raise Refused("no")


def described(error):
    try:
        raise error
    except BaseException as caught:
        return task_runner.describe(caught)


def test_a_retry_filter_can_match_by_any_base_in_another_process():
    info = described(Refused("no"))
    assert info.type_name == f"{__name__}.Refused"
    assert info.bases[:3] == ("builtins.ConnectionError", "builtins.OSError", "builtins.Exception")


def test_the_traceback_shows_the_users_frames_and_not_ours():
    outcome = task_runner.run(make_call(refuse))
    assert "in refuse" in outcome.info.traceback
    assert "worker/task_runner.py" not in outcome.info.traceback
    assert outcome.error.__traceback__.tb_frame.f_code.co_name == "refuse"


def test_the_traceback_of_a_coroutine_shows_no_event_loop():
    async def outer():
        await asyncio.sleep(0)
        refuse()

    info = task_runner.run(make_call(outer)).info
    assert "in outer" in info.traceback
    assert "asyncio" not in info.traceback


def test_an_exception_that_survives_pickling_is_carried():
    info = described(CheckFailed(message="x"))
    assert pickle.loads(info.pickled).fields == {"message": "x"}


@pytest.mark.parametrize(
    "error", [NeedsArguments(1, second=2), HoldsALock(), ValueError("x" * 300_000)], ids=lambda error: type(error).__name__
)
def test_an_exception_that_does_not_is_told_in_words_only(error):
    info = described(error)
    assert info.pickled is None
    assert info.text.startswith(str(error)[:1000])


def test_a_long_text_keeps_its_beginning_and_its_end():
    text = described(ValueError("begin" + "é" * 100_000 + "end")).text
    assert text.startswith("begin")
    assert text.endswith("end")
    assert "200008 bytes in all" in text
    assert len(text.encode()) <= 64 * 1024


def test_an_exception_without_text_says_why():
    assert "RuntimeError" in described(HasNoText()).text


def test_a_wrong_call_is_the_tasks_failure():
    info = task_runner.run(make_call(lambda: None, 1)).info
    assert info.type_name == "builtins.TypeError"
    assert "takes 0 positional arguments" in info.text


def test_the_context_is_there_during_the_call_only():
    call = make_call(current_task)
    assert task_runner.run(call) == Returned(call.context)
    assert inside_task() is None


def test_a_coroutine_can_be_run_where_a_loop_is_running():
    async def task():
        await asyncio.sleep(0)
        return current_task().task_id

    async def engine():
        return task_runner.run(make_call(task))

    assert isinstance(asyncio.run(engine()), Returned)


def test_a_failure_in_a_coroutine_beside_a_running_loop_is_told():
    async def task():
        raise SystemExit(3)

    async def engine():
        return task_runner.run(make_call(task))

    assert asyncio.run(engine()).info.type_name == "builtins.SystemExit"


def test_a_plain_function_is_refused_on_a_loop():
    outcome = asyncio.run(task_runner.run_async(make_call(refuse)))
    assert outcome.info.type_name == "exoflow.errors.WrongContextError"
    assert "'refuse' is not 'async def'" in outcome.info.text


class Big:
    pass


def test_a_failed_call_does_not_keep_its_inputs_alive():
    """Nobody wants a gigabyte to stay because a TypeError that never looked at it is kept for the record."""
    big = Big()
    gone = weakref.ref(big)
    outcome = task_runner.run(make_call(lambda: None, big))
    assert isinstance(outcome, Raised)
    del big
    gc.collect()
    assert gone() is None
