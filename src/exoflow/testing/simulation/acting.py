"""What simulated tasks do: functions under names that the registry knows, which behave as the scenario says and tell the judge."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from exoflow.define.dag import Node
from exoflow.define.task import Task, task
from exoflow.testing.oracle import Chronicle, Execution, StaleAttempt, Value, digest_of, grown
from exoflow.testing.simulation import situations
from exoflow.testing.simulation.cells import Cell, Cells, Changing, cells_in
from exoflow.testing.simulation.scenario import Dag, TaskLine
from exoflow.testing.simulation.scheduler import Killed, Scheduler, Strand
from exoflow.worker.context import TaskContext, current_task

BIG_BYTES = 70_000
HANG_S = 2.0


class Refusal(Exception):
    """What a simulated function raises."""


class Stage:
    """Where functions act. ``point`` lets faults happen there; ``die`` ends the worker of the attempt that calls it."""

    def __init__(self, scheduler: Scheduler, point: Callable[[str], str], die: Callable[[], None], reach: Callable[[str], None]) -> None:
        self.scheduler, self._point, self._die, self._reach = scheduler, point, die, reach
        self.chronicles: dict[str, Chronicle] = {}
        self.specs: dict[str, dict[str, TaskLine]] = {}
        self.durable: Callable[[Chronicle], set[str]] = lambda _: set()
        self.watch: Callable[[TaskContext], None] = lambda _: None
        """Is told of each attempt that is about to have an effect that must not happen twice."""
        self._draws = 0
        self.cells = Cells(scheduler, point)
        self.doing: dict[Strand, str] = {}
        """What a crash now would come between, by strand."""

    # --- the three kinds of function -------------------------------------------------------------------------------------------

    def act(self, path: str, parent: Value | None, inputs: tuple[Any, ...]) -> Any:
        context = current_task()
        chronicle, spec = self.chronicles[context.workflow_id], self.specs[context.workflow_id][path]
        values = self._given(spec, path, parent, inputs)
        durable = self.durable(chronicle) if spec.kind == "committing" else set[str]()  # by now, however long it takes until it acts
        self._happen("task")
        execution = chronicle.begins(path, context.task_id, context.epoch, context.attempt, values, lambda: durable)
        with self._doing(situations.BEFORE_EFFECT):
            self._behave(chronicle, spec, execution, context)
            self._happen("task.acted")
        for cell in cells_in(inputs):  # what is lost only now is lost after the effect
            cell.get()
        return self._referred(spec, inputs, self._output(chronicle, spec, execution, values))

    def _referred(self, spec: TaskLine, inputs: tuple[Any, ...], output: Any) -> Any:
        """The output of a task that passes it by reference."""
        if spec.does == "refer":
            made = self.cells.new(output, mutable=False)
            return [made, {"again": made}]
        if spec.does == "hold":
            return self.cells.new(output, mutable=True)
        if spec.does == "change":
            cell = next(each for each in cells_in(inputs) if isinstance(each, Changing))
            cell.put(output)
            self._happen("ref.changed")
            return cell
        return output

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        strand = self.scheduler.current
        assert strand is not None
        outer = self.doing.get(strand)  # an inline function runs within another's turn
        self.doing[strand] = what
        try:
            yield
        finally:
            self.doing.pop(strand, None)
            if outer is not None:
                self.doing[strand] = outer

    def _now(self, what: str) -> None:
        strand = self.scheduler.current
        if strand is not None and strand in self.doing:
            self.doing[strand] = what

    def _behave(self, chronicle: Chronicle, spec: TaskLine, execution: Execution, context: TaskContext) -> None:
        path = execution.path
        misbehaves = spec.does in ("raise", "hang", "die") and chronicle.counts[path] <= spec.times
        if misbehaves and not spec.late:
            self._misbehave(spec, path)
        if spec.kind != "internal":
            self._have_effect(chronicle, execution, context)
        if misbehaves and spec.late:
            self._misbehave(spec, path)

    def _have_effect(self, chronicle: Chronicle, execution: Execution, context: TaskContext) -> None:
        self._happen("effect")
        self.scheduler.note(f"effect {context.workflow_id} {execution.path} {context.epoch}.{context.attempt}")
        spec = self.specs[context.workflow_id][execution.path]
        if spec.kind == "undoable" or spec.on_unknown != "retry":  # others are idempotent, and nobody waits for the end of a thread
            self.watch(context)
        chronicle.applies(execution, context.idempotency_key)
        self._now(situations.AFTER_EFFECT)

    def _output(self, chronicle: Chronicle, spec: TaskLine, execution: Execution, values: list[Value]) -> Any:
        draw = 0
        if not spec.deterministic or spec.does == "lie":
            self._draws += 1
            draw = self._draws
        path = execution.path
        digest = digest_of(path, draw, execution.inputs)
        cargo: Any = None
        if spec.does == "nest":
            cargo = {"inputs": [[value] for value in values], "none": (None, {})}
        elif spec.does == "big":
            cargo = bytes(BIG_BYTES)
        own = Value(path, draw, digest, {**execution.seen, path: draw}, cargo)
        chronicle.returns(execution, digest)
        self.scheduler.note(f"return {path} {draw}")
        shapes = list(grown(spec, draw))
        if not shapes:
            return own if spec.does != "nest" else [own, {"again": 1}]
        self._reach(situations.GREW if spec.does == "grow" else situations.FANNED)
        if "/" in path:
            self._reach(situations.GREW_DEEP)
        if spec.does == "grow":
            prefix, dag = shapes[0]
            return nodes(dag, f"{path}/{prefix}", own)
        inner = shapes[0][1].root
        return made(inner, fan=True).map([f"{path}/{prefix}{inner.name}" for prefix, _ in shapes], own)

    def undo(self, path: str, parent: Value | None, inputs: tuple[Any, ...]) -> None:
        context = current_task()
        chronicle, spec = self.chronicles[context.workflow_id], self.specs[context.workflow_id][path]
        with self._doing(situations.IN_UNDO):
            self._happen("undo")
            self.scheduler.note(f"undo {context.workflow_id} {path} {context.epoch}.{context.attempt}")
            chronicle.undoes(path, context.epoch, self._given(spec, path, parent, inputs))
            self._now(situations.AFTER_UNDO)
            self._happen("undo.done")

    def ask(self, path: str, parent: Value | None, inputs: tuple[Any, ...]) -> Any:
        context = current_task()
        chronicle, spec = self.chronicles[context.workflow_id], self.specs[context.workflow_id][path]
        values = self._given(spec, path, parent, inputs)
        with self._doing(situations.IN_ASK):
            self._happen("ask")
            happened = chronicle.happened(path, context.epoch)
            self._reach(situations.ASKED_HAPPENED if happened else situations.ASKED_NOT)
            self._happen("ask.told")
        if not happened:
            return False
        effect = chronicle.commits[path]
        return self._output(chronicle, spec, Execution(path, context.epoch, context.attempt, effect.inputs, _seen(values)), values)

    def found_out(self, chronicle: Chronicle, execution: Execution) -> Any:
        """The output of a committing task that was in doubt, as a person gives it."""
        spec = self.specs[chronicle.name][execution.path]
        return self._output(chronicle, spec, execution, [])

    # --- behaviour -----------------------------------------------------------------------------------------------------------

    def _happen(self, at: str) -> None:
        """A place where others may come first, and faults happen."""
        self.scheduler.step()
        match self._point(at):
            case "raise":
                if at.startswith("undo"):
                    self._reach(situations.UNDO_FAILED)
                raise Refusal("a fault of this moment")
            case "die":
                self._end_worker()

    def _end_worker(self) -> None:
        strand = self.scheduler.current
        assert strand is not None
        if self.doing.get(strand) == situations.AFTER_EFFECT:
            self._reach(situations.DIED_ACTED)
        self._die()

    def _misbehave(self, spec: TaskLine, path: str) -> None:
        if spec.does == "raise":
            raise Refusal(path)
        if spec.does == "die":
            self._end_worker()
            raise Killed
        self.scheduler.park(HANG_S)

    @staticmethod
    def _given(spec: TaskLine, path: str, parent: Value | None, inputs: tuple[Any, ...]) -> list[Value]:
        prefix = path.removesuffix(spec.name)
        values = [] if parent is None else [parent]
        for up, given in zip(spec.reads, inputs, strict=True):
            values += values_in(given, prefix + up)
        return values


def _seen(values: list[Value]) -> dict[str, Any]:
    return {name: draw for value in values for name, draw in value.seen.items()}


def values_in(given: Any, path: str) -> Iterator[Value]:
    """The values in the output of ``path``; a failure that was caught, and an output that nobody knows, are values of their own kind."""
    if isinstance(given, Value):
        yield given
    elif isinstance(given, Cell):
        yield from values_in(given.get(), path)
    elif isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], BaseException):
        draw = f"!{type(given[1]).__name__}"
        yield Value(path, draw, digest_of(path, draw, ()), {path: draw})
    elif isinstance(given, tuple) and len(given) == 2 and given[1] is None:
        yield from values_in(given[0], path)
    elif given is None:
        yield Value(path, "~", digest_of(path, "~", ()), {path: "~"})
    elif isinstance(given, list):
        for each in given:
            if not isinstance(each, dict):
                yield from values_in(each, path)
    else:
        raise AssertionError(f"the output of {path} came as {given!r:.200}")


def peeked(given: Any) -> Any:
    """An output with what its Refs refer to in their place, for the judge."""
    if isinstance(given, Cell):
        return given.peek()
    return type(given)(map(peeked, given)) if type(given) in (list, tuple) else given


class Here:
    """Where the tasks of the running simulation act: functions are found by name, so this cannot be an argument."""

    stage: Stage


HERE = Here()


def undo(path: str, parent: Value | None, *inputs: Any) -> None:
    """The rollback of every simulated task that has one."""
    HERE.stage.undo(path, parent, inputs)


def ask(path: str, parent: Value | None, *inputs: Any) -> Any:
    """The ``on_unknown`` of every simulated task that has one."""
    return HERE.stage.ask(path, parent, inputs)


@task(name="exoflow-simulated")
def act(path: str, parent: Value | None, *inputs: Any) -> Any:
    """The function of every simulated task."""
    return HERE.stage.act(path, parent, inputs)


@functools.lru_cache(maxsize=4096)
def made(line: TaskLine, *, fan: bool = False) -> Task[..., Any]:
    """The task with the annotations of ``line``."""
    return act.options(
        name=line.name if fan else None,
        checkpoint=line.checkpoint,
        deterministic=line.deterministic,
        can_rollback=None if line.kind == "undoable" else line.kind == "internal",
        rollback=undo if line.kind == "undoable" else None,
        on_unknown=ask if line.on_unknown == "ask" else line.on_unknown,
        retries=line.retries,
        backoff=0.05,
        timeout=line.timeout_s,
        catch_exceptions=line.catch,
        executor=line.executor,
    )


def nodes(dag: Dag, prefix: str = "", parent: Value | None = None) -> Node:
    """The DAG as users build it; the result is its last node."""
    there: dict[str, Node] = {}
    for line in dag.tasks:
        node = made(line).bind(prefix + line.name, parent, *(there[up] for up in line.reads)).relabelled(line.name)
        there[line.name] = node
        for up in line.after:
            there[up] >> node
    return there[dag.root.name]


__all__ = ["StaleAttempt", "act", "ask", "made", "nodes", "undo"]
