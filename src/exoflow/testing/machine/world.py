"""A world for the core alone: it carries out commands in any order it likes, crashes, loses outputs, and keeps an independent ledger.

Every value carries provenance: which draw of each nondeterministic task it has seen. At the end, all that survives (the result and the
external outputs that stand) must agree on every draw, and each effect must stand exactly once: that is exactly-once, by definition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exoflow.core import commands as cmd
from exoflow.core import events as ev
from exoflow.core import invariants, journal, replay
from exoflow.core.machine import Machine
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.graph import Graph
from exoflow.core.spec.ids import UNEXECUTED, basis_of
from exoflow.core.state import ACTIVE, Phase, Status, Task
from exoflow.testing.machine import scenario as sc
from exoflow.testing.machine import verdict
from exoflow.testing.machine.graphs import drawn_graph
from exoflow.testing.machine.outside import Outside, Violation
from exoflow.testing.machine.parts import Attempt, Entry, Provenance, Save
from exoflow.testing.machine.schedules import STOPPED, Knobs, RandomSchedule, Schedule

_SOMEWHERE = journal.Stored(1, b"")
_LEAVES = {"raised": ("ValueError",), "final": ("ValueError",), "died": (), "stranded": ()}


class World:
    """One workflow and everything around it. ``run`` it, then ``judge`` it.

    With ``checked``, the laws of the core's state are checked after each turn, which doubles the time.
    """

    def __init__(
        self,
        graph: Graph,
        seed: int = 0,
        knobs: Knobs | None = None,
        *,
        auto: bool = False,
        undo_on_failure: bool = False,
        schedule: Schedule | None = None,
        checked: bool = True,
    ) -> None:
        self.graph, self.seed, self.checked = graph, seed, checked
        self.knobs = knobs or Knobs()
        self.schedule: Schedule = schedule or RandomSchedule(seed, self.knobs)
        self.auto, self.undo_on_failure = auto, undo_on_failure
        self.epoch = 1
        self.draws = 0
        self.steps: list[sc.Step] = []
        self.durable: list[Entry] = []
        self.outside = Outside()
        self.runs: dict[str, int] = {}
        self.undos: dict[str, int] = {}
        self.faults = self.resumed = 0
        self.lost_besides = 0  # outputs lost by one fault, beyond the first
        self.status = Status.PENDING
        self.cancelled: bool | None = None  # accepted; with undo?
        self.zombies: list[Attempt] = []
        self.caught: set[str] = set()  # tasks whose last outcome is a failure that was caught
        self.intents: set[tuple[str, int]] = set()
        self.shapes: dict[tuple[str, frozenset[tuple[str, int]]], sc.Lines] = {}
        self.meanings: dict[tuple[str, int], Provenance] = {}
        self.derived: dict[tuple[str, frozenset[tuple[str, int]]], int] = {}
        self.reached: set[str] = set()
        self._quiet = 0  # steps since the last crash
        self._fresh()
        self._begin()

    def _begin(self) -> None:
        self.machine = Machine(replay.new_state("w", self.epoch), self.graph)
        self.machine.state.rounds_kept = 1
        self.do(ev.Began(plan=journal.Stored(0, b""), auto=self.auto, undo_on_failure=self.undo_on_failure))

    def _fresh(self) -> None:
        """A new life: nothing is in memory."""
        self.failing = False  # it winds down, and nothing is rolled back
        self.appends: list[tuple[int, list[Entry]]] = []
        self.running: list[Attempt] = []
        self.memory: dict[str, Provenance] = {}
        self.outputs: dict[tuple[str, int], Provenance] = {}
        self.seen: dict[tuple[str, int], Provenance] = {}
        self.returned: dict[tuple[str, int], Provenance] = {}
        self.saved: dict[str, Entry] = {}  # what would be loaded
        self.latest: dict[str, Entry] = {}  # what is saved and not void
        self.saves: list[Save] = []
        self.timers: list[cmd.SetTimer] = []

    # --- carrying out commands -----------------------------------------------------------------------------------------------

    def do(self, event: ev.Event) -> None:
        """Tell the machine, and do what it says. (The verdict on what it starts asks what is void as of this turn.)"""
        commands = self.machine.handle(event)
        for record in (record for command in commands if isinstance(command, cmd.Append) for record in command.records):
            self._note_void(record)
        for command in commands:
            _CARRY_OUT[type(command)](self, command)
        self.failing = self.machine.state.ending is not None and self.machine.state.unwinding is None
        if self.checked:
            invariants.check(self.machine.state)

    def on_append(self, c: cmd.Append) -> None:
        entries: list[Entry] = []
        for record in c.records:
            entry = Entry(record)
            if isinstance(record, journal.OutputSaved):
                entry.value = self.outputs[record.task, record.attempt]
                self.saved[record.task] = entry
            self._note_latest(entry)
            entries.append(entry)
        verdict.may_be_written(self, entries)
        self.appends.append((c.ticket, entries))

    def _note_latest(self, entry: Entry) -> None:
        self._note_void(entry.record)
        if isinstance(entry.record, journal.OutputSaved):
            self.latest[entry.record.task] = entry

    def _note_void(self, record: journal.Record) -> None:
        if isinstance(record, journal.TasksWithdrawn):
            self.reached.add("a saved output is withdrawn")
            for name in record.tasks:
                self.latest.pop(name, None)
        elif isinstance(record, journal.UndoIntended | journal.OutputSpoiled):
            self.latest.pop(record.task, None)

    def on_run(self, c: cmd.Run) -> None:
        task = self.machine.state.tasks.get(c.task)
        if task is None or task.attempt != c.attempt or task.phase not in ACTIVE:
            return  # started and stopped in one turn
        verdict.may_run(self, task, c)
        runs = self.runs[c.task] = self.runs.get(c.task, 0) + 1
        if runs > 1:
            self.reached.add("a deterministic task runs again" if task.deterministic else "a nondeterministic task runs again")
        self._start(task, c.attempt, c.basis, "run", save=c.save)

    def _start(self, task: Task, number: int, basis: int, kind: str, *, save: bool = False) -> None:
        seen: Provenance = {}
        broken: tuple[str, ...] = ()
        in_memory: tuple[str, ...] = ()
        current = task.attempt == number and task.phase in ACTIVE  # it was not stopped again in the same turn
        for up in task.reads:
            value = self.memory.get(up.id)
            if value is not None:
                if up.id not in self.latest:
                    in_memory += (up.id,)
            else:
                entry = self.saved.get(up.id)
                if entry is None or entry.value is None:
                    if current:
                        raise Violation(f"{task.id} starts, but the output of {up.id} is nowhere")
                    broken += (up.id,)
                    continue
                if entry.damaged:
                    broken += (up.id,)
                    continue
                value = entry.value
            for name, draw in value.items():
                if seen.setdefault(name, draw) != draw:
                    raise Violation(f"{task.id} sees two versions of {name}")
        if current and basis != basis_of([up.version for up in task.reads]):
            raise Violation(f"{task.id} starts with the basis of other inputs")
        self.seen[task.id, number] = seen
        self.running.append(Attempt(task.id, number, basis, task.spec, seen, kind, save, broken=broken, in_memory=in_memory))

    def on_undo(self, c: cmd.Undo) -> None:
        task = self.machine.state.tasks[c.task]
        verdict.may_undo(self, task)
        self.undos[c.task] = self.undos.get(c.task, 0) + 1
        self._start(task, c.attempt, c.basis, "undo")

    def on_ask(self, c: cmd.Ask) -> None:
        self._start(self.machine.state.tasks[c.task], c.attempt, c.basis, "ask")

    def on_stop(self, c: cmd.Stop) -> None:
        for attempt in self.running:
            if attempt.task == c.task and attempt.number == c.attempt:
                attempt.stopping = True

    def on_save(self, c: cmd.Save) -> None:
        self.saves.append(Save(c.task, c.attempt, self.memory[c.task]))

    def on_keep(self, c: cmd.Keep) -> None:
        value = self.returned.pop((c.task, c.attempt))
        self.caught.discard(c.task)
        self.memory[c.task] = self.outputs[c.task, c.attempt] = value
        task = self.machine.state.tasks.get(c.task)
        if task is not None and task.version != UNEXECUTED and task.attempt == c.attempt:
            verdict.same_meaning(self, task, value, self.seen[c.task, c.attempt])

    def on_adopt(self, c: cmd.Adopt) -> None:
        self.draws += 1
        self.memory[c.task] = self.outputs[c.task, c.attempt] = {**self.seen[c.task, c.attempt], c.task: -self.draws}
        self.caught.add(c.task)
        self.reached.add("a failure is caught")

    def on_release(self, c: cmd.Release) -> None:
        self.memory.pop(c.task, None)

    def on_grow(self, c: cmd.Grow) -> None:
        self.reached.add("a task returns a workflow")
        if "~" in c.scope:
            self.reached.add("a loop written as recursion has another round")

    def on_forget(self, c: cmd.Forget) -> None:
        self.reached.add("tasks of a sub-workflow are dropped")
        for task in c.tasks:
            self.memory.pop(task, None)

    def on_set_timer(self, c: cmd.SetTimer) -> None:
        self.timers.append(c)

    def on_announce(self, c: cmd.Announce) -> None:
        verdict.may_announce(self, c.status)
        self.status = c.status

    def on_cancel_accepted(self, c: cmd.CancelAccepted) -> None:
        self.cancelled = self.machine.state.undo_cancelled or any(
            isinstance(entry.record, journal.CancelDecided) and entry.record.undo for entry in self.durable
        )

    # --- what the world does by itself ---------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One thing happens. False if nothing can."""
        step = self.schedule.next(self)
        if step is None:
            return False
        self.take(step)
        return True

    def take(self, step: sc.Step) -> None:
        """Let this happen."""
        self.steps.append(step)
        self._quiet += 1
        _TAKE[type(step)](self, step)

    def can(self, step: sc.Step) -> bool:
        """Whether ``step`` makes sense now."""
        kind = type(step)
        if self.status.ended:
            return (kind is sc.Resume and self.may_resume) or (kind is sc.Haunt and any(each.task == step.task for each in self.zombies))  # type: ignore[union-attr]
        if kind is sc.Land:
            return bool(self.appends)
        if kind in _ATTEMPT_KINDS:
            attempt = self._find(step.task, step.attempt, _ATTEMPT_KINDS[kind])  # type: ignore[union-attr]
            return attempt is not None and (kind is sc.Miss or not attempt.broken) and (kind is not sc.End or attempt.stopping)
        if kind is sc.Store:
            return any(save.task == step.task for save in self.saves)  # type: ignore[union-attr]
        if kind is sc.Fire:
            return any((timer.task, timer.key) == (step.task, step.key) for timer in self.timers)  # type: ignore[union-attr]
        if kind is sc.Lose:
            return any(name in self.memory and self.is_present(name) for name in step.tasks)  # type: ignore[union-attr]
        if kind is sc.Spoil:
            return step.task in self.spoilable()  # type: ignore[union-attr]
        if kind is sc.Haunt:
            return any(each.task == step.task for each in self.zombies)  # type: ignore[union-attr]
        return kind is sc.Crash or kind is sc.Cancel

    def is_present(self, name: str) -> bool:
        """Whether the machine counts on the output of this task in memory."""
        task = self.machine.state.tasks.get(name)
        return task is not None and task.present

    def spoilable(self) -> list[str]:
        """Tasks whose saved bytes may be damaged (not a shape: without one nothing is begun after a crash, which is not for the core)."""
        tasks = self.machine.state.tasks
        return [
            name for name, entry in self.latest.items() if entry.landed and not entry.damaged and name in tasks and tasks[name].kids is None
        ]

    @property
    def may_resume(self) -> bool:
        """Whether a person may resume the workflow."""
        outcome = self.machine.state.outcome
        return self.status in STOPPED and (outcome is None or not outcome.undone or self.status is Status.BLOCKED)

    def _find(self, task: str, number: int, kinds: str) -> Attempt | None:
        found = None
        for attempt in self.running:
            if attempt.task == task and attempt.kind in kinds:
                if attempt.number == number:
                    return attempt
                found = found or attempt
        return found

    def _pop(self, step: Any) -> Attempt:
        attempt = self._find(step.task, step.attempt, _ATTEMPT_KINDS[type(step)])
        if attempt is None:
            raise LookupError(f"nothing of {step.task} runs")
        self.running.remove(attempt)
        return attempt

    def acknowledge(self, count: int = 1) -> None:
        """The oldest ``count`` appends are durable."""
        count = min(count, len(self.appends))
        verdict.note_held(self)
        self._arrive(count)
        ticket = self.appends[count - 1][0]
        del self.appends[:count]
        self.do(ev.Appended(ticket=ticket))

    def _arrive(self, count: int) -> None:
        for _, entries in self.appends[:count]:
            self.durable += entries
            for entry in entries:
                entry.landed = True
                if isinstance(entry.record, journal.AttemptIntended):
                    self.intents.add((entry.record.task, entry.record.attempt))
                elif isinstance(entry.record, journal.RoundsDropped):
                    self._retire(frozenset(entry.record.past))

    def _retire(self, past: frozenset[str]) -> None:
        """The records of these tasks are no longer needed."""
        self.reached.add("records of past rounds of a loop are dropped")
        for name in past:
            self.latest.pop(name, None)
        self.durable = [
            entry for entry in self.durable if not (getattr(entry.record, "parent", "") and getattr(entry.record, "task", "") in past)
        ]

    def take_land(self, step: sc.Land) -> None:
        self.acknowledge(step.count)

    def take_return(self, step: sc.Return) -> None:
        attempt = self._pop(step)
        self.outside.act(attempt)
        if attempt.task not in self.machine.state.tasks:
            self.reached.add("a task that is gone returns")
            return
        value = dict(attempt.seen)
        if not attempt.spec.deterministic:
            self.draws += 1
            value[attempt.task] = self.draws
        self.returned[attempt.task, attempt.number] = value
        lines = self.shapes.setdefault((attempt.task, frozenset(value.items())), step.growth)
        growth = sc.graph_of(lines) if lines else None
        stored = _SOMEWHERE if step.stored and attempt.save else None
        self._note_late(attempt)
        self.do(ev.TaskSucceeded(task=attempt.task, attempt=attempt.number, growth=growth, stored=stored))
        self.returned.pop((attempt.task, attempt.number), None)

    def _note_late(self, attempt: Attempt) -> None:
        task = self.machine.state.tasks[attempt.task]
        if task.attempt != attempt.number or task.phase is not Phase.RUNNING:
            self.reached.add("a late result is refused")

    def take_fail(self, step: sc.Fail) -> None:
        self.faults += 1
        attempt = self._pop(step)
        if step.acted:
            self.outside.act(attempt)
        if attempt.task in self.machine.state.tasks:
            failure = journal.Failure(kind=step.how, types=_LEAVES[step.how], text="no")
            self.do(ev.TaskFailed(task=attempt.task, attempt=attempt.number, failure=failure, chance=0.5))
            self.reached.add(f"a task {step.how}" + (" after it acted" if step.acted else ""))

    def take_end(self, step: sc.End) -> None:
        attempt = self._pop(step)
        if step.acted:
            self.outside.act(attempt)
        self.reached.add("an attempt is stopped")
        self.do(ev.TaskStopped(task=attempt.task, attempt=attempt.number))

    def take_miss(self, step: sc.Miss) -> None:
        self.faults += 1
        attempt = self._pop(step)
        if step.acted:
            self.outside.act(attempt)
        lost = tuple(name for name in step.lost if name in self.memory)
        for name in lost:
            self._lose_one(name, saving=False)
        if attempt.broken:
            self.reached.add("a damaged checkpoint is found")
            for entry in map(self.latest.get, attempt.broken):
                if entry is not None:  # it may be another one since: the news is about the task
                    entry.damaged = True
        else:
            self.reached.add("an input is lost " + ("while it is used" if step.began else "before it was read"))
        missing = attempt.broken + lost
        self.do(ev.InputsLost(task=attempt.task, attempt=attempt.number, lost=missing, spoiled=attempt.broken, began=step.began))
        unheard = tuple(name for name in lost if name not in self.memory and self.is_present(name))
        if unheard:  # that came too late to be listened to; but the backend says so as well
            self.do(ev.OutputsLost(tasks=unheard))

    def take_roll_back(self, step: sc.RollBack) -> None:
        attempt = self._pop(step)
        if step.acted or not step.fails:
            self.outside.undo(attempt, unwinding=self.machine.state.unwinding is not None)
        if step.fails:
            self.faults += 1
            self.reached.add("a rollback fails" + (" after it acted" if step.acted else ""))
            failure = journal.Failure(kind="raised", types=(), text="undo failed")
            self.do(ev.UndoFailed(task=attempt.task, attempt=attempt.number, failure=failure))
        else:
            self.do(ev.UndoSucceeded(task=attempt.task, attempt=attempt.number))

    def take_answer(self, step: sc.Answer) -> None:
        attempt = self._pop(step)
        if step.fails:
            self.faults += 1
            self.reached.add("a doubt is not answered")
            self.do(ev.DoubtUnanswered(task=attempt.task, failure=journal.Failure(kind="raised", types=(), text="no answer")))
        else:
            self.do(self._truth(self.machine.state.tasks[attempt.task]))

    def _truth(self, task: Task) -> ev.DoubtAnswered:
        """The truth about a doubt. If it happened, whoever answers makes up the output."""
        effect = self.outside.commits.get((task.id, task.basis))
        self.reached.add(f"a doubt is answered: it {'happened' if effect else 'did not happen'}")
        if effect is not None:
            value = dict(effect.seen)
            if not task.deterministic:
                self.draws += 1
                value[task.id] = self.draws
            self.returned[task.id, task.attempt] = value
            self.seen[task.id, task.attempt] = effect.seen
        return ev.DoubtAnswered(task=task.id, happened=effect is not None)

    def take_store(self, step: sc.Store) -> None:
        found = next((save for save in self.saves if (save.task, save.attempt) == (step.task, step.attempt)), None)
        save = found or next(save for save in self.saves if save.task == step.task)
        self.saves.remove(save)
        if step.fails:
            self.faults += 1
            self.reached.add("an output cannot be saved")
            failure = journal.Failure(kind="final", types=("TypeError",), text="a lock")
            self.do(ev.OutputUnstorable(task=save.task, attempt=save.attempt, failure=failure))
        else:
            self.do(ev.OutputStored(task=save.task, attempt=save.attempt, stored=_SOMEWHERE))

    def take_fire(self, step: sc.Fire) -> None:
        timer = next(timer for timer in self.timers if (timer.task, timer.key) == (step.task, step.key))
        self.timers.remove(timer)
        if step.late:
            return
        if timer.key == "timeout":
            self.faults += 1
            self.reached.add("a timeout fires")
        self.do(ev.TimerFired(task=timer.task, attempt=timer.attempt, key=timer.key))

    def take_lose(self, step: sc.Lose) -> None:
        self.faults += 1
        lost = tuple(name for name in step.tasks if name in self.memory and self.is_present(name))
        self.lost_besides += max(0, len(lost) - 1)
        for name in lost:
            self._lose_one(name, saving=name in step.saving)
        self.do(ev.OutputsLost(tasks=lost, unsaved=next((name for name in lost if name not in step.saving), "")))

    def _lose_one(self, name: str, *, saving: bool) -> None:
        del self.memory[name]
        if not saving and any(save.task == name for save in self.saves):
            self.saves = [save for save in self.saves if save.task != name]
            self.reached.add("an output is lost while it is being saved")

    def take_spoil(self, step: sc.Spoil) -> None:
        self.faults += 1
        self.latest[step.task].damaged = True

    def take_cancel(self, step: sc.Cancel) -> None:
        self.faults += 1
        self.do(ev.CancelAsked(undo=step.undo))

    def take_haunt(self, step: sc.Haunt) -> None:
        zombie = next(each for each in self.zombies if each.task == step.task)
        self.zombies.remove(zombie)
        self.reached.add("a zombie commits late")
        self.outside.act(zombie)

    # --- crashes and what follows --------------------------------------------------------------------------------------------

    def take_crash(self, step: sc.Crash) -> None:
        """All that is volatile goes; what was on its way to the store may or may not have arrived."""
        self.faults += 1
        verdict.note_crash(self, step, self._quiet)
        self._arrive(step.arrived)
        for attempt in self.running:
            if attempt.broken:
                continue
            if attempt.task in step.acted:
                if attempt.kind == "run":
                    self.outside.act(attempt)
                else:
                    self.outside.undo(attempt, unwinding=self.machine.state.unwinding is not None)
            if attempt.task in step.zombies and attempt.may_haunt:
                self.zombies.append(attempt)
        self._recover(resumed=False)

    def _recover(self, *, resumed: bool, answers: bool = False) -> None:
        self._quiet = 0
        self.epoch += 1
        self._fresh()
        if not self.durable:
            self.reached.add("a crash comes before the workflow is on record")
            self._begin()
            return
        for entry in self.durable:
            if isinstance(entry.record, journal.OutputSaved):
                self.saved[entry.record.task] = entry
            self._note_latest(entry)
        self.machine = Machine(replay.fold("w", self.epoch, [entry.record for entry in self.durable]))
        self.machine.state.rounds_kept = 1
        verdict.note_recovery(self)
        doubtful = [task for task in self.machine.state.tasks.values() if answers and task.effect and task.kind is Kind.COMMITTING]
        if doubtful:
            self.reached.add("a person settles a doubt")
        self.do(ev.Recovered(resumed=resumed, answers=tuple(map(self._truth, doubtful))))

    def take_resume(self, step: sc.Resume) -> None:
        """Whatever was damaged is brought back from a backup."""
        self.resumed += 1
        self.reached.add(f"a {self.status} workflow is resumed")
        while self.appends:
            self.acknowledge(len(self.appends))
        for entry in self.durable:
            entry.damaged = False
        if self.status is not Status.BLOCKED:
            self.cancelled = None
        self.status = Status.RUNNING
        self._recover(resumed=True, answers=step.answers)

    # --- the whole of it -----------------------------------------------------------------------------------------------------

    def run(self) -> Status:
        """Until nothing happens any more. Raises Violation if the workflow has not ended then, EngineBug if the core contradicts itself."""
        for _ in range(self.knobs.steps_max):
            if not self.step():
                break
        if not self.status.ended:
            stories = [self.machine.story(name).splitlines()[-1] + " " + name for name in self.machine.state.tasks]
            raise Violation("\n".join(["it does not end:", self.machine.story(), *stories]))
        while self.appends:
            self.acknowledge(len(self.appends))
        self.reached.add(f"ended {self.status}")
        return self.status

    def judge(self) -> None:
        """Raises Violation if what is left is not what a run without failures could have left."""
        verdict.judge(self)


