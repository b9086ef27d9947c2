"""Ask all contestants for all groups in turn, round after round, so that a change of the machine's mood touches all of them alike."""

from __future__ import annotations

import compileall
import dataclasses
import functools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType

from benchmarks import flushes, limits
from benchmarks.engine import __main__ as engine
from benchmarks.reading import Reading, Readings, Sizes, parse
from benchmarks.record import ENGINE, LIMITS, Series

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 3600
_ONCE = 100_000
"""More tasks than that (P13) are tried in the first round only: minutes each."""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A program that measures ``groups``; ``command`` starts it, see ``reading.py``. ``setting``: how durability is set."""

    name: str
    command: tuple[str, ...]
    groups: frozenset[str]
    setting: str
    flushes: bool = False
    """Whether to count its flushes."""

    def ask(self, group: str, sizes: Sizes, folder: Path) -> Readings:
        """Measure. Raises RuntimeError, with what it printed, if it fails."""
        command = [*self.command, group, "--folder", str(folder), "--sizes", sizes.text()]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=LIMIT_S, check=False)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {_end_of(done.stderr or done.stdout)}")
        return parse(done.stdout)


def environment() -> dict[str, str]:
    """Of contestants: this repository's modules come first."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


def without_folders(text: str) -> str:
    """What is recorded names no folder of this machine."""
    return re.sub(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+", "", text)


def _end_of(text: str) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-3:])[-400:]


def _here(name: str, module: str, source: ModuleType, setting: str) -> Contestant:
    groups: Iterable[str] = source.GROUPS
    return Contestant(name, (sys.executable, "-m", module), frozenset(groups), setting, flushes=name == ENGINE)


def home() -> list[Contestant]:
    """The machine and this engine, compiled as pip leaves what it installs."""
    compileall.compile_dir(ROOT / "src", quiet=1)
    setting = "SQLite in WAL mode, synchronous=FULL: a flush for each commit"
    return [
        _here(LIMITS, "benchmarks.limits", limits, f"as each says; {setting}"),
        _here(ENGINE, "benchmarks.engine", engine, f"default settings; {setting}"),
    ]


class Table:
    """Readings as they come in, by contestant, group and name."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, str], Series] = {}
        self.failures: list[str] = []

    def add(self, number: int, contestant: str, group: str, readings: Readings) -> None:
        """Those of round ``number``, from 0."""
        for name, (value, unit, durable) in readings.items():
            key = contestant, group, name
            new = Series(contestant=contestant, group=group, name=name, unit=unit, durable=durable, values=[])
            values = self._series.setdefault(key, new).values
            values += [None] * (number - len(values))
            values.append(value)

    def series(self, rounds: int) -> list[Series]:
        """All, each with a value for every round."""
        for each in self._series.values():
            each.values += [None] * (rounds - len(each.values))
        return list(self._series.values())


def run(
    contestants: Sequence[Contestant], groups: Sequence[str], rounds: int, sizes: Sizes, scratch: Path, say: Callable[[str], None]
) -> Table:
    """Measure ``groups`` in ``rounds``. Scratch folders are made in ``scratch`` and removed. What fails is noted, and the rest goes on."""
    table = Table()
    for number in range(rounds):
        here = sizes if number == 0 else dataclasses.replace(sizes, growth=tuple(n for n in sizes.growth if n <= _ONCE) or sizes.growth)
        for group in groups:
            # the other way round in every other round: who comes second gains or loses by it in turn
            for contestant in contestants if number % 2 == 0 else reversed(contestants):
                if group in contestant.groups:
                    say(f"round {number + 1} of {rounds}, {group}: {contestant.name}")
                    _attempt(table, number, contestant, group, functools.partial(contestant.ask, group, here), scratch)
    if "P1" in groups:
        _count_flushes(table, contestants, scratch, say)
    return table


def _attempt(table: Table, number: int, contestant: Contestant, group: str, measure: Callable[[Path], Readings], scratch: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="exoflow-bench-", dir=scratch, ignore_cleanup_errors=True) as folder:
        try:
            table.add(number, contestant.name, group, measure(Path(folder)))
        except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as error:
            table.failures.append(f"{group}, {contestant.name}, round {number + 1}: {without_folders(str(error))}")


def _count_flushes(table: Table, contestants: Sequence[Contestant], scratch: Path, say: Callable[[str], None]) -> None:
    if not flushes.installed():
        table.failures.append(flushes.NOT_INSTALLED)
        return
    for contestant in contestants:
        if contestant.flushes:
            say(f"flushes: {contestant.name}")
            _attempt(table, 0, contestant, "P1", functools.partial(_flushes, contestant), scratch)


def _flushes(contestant: Contestant, folder: Path) -> Readings:
    return {flushes.NAME: Reading(flushes.of_a_workflow(contestant.command, environment(), folder), "", "durable")}
