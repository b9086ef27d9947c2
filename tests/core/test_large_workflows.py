"""A task costs the same among few and among many, whatever the shape; and nothing recurs by the depth of a workflow."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable

import pytest

from exoflow.core import commands as cmd
from exoflow.core import events as ev
from exoflow.core import replay
from exoflow.core.journal import Stored
from exoflow.core.machine import Machine
from exoflow.core.spec.annotations import Annotations, Checkpoint
from exoflow.core.spec.graph import Graph, TaskSpec
from exoflow.core.state import Status

SAVED = Annotations(can_rollback=True)
DRAWN = Annotations(can_rollback=True, checkpoint=Checkpoint.NONE)
COMMITS = Annotations()
HERE = Stored(1, b"")


def chain(count: int, notes: Annotations) -> Graph:
    return Graph(tuple(TaskSpec(f"t{i}", reads=(f"t{i - 1}",) if i else (), annotations=notes) for i in range(count)), f"t{count - 1}")


def fan_in(count: int, notes: Annotations) -> Graph:
    leaves = tuple(TaskSpec(f"t{i}", annotations=notes) for i in range(count))
    return Graph((*leaves, TaskSpec("end", reads=tuple(leaf.id for leaf in leaves))), "end")


def in_order(count: int, notes: Annotations) -> Graph:
    """A task that comes after all others, and reads none."""
    leaves = tuple(TaskSpec(f"t{i}", annotations=notes) for i in range(count))
    return Graph((*leaves, TaskSpec("end", after=tuple(leaf.id for leaf in leaves))), "end")


def fan_out(count: int, notes: Annotations) -> Graph:
    leaves = tuple(TaskSpec(f"t{i}", reads=("gate",), annotations=notes) for i in range(count))
    return Graph((TaskSpec("gate", annotations=SAVED), *leaves, TaskSpec("end", reads=tuple(leaf.id for leaf in leaves))), "end")


CHILD = Graph((TaskSpec("inner", annotations=SAVED),), "inner")


def run(graph: Graph, grows: frozenset[str] = frozenset()) -> tuple[int, Status]:
    """Tasks that ran, and how it ended. Saves land after all that may run has run."""
    machine = Machine(replay.new_state("w", 1), graph)
    to_run: deque[cmd.Run] = deque()
    appended: deque[int] = deque()
    ran = 0
    event: ev.Event | None = ev.Began(plan=HERE)
    while event is not None:
        for command in machine.handle(event):
            if isinstance(command, cmd.Run):
                to_run.append(command)
            elif isinstance(command, cmd.Append):
                appended.append(command.ticket)
        event = None
        if to_run:
            order = to_run.popleft()
            ran += 1
            growth = CHILD if order.task in grows else None
            stored = HERE if order.save or growth else None
            event = ev.TaskSucceeded(task=order.task, attempt=order.attempt, stored=stored, growth=growth)
        elif appended:
            event = ev.Appended(ticket=appended.popleft())
    return ran, machine.state.status


def calls(work: Callable[[], object]) -> int:
    """How many functions written in Python are called, which is the same on every machine. A loop in a generator counts for its rounds."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("notes", [SAVED, DRAWN, COMMITS], ids=["saved", "never saved", "committing"])
@pytest.mark.parametrize("shape", [chain, fan_in, in_order, fan_out])
def test_a_task_costs_the_same_among_many(shape: Callable[[int, Annotations], Graph], notes: Annotations) -> None:
    if notes is DRAWN:  # a committing end would be refused
        notes = Annotations(can_rollback=True, checkpoint=Checkpoint.NONE, deterministic=True)
    few, many = shape(60, notes), shape(240, notes)
    assert run(many) == (len(many.tasks), Status.SUCCEEDED)
    assert calls(lambda: run(many)) / len(many.tasks) < 1.05 * calls(lambda: run(few)) / len(few.tasks)


@pytest.mark.parametrize("shape", [chain, fan_in, in_order, fan_out])
def test_a_sub_workflow_costs_the_same_among_many(shape: Callable[[int, Annotations], Graph]) -> None:
    """Every task of them returns one. One task that is never saved makes each be checked."""
    few, many = shape(40, SAVED), shape(160, SAVED)
    few, many = (Graph((TaskSpec("draw", annotations=DRAWN), *graph.tasks), graph.root) for graph in (few, many))

    def go(graph: Graph) -> tuple[int, Status]:
        return run(graph, frozenset(spec.id for spec in graph.tasks if spec.id.startswith("t")))

    assert go(many)[1] is Status.SUCCEEDED
    assert calls(lambda: go(many)) / len(many.tasks) < 1.05 * calls(lambda: go(few)) / len(few.tasks)


@pytest.mark.parametrize("notes", [SAVED, COMMITS], ids=["saved", "committing"])
def test_a_workflow_may_be_deeper_than_python_recurs(notes: Annotations) -> None:
    graph = chain(2 * sys.getrecursionlimit(), notes)
    assert run(graph) == (len(graph.tasks), Status.SUCCEEDED)
