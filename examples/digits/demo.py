"""Kills the digits pipeline with -9, again and again, at points chosen by a seed, and proves afterwards that everything happened once.

    make demo                     # or: python examples/digits/demo.py
    make demo ARGS="--seed 42"    # other points

The pipeline does not know that it is watched. The demo looks at the engine's store and at the outside registry, as anybody may, and
decides when to pull the plug. The exit code is 0 only if every proof holds.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pipeline
import registry
from rich import box
from rich.console import Console
from rich.table import Table

import exoflow
from exoflow.errors import WorkflowNotFoundError

WORKFLOW = "digits"
LOOK_S = 0.01
"""How often the demo looks whether a point is reached."""


class World:
    """Everything that outlives a process, in one folder: the engine's store, the registry, and a log of what ran."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        folder.mkdir(parents=True)
        self.registry, self.log, store = str(folder / "registry.db"), folder / "runs.log", folder / "store.db"
        here = Path(__file__).with_name("pipeline.py")
        self.command = [sys.executable, str(here), "--store", str(store), "--models", self.registry, *options]
        self.engine = exoflow.Engine(store)  # only to look: it never drives the workflow
        self.log.touch()
        registry.create(self.registry)

    def start(self) -> subprocess.Popen[str]:
        """The same command each time, as the leader of a process group."""
        env = os.environ | {"DIGITS_LOG": str(self.log)}
        return subprocess.Popen(self.command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def epoch(self) -> int:
        """How often somebody took the workflow up; 0 before it was submitted."""
        try:
            return self.engine.get_metadata(WORKFLOW).epoch
        except WorkflowNotFoundError:
            return 0

    def saved(self) -> set[str]:
        """Tasks whose output is in the store."""
        try:
            return {task.task for task in self.engine.get_metadata(WORKFLOW).tasks if task.durable}
        except WorkflowNotFoundError:
            return set()

    def ask(self, question: str) -> list[Any]:
        """What the registry's database answers."""
        with closing(sqlite3.connect(self.registry, timeout=10)) as db:
            return db.execute(question).fetchall()

    def requests(self) -> Counter[str]:
        """What reached the registry so far."""
        return Counter(what for (what,) in self.ask("SELECT what FROM requests"))

    def runs(self) -> list[tuple[int, str]]:
        """Every run of a task, as (epoch, task)."""
        return [(int(line.split()[0]), line.split()[1]) for line in self.log.read_text("ascii").splitlines()]


@dataclass
class Life:
    """One process that runs the pipeline, from its start to its end."""

    number: int
    loaded: set[str]
    requests: Counter[str]
    started: float = field(default_factory=time.monotonic)
    lasted_s: float = 0.0
    epochs: range = range(0)
    killed: str = ""
    undone: int = 0
    result: dict[str, Any] | None = None

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.started


@dataclass
class Point:
    """Where to kill: ``wait_s`` seconds after ``reached`` says so."""

    name: str
    reached: Callable[[World, Life], bool]
    wait_s: float = 0.0


def points(chance: random.Random, kills: int, models: int) -> list[Point]:
    """``kills`` of the possible points, in the order in which the pipeline comes by them; the one that needs a rollback is among them."""

    def saved(count: int, prefix: str) -> Callable[[World, Life], bool]:
        return lambda world, _: sum(task.startswith(prefix) for task in world.saved()) >= count

    def asked(what: str) -> Callable[[World, Life], bool]:
        return lambda world, life: world.requests()[what] > life.requests[what]

    start_s = chance.uniform(0.1, 0.8)
    early = [
        Point("by chance", lambda _, life: life.age_s > start_s),
        Point("scans saved, copies being made", saved(1, "ingest"), chance.uniform(0.1, 0.6)),
        *(Point(f"{n} of {models} models saved", saved(n, "train"), chance.uniform(0, 0.1)) for n in range(1, models)),
    ]
    must = Point("slot taken, answer on its way", asked("reserve"))
    late = [Point("published, answer on its way", asked("publish")), Point("ledger written, answer on its way", asked("append"))]
    others = [*early, *late]
    chosen = {id(point) for point in chance.sample(others, min(kills - 1, len(others)))}
    return [point for point in [*early, must, *late] if point is must or id(point) in chosen]


def live(world: World, number: int, point: Point | None) -> Life:
    """Start the pipeline, and kill it at ``point``, with all its processes."""
    life = Life(number, world.saved(), world.requests())
    before = world.epoch()
    child = world.start()
    try:
        while point is not None and child.poll() is None:
            if point.reached(world, life):
                time.sleep(point.wait_s)
                life.killed = f"after {life.age_s:.1f} s, {point.name}"
                break
            time.sleep(LOOK_S)
        if life.killed:
            os.killpg(child.pid, signal.SIGKILL)
        output, errors = child.communicate()
    except BaseException:  # Ctrl-C, for example: leave nothing behind
        child.kill()
        raise
    if child.returncode == 0:
        life.killed, life.result = "", json.loads(output)
    elif child.returncode != -signal.SIGKILL:
        sys.exit(f"the pipeline failed with exit code {child.returncode}:\n{errors}")
    life.lasted_s = life.age_s
    life.epochs = range(before + 1, world.epoch() + 1)
    life.undone = world.requests()["release"] - life.requests["release"]
    return life


# --- what came of it ---------------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What stands in the outside world at the end, beside what the workflow returned."""

    models: list[Any]
    ledger: list[str]
    taken: list[int]
    requests: Counter[str]
    freed: int
    result: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """Of the published model, read back from the registry and tried on the test digits. (A task is an ordinary function, too.)"""
        with np.load(io.BytesIO(self.models[0][2])) as layers:
            return pipeline.accuracy([layers[name] for name in layers.files], pipeline.clean(pipeline.ingest())["test"])

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.models[0][2]).hexdigest()


