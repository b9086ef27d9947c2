"""Kills real processes with SIGKILL while they run real workflows on a real store, starts them again, and judges what came of it.

    python -m tests.crash.harness --kills 20000 --minutes 60 --jobs 2     a campaign
    python -m tests.crash.harness --workflow chain --seed 7 --verbose     one run, with its story
    python -m tests.crash.harness --serve                                 runs on request (see test_kills.py)

A *run* is one workflow from its submission to its end, in as many *lives* as its seed says kills. The supervisor (this process) has one
thread and has imported the engine, so a life is a fork; some are fresh interpreters instead. What a run does is drawn from its seed: how
deep, how each life is killed (at a random time, at an entry of the ledger, at a write to the store, a worker only, everything at once),
who else is there. The times are the system's, so a seed repeats a run closely, not exactly; ``--repeat`` helps.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import json
import os
import pickle
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from exoflow.testing import ledger
from exoflow.testing.ledger import Book, Ledger, Trap, descendants
from tests.crash import verdict
from tests.crash.lives import LIMIT_S, Confirmed, Cut, Ended, Orders, live
from tests.crash.plants import PLANTS
from tests.crash.workflows import CASES, Case

ROOT = Path(__file__).parents[2]
NEEDED = ("executors.inline", "executors.loop", "executors.process_pool", "executors.threads", "store.sqlite")
"""Modules that an engine imports when it first needs them: imported here, once, so that a fork has them."""
DEPTHS = (1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 8, 12, 20)
RIVAL, FRESH, WORKER, TWINS, PAUSE = 0.1, 0.03, 0.4, 0.15, 0.3
WORKER_DEATHS_MAX = 2
"""In one run: a task that kills its worker three times counts as poison."""


# --- what is to happen -------------------------------------------------------------------------------------------------------------


@dataclass
class Measure:
    """A run without kills."""

    entries: int = 12
    calls: int = 6
    duration_s: float = 0.03


@dataclass
class Plan:
    """How a life is to be killed, as far as it can be said before it begins. ``share``: of the length of a run without kills."""

    how: str
    share: float
    victim: str
    traps: tuple[Trap, ...] = ()
    cut: Cut | None = None
    slow_s: float = 0.0


def draw_plan(rng: random.Random, case: Case, measure: Measure, number: int, deaths_left: int) -> Plan:
    """The next kill. In later lives there is less left to do, so it comes earlier."""
    share = rng.random() * (1.1 if number == 1 else rng.choice((1.0, 0.6, 0.3)))
    victim = rng.choice(("engine", "engine", "family"))
    if case.in_processes and deaths_left and rng.random() < WORKER / 2:
        victim = "worker"
        return Plan("time", share, victim)
    how = rng.choice(("time", "time", "moment", "moment", "moment", "effect", "write", "write", "undo" if number > 1 else "effect"))
    traps: list[Trap] = []
    if case.in_processes and deaths_left and rng.random() < WORKER:
        hit = 1 + int(rng.random() * measure.entries / 2)
        traps.append(Trap(life=number, pid=0, hit=hit, victim="worker", when=rng.choice(("before", "after"))))
    plan = Plan(how, share, victim, slow_s=rng.choice((0.0, 0.0, 0.0, 0.001, 0.004)))
    when: Any = rng.choice(("before", "after"))
    if how == "moment":
        traps.append(Trap(life=number, pid=0, hit=1 + int(share * measure.entries), victim=victim, when=when))
    elif how == "effect":
        traps.append(Trap(life=number, pid=0, hit=rng.choice((1, 1, 2, 3)), op="apply", victim=victim, when=when))
    elif how == "undo":
        traps.append(Trap(life=number, pid=0, hit=rng.choice((1, 1, 2, 3)), op="undo", victim=victim, when=when))
    elif how == "write":
        cut_when = rng.choice(("before", "during", "during", "after", "instead", "instead"))
        plan.cut = Cut(1 + int(share * measure.calls), cut_when, rng.random() * (0.02 if cut_when == "instead" else 0.0008))
    plan.traps = tuple(traps)
    return plan


# --- what happened -----------------------------------------------------------------------------------------------------------------


@dataclass
class Life:
    number: int
    pid: int
    fd: int
    killed: bool = False


@dataclass
class Outcome:
    """Of one run, or of many added up."""

    kills: int = 0
    worker_kills: int = 0
    lives: int = 0
    runs: int = 0
    seconds: float = 0.0
    hows: dict[str, int] = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=dict)
    situations: dict[str, int] = field(default_factory=dict)
    workflows: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, dict(Counter(mine) + Counter(value)) if isinstance(mine, dict) else mine + value)

    @classmethod
    def from_json(cls, text: str | bytes) -> Outcome:
        return msgspec.json.decode(text, type=cls)

    def report(self) -> str:
        per_life_ms = 1000 * self.seconds / max(self.lives, 1)
        lines = [f"{self.kills} kills of engines and {self.worker_kills} of workers alone, {len(self.violations)} violations"]
        lines.append(f"{self.lives} lives of {self.runs} workflows in {self.seconds:.1f} s, {per_life_ms:.1f} ms a life")
        for title, counts in (("how", self.hows), ("when", self.phases), ("reached", self.situations)):
            lines += [f"{title}:", *(f"  {count:>8}  {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))]
        return "\n".join(lines)


class Supervisor:
    """Starts lives, ends them, and buries what they leave."""

    def __init__(self, folder: Path, *, verbose: bool = False, keep: bool = False, plant: str = "") -> None:
        self.folder, self.verbose, self.keep, self.plant = folder, verbose, keep, plant
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(36, 1, 0, 0, 0) != 0:  # PR_SET_CHILD_SUBREAPER: whatever a life leaves behind becomes our child
            raise OSError(ctypes.get_errno(), "prctl")
        for name in NEEDED:
            importlib.import_module(f"exoflow.{name}")
        self.ledger = Ledger(folder / "books")
        self.measures: dict[str, Measure] = {}
        self.runs = 0

    def close(self) -> None:
        self.ledger.close()

    def measure(self, case: Case) -> tuple[Measure, Outcome]:
        """The first run of each workflow is without kills."""
        if case.name in self.measures:
            return self.measures[case.name], Outcome()
        measure = self.measures[case.name] = Measure()
        plant, self.plant = self.plant, ""
        outcome = _Run(self, case, "calm", measure).go(depth=0)
        self.plant = plant
        return measure, outcome

    def run(self, case: Case, seed: int) -> Outcome:
        measure, outcome = self.measure(case)
        outcome.add(_Run(self, case, str(seed), measure).go())
        return outcome

    def replay(self, case: Case, plans: list[Plan]) -> Outcome:
        """A run whose lives are killed as told, and the last one not."""
        run = _Run(self, case, "told", Measure())
        run.told = plans
        return run.go(depth=len(plans))


class _Run:
    """One workflow, from its submission to its end."""

    def __init__(self, supervisor: Supervisor, case: Case, seed: str, measure: Measure) -> None:
        self.supervisor, self.case, self.seed, self.measure = supervisor, case, seed, measure
        self.rng = random.Random(f"{case.name} {seed}")
        supervisor.runs += 1
        self.book = f"{case.name}-{seed}-{supervisor.runs}"
        twins = seed.isdigit() and not case.cancels and self.rng.random() < TWINS
        self.books = (self.book, f"{self.book}-twin") if twins else (self.book,)
        self.folder = supervisor.folder / self.book
        self.alive: list[Life] = []
        self.ends: list[tuple[Ended, int]] = []
        self.number = 0
        self.deaths_left = WORKER_DEATHS_MAX
        self.struck: list[tuple[Life, str]] = []
        self.found: list[str] = []
        self.worker_kills = 0
        self.rivals = 0
        self.told: list[Plan] = []

    def go(self, depth: int | None = None) -> Outcome:
        began = time.monotonic()
        for book in self.books:
            (self.folder / book).mkdir(parents=True)
        depth = self.rng.choice(DEPTHS) if depth is None else depth
        confirmed: dict[str, Confirmed] = {}
        try:
            for _ in range(depth):
                if self.ends or self.found:
                    break
                self.attack()
            self.finish()
            if not self.found:
                confirmed = self.confirm()
        except Exception:
            self.found.append(f"the harness failed: {traceback.format_exc()}")
        finally:
            for life in self.alive:
                self.end_family(life)
            self.bury_orphans()
        return self.sum_up(confirmed, time.monotonic() - began)

    def attack(self) -> None:
        """One life, with or without a rival, and its end."""
        fresh_one = not self.alive
        plan = self.told.pop(0) if self.told else draw_plan(self.rng, self.case, self.measure, self.number + 1, self.deaths_left)
        self.deaths_left -= plan.victim == "worker" or any(trap.victim == "worker" for trap in plan.traps)
        victim = self.start(plan) if fresh_one else self.alive[0]
        if plan.how != "told" and self.rng.random() < RIVAL and len(self.alive) == 1:
            self.rivals += 1
            self.start(None)
        if plan.how == "time" or not fresh_one:
            self.strike_later(victim, plan)
        ended = self.wait(self.alive if len(self.alive) > 1 else [victim], until_one_is_dead=True)
        for life in ended:
            if life.killed:
                self.struck.append((life, self.describe(plan, fresh_one=fresh_one and life is victim)))

    def describe(self, plan: Plan, *, fresh_one: bool) -> str:
        whom = "everything" if plan.victim == "family" else "the engine"
        if not fresh_one or plan.how == "time":
            return f"{whom} at a random time"
        if plan.cut is not None:
            return f"{whom} {plan.cut.when}{' of' * (plan.cut.when == 'instead')} a write to the store"
        what = {"moment": "an entry of the ledger", "effect": "an effect", "undo": "a rollback", "told": "what was told"}[plan.how]
        return f"{whom} {plan.traps[-1].when} {what}"

    def finish(self) -> None:
        """Nobody is killed any more: it must end."""
        if not self.ends and not self.alive and not self.found:
            self.start(None)
        while self.alive:
            self.wait(self.alive, until_one_is_dead=False)

    # --- lives -------------------------------------------------------------------------------------------------------------------

    def start(self, plan: Plan | None, *, confirms: bool = False) -> Life:
        self.number += 1
        rng = self.rng
        orders = Orders(
            case=self.case.name,
            folder=str(self.folder),
            books=self.books,
            number=self.number,
            via=rng.choice(("run", "run", "resume_all", "resume")) if self.number > 1 else "run",
            threads=rng.choice((1, 2, 4)),
            inline_bytes=rng.choice((65536, 65536, 0, 128)),
            traps=tuple(msgspec.structs.replace(trap, life=self.number) for trap in plan.traps) if plan else (),
            cut=plan.cut if plan else None,
            slow_s=plan.slow_s if plan else 0.0,
            confirms=confirms,
            plant=self.supervisor.plant,
        )
        fresh = plan is not None and rng.random() < FRESH
        if self.supervisor.verbose:
            print(f"--- life {self.number}{' in a fresh interpreter' if fresh else ''}: {orders}", file=sys.stderr, flush=True)
        pid = _start_fresh(orders) if fresh else _start_fork(orders)
        life = Life(self.number, pid, os.pidfd_open(pid))
        self.alive.append(life)
        return life

    def strike_later(self, life: Life, plan: Plan) -> None:
        select.select([life.fd], [], [], plan.share * self.measure.duration_s)
        if _is_dead(life.fd):
            return
        if plan.victim == "worker":
            self.strike_worker(life)
            return
        family = descendants(life.pid) if plan.victim == "family" else []
        ledger.note(f"kill {plan.victim} of life {life.number} after {plan.share * self.measure.duration_s * 1000:.1f} ms", book=self.book)
        if len(self.alive) > 1 and self.rng.random() < PAUSE:  # a paused engine is not a dead one: its rival has to wait
            os.kill(life.pid, signal.SIGSTOP)
            select.select([life.fd], [], [], self.rng.random() * self.measure.duration_s)
        for pid in (life.pid, *family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def strike_worker(self, life: Life) -> None:
        """A worker only, whatever it is doing: starting, idle, or at work."""
        workers = descendants(life.pid)
        if workers:
            ledger.note(f"kill worker of life {life.number}", book=self.book)
            self.worker_kills += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.rng.choice(workers), signal.SIGKILL)

    def wait(self, lives: list[Life], *, until_one_is_dead: bool) -> list[Life]:
        """Until one of ``lives`` is over (by a kill or by itself), or all of them are."""
        deadline = time.monotonic() + LIMIT_S + 10
        waiting, ended = list(lives), list[Life]()
        while waiting and not (until_one_is_dead and ended):
            ready, _, _ = select.select([life.fd for life in waiting], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.found.append(f"life {waiting[0].number} hangs\n{self.stack_of(waiting[0])}")
                for life in waiting:
                    self.end_family(life)
                return ended
            for life in [life for life in waiting if life.fd in ready]:
                waiting.remove(life)
                ended.append(life)
                self.reap(life)
        self.bury_orphans()
        return ended

    def reap(self, life: Life) -> None:
        _, status = os.waitpid(life.pid, 0)
        os.close(life.fd)
        self.alive.remove(life)
        life.killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if life.killed:
            return
        if status != 0:
            self.found.append(f"life {life.number} ended with {os.waitstatus_to_exitcode(status)}:\n{self.errors(life)}")
            return
        ended = pickle.loads((self.folder / f"life-{life.number}").read_bytes())
        if isinstance(ended, tuple):
            self.ends.append(ended)

    def errors(self, life: Life) -> str:
        path = self.folder / f"stderr-{life.number}"
        return path.read_text("utf-8", "replace")[-6000:] if path.exists() else ""

    def stack_of(self, life: Life) -> str:
        os.kill(life.pid, signal.SIGUSR1)
        select.select([life.fd], [], [], 0.5)
        return self.errors(life)

    def end_family(self, life: Life) -> None:
        family = descendants(life.pid)
        for pid in (life.pid, *family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if life in self.alive:
            self.reap(life)

    def bury_orphans(self) -> None:
        """Whatever the dead left behind has become our child, and must be on its way out."""
        known = {self.supervisor.ledger.pid, *(life.pid for life in self.alive)}
        deadline = time.monotonic() + 5
        while orphans := [pid for pid in _children() if pid not in known]:
            for pid in orphans:
                if time.monotonic() > deadline:
                    self.found.append(f"process {pid} outlives its engine: {_command(pid)}")
                    os.kill(pid, signal.SIGKILL)
                fd = os.pidfd_open(pid)
                select.select([fd], [], [], 0.2)
                os.close(fd)
                os.waitpid(pid, os.WNOHANG)

    # --- the end -----------------------------------------------------------------------------------------------------------------

    def confirm(self) -> dict[str, Confirmed]:
        life = self.start(None, confirms=True)
        self.wait([life], until_one_is_dead=False)
        path = self.folder / f"life-{life.number}"
        return pickle.loads(path.read_bytes()) if path.exists() else {}

    def sum_up(self, confirmed: dict[str, Confirmed], seconds: float) -> Outcome:
        stories = {}
        for name in self.books:
            self.supervisor.ledger.shut(name)
            stories[name] = self.supervisor.ledger.book(name)
        outcome = Outcome(kills=len(self.struck), lives=self.number, runs=len(self.books), seconds=seconds)
        outcome.workflows = {self.case.name: len(self.books)}
        outcome.worker_kills = self.worker_kills + sum(
            entry.op == "killed" and entry.what.startswith("worker") for entry in stories[self.book].entries
        )
        outcome.hows = dict(Counter(how for _, how in self.struck))
        outcome.phases = dict(Counter(verdict.phase(stories[self.book], life.number) for life, _ in self.struck))
        reached = Counter({"rivals on one store": int(self.rivals > 0), "two workflows at once": len(self.books) - 1})
        for name, said in confirmed.items():
            ends = [ended[name] for ended, _ in self.ends]
            self.found += verdict.violations(self.case, self.folder / name, stories[name], ends, said)
            reached += verdict.situations(stories[name], self.number, said)
        outcome.situations = dict(reached)
        if not confirmed and not self.found:
            self.found.append("it could not be confirmed")
        if self.number == 2 and self.seed == "calm" and not self.found:
            self.note_measure(stories[self.book], seconds)
        self.tell(outcome, stories, confirmed)
        return outcome

    def tell(self, outcome: Outcome, stories: dict[str, Book], confirmed: dict[str, Confirmed]) -> None:
        if self.found:
            outcome.violations.append(self.accuse(stories, confirmed))
        if self.supervisor.verbose:
            print(_both_stories(stories, confirmed), file=sys.stderr)
        if not self.found and not self.supervisor.keep:
            shutil.rmtree(self.folder)
            for name in self.books:
                (self.supervisor.ledger.folder / f"{name}.jsonl").unlink()

    def note_measure(self, book: Book, seconds: float) -> None:
        self.measure.entries = max(entry.number for entry in book.entries) - book.entries[0].number
        self.measure.calls = self.ends[0][1]
        self.measure.duration_s = seconds * 0.6

    def accuse(self, stories: dict[str, Book], confirmed: dict[str, Confirmed]) -> str:
        kills = ", ".join(f"life {life.number} by killing {how}" for life, how in self.struck)
        repeat = f"repeat: python -m tests.crash.harness --seed {self.seed} --workflow {self.case.name} --verbose"
        return "\n".join(
            [
                f"VIOLATION in {self.case.name}, seed {self.seed} (left in {self.folder}):",
                *self.found,
                f"ended: {kills or 'by themselves'}",
                _both_stories(stories, confirmed),
                repeat if self.seed.isdigit() else f"(this run was {self.seed}: its kills were not drawn)",
            ]
        )


def _both_stories(stories: dict[str, Book], confirmed: dict[str, Confirmed]) -> str:
    parts = []
    for name, book in stories.items():
        parts += [f"the ledger's story of {name}:", book.story(), "the engine's story:"]
        parts.append(confirmed[name].story if name in confirmed else "(none)")
    return "\n".join(parts)


# --- processes ---------------------------------------------------------------------------------------------------------------------


def _start_fork(orders: Orders) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        fd = os.open(f"{orders.folder}/stderr-{orders.number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fd, 2)
        os.dup2(fd, 1)
        live(orders)
    return pid


def _start_fresh(orders: Orders) -> int:
    errors = (os.POSIX_SPAWN_OPEN, 2, f"{orders.folder}/stderr-{orders.number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    path = os.pathsep.join([str(ROOT), *sys.path])
    command = [sys.executable, "-m", "tests.crash.lives", msgspec.json.encode(orders).decode()]
    environment = {**os.environ, "PYTHONPATH": path}
    return os.posix_spawn(sys.executable, command, environment, setpgroup=0, file_actions=[errors, (os.POSIX_SPAWN_DUP2, 2, 1)])


def _is_dead(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def _children() -> list[int]:
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        found += [int(pid) for pid in path.read_text("ascii").split()]
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")[:300]
    return "gone"


# --- campaigns ---------------------------------------------------------------------------------------------------------------------


def campaign(supervisor: Supervisor, cases: list[Case], seed: int, kills: int, deadline: float) -> Outcome:
    """All ``cases`` in turn, with one seed after the other, until there were so many kills or the time is over."""
    total = Outcome()
    while total.kills < kills and time.monotonic() < deadline:
        for case in cases:
            if total.kills >= kills or time.monotonic() >= deadline:
                break
            outcome = supervisor.run(case, seed)
            total.add(outcome)
            for violation in outcome.violations:
                print(violation, flush=True)
        seed += 1
    return total


def _told(*, slow_s: float = 0.0, cut: dict[str, Any] | None = None, **trap: Any) -> Plan:
    """A plan from JSON: the fields of a Trap, or of a Cut, and how slow the store is."""
    if cut is not None:
        return Plan("told", 0.0, "engine", cut=Cut(**cut), slow_s=slow_s)
    caught = msgspec.convert({"life": 0, "pid": 0, "hit": 1, **trap}, Trap)
    return Plan("told", 0.0, caught.victim, (caught,), slow_s=slow_s)


def serve(supervisor: Supervisor) -> Outcome:
    """A line of JSON comes in: ``workflow``, and ``seed`` and ``kills`` or ``traps``, perhaps a ``plant``; an Outcome goes out. Ends with
    its input, and gives the sum of what was not planted."""
    everything = Outcome()
    for line in sys.stdin:
        asked = json.loads(line)
        case = CASES[asked["workflow"]]
        supervisor.plant = asked.get("plant", "")
        total, seed = Outcome(), asked.get("seed", 1)
        if "traps" in asked:
            total = supervisor.replay(case, [_told(**trap) for trap in asked["traps"]])
        while total.kills < asked.get("kills", 0) and not total.violations:
            total.add(supervisor.run(case, seed))
            seed += 1
        print(msgspec.json.encode(total).decode(), flush=True)
        if not supervisor.plant:
            everything.add(total)
    return everything


def in_parallel(arguments: argparse.Namespace) -> Outcome:
    """The same campaign in several processes, each with seeds of its own."""
    command = [sys.executable, "-m", "tests.crash.harness", "--kills", str(-(-arguments.kills // arguments.jobs)), "--json"]
    command += ["--minutes", str(arguments.minutes), *(f"--workflow={name}" for name in arguments.workflow)]
    processes = [
        subprocess.Popen([*command, "--seed", str(arguments.seed + job * 1_000_000)], stdout=subprocess.PIPE, cwd=ROOT)
        for job in range(arguments.jobs)
    ]
    total = Outcome()
    for process in processes:
        said = process.communicate()[0].splitlines()
        sys.stdout.write(b"\n".join(said[:-1]).decode())
        total.add(Outcome.from_json(said[-1]))
    return total


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workflow", action="append", default=[], choices=sorted(CASES), help="only this one (may be repeated)")
    parser.add_argument("--seed", type=int, help="the first seed; default: 1, or with --workflow and --repeat 1 just that run")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1, help="with --seed and --workflow: so many times")
    parser.add_argument("--verbose", action="store_true", help="tell the story of each run")
    parser.add_argument("--keep", action="store_true", help="leave the files of all runs")
    parser.add_argument("--json", action="store_true", help="the sum as JSON, in the last line")
    parser.add_argument("--plant", default="", choices=["", *PLANTS], help="put a bug into the engine, to see whether it is found")
    parser.add_argument("--serve", action="store_true", help="read requests from standard input")
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse()
    one_run = arguments.seed is not None and arguments.workflow and not arguments.json
    arguments.seed = 1 if arguments.seed is None else arguments.seed
    cases = [CASES[name] for name in arguments.workflow] or list(CASES.values())
    if arguments.jobs > 1:
        total = in_parallel(arguments)
        print(total.report())
        return 1 if total.violations else 0
    folder = Path(tempfile.mkdtemp(prefix="exoflow-crash-"))
    supervisor = Supervisor(folder, verbose=arguments.verbose, keep=arguments.keep, plant=arguments.plant)
    total = Outcome()
    try:
        if arguments.serve:
            total = serve(supervisor)
        elif one_run:
            for _ in range(arguments.repeat):
                for case in cases:
                    if not total.violations:
                        total.add(supervisor.run(case, arguments.seed))
            print(*total.violations, sep="\n", flush=True)
        else:
            total = campaign(supervisor, cases, arguments.seed, arguments.kills, time.monotonic() + arguments.minutes * 60)
    finally:
        supervisor.close()
        if not total.violations and not arguments.keep:
            shutil.rmtree(folder)
    if arguments.json:
        print(msgspec.json.encode(total).decode())
    elif not arguments.serve:
        print(total.report())
    return 1 if total.violations and not arguments.serve else 0


if __name__ == "__main__":
    sys.exit(main())
