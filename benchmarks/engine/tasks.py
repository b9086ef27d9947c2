"""The tasks that are measured, and a count of their calls in this process."""

from __future__ import annotations

import itertools
from typing import Any

import exoflow

PURE = {"deterministic": True, "can_rollback": True, "checkpoint": False}
"""Internal, never saved."""

_counter = itertools.count()
_told = 0


def calls() -> int:
    """How often ``commit`` and ``internal`` were called in this process since the last time this was asked."""
    global _told
    before, _told = _told, next(_counter) + 1
    return _told - 1 - before


@exoflow.task
def commit(x: int) -> int:
    """The default: may have effects, saved."""
    next(_counter)
    return x + 1


@exoflow.task(can_rollback=True)
def internal(x: int) -> int:
    """Internal and saved: its save overlaps what follows."""
    next(_counter)
    return x + 1


@exoflow.task(**PURE)
def pure(x: int) -> int:
    return x + 1


@exoflow.task(**PURE)
async def pure_async(x: int) -> int:
    return x + 1


@exoflow.task(**PURE, executor="process")
def pure_elsewhere(x: int) -> int:
    return x + 1


@exoflow.task(**PURE)
def total(xs: list[int]) -> int:
    """Join."""
    return sum(xs)


def fan_out(task: exoflow.Task[Any, Any], count: int) -> exoflow.Node:
    """``count`` tasks and a join; its result is ``fan_out_result(count)``."""
    return total.bind([task.bind(i) for i in range(count)])


def fan_out_result(count: int) -> int:
    return sum(range(1, count + 1))


def chain(task: exoflow.Task[Any, Any], length: int) -> exoflow.Node:
    """Task upon task; its result is ``length``."""
    node = task.bind(0)
    for _ in range(length - 1):
        node = task.bind(node)
    return node