def outcome(world: World, result: dict[str, Any]) -> Outcome:
    return Outcome(
        models=world.ask("SELECT slot, accuracy, model FROM models"),
        ledger=[line for (line,) in world.ask("SELECT line FROM ledger")],
        taken=[slot for (slot,) in world.ask("SELECT slot FROM slots WHERE holder IS NOT NULL")],
        requests=world.requests(),
        freed=world.ask("SELECT total(changed) FROM requests WHERE what = 'release'")[0][0],
        result=result,
    )


def proofs(ours: Outcome, calm: Outcome) -> list[tuple[str, str, str, bool]]:
    """What must hold: (what, after all the kills, never killed, whether it does)."""

    def line(what: str, show: Callable[[Outcome], str], holds: Callable[[Outcome], bool]) -> tuple[str, str, str, bool]:
        return what, show(ours), show(calm), holds(ours) and holds(calm)

    both = [
        line(
            "models published",
            lambda o: f"{len(o.models)} (requests: {o.requests['publish']})",
            lambda o: len(o.models) == 1,
        ),
        line(
            "lines in the ledger",
            lambda o: f"{len(o.ledger)} (requests: {o.requests['append']})",
            lambda o: o.ledger == [o.result["ledger"]],
        ),
        line(
            "slots taken",
            lambda o: f"{len(o.taken)} (taken {o.requests['reserve']}, freed {o.freed:.0f})",
            lambda o: o.taken == [o.models[0][0]] == [o.result["slot"]] and o.requests["reserve"] - o.freed == 1,
        ),
        line(
            "accuracy of the model",
            lambda o: f"{o.accuracy:.2%}",
            lambda o: o.accuracy == o.models[0][1] == o.result["accuracy"] and f"accuracy {o.accuracy}" in o.ledger[0],
        ),
        line("its SHA-256", lambda o: o.sha256[:16], lambda o: o.sha256 == o.result["sha256"]),
    ]
    same = ours.sha256 == calm.sha256 and ours.accuracy == calm.accuracy and ours.result["seeds"] == calm.result["seeds"]
    return [*both, ("same model, bit by bit", "yes" if same else "no", f"same {len(calm.result['seeds'])} seeds", same)]


# --- what to show ------------------------------------------------------------------------------------------------------------------

TASKS = {
    "ingest": "saved",
    "clean": "pure",
    "split": "pure",
    "augment": "pure",
    "train": "saved",
    "pick": "pure",
    "reserve_slot": "undoable",
    "publish": "commits",
    "write_ledger": "commits",
    "report": "saved",
}

