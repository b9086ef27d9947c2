"""Many simulations: a range of seeds or a span of time, on one or more processors, counted, and whoever breaks something named."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

import msgspec

from exoflow.testing.oracle import Violation
from exoflow.testing.simulation import situations
from exoflow.testing.simulation.driver import simulate_one
from exoflow.testing.simulation.generate import scenario

CHUNK = 25
"""Seeds that are handed to a worker at a time."""
_TWICE_EVERY = 100
"""One seed of so many is run twice: its trace must be the same."""


class Found(msgspec.Struct, frozen=True):
    """A seed whose simulation broke something."""

    seed: int
    violation: Violation

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.violation}\n  again: exoflow simulate --seed {self.seed} --shrink"


class Tally(msgspec.Struct):
    """What some simulations came to. ``cpu_s`` is processor time, ``seconds`` what a clock on the wall says."""

    schedules: int = 0
    steps: int = 0
    lives: int = 0
    cpu_s: float = 0.0
    seconds: float = 0.0
    last_seed: int = -1
    statuses: dict[str, int] = {}
    reached: dict[str, int] = {}
    fired: dict[str, int] = {}
    found: list[Found] = []

    def add(self, other: Tally) -> None:
        """Count another's as well."""
        for name in ("schedules", "steps", "lives", "cpu_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("statuses", "reached", "fired"):
            setattr(self, name, dict(Counter(getattr(self, name)) + Counter(getattr(other, name))))
        self.last_seed = max(self.last_seed, other.last_seed)
        self.found = sorted([*self.found, *other.found], key=lambda each: each.seed)

    @property
    def never(self) -> list[str]:
        """Situations that did not come about."""
        return [name for name in situations.ALL if name not in self.reached]


def run_chunk(first: int, count: int = CHUNK) -> Tally:
    """The simulations of ``count`` seeds."""
    began = time.process_time()
    tally = Tally(last_seed=first + count - 1)
    for seed in range(first, first + count):
        outcome = simulate_one(scenario(seed))
        violations = list(outcome.violations)
        if seed % _TWICE_EVERY == 0 and simulate_one(scenario(seed)).trace != outcome.trace:
            violations.append(Violation("I12", "", "a second run of the same seed went another way"))
        one = Tally(
            schedules=1,
            steps=outcome.steps,
            lives=outcome.lives,
            statuses=dict(Counter(outcome.statuses.values())),
            reached=outcome.reached,
            fired=outcome.fired,
            found=[Found(seed, violation) for violation in violations[:1]],
        )
        tally.add(one)
    tally.cpu_s = time.process_time() - began
    return tally


def run_many(
    first: int,
    last: int | None = None,
    *,
    minutes: float | None = None,
    jobs: int = 1,
    found_max: int = 5,
    told: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Seeds from ``first`` to ``last`` (both included), or for so many minutes, or until ``found_max`` of them broke something. ``told`` is
    called with the sum so far whenever a chunk is done."""
    began = time.monotonic()
    total = Tally()

    def note(tally: Tally) -> None:
        total.add(tally)
        total.seconds = time.monotonic() - began
        told(total)

    def goes_on() -> bool:
        return len(total.found) < found_max and (minutes is None or time.monotonic() - began < minutes * 60)

    chunks = _chunks(first, last)
    if jobs == 1:
        for seed, count in chunks:
            if not goes_on():
                break
            note(run_chunk(seed, count))
        return total
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running: set[Future[Tally]] = set()
        while True:
            while len(running) < 2 * jobs and goes_on() and (chunk := next(chunks, None)) is not None:
                running.add(pool.submit(run_chunk, *chunk))
            if not running:
                return total
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                note(each.result())


def _chunks(first: int, last: int | None) -> Iterator[tuple[int, int]]:
    for seed in itertools.count(first, CHUNK):
        if last is not None and seed > last:
            return
        yield seed, CHUNK if last is None else min(CHUNK, last - seed + 1)