_ATTEMPT_KINDS: dict[type, str] = {
    sc.Return: "run",
    sc.Fail: "run",
    sc.End: "run",
    sc.Miss: "run undo",
    sc.RollBack: "undo",
    sc.Answer: "ask",
}

_CARRY_OUT: dict[type, Callable[[World, Any], None]] = {
    cmd.Append: World.on_append,
    cmd.Run: World.on_run,
    cmd.Stop: World.on_stop,
    cmd.Undo: World.on_undo,
    cmd.Ask: World.on_ask,
    cmd.Save: World.on_save,
    cmd.Keep: World.on_keep,
    cmd.Adopt: World.on_adopt,
    cmd.Release: World.on_release,
    cmd.Grow: World.on_grow,
    cmd.Forget: World.on_forget,
    cmd.SetTimer: World.on_set_timer,
    cmd.Announce: World.on_announce,
    cmd.CancelAccepted: World.on_cancel_accepted,
}

_TAKE: dict[type, Callable[[World, Any], None]] = {
    sc.Land: World.take_land,
    sc.Return: World.take_return,
    sc.Fail: World.take_fail,
    sc.End: World.take_end,
    sc.Miss: World.take_miss,
    sc.RollBack: World.take_roll_back,
    sc.Answer: World.take_answer,
    sc.Store: World.take_store,
    sc.Fire: World.take_fire,
    sc.Crash: World.take_crash,
    sc.Lose: World.take_lose,
    sc.Spoil: World.take_spoil,
    sc.Cancel: World.take_cancel,
    sc.Haunt: World.take_haunt,
    sc.Resume: World.take_resume,
}


def random_world(seed: int, *, checked: bool = True, **knobs: Any) -> World | None:
    """The ``seed``-th workflow under the ``seed``-th schedule of faults; None if that workflow is unsafe and was not repaired."""
    graph = drawn_graph(seed)
    return None if graph is None else World(graph, seed, Knobs(**knobs), checked=checked)
