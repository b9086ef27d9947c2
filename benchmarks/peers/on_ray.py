"""Plain Ray tasks as a contestant: nothing is saved, everything runs in worker processes. Runs where Ray is installed."""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.peers.installed import footprint
from benchmarks.reading import CHAIN, Reading, Readings, Sizes, elapsed_s, median_ms, require, serve


@ray.remote
def add_one(x: int) -> int:
    return x + 1


@ray.remote
def total(*xs: int) -> int:
    return sum(xs)


@ray.remote
def produce(size: int) -> tuple[Any, float]:
    return np.random.default_rng().integers(0, 256, size, dtype=np.uint8), time.perf_counter()


@ray.remote
def consume(made: tuple[Any, float]) -> tuple[float, int]:
    now = time.perf_counter()
    return now - made[1], made[0].nbytes


def connect() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level="error")


def launch() -> None:
    connect()
    require(ray.get([add_one.remote(i) for i in range(20)]), list(range(1, 21)), "results")  # its workers are there


def latency(_folder: Path, sizes: Sizes) -> Readings:
    launch()
    taken = median_ms(lambda: require(ray.get(add_one.remote(1)), 2, "result"), sizes.calls)
    return {"one-task workflow": Reading(taken, "ms", "not durable")}


def chains(_folder: Path, sizes: Sizes) -> Readings:
    launch()

    def run() -> None:
        value: Any = 0
        for _ in range(CHAIN):
            value = add_one.remote(value)
        require(ray.get(value), CHAIN, "result")

    taken = median_ms(run, sizes.chains) / CHAIN
    return {name: Reading(taken, "ms/task", "not durable") for name in ("committing tasks", "internal tasks")}


def fan_out(_folder: Path, sizes: Sizes) -> Readings:
    """It has one kind of task, which is compared with both of ours."""
    reading = _fan_out(sizes.crowd)
    return {"async tasks": reading, "tasks on threads": reading}


def processes(_folder: Path, sizes: Sizes) -> Readings:
    return {"tasks in processes": _fan_out(sizes.crowd)}


def _fan_out(count: int) -> Reading:
    launch()
    taken = elapsed_s(
        lambda: require(ray.get(total.remote(*[add_one.remote(i) for i in range(count)])), sum(range(1, count + 1)), "result")
    )
    return Reading(count / taken, "/s", "not durable")


def arrays(_folder: Path, sizes: Sizes) -> Readings:
    """Always from process to process, by shared memory; compared with both of our ways."""
    launch()
    size = sizes.array_mb << 20
    taken = list[float]()
    for _ in range(sizes.copies):
        on_the_way, came = ray.get(consume.remote(produce.remote(size)))
        require(came, size, "bytes")
        taken.append(on_the_way)
    return {name: Reading(statistics.median(taken) * 1e3, "ms", "not durable") for name in ("same process", "other process")}


def start() -> None:
    """Print a first result, then wait for a line."""
    connect()
    print(ray.get(add_one.remote(1)), flush=True)
    sys.stdin.readline()


def room(_folder: Path, sizes: Sizes) -> Readings:
    command = [sys.executable, "-m", "benchmarks.peers.on_ray", "start"]
    return footprint("ray", [command] * sizes.starts, "not durable")


GROUPS = {"P1": latency, "P2": chains, "P5": fan_out, "P6": processes, "P8": arrays, "P12": room}

if __name__ == "__main__":
    if sys.argv[1] == "start":
        start()
    else:
        serve(GROUPS)
