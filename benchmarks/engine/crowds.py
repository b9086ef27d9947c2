"""Many at once: workflows and fans of tasks, saved or not, on threads, the event loop and processes (P3 to P6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import exoflow
from benchmarks.engine.proof import require_stored
from benchmarks.engine.tasks import calls, commit, fan_out, fan_out_result, pure, pure_async, pure_elsewhere
from benchmarks.reading import Durable, Reading, Readings, Sizes, elapsed_s, require


def workflows(folder: Path, sizes: Sizes) -> Readings:
    """One-task workflows, all durable: handed in together, or each handed in when the submission before it was durable."""
    count = sizes.crowd

    def run_all(*, wait_accepted: bool) -> float:
        def run() -> None:
            futures = [engine.run_async(commit.bind(i), wait_accepted=wait_accepted) for i in range(count)]
            require(sum(future.result() for future in futures), fan_out_result(count), "results")

        return count / elapsed_s(run)

    with exoflow.Engine(folder / "engine.db") as engine:
        engine.run(commit.bind(0))
        together, one_by_one = run_all(wait_accepted=False), run_all(wait_accepted=True)
    require(calls(), 2 * count + 1, "calls")
    require_stored(folder / "engine.db", workflows=2 * count + 1, records=3 * (2 * count + 1))
    return {
        "workflows at once": Reading(together, "/s", "durable"),
        "each accepted before the next": Reading(one_by_one, "/s", "durable"),
    }


def saved_tasks(folder: Path, sizes: Sizes) -> Readings:
    """A fan-out of saved tasks and a join, from building the DAG to its result."""
    with exoflow.Engine(folder / "engine.db") as engine:
        engine.run(commit.bind(0))
        reading = _fan_out(engine, commit, sizes.crowd, "durable")
    require(calls(), sizes.crowd + 1, "calls")
    require_stored(folder / "engine.db", workflows=2, records=3 + sizes.crowd + 3)
    return {"saved tasks": reading}


def unsaved_tasks(folder: Path, sizes: Sizes) -> Readings:
    """The same with tasks that are never saved, on the event loop and on threads."""
    with exoflow.Engine(folder / "engine.db") as engine:
        engine.run(fan_out(pure, 2))
        engine.run(fan_out(pure_async, 2))
        on_loop = _fan_out(engine, pure_async, sizes.crowd, "result only")
        on_threads = _fan_out(engine, pure, sizes.crowd, "result only")
    require_stored(folder / "engine.db", workflows=4, records=12)
    return {"async tasks": on_loop, "tasks on threads": on_threads}


def process_tasks(folder: Path, sizes: Sizes) -> Readings:
    """The same in worker processes."""
    with exoflow.Engine(folder / "engine.db") as engine:
        engine.run(fan_out(pure_elsewhere, 20))  # start the workers
        reading = _fan_out(engine, pure_elsewhere, sizes.crowd, "result only")
    require_stored(folder / "engine.db", workflows=2, records=6)
    return {"tasks in processes": reading}


def _fan_out(engine: exoflow.Engine, task: exoflow.Task[Any, Any], count: int, durable: Durable) -> Reading:
    taken = elapsed_s(lambda: require(engine.run(fan_out(task, count)), fan_out_result(count), "result"))
    return Reading(count / taken, "/s", durable)
