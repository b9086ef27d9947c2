"""Kill -9 in the middle of a chain (P11). Run as a program it is the process that is killed, and the one that goes on."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import exoflow
from benchmarks.engine.proof import require_stored
from benchmarks.killing import ProcessLife, after_kill, mark
from benchmarks.reading import Readings, Sizes, require


@exoflow.task
def step(before: int, folder: str, step_s: float) -> int:
    mark(Path(folder), before + 1)
    time.sleep(step_s)
    return before + 1


def recovery(folder: Path, sizes: Sizes) -> Readings:
    command = [sys.executable, "-m", "benchmarks.engine.recovery", str(folder), sizes.text()]
    readings = after_kill(folder, sizes, lambda: ProcessLife(command))
    require_stored(folder / "engine.db", workflows=1, records=sizes.steps + 2)
    return readings


def live(folder: Path, sizes: Sizes) -> None:
    """Run the chain, or go on with it."""
    node = step.bind(0, str(folder), sizes.step_s)
    for _ in range(sizes.steps - 1):
        node = step.bind(node, str(folder), sizes.step_s)
    with exoflow.Engine(folder / "engine.db") as engine:
        require(engine.run(node, name="chain"), sizes.steps, "result")


if __name__ == "__main__":
    live(Path(sys.argv[1]), Sizes.of(sys.argv[2]))
