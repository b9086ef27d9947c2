"""All workflows of up to three tasks, with all annotations, and every single crash and every single loss in each of them.

A configuration is a DAG of 1, 2 or 3 tasks (every set of edges that goes forwards: 1, 2, 8 of them), and for each task one of 18
annotations: saved or not (none, async, sync), deterministic or not, internal, undoable or committing. That makes
18 + 2 * 18**2 + 8 * 18**3 = 47,322. The last task is the root; a task that no other reads is joined to it by order alone (``after``).

What ``check`` refuses must be mended by what it offers, and by no less. Each of the others takes its undisturbed course twice, once with
acknowledgements at once and once as late as possible; before each step, and at the end, everything that could break once does: a crash, for
each number of appends that may have arrived and each set of effects that may have been applied by then; the loss of each output in memory.
Each of those runs must succeed, and is judged.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from exoflow.core.checks import check, repair
from exoflow.core.spec.annotations import Kind
from exoflow.core.state import Status
from exoflow.testing import campaign
from exoflow.testing.machine.drive import Tally, drive, record, report
from exoflow.testing.machine.outside import Violation
from exoflow.testing.machine.scenario import Crash, KindName, Line, Lines, Lose, Scenario, Step, graph_of, lines_of
from exoflow.testing.machine.scenario import save as save_scenario
from exoflow.testing.machine.schedules import calm
from exoflow.testing.machine.shrink import scenario_of, shrunk
from exoflow.testing.machine.world import World

MODULE = "exoflow.testing.machine.exhaustive"
_KINDS: tuple[KindName, ...] = ("internal", "undoable", "committing")
_SAVES = ("no", "async", "sync")
_ANNOTATIONS = [(save, sure, kind) for save in _SAVES for sure in (False, True) for kind in _KINDS]
_EDGES = {size: [(up, down) for down in range(size) for up in range(down)] for size in (1, 2, 3)}
SIZES = {size: 2 ** len(_EDGES[size]) * len(_ANNOTATIONS) ** size for size in (1, 2, 3)}
"""How many configurations there are, by number of tasks."""
CONFIGURATIONS = sum(SIZES.values())
_LOT = 24
KEEP = Path("tests/core/worlds")


def configuration(number: int) -> Lines:
    """The ``number``-th of them, from 0; those of one task first."""
    if not 0 <= number < CONFIGURATIONS:
        raise ValueError(f"there are {CONFIGURATIONS} configurations")
    size = 1
    while number >= SIZES[size]:
        number -= SIZES[size]
        size += 1
    number, shape = divmod(number, 2 ** len(_EDGES[size]))
    edges = [edge for at, edge in enumerate(_EDGES[size]) if shape >> at & 1]
    lines = []
    for at in range(size):
        number, which = divmod(number, len(_ANNOTATIONS))
        save, sure, kind = _ANNOTATIONS[which]
        reads = tuple(f"t{up}" for up, down in edges if down == at)
        lines.append(Line(f"t{at}", reads, (), kind, save, sure))  # type: ignore[arg-type]
    read = {up for line in lines for up in line.reads}
    lines[-1] = msgspec.structs.replace(lines[-1], after=tuple(line.id for line in lines[:-1] if line.id not in read))
    return tuple(lines)


def faults(world: World) -> Iterator[Step]:
    """Everything that could break now, once."""
    may_act = [each.task for each in world.running if each.spec.annotations.kind is not Kind.INTERNAL]
    for arrived in range(len(world.appends) + 1):
        for count in range(len(may_act) + 1):
            for acted in itertools.combinations(may_act, count):
                yield Crash(arrived=arrived, acted=acted)
    for name in world.memory:
        if world.is_present(name):
            yield Lose(tasks=(name,))
            if any(save.task == name for save in world.saves):
                yield Lose(tasks=(name,), saving=(name,))


class Disturbed:
    """The undisturbed course, but for faults at given steps; ``choose`` says which of those that are possible then."""

    def __init__(self, at: dict[int, Callable[[World], Step | None]], *, eager: bool) -> None:
        self.at, self.eager = at, eager

    def next(self, world: World) -> Step | None:
        if not world.status.ended:
            choose = self.at.get(len(world.steps))
            fault = choose(world) if choose is not None else None
            if fault is not None:
                return fault
        return calm(world, eager=self.eager)


def run_one(lines: Lines, schedule: Disturbed, *, checked: bool) -> World:
    """One run, judged. Raises Broken."""
    world = World(graph_of(lines), schedule=schedule, checked=checked)
    try:
        if world.run() is not Status.SUCCEEDED:
            raise Violation(f"it ended {world.status}")
        world.judge()
    except Exception as error:
        raise Broken(scenario_of(world), error) from error
    return world


class Broken(Exception):
    """A run that is wrong."""

    def __init__(self, scenario: Scenario, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.scenario = scenario


def _points(lines: Lines, *, eager: bool) -> Iterator[tuple[int, Step]]:
    """Every fault at every step of the undisturbed course."""
    world = World(graph_of(lines), schedule=Disturbed({}, eager=eager), checked=False)
    while True:
        at = len(world.steps)
        for fault in faults(world):
            yield at, fault
        if not world.step():
            return


def try_configuration(number: int, keep: Path = KEEP) -> Tally:
    """All runs of one configuration. The smallest scenario of what is wrong with it goes into the folder ``keep``."""
    lines = configuration(number)
    tally = Tally()
    tally.counts["configurations"] += 1
    checked = number % 16 == 0
    if check(graph_of(lines)):
        tally.counts["refused"] += 1
        _mend(number, lines, tally)
        return tally
    for eager in (True, False):
        try:
            run_one(lines, Disturbed({}, eager=eager), checked=True)
            tally.counts["runs"] += 1
            for at, fault in _points(lines, eager=eager):
                tally.counts["crashes" if isinstance(fault, Crash) else "losses"] += 1
                tally.counts["runs"] += 1
                world = run_one(lines, Disturbed({at: lambda _, fault=fault: fault}, eager=eager), checked=checked)  # type: ignore[misc]
                tally.reached.update(world.reached)
        except Broken as broken:
            repeat = f"python -m {MODULE} --first {number} --last {number + 1}"
            tally.broken.append(_described(f"configuration {number}", broken, repeat, keep))
    return tally


def _mend(number: int, lines: Lines, tally: Tally) -> None:
    """What is refused must be mended by turning on checkpoints, and by no fewer of those."""
    graph = graph_of(lines)
    mended, changed = repair(graph)
    if not changed or check(mended):
        tally.broken.append(f"configuration {number}: {lines} is refused, and what is offered does not help: {changed}")
    for one in changed:
        less = lines_of(mended)
        less = tuple(msgspec.structs.replace(line, save="no") if line.id == one else line for line in less)
        if not check(graph_of(less)):
            tally.broken.append(f"configuration {number}: {lines} would be mended by less than {changed}")
    tally.counts["mended"] += 1


def _described(what: str, broken: Broken, repeat: str, keep: Path) -> str:
    path = keep / f"{what.replace(' ', '_')}.json"
    save_scenario(path, shrunk(msgspec.structs.replace(broken.scenario, found=repeat), seconds=5))
    return f"{what}: {broken}\n  repeat: {repeat}; {path}"


def try_lot(numbers: range, keep: Path = KEEP) -> Tally:
    """All runs of some configurations."""
    tally = Tally()
    for number in numbers:
        tally.add(try_configuration(number, keep))
    return tally


# --- pairs -------------------------------------------------------------------------------------------------------------------


def try_pairs(seeds: range, keep: Path = KEEP) -> Tally:
    """Two faults: for each seed a configuration, a first fault at any step, and a second one at most ten steps later."""
    tally = Tally()
    for seed in seeds:
        rng = random.Random(seed)
        lines = configuration(rng.randrange(CONFIGURATIONS))
        if check(graph_of(lines)):
            tally.counts["refused"] += 1
            continue
        eager = rng.random() < 0.5
        course = World(graph_of(lines), schedule=Disturbed({}, eager=eager), checked=False)
        course.run()

        def any_fault(world: World, rng: random.Random = rng) -> Step:
            return rng.choice(list(faults(world)))

        first = rng.randrange(len(course.steps))
        second = first + 1 + rng.randrange(10)
        try:
            world = run_one(lines, Disturbed({first: any_fault, second: any_fault}, eager=eager), checked=seed % 8 == 0)
            tally.reached.update(world.reached)
        except Broken as broken:
            tally.broken.append(_described(f"pair {seed}", broken, f"python -m {MODULE} --first {seed} --pairs {seed + 1}", keep))
        tally.counts["pairs"] += 1
    return tally


# --- the command -------------------------------------------------------------------------------------------------------------


def _counter(_type: type, value: object) -> object:
    return Counter(value)  # type: ignore[call-overload]


class Progress:
    """A file that says which lots are finished, and what they came to: whoever starts again goes on from there."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.total = Tally()
        self.seconds = 0.0
        self.finished: set[int] = set()
        self.commit = campaign.commit_of(Path())
        if path is not None and path.exists():
            for text in path.read_bytes().splitlines():
                commit, start, seconds, tally = msgspec.json.decode(text, type=tuple[str, int, float, Tally], dec_hook=_counter)
                if commit != self.commit:
                    raise SystemExit(f"{path} is of commit {commit}, this is {self.commit}; delete it to begin anew")
                self.finished.add(start)
                self.seconds += seconds
                self.total.add(tally)
        self._at = time.monotonic()

    def done(self, lot: range, tally: Tally) -> None:
        """A lot is finished."""
        self.total.add(tally)
        now = time.monotonic()
        seconds, self._at = now - self._at, now
        self.seconds += seconds
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode((self.commit, lot.start, seconds, tally)) + b"\n")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="the first configuration")
    parser.add_argument("--last", type=int, default=CONFIGURATIONS, help="behind the last one")
    parser.add_argument("--pairs", type=int, default=0, help="instead: so many pairs of faults, by seeds")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: when all is done")
    parser.add_argument("--keep", type=Path, default=KEEP, help="folder for scenarios of what is wrong")
    parser.add_argument("--progress", type=Path, help="remember here what is done, and go on from there")
    parser.add_argument("--record", action="store_true", help="append a campaign to docs/reliability/campaigns.jsonl")
    return parser.parse_args(arguments)


def main() -> int:
    """The command."""
    arguments = parse()
    began = campaign.now()
    progress = Progress(arguments.progress)
    work, last = (try_pairs, arguments.pairs) if arguments.pairs else (try_lot, arguments.last)
    size = 1000 if arguments.pairs else _LOT
    lots = [range(at, min(at + size, last)) for at in range(arguments.first, last, size) if at not in progress.finished]
    drive(partial(work, keep=arguments.keep), lots, jobs=arguments.jobs, minutes=arguments.minutes, broken_max=20, done=progress.done)
    total = progress.total
    left = last - arguments.first - total.counts["configurations"]
    if not arguments.pairs and left:
        print(f"{left} configurations are left")
    if arguments.record:
        seeds = (arguments.first, arguments.pairs - 1) if arguments.pairs else (-1, -1)
        record("exhaustive", total, began=began, seconds=progress.seconds, cores=arguments.jobs, module=MODULE, seeds=seeds)
    return report("exhaustive", total, progress.seconds)


if __name__ == "__main__":
    sys.exit(main())
