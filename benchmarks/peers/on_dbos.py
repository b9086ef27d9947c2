"""DBOS Transact on SQLite as a contestant; ``--wal`` before the group: with its file in WAL mode. Runs where DBOS is installed."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from dbos import DBOS, SetWorkflowID

from benchmarks.killing import ProcessLife, after_kill, mark
from benchmarks.peers.installed import footprint
from benchmarks.reading import CHAIN, Reading, Readings, Sizes, elapsed_s, median_ms, require, serve

WAL = "--wal"


@DBOS.step()
def add_one(x: int) -> int:
    return x + 1


@DBOS.step()
async def add_one_async(x: int) -> int:
    return x + 1


@DBOS.workflow()
def one_task(x: int) -> int:
    return add_one(x)


@DBOS.workflow()
def chain(length: int) -> int:
    value = 0
    for _ in range(length):
        value = add_one(value)
    return value


@DBOS.workflow()
async def fan_out(count: int) -> int:
    return sum(await asyncio.gather(*[add_one_async(i) for i in range(count)]))


@DBOS.step()
def produce(size: int) -> tuple[Any, float]:
    return np.random.default_rng().integers(0, 256, size, dtype=np.uint8), time.perf_counter()


@DBOS.step()
def consume(made: tuple[Any, float]) -> tuple[float, int]:
    now = time.perf_counter()
    return now - made[1], made[0].nbytes


@DBOS.workflow()
def hand_on(size: int) -> tuple[float, int]:
    return consume(produce(size))


@DBOS.step()
def slow_step(before: int, folder: str, step_s: float) -> int:
    mark(Path(folder), before + 1)
    time.sleep(step_s)
    return before + 1


@DBOS.workflow()
def slow_chain(folder: str, steps: int, step_s: float) -> int:
    value = 0
    for _ in range(steps):
        value = slow_step(value, folder, step_s)
    return value


def launch(folder: Path) -> Path:
    """DBOS on a database in ``folder``."""
    path = folder / "dbos.sqlite"
    if WAL in sys.argv:
        db = sqlite3.connect(path)
        require(db.execute("PRAGMA journal_mode=WAL").fetchone(), ("wal",), "journal mode")
        db.close()
    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{path}", "log_level": "ERROR", "run_admin_server": False})
    DBOS.launch()
    return path


def require_stored(path: Path, workflows: int, steps: int) -> None:
    """What is on the disk. Raises RuntimeError."""
    db = sqlite3.connect(path)
    found = dict(db.execute("SELECT status, count(*) FROM workflow_status GROUP BY status").fetchall())
    require(found, {"SUCCESS": workflows}, "workflows on disk")
    require(db.execute("SELECT count(*) FROM operation_outputs").fetchone(), (steps,), "steps on disk")
    db.close()


def measured(folder: Path, work: Callable[[], Readings], workflows: int, steps: int) -> Readings:
    path = launch(folder)
    one_task(0)
    readings = work()
    require_stored(path, workflows + 1, steps + 1)
    return readings


def latency(folder: Path, sizes: Sizes) -> Readings:
    def work() -> Readings:
        taken = median_ms(lambda: require(one_task(1), 2, "result"), sizes.calls)
        return {"one-task workflow": Reading(taken, "ms", "durable")}

    return measured(folder, work, sizes.calls, sizes.calls)


def chains(folder: Path, sizes: Sizes) -> Readings:
    """It knows one kind of step, which is compared with both of ours."""

    def work() -> Readings:
        taken = median_ms(lambda: require(chain(CHAIN), CHAIN, "result"), sizes.chains) / CHAIN
        return {name: Reading(taken, "ms/task", "durable") for name in ("committing tasks", "internal tasks")}

    return measured(folder, work, sizes.chains, sizes.chains * CHAIN)


def workflows(folder: Path, sizes: Sizes) -> Readings:
    count = sizes.rival_crowd

    def run() -> None:
        handles = [DBOS.start_workflow(one_task, i) for i in range(count)]
        require(sum(handle.get_result() for handle in handles), sum(range(1, count + 1)), "results")

    return measured(folder, lambda: {"workflows at once": Reading(count / elapsed_s(run), "/s", "durable")}, count, count)


def tasks(folder: Path, sizes: Sizes) -> Readings:
    count = sizes.rival_crowd

    def run() -> None:
        require(asyncio.run(fan_out(count)), sum(range(1, count + 1)), "result")

    return measured(folder, lambda: {"saved tasks": Reading(count / elapsed_s(run), "/s", "durable")}, 1, count)


def arrays(folder: Path, sizes: Sizes) -> Readings:
    """Both steps run in one process; the first one's output is saved before the second starts."""
    size = sizes.array_mb << 20

    def work() -> Readings:
        taken = list[float]()
        for _ in range(sizes.copies):
            on_the_way, came = hand_on(size)
            require(came, size, "bytes")
            taken.append(on_the_way)
        return {"saved first": Reading(statistics.median(taken) * 1e3, "ms", "durable")}

    readings = measured(folder, work, sizes.copies, 2 * sizes.copies)
    stored = sum(file.stat().st_size for file in folder.iterdir())
    require(stored >= sizes.copies * size, True, f"{stored} bytes on disk hold {sizes.copies} arrays")
    return readings


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.peers.on_dbos", *([WAL] if WAL in sys.argv else []), *arguments]


def recovery(folder: Path, sizes: Sizes) -> Readings:
    return after_kill(folder, sizes, lambda: ProcessLife(_command("live", str(folder), sizes.text())))


def live(folder: Path, sizes: Sizes) -> None:
    """Start the chain. In a second life, launching recovers it and all there is to do is wait."""
    again = (folder / "dbos.sqlite").exists() and (folder / "marks").exists()
    path = launch(folder)
    if again:
        handle = DBOS.retrieve_workflow("chain")
    else:
        with SetWorkflowID("chain"):
            handle = DBOS.start_workflow(slow_chain, str(folder), sizes.steps, sizes.step_s)
    require(handle.get_result(), sizes.steps, "result")
    require_stored(path, 1, sizes.steps)


def start(folder: Path) -> None:
    """Print a first durable result, then wait for a line."""
    launch(folder)
    print(one_task(1), flush=True)
    sys.stdin.readline()


def room(folder: Path, sizes: Sizes) -> Readings:
    places = [folder / str(number) for number in range(sizes.starts)]
    for place in places:
        place.mkdir()
    return footprint("dbos", [_command("start", str(place)) for place in places], "durable")


GROUPS = {"P1": latency, "P2": chains, "P3": workflows, "P4": tasks, "P8": arrays, "P11": recovery, "P12": room}

if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != WAL]
    if arguments[0] == "live":
        live(Path(arguments[1]), Sizes.of(arguments[2]))
    elif arguments[0] == "start":
        start(Path(arguments[1]))
    else:
        serve(GROUPS, arguments)
    os._exit(0)  # its threads would take a while to end
