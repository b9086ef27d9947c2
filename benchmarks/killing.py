"""Kill -9 in the middle of a chain of steps, start again, and see how long the rest takes. Standard library only, for rivals too."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.reading import Reading, Readings, Sizes, require

LIMIT_S = 120.0


class Life(Protocol):
    """A chain that was started, or goes on."""

    def kill(self) -> None:
        """Kill -9 whatever runs it."""

    def finish(self) -> None:
        """Wait for its result. Raises if that is not as it should be."""

    def close(self) -> None:
        """Stop what still runs, if anything does."""


class ProcessLife:
    """One that is a process."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command)

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        require(self._process.wait(), -signal.SIGKILL, "end of the first process")

    def finish(self) -> None:
        until = time.monotonic() + LIMIT_S
        while self._process.poll() is None and time.monotonic() < until:
            time.sleep(0.001)  # wait(LIMIT_S) would look only every 50 ms
        require(self._process.poll(), 0, "exit code")

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()


def mark(folder: Path, number: int) -> None:
    """Step ``number`` begins: a line outside, so that whoever kills knows when, and can count."""
    with (folder / "marks").open("a", encoding="ascii") as file:
        file.write(f"{number}\n")


def marks(folder: Path) -> list[int]:
    """The steps that have begun, in order."""
    path = folder / "marks"
    return [int(line) for line in path.read_text("ascii").splitlines()] if path.exists() else []


def after_kill(folder: Path, sizes: Sizes, begin: Callable[[], Life]) -> Readings:
    """``begin`` a chain whose steps ``mark``, kill it, begin anew, and take the time from there to its end. What was durable must not be
    done again; the step that ran when it was killed is done once more. (On a busy machine that may be a later one than wanted, or none.)"""
    life, until = begin(), time.monotonic() + LIMIT_S
    while len(marks(folder)) < sizes.killed_at:
        if time.monotonic() > until:
            life.kill()
            raise RuntimeError(f"nothing to kill: it got no further than step {len(marks(folder))}")
        time.sleep(0.001)
    life.kill()
    before = marks(folder)
    start = time.perf_counter()
    life = begin()
    try:
        life.finish()
        taken = time.perf_counter() - start
    finally:
        life.close()
    require(before, list(range(1, len(before) + 1)), "steps before the kill")
    again = marks(folder)[len(before) :]
    require(again, list(range(len(before) + (again[0] > len(before)), sizes.steps + 1)), "steps after the kill")
    work = len(again) * sizes.step_s
    return {
        "restart to finish": Reading(taken, "s", "durable"),
        "beyond the remaining work": Reading(taken - work, "s", "durable"),
    }