LEGEND = """\
[b]saved[/]     loaded; nobody waits for a save until something outside depends on it
[b]pure[/]      deterministic, never stored: made again where it is needed, only there
[b]undoable[/]  died with a slot taken: that is given back before the next is taken
[b]commits[/]   runs when nothing it rests on can change; its key makes twice harmless
"""


def row_of(task: str) -> str:
    """``train_2`` has a row of its own; the copies of ``augment`` share one."""
    name = task.rpartition("/")[2]
    return "augment" if name.startswith("augment") else name


def table_of_lives(world: World, lives: list[Life]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for title in ("life", "", *(str(life.number) for life in lives)):
        table.add_column(title, no_wrap=True)
    runs = [Counter(row_of(task) for epoch, task in world.runs() if epoch in life.epochs) for life in lives]
    order = list(TASKS)
    for row in sorted({row for ran in runs for row in ran}, key=lambda row: (order.index(re.sub(r"_\d+$", "", row)), row)):
        most = max(ran[row] for ran in runs)
        cells, known = [], False
        for life, ran in zip(lives, runs, strict=True):
            words = ["[magenta]undone[/]"] if row == "reserve_slot" and life.undone else []
            if row in ran:
                some = f" {ran[row]}" if ran[row] < most else ""
                words.append(f"[yellow]again{some}[/]" if known else f"[green]run{some}[/]")
                known = True
            elif row in life.loaded:
                words.append("[cyan]loaded[/]")
            cells.append("\n".join(words) or "[dim]-[/]")
        table.add_row(row if most == 1 else f"{row} x{most}", TASKS[re.sub(r"_\d+$", "", row)], *cells)
    return table


def table_of_proofs(found: list[tuple[str, str, str, bool]], kills: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for title in ("outside, at the end", f"killed {kills} times", "never killed", "good"):
        table.add_column(title, no_wrap=True)
    for what, ours, calm, holds in found:
        table.add_row(what, ours, calm, "[green]yes[/]" if holds else "[bold red]NO[/]")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=17, help="of the points at which it is killed")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="a small pipeline, three kills")
    parser.add_argument("--keep", type=Path, help="leave store and registry in this new folder")
    given = parser.parse_args()
    kills, recipes, copies = (3, [[16, 5], [24, 5]], 2) if given.quick else (given.kills, [[32, 30], [64, 30], [96, 30], [128, 30]], 15)
    options = ["--recipes", json.dumps(recipes), "--copies", str(copies)]
    console = Console()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="exoflow-digits-") as temporary:
        folder = given.keep or Path(temporary)
        world, lives = World(folder / "killed", options), list[Life]()
        with console.status("") as status:
            for point in [*points(random.Random(given.seed), kills, len(recipes)), None]:
                status.update(f"life {len(lives) + 1}, until: {point.name if point else 'the end'}")
                lives.append(live(world, len(lives) + 1, point))
                if lives[-1].result is not None:
                    break
            result = lives[-1].result
            assert result is not None
            status.update("the same without a kill, for comparison")
            calm_world = World(folder / "calm", [*options, "--seeds", json.dumps(result["seeds"])])
            calm = live(calm_world, 1, None)
            assert calm.result is not None
            found = proofs(outcome(world, result), outcome(calm_world, calm.result))
        console.print(f"From 1,797 scanned digits to a published model: one command, started {len(lives)} times")
        for life in lives:
            end = f"kill -9 {life.killed}" if life.killed else f"finished, after {life.lasted_s:.1f} s"
            console.print(f"  life {life.number}: {end}", highlight=False)
        console.print(table_of_lives(world, lives), LEGEND, table_of_proofs(found, len(lives) - 1), sep="\n")
        world.engine.close()
        calm_world.engine.close()
    good = all(holds for *_, holds in found)
    word = "[green]Everything happened exactly once[/]" if good else "[bold red]NOT exactly once: this is a bug, please report it[/]"
    console.print(f"{word}  (seed {given.seed}, {len(lives) - 1} kills, {time.monotonic() - began:.0f} s)")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
