"""What a contestant is: a program that measures one group of figures and prints its readings.

    python -m benchmarks.limits P1 --folder SCRATCH --sizes '{"calls": 10}'

Drivers of rivals run in environments of their own, so this module needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

Durable = Literal["durable", "result only", "not durable", "no data"]
"""What a figure's work leaves on the disk, flushed: all that it counts; submission and result of each workflow but no task; nothing; or it
is not about data."""


class Reading(NamedTuple):
    """One figure, measured once."""

    value: float
    unit: str
    durable: Durable


Readings = dict[str, Reading]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is done for a reading. The defaults are those of the published figures; tests use ``TINY``.

    Attributes:
        calls: one-task workflows, one after the other (P1, F1). chains: of ten tasks (P2).
        crowd: workflows, or tasks of a fan-out, at once (P3 to P6). rival_crowd: the same for rivals that would take minutes.
        array_mb: of the array that goes from task to task (P8, P10), ``copies`` times. huge_mb: of the one in P9.
        steps, killed_at, step_s: the chain that is killed in P11.
        starts: of a process, for the figures about starting (P11, P12).
        growth: tasks of one DAG, and workflows in one process (P13). shape: tasks of a long chain and of a wide join. asleep: workflows
            that wait at once. rule: tasks whose commit rule is watched (P15).
        stored: workflows that ended long ago, in a store that is opened (P11).
    """

    calls: int = 300
    chains: int = 40
    crowd: int = 10_000
    rival_crowd: int = 1_000
    array_mb: int = 100
    copies: int = 5
    huge_mb: int = 1024
    steps: int = 20
    killed_at: int = 10
    step_s: float = 0.05
    starts: int = 5
    growth: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    shape: int = 100_000
    asleep: int = 100_000
    rule: tuple[int, ...] = (10_000, 100_000)
    stored: int = 1_000_000

    @classmethod
    def of(cls, text: str) -> Sizes:
        """From JSON; what is not named keeps its default. Raises ValueError for a name that there is not."""
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()}
        unknown = given.keys() - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"there is no size called {', '.join(sorted(unknown))}")
        return cls(**given)

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self))


CHAIN = 10
"""Tasks of a chain in P2."""
TINY = Sizes(
    calls=3, chains=2, crowd=20, rival_crowd=20, array_mb=1, copies=2, huge_mb=2,
    steps=6, killed_at=2, step_s=0.05, starts=1, growth=(5, 20), shape=50, asleep=20, rule=(220, 440), stored=300,
)  # fmt: skip

Measure = Callable[[Path, Sizes], Readings]


def serve(groups: Mapping[str, Measure], arguments: list[str] | None = None) -> None:
    """Be a contestant: measure the group that the command line names, in the folder that it names, and print the readings."""
    parser = argparse.ArgumentParser()
    parser.add_argument("group", choices=sorted(groups))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sizes", type=Sizes.of, default=Sizes())
    options = parser.parse_args(arguments)
    readings = groups[options.group](options.folder, options.sizes)
    sys.stdout.write(f"\n{json.dumps(readings)}\n")
    sys.stdout.flush()


def parse(output: str) -> Readings:
    """The readings in what a contestant printed: its last line. Raises ValueError if that is something else."""
    lines = output.strip().splitlines() or ["nothing was printed"]
    return {name: Reading(*fields) for name, fields in json.loads(lines[-1]).items()}


def require(got: object, wanted: object, what: str) -> None:
    """Stop if the work was not done. Raises RuntimeError."""
    if got != wanted:
        raise RuntimeError(f"{what}: {got!r:.80}, not {wanted!r:.80}")


def elapsed_s(action: Callable[[], object]) -> float:
    """How long ``action`` takes, in seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def median_ms(action: Callable[[], object], times: int) -> float:
    """Median of so many runs, in milliseconds."""
    return statistics.median(elapsed_s(action) for _ in range(times)) * 1e3
