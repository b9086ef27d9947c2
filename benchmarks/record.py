"""What a run measured, with everything that it depended on: one JSON file, from which the page and the charts are made."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import apsw
import msgspec

import exoflow
from benchmarks.goals import Goal, met
from benchmarks.reading import Durable

LIMITS, ENGINE = "limits", "ExoFlow"


class Series(msgspec.Struct, kw_only=True):
    """One figure of one contestant. ``values`` has one value for each round; None where a round failed."""

    contestant: str
    group: str
    name: str
    unit: str
    durable: Durable
    values: list[float | None]

    @property
    def measured(self) -> list[float]:
        return [value for value in self.values if value is not None]

    @property
    def median(self) -> float:
        """Of the rounds that were measured, of which there is at least one."""
        return statistics.median(self.measured)


class Record(msgspec.Struct, kw_only=True):
    """One run.

    Attributes:
        began: ISO date and time, UTC. seconds: how long it took. command, commit: what repeats it.
        machine, versions: by name. load: average over the last minute before it began.
        settings: what each contestant was set to. sizes: see :class:`~benchmarks.reading.Sizes`.
        series: all figures. failures: what went wrong, and could not be counted.
    """

    began: str
    seconds: float
    command: str
    commit: str
    rounds: int
    load: float
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, str]
    sizes: dict[str, int | float | list[int]]
    series: list[Series]
    failures: list[str] = []

    def find(self, contestant: str, group: str, name: str) -> Series | None:
        """That figure, if it was measured at all."""
        found = (each for each in self.series if (each.contestant, each.group, each.name) == (contestant, group, name))
        return next((each for each in found if each.measured), None)

    def rivals(self, goal: Goal) -> list[Series]:
        """That figure of the rivals, the best first. Where the engine's is durable, only theirs that are."""
        ours = self.find(ENGINE, goal.group, goal.name)
        names = dict.fromkeys(each.contestant for each in self.series if each.contestant not in (LIMITS, ENGINE))
        found = [series for name in names if (series := self.find(name, goal.group, goal.name))]
        if ours is not None and ours.durable == "durable":
            found = [series for series in found if series.durable == "durable"]
        return sorted(found, key=lambda series: series.median, reverse=goal.better == "more")


def ratios(numerator: Series, denominator: Series) -> list[float]:
    """Round by round, so that what slows both down does not matter."""
    pairs = zip(numerator.values, denominator.values, strict=True)
    return [a / b for a, b in pairs if a is not None and b]


@dataclass
class Verdict:
    """A figure of the engine, held against its goal. Ratios are round by round; None where there is nothing to compare with."""

    goal: Goal
    ours: Series
    limit: Series | None = None
    to_limit: list[float] | None = None
    rival: Series | None = None
    to_rival: list[float] | None = None
    """How many times better."""

    @property
    def missed(self) -> list[str]:
        """Which of its goals were measured and missed."""
        goal = self.goal
        better = Goal(goal.group, goal.name, "more")
        held = (
            ("figure", goal, self.ours.measured, goal.goal),
            ("limit", goal, self.to_limit, goal.times_limit),
            ("rival", better, self.to_rival, goal.times_rival),
        )
        return [
            what for what, rule, found, wanted in held if found and wanted is not None and not met(rule, statistics.median(found), wanted)
        ]


def judge(record: Record, goal: Goal) -> Verdict | None:
    """None if the figure was not measured."""
    ours = record.find(ENGINE, goal.group, goal.name)
    if ours is None:
        return None
    verdict = Verdict(goal, ours)
    if goal.limit is not None and (limit := record.find(LIMITS, goal.group, goal.limit)):
        verdict.limit, verdict.to_limit = limit, ratios(ours, limit)
    if rivals := record.rivals(goal):
        verdict.rival = rivals[0]
        verdict.to_rival = ratios(ours, rivals[0]) if goal.better == "more" else ratios(rivals[0], ours)
    return verdict


def write(record: Record, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def read(path: Path) -> Record | None:
    """None if nothing was recorded yet. Raises msgspec.ValidationError if the file is none of ours."""
    return msgspec.json.decode(path.read_bytes(), type=Record) if path.exists() else None


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


# --- what a run depends on -----------------------------------------------------------------------------------------------------------


def machine(folder: Path) -> dict[str, str]:
    """The machine, and the file system that ``folder`` lies on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cpus = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    mounts = [line.split()[1:3] for line in _lines("/proc/mounts")]
    at = folder.resolve()
    kind = max(((point, kind) for point, kind in mounts if at.is_relative_to(point)), key=lambda each: len(each[0]), default=("", ""))[1]
    return {
        "cores": str(os.cpu_count()),
        "processor": cpus[0] if cpus else platform.machine(),
        "memory": f"{memory / 2**30:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "file system": kind or "unknown",
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8").splitlines()
    except OSError:
        return []


def versions() -> dict[str, str]:
    """Of the engine, and of what it and the limits run on."""
    libraries = ("apsw", "msgspec", "cloudpickle", "blake3", "numpy")
    return {
        "exoflow": exoflow.__version__,
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        **{name: metadata.version(name) for name in libraries},
    }
