"""A world for the core alone: it carries out commands in any order it likes, crashes, loses outputs, and keeps an independent ledger.

Every value carries provenance: which draw of each nondeterministic task it has seen. At the end, all that survives (the result and the
external outputs that stand) must agree on every draw, and each effect must stand exactly once: that is exactly-once, by definition.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from exoflow.core import commands as cmd
from exoflow.core import events as ev
from exoflow.core import invariants, journal, replay
from exoflow.core.checks import check, repair
from exoflow.core.machine import Machine
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.graph import Graph, TaskSpec
from exoflow.core.spec.ids import basis_of
from exoflow.core.state import ACTIVE, Status
from exoflow.testing.machine.graphs import random_graph

Provenance = dict[str, int]
"""Of a value: the draw of each nondeterministic task (and caught failure) that it has seen."""


@dataclass
class Knobs:
    """What may go wrong, each as a probability: per step for ``crash``, ``lose`` and ``cancel``; per attempt for ``fail``, ``die`` and
    ``grow`` (it returns a DAG); per rollback for ``undo_fails``. After ``faults_max`` faults nothing goes wrong any more."""

    crash: float = 0.03
    lose: float = 0.03
    fail: float = 0.05
    die: float = 0.03
    grow: float = 0.15
    cancel: float = 0.0
    undo_fails: float = 0.1
    steps_max: int = 5000
    faults_max: int = 12


@dataclass
class Attempt:
    """A function that runs: of the task itself (``kind`` run), its rollback (undo), or its question (ask)."""

    task: str
    number: int
    basis: int
    inputs: dict[str, Provenance]
    save: bool
    seen: Provenance
    spec: TaskSpec
    stopping: bool = False
    kind: str = "run"


@dataclass
class World:
    """One workflow and everything around it. ``run`` it, then ``judge`` it."""

    graph: Graph
    seed: int
    knobs: Knobs = field(default_factory=Knobs)
    auto: bool = False
    undo_on_failure: bool = False

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.epoch = 1
        self.draws = 0
        self.faults = 0
        self.durable: list[tuple[journal.Record, Provenance | None]] = []
        self.effects: dict[str, list[tuple[int, Provenance]]] = {}  # undoable: applied and not undone
        self.commits: dict[tuple[str, int], Provenance] = {}  # committing, by idempotency key
        self.applied_log: list[str] = []
        self.runs: dict[str, int] = {}
        self.status = Status.PENDING
        self.cancel_done = False
        self.caught: set[str] = set()
        self.specs: dict[str, TaskSpec] = {spec.id: spec for spec in self.graph.tasks}
        self.machine = Machine(replay.new_state("w", self.epoch), self.graph)
        self.machine.state.rounds_kept = 1
        self.fresh()
        self.do(ev.Began(plan=journal.Stored(0, b""), auto=self.auto, undo_on_failure=self.undo_on_failure))

    def fresh(self) -> None:
        self.appends: list[tuple[int, list[tuple[journal.Record, Provenance | None]]]] = []
        self.running: dict[str, list[Attempt]] = {}
        self.memory: dict[str, Provenance] = {}
        self.outputs: dict[tuple[str, int], Provenance] = {}
        self.seen: dict[tuple[str, int], Provenance] = {}
        self.returned: dict[tuple[str, int], Provenance] = {}
        self.saved: dict[str, Provenance] = {}
        self.saves: list[tuple[str, int, Provenance]] = []
        self.timers: list[cmd.SetTimer] = []

    # --- carrying out commands -----------------------------------------------------------------------------------------------

    def do(self, event: ev.Event) -> None:
        """Tell the machine, and do what it says."""
        for command in self.machine.handle(event):
            getattr(self, "on_" + type(command).__name__.lower())(command)
        invariants.check(self.machine.state)

    def on_append(self, c: cmd.Append) -> None:
        entries: list[tuple[journal.Record, Provenance | None]] = []
        for record in c.records:
            value = None
            if isinstance(record, journal.OutputSaved):
                value = self.outputs[record.task, record.attempt]
                self.saved[record.task] = value
            entries.append((record, value))
        self.appends.append((c.ticket, entries))

    def land(self, entries: list[tuple[journal.Record, Provenance | None]]) -> None:
        """``entries`` are durable, and what they retire is no longer needed."""
        for record, value in entries:
            self.durable.append((record, value))
            if isinstance(record, journal.RoundsDropped):
                past = set(record.past)
                self.durable = [
                    entry for entry in self.durable if not (getattr(entry[0], "parent", "") and getattr(entry[0], "task", "") in past)
                ]

    def value(self, task: str) -> Provenance:
        return self.memory[task] if task in self.memory else self.saved[task]

    def on_run(self, c: cmd.Run, kind: str = "run") -> None:
        if c.task not in self.machine.state.tasks:
            return  # started and dropped in one turn
        ups = self.machine.state.tasks[c.task].reads
        inputs = {up.id: self.value(up.id) for up in ups}
        seen: Provenance = {}
        for value in inputs.values():
            for name, draw in value.items():
                assert seen.setdefault(name, draw) == draw, f"{c.task} sees two versions of {name}"
        task = self.machine.state.tasks[c.task]
        if task.attempt == c.attempt and task.phase in ACTIVE:  # not stopped again in the same turn
            assert c.basis == basis_of(up.version for up in ups)
        self.seen[c.task, c.attempt] = seen
        spec = self.machine.state.tasks[c.task].spec
        attempt = Attempt(c.task, c.attempt, c.basis, inputs, getattr(c, "save", False), seen, spec, kind=kind)
        self.running.setdefault(c.task, []).append(attempt)
        if kind == "run":
            self.runs[c.task] = self.runs.get(c.task, 0) + 1

    def on_undo(self, c: cmd.Undo) -> None:
        self.on_run(cmd.Run(task=c.task, attempt=c.attempt, basis=c.basis, save=False), "undo")

    def on_ask(self, c: cmd.Ask) -> None:
        self.on_run(cmd.Run(task=c.task, attempt=c.attempt, basis=c.basis, save=False), "ask")

    def on_stop(self, c: cmd.Stop) -> None:
        for attempt in self.running.get(c.task, []):
            if attempt.number == c.attempt:
                attempt.stopping = True

    def on_save(self, c: cmd.Save) -> None:
        self.saves.append((c.task, c.attempt, self.memory[c.task]))

    def on_keep(self, c: cmd.Keep) -> None:
        self.memory[c.task] = self.outputs[c.task, c.attempt] = self.returned.pop((c.task, c.attempt))

    def on_adopt(self, c: cmd.Adopt) -> None:
        self.draws += 1
        seen = self.seen[c.task, c.attempt]
        self.memory[c.task] = self.outputs[c.task, c.attempt] = {**seen, c.task: -self.draws}
        self.caught.add(c.task)

    def on_release(self, c: cmd.Release) -> None:
        self.memory.pop(c.task, None)

    def on_grow(self, c: cmd.Grow) -> None:
        pass

    def on_forget(self, c: cmd.Forget) -> None:
        for task in c.tasks:
            self.memory.pop(task, None)

    def on_settimer(self, c: cmd.SetTimer) -> None:
        self.timers.append(c)

    def on_announce(self, c: cmd.Announce) -> None:
        self.status = c.status

    def on_cancelaccepted(self, c: cmd.CancelAccepted) -> None:
        self.cancel_done = True

    # --- what the world does by itself ---------------------------------------------------------------------------------------

    def fault(self, probability: float) -> bool:
        if self.faults >= self.knobs.faults_max or self.rng.random() >= probability:
            return False
        self.faults += 1
        return True

    def step(self) -> bool:
        """One thing happens. False if nothing can."""
        rng = self.rng
        if self.fault(self.knobs.crash):
            self.crash()
            return True
        if self.fault(self.knobs.cancel):
            self.do(ev.CancelAsked(undo=rng.random() < 0.5))
            return True
        if self.memory and self.fault(self.knobs.lose):
            names = [name for name in self.memory if self.machine.state.tasks[name].present]
            if names:
                lost = rng.sample(names, rng.randint(1, len(names)))
                for name in lost:
                    self.memory.pop(name)
                self.saves = [save for save in self.saves if save[0] not in lost or rng.random() < 0.3]
                self.do(ev.OutputsLost(tasks=tuple(lost)))
                return True
        choices = []
        if self.appends:
            choices.append(self.acknowledge)
        if any(self.running.values()):
            choices += [self.finish] * 2
        if self.saves:
            choices.append(self.store)
        if self.timers:
            choices.append(self.tick)
        if not choices:
            return False
        rng.choice(choices)()
        return True

    def acknowledge(self) -> None:
        count = self.rng.randint(1, len(self.appends))
        for _, entries in self.appends[:count]:
            self.land(entries)
        ticket = self.appends[count - 1][0]
        del self.appends[:count]
        self.do(ev.Appended(ticket=ticket))

    def store(self) -> None:
        index = self.rng.randrange(len(self.saves))
        task, attempt, _ = self.saves[index]
        self.do(ev.OutputStored(task=task, attempt=attempt, stored=journal.Stored(1, b"")))
        del self.saves[index]

    def tick(self) -> None:
        timer = self.timers.pop(self.rng.randrange(len(self.timers)))
        if timer.key == "timeout" and not self.fault(0.3):
            return
        self.do(ev.TimerFired(task=timer.task, attempt=timer.attempt, key=timer.key))

    def finish(self) -> None:
        name = self.rng.choice([name for name, attempts in self.running.items() if attempts])
        attempt = self.running[name].pop(self.rng.randrange(len(self.running[name])))
        getattr(self, "finish_" + attempt.kind)(attempt)

    def act(self, attempt: Attempt, spec: TaskSpec) -> None:
        """The external output of the function."""
        kind = spec.annotations.kind
        if kind is Kind.UNDOABLE:
            standing = self.effects.setdefault(attempt.task, [])
            assert not standing, f"{attempt.task} applied twice"
            standing.append((attempt.number, attempt.seen))
            self.applied_log.append(attempt.task)
        elif kind is Kind.COMMITTING:
            if spec.annotations.on_unknown != "retry":
                assert (attempt.task, attempt.basis) not in self.commits, f"{attempt.task} committed twice"
            known = self.commits.setdefault((attempt.task, attempt.basis), attempt.seen)
            assert known == attempt.seen
            self.applied_log.append(attempt.task)

    def finish_run(self, attempt: Attempt) -> None:
        task = self.machine.state.tasks.get(attempt.task)
        spec = attempt.spec
        rng = self.rng
        failed = self.fault(self.knobs.fail)
        died = not failed and self.fault(self.knobs.die)
        stopped = attempt.stopping and rng.random() < 0.7
        before = (failed or died or stopped) and rng.random() < 0.5
        refuses = failed and spec.annotations.kind is Kind.COMMITTING  # an exception says that the work was not done
        if not before and not refuses:
            self.act(attempt, spec)
        if task is None:
            return
        name, number = attempt.task, attempt.number
        if stopped:
            self.do(ev.TaskStopped(task=name, attempt=number))
        elif died:
            failure = journal.Failure(kind="died", types=(), text="gone")
            self.do(ev.TaskFailed(task=name, attempt=number, failure=failure, chance=rng.random()))
        elif failed:
            failure = journal.Failure(kind=rng.choice(["raised", "raised", "final"]), types=("ValueError",), text="no")
            self.do(ev.TaskFailed(task=name, attempt=number, failure=failure, chance=rng.random()))
        else:
            self.succeed(attempt, spec)

    def succeed(self, attempt: Attempt, spec: TaskSpec) -> None:
        value = dict(attempt.seen)
        if not spec.deterministic:
            self.draws += 1
            value[attempt.task] = self.draws
        self.returned[attempt.task, attempt.number] = value
        shape = random.Random(f"{self.seed} {attempt.task} {sorted(value.items())}")
        growth = None
        if attempt.task.count("/") < 2 and shape.random() < self.knobs.grow:
            growth = random_graph(shape, shape.randint(1, 4))
            growth, _ = repair(growth)
        stored = journal.Stored(1, b"") if attempt.save and self.rng.random() < 0.5 else None
        self.do(ev.TaskSucceeded(task=attempt.task, attempt=attempt.number, growth=growth, stored=stored))
        self.returned.pop((attempt.task, attempt.number), None)
        task = self.machine.state.tasks.get(attempt.task)
        for kid in (task.kids if task else None) or []:
            self.specs[kid.id] = kid.spec

    def finish_undo(self, attempt: Attempt) -> None:
        fails = self.fault(self.knobs.undo_fails)
        if not fails or self.rng.random() < 0.5:
            for number, seen in self.effects.pop(attempt.task, []):
                assert seen == attempt.seen, f"rollback of {attempt.task} got other values than the task"
                assert number == attempt.number
        if fails:
            failure = journal.Failure(kind="raised", types=(), text="undo failed")
            self.do(ev.UndoFailed(task=attempt.task, attempt=attempt.number, failure=failure))
        else:
            self.do(ev.UndoSucceeded(task=attempt.task, attempt=attempt.number))

    def finish_ask(self, attempt: Attempt) -> None:
        happened = (attempt.task, attempt.basis) in self.commits
        if happened:
            self.draws += 1
            own = {} if self.specs[attempt.task].deterministic else {attempt.task: self.draws}
            self.returned[attempt.task, attempt.number] = {**attempt.seen, **own}
        self.do(ev.DoubtAnswered(task=attempt.task, happened=happened))

    def crash(self, *, resumed: bool = False) -> None:
        """All that is volatile goes; what was on its way to the store may or may not have arrived. Zombies act once more."""
        if self.appends:
            for _, entries in self.appends[: self.rng.randint(0, len(self.appends))]:
                self.land(entries)
        for attempts in self.running.values():
            for attempt in attempts:
                if self.rng.random() < 0.5 and attempt.kind == "run":
                    self.act(attempt, attempt.spec)
        self.epoch += 1
        self.fresh()
        records = [record for record, _ in self.durable]
        if not records:
            self.machine = Machine(replay.new_state("w", self.epoch), self.graph)
            self.do(ev.Began(plan=journal.Stored(0, b""), auto=self.auto, undo_on_failure=self.undo_on_failure))
            return
        for record, value in self.durable:
            if isinstance(record, journal.OutputSaved) and value is not None:
                self.saved[record.task] = value
        self.machine = Machine(replay.fold("w", self.epoch, records))
        self.machine.state.rounds_kept = 1
        self.do(ev.Recovered(resumed=resumed))

    # --- the verdict ---------------------------------------------------------------------------------------------------------

    def run(self) -> Status:
        for _ in range(self.knobs.steps_max):
            if self.status.ended:
                break
            if not self.step():
                break
        assert self.status.ended, f"stuck:\n{self.machine.story()}\n" + "\n".join(
            self.machine.story(name).splitlines()[-1] + " " + name for name in self.machine.state.tasks
        )
        while self.appends:
            self.acknowledge()
        return self.status

    def judge(self) -> None:
        """Exactly-once, from what stands outside and what the journal says."""
        truth: Provenance = {}
        survivors: list[tuple[str, Provenance]] = [(f"commit {task}", seen) for (task, _), seen in self.commits.items()]
        survivors += [(f"effect {task}", seen) for task, standing in self.effects.items() for _, seen in standing]
        if self.status is Status.SUCCEEDED:
            ended = self.machine.state.outcome
            assert ended is not None
            survivors.append(("result", self.saved[ended.task]))
        for who, seen in survivors:
            for name, draw in seen.items():
                assert truth.setdefault(name, draw) == draw, f"{who} saw draw {draw} of {name}, others saw {truth[name]} {survivors}"
        keys = [task for task, _ in self.commits]
        assert len(keys) == len(set(keys)), f"a commit stands twice: {sorted(self.commits)}"
        if self.status is Status.SUCCEEDED:
            for task in self.machine.state.tasks.values():
                if task.id in self.caught:
                    continue
                if task.kind is Kind.UNDOABLE:
                    assert len(self.effects.get(task.id, [])) == 1, f"effect of {task.id} stands {self.effects.get(task.id)}"
                elif task.kind is Kind.COMMITTING:
                    assert task.id in keys, f"{task.id} never committed"
            known = {name for name, orphan in self.machine.state.orphans.items() if orphan.effect}
            gone = set(self.effects) - set(self.machine.state.tasks) - known
            assert not [name for name in gone if self.effects[name]], f"effects of tasks that do not exist: {gone}"


def random_world(seed: int, **knobs: Any) -> World | None:
    """A world whose graph is safe, or None if the drawn one is not (which the static check says)."""
    rng = random.Random(seed)
    graph = random_graph(rng, rng.randint(1, 8), doubts=True)
    if check(graph):
        if rng.random() < 0.5:
            return None
        graph, changed = repair(graph)
        if not changed:
            return None
    return World(graph, seed, Knobs(**knobs))
