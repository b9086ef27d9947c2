"""What the figures are held against: a number, the machine's limit in the same round, the best rival in the same round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.reading import Sizes

TITLES = {
    "P1": "One task, submission and result durable, one workflow after the other",
    "P2": "A chain of ten tasks, every output saved",
    "P3": "Many one-task workflows at once",
    "P4": "A fan-out of saved tasks, and a join",
    "P5": "A fan-out of tasks that are never saved, and a join",
    "P6": "The same in worker processes",
    "P7": "The same on Ray, and a large array through three tasks there",
    "P8": "A 100 MB array from task to task",
    "P9": "1 GB through three tasks",
    "P10": "The save of 100 MB beside a running task",
    "P11": "Kill -9 in the middle of a chain, and a new start",
    "P12": "What it takes to have it",
    "P13": "From a thousand tasks to a million",
    "P15": "The commit rule while a workflow runs",
    "F1": "A function of AWS Lambda, served on this machine",
}
"""The groups of figures, in order."""


@dataclass(frozen=True)
class Goal:
    """A figure and what it is held against.

    Attributes:
        better: whether less or more of it is better; ``same``: the goal is exact.
        goal: the figure itself; None if only its relation to others matters.
        limit: name of the limit of the machine in the same group. times_limit: the figure as a multiple of it, at most (less) or at least
            (more); None: the ratio is shown and not judged.
        times_rival: how many times better than the best rival.
    """

    group: str
    name: str
    better: Literal["less", "more", "same"] = "less"
    goal: float | None = None
    limit: str | None = None
    times_limit: float | None = None
    times_rival: float | None = None


_BY_HAND = "asyncio + SQLite by hand"

GOALS = (
    Goal("P1", "one-task workflow", goal=0.30, limit="SQLite commit", times_limit=3, times_rival=6),
    Goal("P1", "flushes of a one-task workflow", "same", goal=2),
    Goal("P2", "committing tasks", goal=0.15, limit="SQLite commit", times_limit=1.5, times_rival=6),
    Goal("P2", "internal tasks", goal=0.06, limit="SQLite commit", times_rival=15),
    Goal("P3", "workflows at once", "more", goal=8_000, limit=_BY_HAND, times_rival=8),
    Goal("P3", "each accepted before the next", "more", limit=_BY_HAND),
    Goal("P4", "saved tasks", "more", goal=15_000, limit=_BY_HAND, times_limit=0.1, times_rival=11),
    Goal("P5", "async tasks", "more", goal=40_000, limit="bare asyncio", times_limit=0.3, times_rival=15),
    Goal("P5", "tasks on threads", "more", goal=25_000, limit="bare thread pool", times_limit=0.3, times_rival=15),
    Goal("P6", "tasks in processes", "more", goal=10_000, limit="bare process pool", times_limit=0.6),
    Goal("P7", "tasks, of plain Ray's rate", "more", goal=0.9),
    Goal("P7", "saved tasks, of plain Ray's rate", "more", goal=0.8),
    Goal("P7", "large array, of plain Ray's time", goal=1.2),
    Goal("P7", "memory of the engine, grown", goal=20),
    Goal("P7", "from a loss to the new start", goal=500),
    Goal("P8", "same process", goal=1, limit="copy in memory", times_rival=100),
    Goal("P8", "other process", goal=15, limit="copy in memory", times_rival=10),
    Goal("P8", "saved first", limit="write + fsync", times_limit=1.5, times_rival=15),
    Goal("P9", "thread: time", limit="write + fsync"),
    Goal("P9", "thread: peak memory of a process", goal=1.15),
    Goal("P9", "process: time", limit="write + fsync"),
    Goal("P9", "process: peak memory of a process", goal=1.15),
    Goal("P10", "task slowed", goal=5),
    Goal("P10", "speed of the save", "more", limit="write + fsync", times_limit=0.8),
    Goal("P11", "restart to finish"),
    Goal("P11", "beyond the remaining work", goal=0.25, limit="start Python, read", times_rival=2),
    Goal("P11", "open a store of a million workflows", goal=0.3),
    Goal("P11", "find the unfinished among them"),
    Goal("P11", "page of a rare status"),
    Goal("P12", "packages", goal=20, times_rival=1),
    Goal("P12", "room on disk", goal=40, times_rival=1),
    Goal("P12", "import", goal=0.12, times_rival=1),
    Goal("P12", "idle memory", goal=45, limit="bare Python", times_rival=1),
    Goal("P12", "start to first result", goal=0.3, limit="start Python", times_rival=1),
    *(
        Goal("P13", name)
        for count in Sizes().growth
        for name in (f"one DAG of {count:,}", f"{count:,} workflows", f"{count:,} workflows: memory", f"{count:,} workflows: handles")
    ),
    Goal("P13", "one DAG: dearest over cheapest task", goal=1.25),
    Goal("P13", "workflows: dearest over cheapest", goal=1.25),
    Goal("P13", "waiting task", goal=1.5),
    Goal("P13", "workflows: memory, most over least", goal=1.25),
    Goal("P13", "long chain"),
    Goal("P13", "long chain, over a short one", goal=1.25),
    Goal("P13", "wide join that commits"),
    Goal("P13", "wide join, over a narrow one", goal=1.25),
    Goal("P13", "sleeping workflow"),
    Goal("P13", "to wake one"),
    Goal("P15", "commit rule", goal=5),
    Goal("P15", "looks at an edge"),
    Goal("P15", "looks, largest DAG over smallest", goal=1.25),
    Goal("F1", "call of a function"),
    Goal("F1", "added to a bare call", goal=3),
)
"""In the order of the page."""


def met(goal: Goal, value: float, wanted: float) -> bool:
    """Whether ``value`` is as good as wanted."""
    if goal.better == "same":
        return value == wanted
    return value <= wanted if goal.better == "less" else value >= wanted
