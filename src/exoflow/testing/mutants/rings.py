"""The rings that mutants are hunted with: each gives a function that runs the schedule of a seed, raises if anything is wrong, and says how
many schedules that were (a seed may draw a workflow that is refused). All but the first need the tests, so a checkout of the project."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from exoflow.testing.mutants.mutant import Mutant

Attempt = Callable[[int, int], int]
"""Runs the schedule of a seed, or where one comes after the other, at most so many; returns how many."""


class Ring(msgspec.Struct, frozen=True):
    """``limit_s``: after so many seconds a schedule counts as hanging. ``once``: the first schedule goes on with all that follow it."""

    open: Callable[[Mutant], AbstractContextManager[Attempt]]
    limit_s: float
    once: bool = False


class Found(Exception):
    """Something is wrong, after so many ``schedules``, of which the last had this ``seed`` (None: the one that was asked for)."""

    def __init__(self, text: str, schedules: int = 1, seed: int | None = None) -> None:
        super().__init__(text)
        self.schedules, self.seed = schedules, seed


@contextlib.contextmanager
def machine(_mutant: Mutant) -> Iterator[Attempt]:
    """The core in a random world; the seed also says what goes wrong most."""
    from exoflow.testing.machine.settings import drawn_world

    def attempt(seed: int, _most: int) -> int:
        world = drawn_world(seed)
        if world is None:
            return 0
        world.run()
        world.judge()
        return 1

    yield attempt


@contextlib.contextmanager
def simulation(_mutant: Mutant) -> Iterator[Attempt]:
    """Real engines on simulated threads, time and disks."""
    from exoflow.testing.simulation.driver import simulate_one
    from exoflow.testing.simulation.generate import scenario

    def attempt(seed: int, _most: int) -> int:
        outcome = simulate_one(scenario(seed))
        if outcome.violations:
            raise Found(str(outcome.violations[0]))
        return 1

    yield attempt


@contextlib.contextmanager
def kills(mutant: Mutant) -> Iterator[Attempt]:
    """Real processes, killed; the seed also says which workflow it is."""
    harness: Any = importlib.import_module("tests.crash.harness")
    cases = [harness.CASES[mutant.suite]] if mutant.suite else [case for case in harness.CASES.values() if not case.in_processes]
    with tempfile.TemporaryDirectory(prefix="exoflow-mutant-") as folder:
        supervisor = harness.Supervisor(Path(folder))

        def attempt(seed: int, _most: int) -> int:
            outcome = supervisor.run(cases[seed % len(cases)], seed)
            if outcome.violations:
                raise Found(": ".join(outcome.violations[0].splitlines()[:2]), outcome.runs)
            return int(outcome.runs)

        try:
            yield attempt
        finally:
            supervisor.close()


@contextlib.contextmanager
def power(_mutant: Mutant) -> Iterator[Attempt]:
    """Disks after power losses, of which each counts as a schedule; the seed says in which recorded run."""
    from exoflow.testing.power.losses import seeds, try_workload

    def attempt(seed: int, _most: int) -> int:
        workload, number = next(itertools.islice(seeds(1), seed, None))
        tally = try_workload(workload, number, per_moment=8)
        if tally.violations:
            raise Found(tally.stories[0], tally.states)
        return tally.states

    yield attempt


@contextlib.contextmanager
def suites(mutant: Mutant) -> Iterator[Attempt]:
    """The tests of a seam, of which each counts as a schedule; the seed is the number of the first."""
    import pytest

    class Counter:
        count = 0
        failed = ""

        def __init__(self, chosen: range) -> None:
            self.chosen = chosen

        def pytest_collection_modifyitems(self, items: list[Any]) -> None:
            items[:] = items[self.chosen.start : self.chosen.stop]

        def pytest_runtest_logreport(self, report: Any) -> None:
            self.count += report.when == "setup"
            if report.failed and not self.failed:
                crash = getattr(report.longrepr, "reprcrash", None)
                self.failed = f"{report.nodeid}: {crash.message if crash else report.longrepr}"

    def attempt(first: int, most: int) -> int:
        counter = Counter(range(first, first + most))
        files, _, chosen = mutant.suite.partition(" -k ")
        arguments = [*files.split(), *(["-k", chosen] if chosen else [])]
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            code = pytest.main(["-x", "-q", "-n0", "-p", "no:cacheprovider", *arguments], plugins=[counter])
        if code != 0:
            raise Found(counter.failed or f"pytest ended with {code}", counter.count, first + counter.count - 1)
        return counter.count

    yield attempt


RINGS = {
    "machine": Ring(machine, 10.0),
    "simulation": Ring(simulation, 60.0),
    "kills": Ring(kills, 120.0),
    "power": Ring(power, 120.0),
    "suites": Ring(suites, 300.0, once=True),
}
