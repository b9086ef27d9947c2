"""A loop written as recursion is as cheap to go on with as to begin, however many rounds it has behind it."""

from __future__ import annotations

import pytest

import exoflow
from exoflow.errors import TaskFailed

stops_at: set[int] = set()


def _turn(left: int, total: int, again: exoflow.Task) -> object:
    if left in stops_at:
        raise RuntimeError(f"stopped at {left}")
    return again.bind(left - 1, total + left) if left else total


@exoflow.task
def committing(left: int, total: int):
    return _turn(left, total, committing)


@exoflow.task(can_rollback=True)
def internal(left: int, total: int):
    return _turn(left, total, internal)


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def deterministic(left: int, total: int):
    return _turn(left, total, deterministic)


@exoflow.task(can_rollback=True, checkpoint=False, deterministic=True)
def double(total: int) -> int:
    return 2 * total


@pytest.mark.slow
@pytest.mark.parametrize("turn", [committing, internal, deterministic], ids=lambda task: task.function.__name__)
def test_a_loop_is_gone_on_with_from_a_few_records(turn, any_url) -> None:
    """What is past stays as history, and is not read. Slow: 400 rounds on disk."""
    with exoflow.Engine(any_url) as engine:
        stops_at.clear()
        stops_at.update({110, 101})
        with pytest.raises(TaskFailed):
            engine.run(double.bind(turn.bind(400, 0)), name="loop")
        stops_at.discard(110)
        with pytest.raises(TaskFailed):
            engine.resume("loop").result()
        assert len(engine.store.entries("loop")) < 160
        assert len(engine.store.entries("loop", retired=True)) > 300
        stops_at.clear()
        assert engine.resume("loop").result() == 400 * 401
