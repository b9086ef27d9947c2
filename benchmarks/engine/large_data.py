"""Arrays from task to task: how long the way takes, what it costs in memory, and what a save beside a running task costs (P8 to P10)."""

from __future__ import annotations

import functools
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]

import exoflow
from benchmarks.engine.proof import require_stored
from benchmarks.engine.tasks import PURE
from benchmarks.reading import Reading, Readings, Sizes, elapsed_s, require

Array = np.ndarray[Any, np.dtype[np.uint8]]

# perf_counter is one clock for all processes of a machine (CLOCK_MONOTONIC), so a time may be taken in one and read in another.


@exoflow.task(**PURE)
def produce(size: int, seed: int) -> tuple[Array, float]:
    """Bytes that no other seed makes, and when they were ready."""
    data = np.arange(size // 8, dtype=np.uint64).view(np.uint8)
    data[:8] = np.frombuffer(seed.to_bytes(8, "little"), np.uint8)
    return data, time.perf_counter()


@exoflow.task(**PURE)
def consume(made: tuple[Array, float], seed: int) -> tuple[float, int]:
    """How long the way here took, and how many bytes came."""
    now = time.perf_counter()
    data, ready = made
    require(int.from_bytes(data[:8].tobytes(), "little"), seed, "the bytes that came")
    return now - ready, data.nbytes


def _on_the_way_ms(engine: exoflow.Engine, sizes: Sizes, first_seed: int, **options: Any) -> float:
    consumer = consume.options(executor=options.get("executor"))
    size = sizes.array_mb << 20
    taken = list[float]()
    for seed in range(first_seed, first_seed + sizes.copies):
        on_the_way, came = engine.run(consumer.bind(produce.options(**options).bind(size, seed), seed))
        require(came, size, "bytes")
        taken.append(on_the_way)
    return statistics.median(taken) * 1e3


def handed_on(folder: Path, sizes: Sizes) -> Readings:
    """From the return of one task to the start of the next: in a process, between two, and saved before the next may start."""
    n = sizes.copies
    with exoflow.Engine(folder / "engine.db") as engine:
        engine.run(consume.options(executor="process").bind(produce.options(executor="process").bind(8, 0), 0))
        same = _on_the_way_ms(engine, sizes, 1)
        other = _on_the_way_ms(engine, sizes, 1 + n, executor="process")
        saved = _on_the_way_ms(engine, sizes, 1 + 2 * n, checkpoint="sync")
    require_stored(folder / "engine.db", workflows=1 + 3 * n, records=3 * (1 + 3 * n) + n, payload_bytes=n * sizes.array_mb << 20)
    return {
        "same process": Reading(same, "ms", "result only"),
        "other process": Reading(other, "ms", "result only"),
        "saved first": Reading(saved, "ms", "durable"),
    }


@exoflow.task(deterministic=True, can_rollback=True, checkpoint="sync")
def make_huge(size: int) -> Array:
    return np.ones(size, np.uint8)


@exoflow.task(**PURE)
def pass_on(data: Array) -> Array:
    return data


@exoflow.task(**PURE)
def weigh(data: Array) -> tuple[int, int]:
    """Look at every byte, without a copy."""
    return data.nbytes, int(np.count_nonzero(data))


def huge(folder: Path, sizes: Sizes) -> Readings:
    """Through three tasks, the first output saved before the second starts; and the most memory that any process had."""
    size = sizes.huge_mb << 20
    readings: Readings = {}
    for where in ("thread", "process"):
        (folder / where).mkdir()
        with exoflow.Engine(folder / where / "engine.db") as engine:
            made = make_huge.options(executor=where).bind(size)
            dag = weigh.options(executor=where).bind(pass_on.options(executor=where).bind(made))
            taken = elapsed_s(functools.partial(_require_bytes, engine, dag, size))
            processes = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
            peak = max(_peak_bytes(pid) for pid in processes)
        require(len(processes) > 1, where == "process", "worker processes")
        require_stored(folder / where / "engine.db", workflows=1, records=4, payload_bytes=size)
        readings[f"{where}: time"] = Reading(taken, "s", "durable")
        readings[f"{where}: peak memory of a process"] = Reading(peak / size, "x payload", "durable")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the next peak counts from here
    return readings


def _require_bytes(engine: exoflow.Engine, dag: exoflow.Node, size: int) -> None:
    require(engine.run(dag), (size, size), "bytes, all of them ones")


def _peak_bytes(pid: int) -> int:
    """Not ru_maxrss: in a new process that begins with the peak of the one that started it."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


@exoflow.task(**PURE)
def compute(made: tuple[Array, float], rounds: int) -> float:
    """Seconds of so much work in Python."""

    def work() -> None:
        total = 0
        for i in range(rounds):
            total += i * i % 7

    return elapsed_s(work)


@exoflow.task
def durable_since(made: tuple[Array, float]) -> float:
    """Starts when its input is durable: how long that took."""
    return time.perf_counter() - made[1]


@exoflow.task(**PURE)
def both(computed: float, waited: float) -> tuple[float, float]:
    return computed, waited


def beside_a_task(folder: Path, sizes: Sizes) -> Readings:
    """The same work beside the save of an array and alone, in turns."""
    size = sizes.array_mb << 20
    rounds = 10_000 * sizes.array_mb  # no longer than the save takes, so that all of it is beside the save
    slowed, waits = [], []
    saving = produce.options(deterministic=False, checkpoint="async")
    n = 3 * sizes.copies  # a short task on a busy machine needs more of them
    with exoflow.Engine(folder / "engine.db") as engine:
        for seed in range(n):
            alone = engine.run(compute.bind(produce.bind(size, seed), rounds))
            made = saving.bind(size, seed)
            beside, waited = engine.run(both.bind(compute.bind(made, rounds), durable_since.bind(made)))
            slowed.append((beside / alone - 1) * 100)
            waits.append(waited)
    require_stored(folder / "engine.db", workflows=2 * n, records=3 * n + 5 * n, payload_bytes=n * size)
    return {
        "task slowed": Reading(statistics.median(slowed), "%", "durable"),
        "speed of the save": Reading(sizes.array_mb / statistics.median(waits), "MB/s", "durable"),
    }
