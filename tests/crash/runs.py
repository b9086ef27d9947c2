"""One workflow from its submission to its end, in as many lives as it is killed, and the processes that this takes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pickle
import random
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from exoflow.client.engine import Engine
from exoflow.testing import ledger
from exoflow.testing.ledger import Book, Ledger, Trap, descendants
from tests.crash import verdict, workflows
from tests.crash.lives import LIMIT_S, PATIENCE, Confirmed, Ended, Orders, Way, live
from tests.crash.plans import DEPTHS, Measure, Plan, draw_plan, draw_rival
from tests.crash.points import Tally, struck
from tests.crash.workflows import Case

ROOT = Path(__file__).parents[2]
NEEDED = ("cli.main", "cli.following", "executors.inline", "executors.loop", "executors.process_pool", "executors.threads", "store.sqlite")
"""Modules that an engine imports when it first needs them: imported here, once, so that a fork has them."""
RIVAL, COLLECTOR, FRESH, TWINS, PAUSE, POOL = 0.2, 0.06, 0.03, 0.15, 0.3, 0.08
ENDED = frozenset({0, 4, 5, 7})
"""Exit codes of the command when the workflow has ended, well or not."""
WORKER_DEATHS_MAX = 2
"""In one run: a task that kills its worker three times counts as poison."""


# --- what happened -----------------------------------------------------------------------------------------------------------------


@dataclass
class Life:
    number: int
    pid: int
    fd: int
    plan: Plan | None
    killed_before: int
    """How many lives had been killed when it began."""
    killed: bool = False


@dataclass
class Outcome:
    """Of one run, or of many added up."""

    kills: int = 0
    worker_kills: int = 0
    signals: int = 0
    lives: int = 0
    runs: int = 0
    seconds: float = 0.0
    last_seed: int = -1
    hows: dict[str, int] = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=dict)
    situations: dict[str, int] = field(default_factory=dict)
    workflows: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        last_seed = max(self.last_seed, other.last_seed)
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, dict(Counter(mine) + Counter(value)) if isinstance(mine, dict) else mine + value)
        self.last_seed = last_seed

    @classmethod
    def from_json(cls, text: str | bytes) -> Outcome:
        return msgspec.json.decode(text, type=cls)

    def report(self) -> str:
        per_life_ms = 1000 * self.seconds / max(self.lives, 1)
        lines = [f"{self.kills} kills of engines and {self.worker_kills} of workers alone, {len(self.violations)} violations"]
        lines.append(
            f"{self.signals} ends by other signals; {sum(self.points.values())} strikes at {len(self.points)} moments of crash points"
        )
        lines.append(f"{self.lives} lives of {self.runs} workflows in {self.seconds:.1f} s, {per_life_ms:.1f} ms a life")
        for title, counts in (("how", self.hows), ("when", self.phases), ("reached", self.situations), ("where", self.points)):
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
        _warm_up(folder)
        self.measures: dict[str, Measure] = {}
        self.runs = 0

    def close(self) -> None:
        self.ledger.close()

    def measure(self, case: Case) -> tuple[Measure, Outcome]:
        """The first run of each workflow is without kills, in the second it is killed in the middle."""
        if case.name in self.measures:
            return self.measures[case.name], Outcome()
        measure = self.measures[case.name] = Measure()
        plant, self.plant = self.plant, ""
        calm = Run(self, case, "calm", measure, guarded=True)
        outcome = calm.go(depth=0)
        if not outcome.violations:
            measure.first = calm.tally(1)
            trap = Trap(life=0, pid=0, hit=1 + measure.entries // 2)
            halved = Run(self, case, "halved", measure, told=[Plan("told", 0.0, "engine", (trap,))], guarded=True)
            outcome.add(halved.go(depth=1))
            measure.again = halved.tally(2)
        self.plant = plant
        return measure, outcome

    def run(self, case: Case, seed: int) -> Outcome:
        measure, outcome = self.measure(case)
        outcome.add(Run(self, case, str(seed), measure).go())
        return outcome

    def replay(self, case: Case, plans: list[Plan], *, pool: bool = False) -> Outcome:
        """A run whose lives are killed as told, and the last one not."""
        return Run(self, case, "told", Measure(), told=plans, pool=pool).go(depth=len(plans))


class Run:
    """One workflow, from its submission to its end. ``told``: how its lives are killed, where that is not to be drawn. ``guarded``: count
    in every life how often it comes by each crash point. ``pool``: what is meant for threads runs in worker processes."""

    def __init__(
        self,
        supervisor: Supervisor,
        case: Case,
        seed: str,
        measure: Measure,
        *,
        told: list[Plan] | None = None,
        guarded: bool = False,
        pool: bool = False,
    ) -> None:
        self.supervisor, self.case, self.seed, self.measure = supervisor, case, seed, measure
        self.told, self.guarded = list(told or ()), guarded
        self.rng = random.Random(f"{case.name} {seed}")
        supervisor.runs += 1
        self.book = f"{case.name}-{seed}-{supervisor.runs}"
        twins = seed.isdigit() and not case.cancels and self.rng.random() < TWINS
        may_move = not case.in_processes and not case.cancels
        self.pool = pool or (seed.isdigit() and may_move and self.rng.random() < POOL)
        self.books = (self.book, f"{self.book}-twin") if twins else (self.book,)
        self.folder = supervisor.folder / self.book
        self.alive: list[Life] = []
        self.ends: list[tuple[Ended, int]] = []
        self.number = 0
        self.deaths_left = WORKER_DEATHS_MAX
        self.killed = 0
        self.struck: list[tuple[Life, str]] = []
        self.found: list[str] = []
        self.worker_kills = self.signals = self.rivals = self.collectors = 0
        self.came: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.tallies: dict[int, dict[str, int]] = {}
        self.over = False

    def go(self, depth: int | None = None) -> Outcome:
        began = time.monotonic()
        for book in self.books:
            (self.folder / book).mkdir(parents=True)
        depth = self.rng.choice(DEPTHS) if depth is None else depth
        confirmed: dict[str, Confirmed] = {}
        try:
            for _ in range(depth):
                if self.ends or self.over or self.found:
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
        plan = self.told.pop(0) if self.told else self.draw()
        self.deaths_left -= plan.kills_worker
        victim = self.start(plan) if fresh_one else self.alive[0]
        if plan.how != "told" and len(self.alive) == 1:
            self.invite()
        if plan.how in ("time", "signal") or not fresh_one:
            self.strike_later(victim, plan)
        ended = self.wait(self.alive if len(self.alive) > 1 else [victim], until_one_is_dead=True)
        for life in ended:
            if life.killed:
                self.struck.append((life, self.describe(life, plan, fresh_one=fresh_one and life is victim)))

    def invite(self) -> None:
        """Perhaps others come, to drive the workflow, too, or to throw away what nobody needs."""
        if self.rng.random() < RIVAL:
            self.rivals += 1
            self.start(draw_rival(self.rng, self.measure))
        elif self.rng.random() < COLLECTOR:
            self.collectors += 1
            self.start(None, via="collect")

    def draw(self) -> Plan:
        in_processes = self.case.in_processes or self.pool
        return draw_plan(self.rng, int(self.seed), self.case, self.measure, self.number + 1, self.deaths_left, in_processes=in_processes)

    def describe(self, life: Life, plan: Plan, *, fresh_one: bool) -> str:
        whom = "everything" if plan.victim == "family" else "the engine"
        if life.plan is not None and life.plan.at is not None and self.came_to_its_point(life):
            whom = "everything" if life.plan.at.victim == "family" else "the engine"
            return f"{whom} {life.plan.at.when} a crash point"
        if plan.how == "signal":
            return "the engine after it was told to end"
        if not fresh_one or plan.how in ("time", "point", "fault"):
            return f"{whom} at a random time"
        if plan.cut is not None:
            return f"{whom} {plan.cut.when}{' of' * (plan.cut.when == 'instead')} a write to the store"
        if not plan.traps:
            return "what was told"
        what = {"moment": "an entry of the ledger", "effect": "an effect", "undo": "a rollback", "told": "what was told"}[plan.how]
        return f"{whom} {plan.traps[-1].when} {what}"

    def came_to_its_point(self, life: Life) -> bool:
        return struck(str(self.folder), life.number).exists()

    def tally(self, number: int) -> dict[str, int]:
        """How often that life came by each crash point."""
        return self.tallies.get(number, {})

    def finish(self) -> None:
        """Nobody is killed any more: it must end."""
        while self.alive or not (self.ends or self.found):
            if not self.alive:
                self.start(None)
            self.wait(self.alive, until_one_is_dead=False)

    # --- lives -------------------------------------------------------------------------------------------------------------------

    def start(self, plan: Plan | None, *, confirms: bool = False, via: Way | None = None) -> Life:
        self.number += 1
        rng = self.rng
        orders = Orders(
            case=self.case.name,
            folder=str(self.folder),
            books=self.books,
            number=self.number,
            via=via or self.way(plan),
            threads=rng.choice((1, 2, 4)),
            inline_bytes=rng.choice((65536, 65536, 0, 128)),
            traps=tuple(msgspec.structs.replace(trap, life=self.number) for trap in plan.traps) if plan else (),
            cut=plan.cut if plan else None,
            at=plan.at if plan else None,
            guarded=self.guarded,
            pool=self.pool,
            slow_s=plan.slow_s if plan else 0.0,
            confirms=confirms,
            plant=self.supervisor.plant,
        )
        fresh = plan is not None and rng.random() < FRESH
        if self.supervisor.verbose:
            print(f"--- life {self.number}{' in a fresh interpreter' if fresh else ''}: {orders}", file=sys.stderr, flush=True)
        pid = _start_fresh(orders) if fresh else _start_fork(orders)
        life = Life(self.number, pid, os.pidfd_open(pid), plan, self.killed)
        self.alive.append(life)
        return life

    def way(self, plan: Plan | None) -> Way:
        if plan is not None and plan.signals:
            return "command"
        ways: tuple[Way, ...] = ("run", "run", "resume_all", "resume")
        return self.rng.choice(ways) if self.number > 1 else "run"

    def strike_later(self, life: Life, plan: Plan) -> None:
        select.select([life.fd], [], [], plan.share * self.measure.duration_s)
        if _is_dead(life.fd):
            return
        if life.plan is not None and life.plan.signals:
            self.tell_to_end(life, life.plan.signals)
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

    def tell_to_end(self, life: Life, signals: tuple[int, ...]) -> None:
        ledger.note(f"tell life {life.number} to end: {[signal.Signals(number).name for number in signals]}", book=self.book)
        for number in signals:
            with contextlib.suppress(ProcessLookupError):
                os.kill(life.pid, number)
            select.select([life.fd], [], [], self.rng.random() * 0.02)

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
        code = os.waitstatus_to_exitcode(status)
        life.killed = code == -signal.SIGKILL
        self.killed += life.killed
        plan = life.plan
        if plan is not None and plan.at is not None and self.came_to_its_point(life):
            self.came[f"{plan.at.point}:{plan.at.when}"] += 1
            self.worker_kills += plan.kills_worker
        self.tallies[life.number] = Tally.read(self.folder / f"points-{life.number}")
        if life.killed:
            return
        if plan is not None and plan.signals:
            self.take_signalled(life, code, plan.signals)
        elif code != 0:
            self.found.append(f"life {life.number} ended with {code}:\n{self.errors(life)}")
        else:
            ended = pickle.loads((self.folder / f"life-{life.number}").read_bytes())
            if isinstance(ended, tuple):
                self.ends.append(ended)
            elif isinstance(ended, str):
                self.faults[ended] += 1

    def take_signalled(self, life: Life, code: int, signals: tuple[int, ...]) -> None:
        """The command was told to end: it did (or it had ended before), and if it says so, others may go on at once. A rival that was
        killed meanwhile has left its lock to whoever comes next."""
        self.signals += 1
        if code in (128 + signal.SIGTERM, 128 + signal.SIGHUP) and not self.alive:
            left = list((self.folder / "store.db-blobs" / "locks").iterdir())
            if len(left) > self.killed - life.killed_before:
                self.found.append(f"life {life.number} ended in good order, and left {left}:\n{self.errors(life)}")
        elif code in ENDED:
            self.over = True
        elif code not in {*(-number for number in signals), *(128 + number for number in signals)}:
            self.found.append(f"life {life.number}, told to end, ended with {code}:\n{self.errors(life)}")

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
        deadline = time.monotonic() + 5 * PATIENCE
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
        outcome.signals, outcome.points, outcome.faults = self.signals, dict(self.came), dict(self.faults)
        outcome.hows = dict(Counter(how for _, how in self.struck))
        outcome.phases = dict(Counter(verdict.phase(stories[self.book], life.number) for life, _ in self.struck))
        reached = Counter(
            {
                "in worker processes instead of threads": int(self.pool),
                "rivals on one store": int(self.rivals > 0),
                "garbage was collected meanwhile": int(self.collectors > 0),
                "two workflows at once": len(self.books) - 1,
            }
        )
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


def _warm_up(folder: Path) -> None:
    """Do once what each life would have to do: whoever is forked later finds it done."""
    with Engine(f"sqlite:{folder}/warm.db") as engine:
        for executor in ("thread", "loop", "inline"):
            task = workflows.draw_async if executor == "loop" else workflows.draw.options(executor=executor)
            engine.run(task.bind())
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1


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
