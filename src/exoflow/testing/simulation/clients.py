"""Clients of simulated engines: each asks for one thing until it is answered, in one life of its engine after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exoflow.client.engine import Engine
from exoflow.client.progress import progress
from exoflow.core.state import Status
from exoflow.errors import (
    CheckpointCorruptError,
    ClosedError,
    EngineBug,
    EnvironmentFault,
    ExoflowError,
    Fenced,
    InvalidStateError,
    LeaseLost,
    RefLostError,
    StorageFullError,
    StoreCorruptError,
    UnsafeWorkflowError,
    UsageError,
    WorkflowFailed,
    WorkflowNotFoundError,
)
from exoflow.runtime.threads import Signal
from exoflow.testing.simulation import situations
from exoflow.testing.simulation.acting import nodes, peeked, values_in
from exoflow.testing.simulation.executor import SimExecutor
from exoflow.testing.simulation.scenario import Operation
from exoflow.testing.simulation.scheduler import Killed, Process
from exoflow.testing.simulation.store import Line
from exoflow.testing.simulation.surroundings import SimThreads

if TYPE_CHECKING:
    from exoflow.testing.simulation.driver import Simulation

RESUMES_MAX = 3
"""How often a person has patience with a workflow."""
HELPABLE = (Status.FAILED, Status.BLOCKED, Status.IN_DOUBT)


class Slot:
    """A place for an engine, which has one life after the other."""

    def __init__(self, number: int, host: str) -> None:
        self.number, self.host = number, host
        self.process: Process | None = None
        self.engine: Engine | None = None
        self.executors: list[SimExecutor] = []
        self.left_owner = ""
        self.looking = False
        self.line: Line | None = None
        self.owner = ""
        self.recovering = self.struck = False

    def begin(self, threads: SimThreads) -> None:
        """A new life."""
        self.leave: Signal = threads.signal()
        self.gone: Signal = threads.signal()
        self.executors = []
        self.engine = None
        self.left_owner = self.owner = ""
        self.looking = False
        self.recovering = True

    def live(self, simulation: Simulation) -> None:
        """The main program of the engine's process: take up what was left, serve clients, close when it is time."""
        process = self.process
        assert process is not None
        self.line = simulation.line(process)
        engine = self.engine = simulation.open_engine(process, self.executors, self.line)
        self.owner = engine._owner.id  # noqa: SLF001 - to know it again
        scheduler = simulation.scheduler
        scheduler.start("start-up", lambda: self._take_up(simulation, engine), process)
        for client in simulation.clients:
            if client.operation.engine % len(simulation.slots) == self.number and not client.done:
                scheduler.start(str(client), lambda client=client: client.ask(self, engine, process), process)  # type: ignore[misc]
        self.leave.wait()
        engine.close()
        patience = 400  # 20 s: a call of the store may take 6
        while ((complaint := self._left_behind(engine)) or _is_busy(engine)) and patience:  # whoever is at it comes to an end
            scheduler.park(0.05)
            patience -= 1
        scheduler.park(0.05)  # and then gives up the engine's row
        if complaint:
            simulation.violated("I9", "", complaint)
        self.left_owner = self.owner if simulation.calm and not _is_busy(engine) else ""
        self.gone.set()

    def _left_behind(self, engine: Engine) -> str:
        """What a closed engine has left undone."""
        assert self.process is not None
        driven = sorted(engine._loop.runs)  # noqa: SLF001 - to see what is left of it
        if driven:
            return f"a closed engine still drives {driven}"
        busy = [executor.name for executor in self.executors if executor.busy]
        if busy:
            return f"the engine is closed, and attempts of '{', '.join(busy)}' were never answered"
        stuck = [strand.name for strand in self.process.strands if strand.parked and strand.patient]
        return f"the engine is closed, and '{', '.join(stuck)}' would wait for ever" if stuck else ""

    def _take_up(self, simulation: Simulation, engine: Engine) -> None:
        """What operators let an engine do when it starts."""
        try:
            futures = engine.resume_all()
        except EnvironmentFault:
            self.leave.set()
        except ClosedError:
            return
        else:
            self.recovering = self.struck = False
            if futures:
                simulation.reach(situations.TAKEN_UP)

    def look_after(self, simulation: Simulation) -> None:
        """When faults are over: take up what nobody drives, and help what has stopped."""
        engine, process = self.engine, self.process
        if engine is None or process is None or not process.alive or self.looking:
            return
        self.looking = True

        def look() -> None:
            try:
                for name, future in engine.resume_all().items():
                    if future.done() and isinstance(error := future.exception(), (CheckpointCorruptError, StoreCorruptError)):
                        simulation.beyond_repair(name, error)
                self._help(simulation, engine)
            except ClosedError:
                return
            except (ExoflowError, TimeoutError) as error:
                simulation.scheduler.note(f"looking after: {type(error).__name__}")
                if isinstance(error, EngineBug):
                    simulation.violated("bug", "", str(error))
                self.leave.set()
            finally:
                self.looking = False

        simulation.scheduler.start("look-after", look, process)

    def _help(self, simulation: Simulation, engine: Engine) -> None:
        """As a person would: resume what failed, decide what is in doubt."""
        for head in engine.list_all(*HELPABLE):
            name = head.workflow_id
            tries = simulation.helped.get(name, 0)
            if tries < RESUMES_MAX and self.number == 0:
                simulation.helped[name] = tries + 1
                try:
                    simulation.help(engine, head)
                except (CheckpointCorruptError, StoreCorruptError) as error:
                    simulation.beyond_repair(name, error)


