"""Tasks on a Ray of this machine beside the same work on plain Ray, in turn in one process (P7). Needs the extra ``ray``."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import ray

import exoflow
from benchmarks.engine.tasks import PURE, fan_out, fan_out_result, internal, pure
from benchmarks.reading import Reading, Readings, Sizes, elapsed_s, require

_TURNS = 5
_STORE_ROOM = 3
"""The object store holds so many of the large arrays."""

_pure, _saved = pure.options(executor="ray"), internal.options(executor="ray")


@ray.remote
def _plain(x: int) -> int:
    return x + 1


def _make(size: int, seed: int) -> Any:
    return np.full(size // 8, seed, dtype=np.int64)


def _hand_on(data: Any) -> Any:
    return data[:1].copy(), data


def _first(made: Any) -> int:
    return int(made[0][0])


make, hand_on, first = (exoflow.task(**PURE, executor="ray")(function) for function in (_make, _hand_on, _first))
_plain_make, _plain_hand_on, _plain_first = map(ray.remote, (_make, _hand_on, _first))


def tasks(folder: Path, sizes: Sizes) -> Readings:
    """A fan-out of no-ops and a join; then a large array through three tasks. Medians of the turns."""
    size = sizes.huge_mb << 20
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    room = max(200 << 20, _STORE_ROOM * size)
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=room, log_to_driver=False, logging_level="ERROR")
    try:
        with exoflow.Engine(folder / "engine.db") as engine:
            return _crowd(engine, sizes.rival_crowd) | _large(engine, size) | _lost(engine, folder)
    finally:
        ray.shutdown()


def _crowd(engine: exoflow.Engine, count: int) -> Readings:
    def plain() -> None:
        require(sum(ray.get([_plain.remote(i) for i in range(count)])), fan_out_result(count), "result")

    def ours(task: exoflow.Task[Any, Any]) -> Callable[[], None]:
        return lambda: require(engine.run(fan_out(task, count)), fan_out_result(count), "result")

    taken = _in_turn({"plain": plain, "none": ours(_pure), "async": ours(_saved)})
    rates = {name: count / statistics.median(times) for name, times in taken.items()}
    ratio = {name: statistics.median(p / t for p, t in zip(taken["plain"], taken[name], strict=True)) for name in ("none", "async")}
    return {
        "plain Ray": Reading(rates["plain"], "/s", "not durable"),
        "tasks on Ray": Reading(rates["none"], "/s", "result only"),
        "saved tasks on Ray": Reading(rates["async"], "/s", "durable"),
        "tasks, of plain Ray's rate": Reading(ratio["none"], "x", "result only"),
        "saved tasks, of plain Ray's rate": Reading(ratio["async"], "x", "durable"),
    }


def _large(engine: exoflow.Engine, size: int) -> Readings:
    me = psutil.Process()
    grown = list[int]()

    def plain() -> None:
        require(ray.get(_plain_first.remote(_plain_hand_on.remote(_plain_make.remote(size, 7)))), 7, "result")

    def ours() -> None:
        before = me.memory_info()
        require(engine.run(first.bind(hand_on.bind(make.bind(size, 7)))), 7, "result")
        after = me.memory_info()
        grown.append(after.rss - before.rss)

    taken = _in_turn({"plain": plain, "ours": ours})
    ratio = statistics.median(o / p for o, p in zip(taken["ours"], taken["plain"], strict=True))
    return {
        "large array through three tasks": Reading(statistics.median(taken["ours"]) * 1e3, "ms", "result only"),
        "the same on plain Ray": Reading(statistics.median(taken["plain"]) * 1e3, "ms", "not durable"),
        "large array, of plain Ray's time": Reading(ratio, "x", "result only"),
        "memory of the engine, grown": Reading(max(grown) / 2**20, "MB", "no data"),
    }


@ray.remote(num_cpus=0)
def _dies_at_first(marks: str) -> int:
    if not Path(marks, "died").exists():
        Path(marks, "died").touch()
        os.kill(os.getpid(), 9)
    return 1


def _note(marks: str, what: str) -> None:
    Path(marks, what).write_text(str(time.perf_counter()))  # one clock for all processes of a machine


@exoflow.task(**PURE, executor="ray")
def _scatter(marks: str) -> list[Any]:
    _note(marks, "started")
    return [_dies_at_first.remote(marks)]


@exoflow.task(**PURE, executor="ray")
def _gather(refs: list[Any], marks: str) -> int:
    try:
        return sum(ray.get(refs))
    except ray.exceptions.RayError:
        _note(marks, "reported")
        raise


def _lost(engine: exoflow.Engine, folder: Path) -> Readings:
    """From Ray's report of a loss, in the task that needed it, to the new start of the task that made it."""
    taken = list[float]()
    for turn in range(_TURNS):
        marks = folder / f"lost-{turn}"
        marks.mkdir()
        require(engine.run(_gather.bind(_scatter.bind(str(marks)), str(marks))), 1, "result")
        taken.append(float((marks / "started").read_text()) - float((marks / "reported").read_text()))
    return {"from a loss to the new start": Reading(statistics.median(taken) * 1e3, "ms", "no data")}


def _in_turn(what: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """How long each takes, in each turn but the first."""
    taken: dict[str, list[float]] = {name: [] for name in what}
    for turn in range(_TURNS + 1):
        for name, action in what.items():
            time_s = elapsed_s(action)
            if turn:
                taken[name].append(time_s)
    return taken
