"""One simulation: engines that live, die and are started again, clients that ask until they are answered, a judge at the end."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from exoflow import codec
from exoflow.client.engine import Engine
from exoflow.core.state import Status
from exoflow.define.plan import Plan
from exoflow.errors import (
    CheckpointCorruptError,
    ExoflowError,
    InvalidStateError,
    StoreCorruptError,
    WorkflowBlockedError,
    WorkflowCancelledError,
    WorkflowFailed,
    WorkflowInDoubtError,
)
from exoflow.executors.base import Executor
from exoflow.executors.inline import InlineExecutor
from exoflow.runtime.ownership import life_of
from exoflow.runtime.recover import read_end
from exoflow.settings import Settings
from exoflow.store.base import Head, Write
from exoflow.testing.oracle import Chronicle, Execution, Value, Violation
from exoflow.testing.simulation import cells, situations
from exoflow.testing.simulation.acting import HERE, Stage, peeked, values_in
from exoflow.testing.simulation.clients import HELPABLE, RESUMES_MAX, Client, Slot
from exoflow.testing.simulation.executor import SimExecutor
from exoflow.testing.simulation.scenario import Dag, Fault, Scenario
from exoflow.testing.simulation.scheduler import Process, Scheduler
from exoflow.testing.simulation.store import Disk, Line, SimStore, Watcher
from exoflow.testing.simulation.surroundings import Locks, SimClock, SimHost, SimThreads
from exoflow.wiring import Parts
from exoflow.worker.context import TaskContext

DAMAGE = (CheckpointCorruptError, StoreCorruptError)
"""What a client is told when bytes of the store have changed, and nothing may be made again."""
_EVEN_WITH_LIES = ("I7", "I9", "I11", "I12", "bug")
"""What must hold although a task is not as deterministic as it says."""
STEPS_MAX = 400_000
CALM_S = 400.0
"""Virtual seconds after the last fault in which everything must have ended."""


class TaskCounts(msgspec.Struct, frozen=True):
    """How often the function of a task was called, its effect undone, and its commit sent again with the same key."""

    calls: int
    undone: int
    sent_again: int


class Outcome(msgspec.Struct, kw_only=True):
    """What came of a simulation. ``trace`` is the digest of all that happened, in order."""

    violations: list[Violation]
    statuses: dict[str, str]
    reached: dict[str, int]
    fired: dict[str, int]
    trace: str
    steps: int
    virtual_s: float
    lives: int
    tasks: dict[str, TaskCounts]
    log: list[str] = []


class Simulation(Watcher):
    """Runs a scenario."""

    def __init__(self, scenario: Scenario, *, log: bool = False) -> None:
        self.scenario = scenario
        self.scheduler = Scheduler(scenario.seed, policy=scenario.policy, preempt=scenario.preempt)
        if log:
            self.scheduler.log = []
        self.disk = Disk(self)
        self.locks = Locks()
        self.reached = Counter[str]()
        self.fired = Counter[str]()
        self.violations: list[Violation] = []
        self.stage = Stage(self.scheduler, self._task_point, self._die, self.reach)
        self.stage.durable = self._durable
        self.stage.watch = self._acts
        self._locks_tell = len(set(scenario.engines)) == 1 and all(fault.do != "stale" for fault in scenario.faults)
        self.lines = {workflow.name: workflow for workflow in scenario.workflows}
        for workflow in scenario.workflows:
            self.stage.specs[workflow.name] = dict(_specs(workflow.dag, ""))
            self._chronicle(workflow.name)
        self._faults = {(fault.at, fault.nth): fault for fault in scenario.faults if fault.at != "moment"}
        self._counts: Counter[str] = Counter()
        self._ids = 0
        self.calm = False
        self.over = False
        self.lives = 0
        self.helped: dict[str, int] = {}
        self._begun_again: set[str] = set()
        self.damaged: set[str] = set()
        """Workflows of which a client was told that they are damaged beyond repair."""
        self.driver = self.scheduler.process("sim")
        self.slots = [Slot(number, host) for number, host in enumerate(scenario.engines)]
        self.clients = [Client(self, operation) for operation in scenario.operations]
        for fault in scenario.faults:
            if fault.at == "moment":
                self.scheduler.alarm(fault.nth, lambda fault=fault: self._moment(fault))  # type: ignore[misc]

    def _chronicle(self, name: str) -> Chronicle:
        chronicle = Chronicle(name, lambda path: self.stage.specs[name][path], self.violated, self.reach)
        self.stage.chronicles[name] = chronicle
        return chronicle

    def violated(self, invariant: str, workflow: str, story: str) -> None:
        if self.scenario.lies and invariant not in _EVEN_WITH_LIES:
            return
        self.violations.append(Violation(invariant, workflow, story))
        self.scheduler.done = True
        self.scheduler.note(f"VIOLATION {invariant} {workflow}: {story}")

    def reach(self, situation: str) -> None:
        """A named situation came about."""
        self.reached[situation] += 1

    def _struck(self, process: Process) -> None:
        """A process is about to die: what did that come between?"""
        for strand, what in self.stage.doing.items():
            if strand.process is process:
                self.reach(what)
        slot = self._slot_of(process)
        if slot is not None and slot.line is not None:
            for at, what in (("commit", situations.IN_COMMIT), ("claim", situations.IN_CLAIM), ("blob.flush", situations.IN_BLOB)):
                if at in slot.line.busy:
                    self.reach(what)
        if slot is not None and slot.recovering:
            self.reach(situations.IN_RECOVERY_AGAIN if slot.struck else situations.IN_RECOVERY)
            slot.struck = True

    def _slot_of(self, process: Process) -> Slot | None:
        return next((slot for slot in self.slots if slot.process is process), None)

    # --- the disk tells ------------------------------------------------------------------------------------------------------

    def granted(self, workflow_id: str, epoch: int, before: str | None) -> None:
        """See Watcher."""
        chronicle = self.stage.chronicles[workflow_id]
        if chronicle.status == "deleted":
            chronicle = self._chronicle(workflow_id)
            self._begun_again.add(workflow_id)
            self.reach(situations.BEGUN_AGAIN)
        chronicle.granted_to(life_of(epoch))
        for slot in self.slots:
            if before is not None and slot.owner == before and slot.process is not None and slot.process.alive:
                self._stolen(workflow_id, slot)

    def _stolen(self, name: str, slot: Slot) -> None:
        """A workflow was taken from an engine that lives."""
        if slot.engine is not None and name in slot.engine._loop.runs:  # noqa: SLF001 - the judge sees all
            self.reach(situations.BOTH_BELIEVE)
        if slot.line is not None and "commit" in slot.line.busy:
            self.reach(situations.STOLEN_COMMIT)
        if any(strand.process is slot.process and what == situations.AFTER_EFFECT for strand, what in self.stage.doing.items()):
            self.reach(situations.STOLEN_TASK)

    def written(self, write: Write) -> None:
        """See Watcher."""
        status = write.head.status if write.head is not None else None
        self.stage.chronicles[write.workflow_id].written(life_of(write.epoch), status, write.entries)

    def deleted(self, workflow_id: str) -> None:
        """See Watcher."""
        self.stage.chronicles[workflow_id].status = "deleted"
        self.reach(situations.DELETED)

    def _durable(self, chronicle: Chronicle) -> set[str]:
        """Digests of all values that are on record, whatever has become of their bytes."""
        found: set[str] = set()
        for record, payload in chronicle.saved.values():
            stored = record["stored"]
            blob = stored[2] if len(stored) > 2 else None
            data = self.disk.originals.get(blob) or self.disk.blobs._blobs.get(blob) if blob else payload  # noqa: SLF001 - the judge sees all
            if data is not None:
                refs = [self._behind(ref) for ref in (stored[4] if len(stored) > 4 else ())]
                encoded = codec.parse(bytearray(data))
                whole = codec.decode(codec.Encoded(encoded.header, encoded.buffers, tuple(refs)))
                found.update(value.digest for value in _all_values((whole, refs)))  # a plan holds its parent's
        return found

    def _behind(self, ref: Any) -> Any:
        """What the checkpoint of a saved Ref gave."""
        _, _, data, blob = ref
        if blob:
            data = self.disk.originals.get(blob) or self.disk.blobs._blobs.get(blob)  # noqa: SLF001 - the judge sees all
        return codec.decode(codec.parse(bytearray(data))) if data else None

    # --- faults --------------------------------------------------------------------------------------------------------------

    def point(self, at: str) -> Fault | None:
        """Somebody came to ``at``: the fault that happens there now."""
        if self.calm:
            return None
        self._counts[at] += 1
        fault = self._faults.pop((at, self._counts[at]), None)
        if fault is not None:
            self.fired[f"{at}: {fault.do}"] += 1
        return fault

    def happen(self, fault: Fault) -> None:
        """To the process that runs."""
        strand = self.scheduler.current
        assert strand is not None
        self._befall(strand.process, fault)
        self.scheduler.step()

    def _befall(self, process: Process, fault: Fault) -> None:
        if process is self.driver:
            return
        match fault.do:
            case "pause":
                if fault.much > self.scenario.lease_s:
                    self.reach(situations.PAUSED_BACK)
                self.scheduler.pause(process, fault.much)
            case "jump":
                self.reach(situations.JUMPED)
                process.late_s += fault.much
            case "power":
                for slot in self.slots:
                    if slot.process is not None and slot.process is not process and slot.host == process.host:
                        self._struck(slot.process)
                        self.scheduler.kill(slot.process)
                self._struck(process)
                if self.disk.lose_power(process.host):  # only now: others may run between the steps above
                    self.reach(situations.POWER)
                self.scheduler.kill(process)
            case _:
                self._struck(process)
                self.scheduler.kill(process)

    def _moment(self, fault: Fault) -> None:
        slot = self.slots[fault.nth % len(self.slots)]
        if not self.calm and slot.process is not None and slot.process.alive:
            self.fired[f"moment: {fault.do}"] += 1
            self.scheduler.note(f"moment: {fault.do} {slot.number}")
            self._befall(slot.process, fault)

    def _task_point(self, at: str) -> str:
        fault = self.point(at)
        if fault is None:
            return ""
        self.scheduler.note(f"{at}: {fault.do}")
        if fault.do in ("raise", "die", "lose", "lose_all"):
            return fault.do
        if fault.do == "hang":
            self.scheduler.park(fault.much)
        else:
            self.happen(fault)
        return ""

    def _die(self) -> None:
        strand = self.scheduler.current
        assert strand is not None
        slot = self._slot_of(strand.process)
        for executor in slot.executors if slot is not None else ():
            executor.die(strand)

    # --- engines -------------------------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """Ids from the seed."""
        self._ids += 1
        return f"id{self._ids:04}"

    def line(self, process: Process) -> Line:
        """The way from a process to the disk, on which faults happen."""
        return Line(self.scheduler, process, self.point, self.happen, self.reach)

    def open_engine(self, process: Process, executors: list[SimExecutor], line: Line) -> Engine:
        """An engine in ``process``."""
        scheduler, scenario = self.scheduler, self.scenario

        def executor_for(name: str, settings: Settings, _fds: tuple[int, ...]) -> Executor:
            if name == "inline":
                return InlineExecutor()
            can_kill = name == "process"
            grace_s = 0.0 if can_kill else settings.drain_s
            made = SimExecutor(
                name,
                scheduler,
                process,
                slots=scenario.slots,
                can_kill=can_kill,
                grace_s=grace_s,
                loop_share=scenario.loop_share,
                on_start=self.starts,
                reach=self.reach,
            )
            executors.append(made)
            return made

        parts = Parts(
            clock=lambda: SimClock(scheduler, process),
            threads=SimThreads(scheduler, process),
            host=SimHost(process, self.locks, self.new_id),
            executor_for=executor_for,
            settings=lambda **given: Settings(**{name: value for name, value in given.items() if value is not None}),
        )
        store = SimStore(self.disk, line)
        return Engine(
            store, parts=parts, lease_s=scenario.lease_s, inline_bytes=scenario.inline_bytes, drain_s=1.0, check_invariants=scenario.checked
        )

    def _supervise(self, slot: Slot) -> None:
        """Keep an engine alive, as an operator would."""
        while not self.over:
            self.lives += 1
            if self.lives > 5:
                self.reach(situations.MANY_LIVES)
            process = slot.process = self.scheduler.process(f"e{slot.number}", slot.host)
            slot.begin(SimThreads(self.scheduler, self.driver))
            process.on_death.append(slot.gone.set)
            self.scheduler.start("main", lambda: slot.live(self), process)
            slot.gone.wait()
            slot.engine = None
            self.scheduler.kill(process)
            self.scheduler.park(0.001 if self.scheduler.rng.random() < 0.7 else self.scenario.lease_s)

    def _direct(self) -> None:
        """Wait until all is done; then no more faults happen, and everything must end."""
        for slot in self.slots:
            self.scheduler.start(f"supervisor {slot.number}", lambda slot=slot: self._supervise(slot), self.driver)  # type: ignore[misc]
        patience = 0
        while not all(client.done for client in self.clients) and patience < 600:
            self.scheduler.park(0.1)
            patience += 1
        self.calm = True
        self.scheduler.note("calm")
        deadline = self.scheduler.now + CALM_S
        while not (all(client.done for client in self.clients) and self._all_at_rest()):
            if self.scheduler.now > deadline:
                self._stuck()
                break
            for slot in self.slots:
                slot.look_after(self)
            self.scheduler.park(0.5)
        self.over = True
        for slot in self.slots:
            slot.leave.set()
        while any(slot.process is not None and slot.process.alive for slot in self.slots):
            self.scheduler.park(0.05)
        if not self.violations:
            self._judge()
        self.scheduler.done = True

    def _all_at_rest(self) -> bool:
        return all(head.workflow_id in self.damaged or self._rests(head) for head in self.disk.truth.heads())

    def _rests(self, head: Head) -> bool:
        """It has ended, and nobody could make it go on."""
        return Status(head.status).ended and (head.status not in HELPABLE or self.helped.get(head.workflow_id, 0) >= RESUMES_MAX)

    def _stuck(self) -> None:
        for head in self.disk.truth.heads():
            if not Status(head.status).ended:
                self.violated(
                    "I9",
                    head.workflow_id,
                    f"it is {head.status} under {head.owner}, {CALM_S:g} s after the last fault\n{self._stories(head.workflow_id)}",
                )
        for client in self.clients:
            if not client.done:
                self.violated(
                    "I9", client.operation.workflow, f"'{client.operation.do}' was not answered {CALM_S:g} s after the last fault"
                )

    def _stories(self, name: str) -> str:
        engines = [slot.engine for slot in self.slots if slot.engine is not None]
        runs = [engine._loop.runs.get(name) for engine in engines]  # noqa: SLF001 - for a report
        return "\n".join(run.machine.story() for run in runs if run is not None)

    # --- clients tell --------------------------------------------------------------------------------------------------------

    def accepted(self, name: str) -> None:
        """A client was told that its submission is durable."""
        if self.disk.truth.head(name) is None and self.stage.chronicles[name].status != "deleted":
            self.violated("I8", name, "it was accepted, and is not there")

    def told(self, name: str, value: list[Value] | WorkflowFailed) -> None:
        """A client was told how a workflow ended."""
        chronicle = self.stage.chronicles[name]
        if isinstance(value, list):
            outcome = "SUCCEEDED " + " ".join(each.digest for each in value)
        else:
            status = {
                WorkflowCancelledError: Status.CANCELLED,
                WorkflowInDoubtError: Status.IN_DOUBT,
                WorkflowBlockedError: Status.BLOCKED,
            }.get(type(value), Status.FAILED)
            outcome = f"{status} "
        self.scheduler.note(f"told {name} {outcome}")
        if chronicle.status != "deleted" and name not in self._begun_again:  # else it may be news of the one before
            chronicle.tell(outcome)

    def cancelled(self, name: str) -> None:
        """A client was told that a workflow is cancelled."""
        self.scheduler.note(f"cancelled {name}")
        self.stage.chronicles[name].cancelled = True
        self.reach(situations.CANCELLED)

    def starts(self, context: TaskContext) -> None:
        """An executor begins with an attempt."""
        chronicle = self.stage.chronicles[context.workflow_id]
        new = context.task_id not in chronicle.ids.values()  # others may run again, so that rollbacks get their arguments
        if chronicle.cancelled and new and context.epoch >= chronicle.granted:
            self.violated("I6", chronicle.name, f"'{context.task_id}' started after its cancellation was acknowledged")

    def beyond_repair(self, name: str, error: ExoflowError) -> None:
        """A client was told that. Only damage may be the cause."""
        if name not in self.damaged:
            self.damaged.add(name)
            self.reach(situations.TOLD_DAMAGE)
            if not self.disk.damages:
                self.violated("I8", name, f"nothing was damaged, and a client got {type(error).__name__}: {error}")

    def _acts(self, context: TaskContext) -> None:
        """An attempt is about to have its effect. On one host, where locks tell who lives, it must be the owner's."""
        chronicle = self.stage.chronicles[context.workflow_id]
        if self._locks_tell and context.epoch < chronicle.granted:
            story = f"'{context.task_id}' of epoch {context.epoch} acts on the host where {chronicle.granted} rules"
            self.violated("I7", chronicle.name, story)

    def help(self, engine: Engine, head: Head) -> None:
        """As a person would: look at the world, and resume with what was found out."""
        name = head.workflow_id
        chronicle = self.stage.chronicles[name]
        outcomes: dict[str, Any] = {}
        if head.status == Status.IN_DOUBT:
            ended, _ = read_end(engine.store, head)
            path = next((path for path, task in chronicle.ids.items() if task == ended.task), "")
            outcomes[ended.task] = False  # also if its function never began
            if path and chronicle.happened(path, life_of(head.epoch) + 1):
                effect = chronicle.commits[path]
                execution = Execution(path, life_of(head.epoch), 0, effect.inputs, effect.seen)
                outcomes[ended.task] = True if self.scheduler.rng.random() < 0.5 else self.stage.found_out(chronicle, execution)
            self.reach(situations.DECIDED)
        try:
            engine.resume(name, outcomes=outcomes)
            self.reach(situations.RESUMED)
        except InvalidStateError as error:
            self.scheduler.note(f"help: {error}")
            self.helped[name] = RESUMES_MAX

    # --- the verdict ---------------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        process = self.scheduler.process("judge", "elsewhere")
        verdict = self.scheduler.start("judge", lambda: self._judge_all(process), process)
        self.scheduler.join(verdict)

    def _judge_all(self, process: Process) -> None:
        engine = self.open_engine(process, [], Line(self.scheduler, process))
        for name, chronicle in self.stage.chronicles.items():
            head = self.disk.truth.head(name)
            if head is None:
                continue
            result: list[Value] | None = None
            standing: tuple[str, ...] | None = None
            try:
                if Status(head.status).ended and head.status != Status.SUCCEEDED:
                    ended = read_end(engine.store, head)[0]
                    standing = ended.standing
                    if ended.undone:
                        self.reach(situations.CANCELLED_UNDONE if head.status == Status.CANCELLED else situations.UNDO_ON_FAILURE)
                if head.status == Status.SUCCEEDED:
                    result = list(values_in(peeked(engine.get_output(name)), self.lines[name].dag.root.name))
            except DAMAGE as error:
                self.beyond_repair(name, error)
                continue
            chronicle.judge(result, self.lines[name].dag, said_to_stand=standing, lies=self.scenario.lies, calm=not self.fired)
        self._leftovers()

    def _leftovers(self) -> None:
        """I11: whoever ended in good order left nothing."""
        rows = {row.owner for row in self.disk.truth.owners()}
        held = [path for path, holder in self.locks.holders.items() if holder.alive and holder.name != "judge"]
        if held:
            self.violated("I11", "", f"locks that nobody needs: {held}")
        for slot in self.slots:
            if slot.left_owner and slot.left_owner in rows:
                self.violated("I11", "", f"the row of engine {slot.left_owner} is still there")

    def run(self) -> Outcome:
        """From the first step to the verdict."""
        HERE.stage = self.stage
        cells.HERE.cells = self.stage.cells
        log = logging.getLogger("exoflow")
        level = log.level
        log.setLevel(logging.CRITICAL)
        try:
            self.scheduler.start("director", self._direct, self.driver)
            ended = self.scheduler.run(steps_max=STEPS_MAX)
            if not ended and not self.violations:
                self.violated("I9", "", "nothing can happen any more" if self.scheduler.steps < STEPS_MAX else "it never comes to an end")
        except Exception as error:
            self.violated("bug", "", f"{type(error).__name__}: {error}")
            if self.scheduler.log is not None:
                raise
        finally:
            trace = self.scheduler.trace
            self.scheduler.close()
            log.setLevel(level)
        return Outcome(
            violations=self.violations,
            statuses={head.workflow_id: head.status for head in self.disk.truth.heads()},
            reached=dict(self.reached),
            fired=dict(self.fired),
            trace=trace,
            steps=self.scheduler.steps,
            virtual_s=self.scheduler.now,
            lives=self.lives,
            tasks={path: counts for chronicle in self.stage.chronicles.values() for path, counts in _counts(chronicle)},
            log=self.scheduler.log or [],
        )


def _counts(chronicle: Chronicle) -> Iterator[tuple[str, TaskCounts]]:
    for path, calls in chronicle.counts.items():
        commit = chronicle.commits.get(path)
        yield path, TaskCounts(calls, chronicle.rollbacks[path], commit.times - 1 if commit is not None else 0)


def _specs(dag: Dag, prefix: str) -> Any:
    for line in dag.tasks:
        path = prefix + line.name
        yield path, line
        count = len(line.grows) if line.does == "grow" else 3 if line.does == "map" else 0
        for number in range(count):
            yield from _specs(line.grows[number if line.does == "grow" else 0], f"{path}/{number}.")


def _all_values(given: Any) -> Any:
    if isinstance(given, Value):
        yield given
        yield from _all_values(given.cargo)
    elif isinstance(given, Plan):
        for call in given.calls.values():
            yield from _all_values(call.args)
    elif isinstance(given, (list, tuple)):
        for each in given:
            yield from _all_values(each)
    elif isinstance(given, dict):
        for each in given.values():
            yield from _all_values(each)


def simulate_one(scenario: Scenario, *, log: bool = False) -> Outcome:
    """Run one scenario."""
    return Simulation(scenario, log=log).run()
