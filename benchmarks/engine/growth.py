"""Whether a task costs the same among a thousand and among a million: as tasks of one DAG, and as workflows (P13).

Each size is measured in a process of its own, whose memory is that of this size only.
"""

from __future__ import annotations

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
from benchmarks.engine.tasks import calls, commit, fan_out_result, total
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
        before, start = _resident_bytes(), time.perf_counter()
        first = gate.bind()
        dag = total.bind([behind.bind(i, first) for i in range(count)])
        future = engine.run_async(dag)
        submitted = time.perf_counter() - start
        del dag, first
        gc.collect()
        waiting = _resident_bytes() - before
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
        resident, handles = _resident_bytes(), len(os.listdir("/proc/self/fd"))
    require(calls(), count + 1, "calls")
    require_stored(folder / "engine.db", workflows=count + 1, records=3 * (count + 1))
    return {"workflow_us": taken / count * 1e6, "resident_mb": resident / 1e6, "handles": handles}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


KINDS = {"dag": one_dag, "workflows": many_workflows}


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
    readings["workflows: memory, most over least"] = Reading(crowds[large]["resident_mb"] / crowds[small]["resident_mb"], "x", "durable")
    return readings


def _spread(values: collections.abc.Iterable[float]) -> float:
    found = list(values)
    return max(found) / min(found)


if __name__ == "__main__":
    print(json.dumps(KINDS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
