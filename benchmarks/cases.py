"""The cases, each a function from an open engine to a figure. They check that the work was done."""

from __future__ import annotations

import statistics
import time
from typing import Any

import exoflow
from exoflow import Engine


@exoflow.task
def commit(x: int) -> int:
    """The default: may have effects, saved."""
    return x + 1


@exoflow.task(can_rollback=True)
def internal(x: int) -> int:
    """Internal and saved: its save overlaps what follows."""
    return x + 1


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def pure(x: int) -> int:
    """Internal, never saved."""
    return x + 1


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
async def pure_async(x: int) -> int:
    """The same on the event loop."""
    return x + 1


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def total(xs: list[int]) -> int:
    """Join."""
    return sum(xs)


def _expect(got: Any, wanted: Any) -> None:
    if got != wanted:
        raise AssertionError(f"wrong result: {got!r:.80}, not {wanted!r:.80}")


def one_task_ms(engine: Engine) -> float:
    """A one-task workflow from ``run()`` to its return; submission and result durable."""
    taken = []
    for _ in range(300):
        start = time.perf_counter()
        _expect(engine.run(commit.bind(1)), 2)
        taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken)


def _chain(task: exoflow.Task[Any, Any], length: int) -> exoflow.Node:
    node = task.bind(0)
    for _ in range(length - 1):
        node = task.bind(node)
    return node


def _chain_ms(engine: Engine, task: exoflow.Task[Any, Any]) -> float:
    taken = []
    for _ in range(40):
        start = time.perf_counter()
        _expect(engine.run(_chain(task, 10)), 10)
        taken.append((time.perf_counter() - start) * 1e2)
    return statistics.median(taken)


def chain_commit_ms(engine: Engine) -> float:
    """A chain of 10 committing tasks, per task: each waits for its input's save."""
    return _chain_ms(engine, commit)


def chain_internal_ms(engine: Engine) -> float:
    """A chain of 10 internal saved tasks, per task: the saves overlap."""
    return _chain_ms(engine, internal)


def workflows_per_s(engine: Engine) -> float:
    """1,000 one-task workflows at once, all durable."""
    start = time.perf_counter()
    futures = [engine.run_async(commit.bind(i), wait_accepted=False) for i in range(1000)]
    _expect([future.result() for future in futures], list(range(1, 1001)))
    return 1000 / (time.perf_counter() - start)


def accepted_workflows_per_s(engine: Engine) -> float:
    """The same, each submission durable before the next is made."""
    start = time.perf_counter()
    futures = [engine.run_async(commit.bind(i)) for i in range(1000)]
    _expect([future.result() for future in futures], list(range(1, 1001)))
    return 1000 / (time.perf_counter() - start)


def _fan_out_per_s(engine: Engine, task: exoflow.Task[Any, Any], count: int) -> float:
    start = time.perf_counter()
    _expect(engine.run(total.bind([task.bind(i) for i in range(count)])), sum(range(1, count + 1)))
    return count / (time.perf_counter() - start)


def fan_out_saved_per_s(engine: Engine) -> float:
    """10,000 saved tasks and a join, from building the DAG to its result."""
    return _fan_out_per_s(engine, commit, 10_000)


def fan_out_pure_per_s(engine: Engine) -> float:
    """10,000 tasks that are never saved, on threads, and a join."""
    return _fan_out_per_s(engine, pure, 10_000)


def fan_out_async_per_s(engine: Engine) -> float:
    """10,000 ``async def`` tasks that are never saved, and a join."""
    return _fan_out_per_s(engine, pure_async, 10_000)


def large_dag() -> None:
    """A DAG of 100,000 tasks, built, checked and run in memory (in a process of its own, whose peak memory is read)."""
    with Engine("memory:") as engine:
        dag = total.bind([total.bind([pure.bind(i * 100 + j) for j in range(99)]) for i in range(1000)])
        _expect(exoflow.check(dag), [])
        _expect(engine.run(dag), sum(i * 100 + j + 1 for i in range(1000) for j in range(99)))