def _is_busy(engine: Engine) -> bool:
    """Whether a closed engine waits for a call that it could not stop; until then it counts as alive."""
    return engine._loop._once_idle is not None  # noqa: SLF001 - to see what is left of it


class Client:
    """Asks for one thing."""

    def __init__(self, simulation: Simulation, operation: Operation) -> None:
        self.simulation, self.operation = simulation, operation
        self.done = False
        self.asked = 0

    def __str__(self) -> str:
        return f"{self.operation.do} {self.operation.workflow}"

    def ask(self, slot: Slot, engine: Engine, process: Process) -> None:
        """In a strand of the engine's process."""
        simulation, operation = self.simulation, self.operation
        simulation.scheduler.park(max(0.0, operation.at_s - simulation.scheduler.now))
        while not self.done:
            self.asked += 1
            try:
                getattr(self, "_" + operation.do.replace("+", "_"))(engine)
                self.done = True
            except UnsafeWorkflowError:
                simulation.reach(situations.UNSAFE)
                self.done = True
            except (CheckpointCorruptError, StoreCorruptError) as error:
                simulation.beyond_repair(operation.workflow, error)
                self.done = True
            except EngineBug as error:
                simulation.violated("bug", operation.workflow, str(error))
                self.done = True
            except (EnvironmentFault, Fenced, ClosedError, TimeoutError, WorkflowNotFoundError, InvalidStateError) as error:
                simulation.scheduler.note(f"{self}: {type(error).__name__}: {error}")
                if isinstance(error, LeaseLost):
                    simulation.reach(situations.LEASE_MISSED)
                if self._is_answer(error):
                    self.done = True
                elif isinstance(error, ClosedError):
                    return
                elif isinstance(error, (StorageFullError, Fenced, TimeoutError, WorkflowNotFoundError)) and type(error) is not Fenced:
                    simulation.scheduler.park(0.05)
                elif type(error) is Fenced:
                    simulation.reach(situations.FENCED_CLIENT)
                    simulation.scheduler.park(0.05)
                else:
                    slot.leave.set()
                    return
            except RefLostError as error:  # after the end: of what is asked for again, the data is restored
                simulation.scheduler.note(f"{self}: {error}")
                simulation.scheduler.park(0.05)
            except Killed:
                raise
            except Exception as error:
                story = f"'{operation.do}' raised {type(error).__name__}: {error}"
                simulation.violated("bug", operation.workflow, story)
                if simulation.scheduler.log is not None:
                    raise
                self.done = True

    def _is_answer(self, error: Exception) -> bool:
        """Whether there is no use in asking again."""
        if self.simulation.calm and self.asked > 20:
            return not isinstance(error, EnvironmentFault)
        if isinstance(error, InvalidStateError):
            return self.operation.do not in ("run", "wait") and "gave it up" not in str(error)
        return isinstance(error, WorkflowNotFoundError) and self.asked > 5

    # --- what they ask for ---------------------------------------------------------------------------------------------------

    def _run(self, engine: Engine) -> None:
        line = self.simulation.lines[self.operation.workflow]
        future = engine.run_async(nodes(line.dag), name=line.name, mode=line.mode, on_failure=line.on_failure)
        self.simulation.accepted(line.name)
        self._await(engine, future)

    def _wait(self, engine: Engine) -> None:
        self._tell(lambda: engine.wait(self.operation.workflow))

    def _await(self, engine: Engine, future: Any) -> None:
        self._tell(lambda: engine._threads.wait(future))  # noqa: SLF001 - a client has no other way to wait on virtual time

    def _tell(self, wait: Any) -> None:
        simulation, name = self.simulation, self.operation.workflow
        try:
            value = wait()
        except WorkflowFailed as error:
            simulation.told(name, error)
        else:
            simulation.told(name, list(values_in(peeked(value), simulation.lines[name].dag.root.name)))

    def _cancel(self, engine: Engine) -> None:
        self._note_where(engine)
        engine.cancel(self.operation.workflow, timeout=30.0)
        self.simulation.cancelled(self.operation.workflow)

    def _cancel_rollback(self, engine: Engine) -> None:
        self._note_where(engine)
        engine.cancel(self.operation.workflow, rollback=True, timeout=30.0)
        self.simulation.cancelled(self.operation.workflow)

    def _note_where(self, engine: Engine) -> None:
        head = self.simulation.disk.truth.head(self.operation.workflow)
        if head is not None and head.owner not in (None, engine._owner.id):  # noqa: SLF001 - the judge sees all
            self.simulation.reach(situations.CANCELLED_ELSEWHERE)

    def _resume(self, engine: Engine) -> None:
        self._await(engine, engine.resume(self.operation.workflow))

    def _resume_all(self, engine: Engine) -> None:
        engine.resume_all()

    def _delete(self, engine: Engine) -> None:
        engine.delete(self.operation.workflow)

    def _collect(self, engine: Engine) -> None:
        if engine.collect_garbage(grace_s=0.0).removed:
            self.simulation.reach(situations.COLLECTED)

    def _look(self, engine: Engine) -> None:
        name = self.operation.workflow
        engine.list_all()
        engine.get_metadata(name)
        engine.story(name)
        progress(engine, name)
        try:
            engine.get_output(name)
        except (UsageError, WorkflowFailed) as error:
            self.simulation.scheduler.note(f"look: {type(error).__name__}")
