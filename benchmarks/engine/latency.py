"""One workflow after the other: what a durable task costs when nothing else can share its flush (P1, P2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import exoflow
from benchmarks.engine.proof import require_stored
from benchmarks.engine.tasks import calls, chain, commit, internal
from benchmarks.reading import CHAIN, Reading, Readings, Sizes, median_ms, require


def one_task(folder: Path, sizes: Sizes) -> Readings:
    """From ``run()`` to its return; submission and result durable."""
    with exoflow.Engine(folder / "engine.db") as engine:
        engine.run(commit.bind(0))
        taken = median_ms(lambda: require(engine.run(commit.bind(1)), 2, "result"), sizes.calls)
    require(calls(), sizes.calls + 1, "calls")
    require_stored(folder / "engine.db", workflows=sizes.calls + 1, records=3 * (sizes.calls + 1))
    return {"one-task workflow": Reading(taken, "ms", "durable")}


def chains(folder: Path, sizes: Sizes) -> Readings:
    """Ten tasks, every output saved. Committing ones wait for the save of their input, saves of internal ones overlap."""
    with exoflow.Engine(folder / "engine.db") as engine:
        engine.run(commit.bind(0))
        committing = _chain_ms(engine, commit, sizes.chains)
        overlapping = _chain_ms(engine, internal, sizes.chains)
    require(calls(), 2 * CHAIN * sizes.chains + 1, "calls")
    require_stored(folder / "engine.db", workflows=2 * sizes.chains + 1, records=3 + 2 * sizes.chains * (CHAIN + 2))
    return {
        "committing tasks": Reading(committing, "ms/task", "durable"),
        "internal tasks": Reading(overlapping, "ms/task", "durable"),
    }


def _chain_ms(engine: exoflow.Engine, task: exoflow.Task[Any, Any], times: int) -> float:
    return median_ms(lambda: require(engine.run(chain(task, CHAIN)), CHAIN, "result"), times) / CHAIN
