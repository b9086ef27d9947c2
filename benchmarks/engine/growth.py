"""Whether a task costs the same among a thousand and among a million: as tasks of one DAG, in a chain, below a join, and as workflows; and
what a workflow that waits takes (P13).

Each size is measured in a process of its own, whose memory is that of this size only.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import exoflow
from benchmarks.engine.proof import require_stored
from benchmarks.engine.tasks import calls, chain, commit, fan_out_result, internal, total
from benchmarks.reading import Reading, Readings, Sizes, elapsed_s, require

WINDOW = 1_000
"""Workflows under way at once."""
_opened = threading.Event()


@exoflow.task
def gate() -> int:
    """Holds all others back while their memory is measured."""
    _opened.wait()
    return 0


@exoflow.task
def behind(number: int, _gate: int) -> int:
    return number + 1


def one_dag(folder: Path, count: int) -> dict[str, float]:
    """``count`` saved tasks between a gate and a join: microseconds for each, from building the DAG, and bytes while they wait."""
    with exoflow.Engine(folder / "engine.db", tasks_max=count + 2) as engine:
        engine.run(commit.bind(0))
        gc.collect()
        before, start = resident_bytes(), time.perf_counter()
        first = gate.bind()
        dag = total.bind([behind.bind(i, first) for i in range(count)])
        future = engine.run_async(dag)
        submitted = time.perf_counter() - start
        del dag, first
        gc.collect()
        waiting = resident_bytes() - before
        _opened.set()
        taken = submitted + elapsed_s(lambda: require(future.result(), fan_out_result(count), "result"))
    require_stored(folder / "engine.db", workflows=2, records=3 + count + 4)
    return {"task_us": taken / count * 1e6, "waiting_bytes": waiting / count}


def many_workflows(folder: Path, count: int) -> dict[str, float]:
    """``count`` one-task workflows in one process, a window of them at once: microseconds for each, memory and handles at the end."""
    with exoflow.Engine(folder / "engine.db") as engine:
        engine.run(commit.bind(0))

        def run() -> None:
            under_way: collections.deque[exoflow.WorkflowFuture] = collections.deque()
            for i in range(count):
                if len(under_way) == WINDOW:
                    under_way.popleft().result()
                under_way.append(engine.run_async(commit.bind(i), wait_accepted=False))
            for future in under_way:
                future.result()

        taken = elapsed_s(run)
        resident, handles = resident_bytes(), len(os.listdir("/proc/self/fd"))
    require(calls(), count + 1, "calls")
    require_stored(folder / "engine.db", workflows=count + 1, records=3 * (count + 1))
    return {"workflow_us": taken / count * 1e6, "resident_mb": resident / 1e6, "handles": handles}


def long_chain(folder: Path, count: int) -> dict[str, float]:
    """A chain of saved tasks: microseconds for each, from building the DAG."""
    with exoflow.Engine(folder / "engine.db", tasks_max=count) as engine:
        engine.run(commit.bind(0))
        taken = elapsed_s(lambda: require(engine.run(chain(internal, count)), count, "result"))
    require_stored(folder / "engine.db", workflows=2, records=3 + count + 2)
    return {"task_us": taken / count * 1e6}


@exoflow.task
def charge(amounts: list[int]) -> int:
    """Commits, once all that it reads is stable."""
    return sum(amounts)


def wide_join(folder: Path, count: int) -> dict[str, float]:
    """Saved tasks, all of which one task reads that commits: microseconds for each, from building the DAG."""
    with exoflow.Engine(folder / "engine.db", tasks_max=count + 1) as engine:
        engine.run(commit.bind(0))
        dag = charge.bind([internal.bind(i) for i in range(count)])
        taken = elapsed_s(lambda: require(engine.run(dag), fan_out_result(count), "result"))
    require_stored(folder / "engine.db", workflows=2, records=3 + count + 3)
    return {"task_us": taken / count * 1e6}


class _Night:
    """Who sleeps, and what wakes them. On the event loop of the engine."""

    def __init__(self) -> None:
        self.asleep = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.morning = asyncio.Event()


_night = _Night()


@exoflow.task(can_rollback=True)
async def sleeper(number: int) -> int:
    _night.loop = asyncio.get_running_loop()
    _night.asleep += 1
    await _night.morning.wait()
    return number


def asleep(folder: Path, count: int) -> dict[str, float]:
    """``count`` workflows whose only task waits, all at once: bytes for each, and microseconds from waking one to its durable result."""
    with exoflow.Engine(folder / "engine.db", loop_tasks=count) as engine:
        engine.run(commit.bind(0))
        gc.collect()
        before = resident_bytes()
        futures = [engine.run_async(sleeper.bind(number), wait_accepted=False) for number in range(count)]
        while _night.asleep < count:
            time.sleep(0.01)
        gc.collect()
        waiting = resident_bytes() - before
        start = time.perf_counter()
        if _night.loop is not None:
            _night.loop.call_soon_threadsafe(_night.morning.set)
        require(sum(future.result() for future in futures), sum(range(count)), "results")
        taken = time.perf_counter() - start
    require_stored(folder / "engine.db", workflows=count + 1, records=3 * (count + 1))
    return {"waiting_bytes": waiting / count, "wake_us": taken / count * 1e6}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


KINDS = {"dag": one_dag, "workflows": many_workflows, "chain": long_chain, "join": wide_join, "asleep": asleep}


def _alone(kind: str, folder: Path, count: int) -> dict[str, float]:
    place = folder / f"{kind}-{count}"
    place.mkdir()
    command = [sys.executable, "-m", "benchmarks.engine.growth", kind, str(place), str(count)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def growth(folder: Path, sizes: Sizes) -> Readings:
    dags = {count: _alone("dag", folder, count) for count in sizes.growth}
    crowds = {count: _alone("workflows", folder, count) for count in sizes.growth}
    small, large = min(sizes.growth), max(sizes.growth)
    readings: Readings = {}
    for count in sizes.growth:
        readings[f"one DAG of {count:,}"] = Reading(dags[count]["task_us"], "µs/task", "durable")
        readings[f"{count:,} workflows"] = Reading(crowds[count]["workflow_us"], "µs/workflow", "durable")
        readings[f"{count:,} workflows: memory"] = Reading(crowds[count]["resident_mb"], "MB", "durable")
        readings[f"{count:,} workflows: handles"] = Reading(crowds[count]["handles"], "", "durable")
    readings["one DAG: dearest over cheapest task"] = Reading(_spread(each["task_us"] for each in dags.values()), "x", "durable")
    readings["workflows: dearest over cheapest"] = Reading(_spread(each["workflow_us"] for each in crowds.values()), "x", "durable")
    readings["waiting task"] = Reading(dags[large]["waiting_bytes"] / 1024, "KB", "durable")
    for name, short, kind in (("long chain", "a short one", "chain"), ("wide join", "a narrow one", "join")):
        few, many = (_alone(kind, folder, count)["task_us"] for count in (max(sizes.shape // 100, 1), sizes.shape))
        readings[f"{name} that commits" if kind == "join" else name] = Reading(many, "µs/task", "durable")
        readings[f"{name}, over {short}"] = Reading(many / few, "x", "durable")
    night = _alone("asleep", folder, sizes.asleep)
    readings["sleeping workflow"] = Reading(night["waiting_bytes"] / 1024, "KB", "durable")
    readings["to wake one"] = Reading(night["wake_us"], "µs/workflow", "durable")
    readings["workflows: memory, most over least"] = Reading(crowds[large]["resident_mb"] / crowds[small]["resident_mb"], "x", "durable")
    return readings


def _spread(values: collections.abc.Iterable[float]) -> float:
    found = list(values)
    return max(found) / min(found)


if __name__ == "__main__":
    print(json.dumps(KINDS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
