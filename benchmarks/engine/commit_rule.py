"""What the commit rule costs while a workflow runs: the core alone, driven by hand, with a watch on the rule (P15).

Nothing is run or stored, so what is left is the core; of that, the time inside ``Stability`` is the rule's. Looks at edges are counted
in a run of their own; that count does not depend on the machine.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.reading import Reading, Readings, Sizes, require
from exoflow.core import commands as cmd
from exoflow.core import events as ev
from exoflow.core import replay
from exoflow.core.journal import Stored
from exoflow.core.machine import Machine
from exoflow.core.spec.annotations import Annotations, Checkpoint
from exoflow.core.spec.graph import Graph, TaskSpec
from exoflow.core.stability import Blocked, Stability
from exoflow.core.state import Status

WIDTH = 50
LATE = 40
"""So many saves are under way when the oldest becomes durable."""
_SOMEWHERE = Stored(1, b"")
_SAVED = Annotations(can_rollback=True)
_KINDS = (
    Annotations(checkpoint=Checkpoint.NONE, can_rollback=True),  # drawn anew whenever it runs: settled by those who read it
    _SAVED,
    Annotations(checkpoint=Checkpoint.NONE, can_rollback=True, deterministic=True),
    Annotations(),  # committing: has to ask
)


def layers(count: int) -> Graph:
    """Layers of tasks that each read two of the layer above, all of one kind; the kinds take turns. ``count`` tasks, the root included."""
    chance = random.Random(15)
    specs: list[TaskSpec] = []
    above: list[str] = []
    for number, first in enumerate(range(0, count - 1, WIDTH)):
        names = [f"t{at}" for at in range(first, min(first + WIDTH, count - 1))]
        shift = chance.randrange(1, WIDTH)
        reads = [(above[i], above[(i + shift) % WIDTH]) if above else () for i in range(len(names))]
        specs += [TaskSpec(name, reads=pair, annotations=_KINDS[number % 4]) for name, pair in zip(names, reads, strict=True)]
        above = names
    read = {name for spec in specs for name in spec.reads}
    return Graph((*specs, TaskSpec("root", reads=tuple(spec.id for spec in specs if spec.id not in read), annotations=_SAVED)), "root")


def drive(graph: Graph) -> int:
    """Carry out what a machine orders, the oldest order first, saves late. Returns how many tasks ran."""
    machine = Machine(replay.new_state("w", 1), graph)
    running: collections.deque[cmd.Run] = collections.deque()
    appends: collections.deque[int] = collections.deque()
    status, ran = Status.PENDING, 0
    commands: list[Any] = machine.handle(ev.Began(plan=_SOMEWHERE))
    while True:
        for command in commands:
            match command:
                case cmd.Run():
                    running.append(command)
                case cmd.Append():
                    appends.append(command.ticket)
                case cmd.Announce():
                    status = command.status
        if running and len(appends) < LATE:
            order = running.popleft()
            ran += 1
            stored = _SOMEWHERE if order.save else None
            commands = machine.handle(ev.TaskSucceeded(task=order.task, attempt=order.attempt, stored=stored))
        elif appends:
            commands = machine.handle(ev.Appended(ticket=appends.popleft()))
        else:
            require(status, Status.SUCCEEDED, "outcome")
            return ran


@contextlib.contextmanager
def watched(owner: type[Any], names: tuple[str, ...], watch: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """``watch`` around methods of a class."""
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(owner, name, watch(getattr(owner, name))))
        yield


def rule_s(graph: Graph) -> float:
    """Seconds inside the rule. The watch itself, some 0.1 µs for each call, is in it."""
    inside = 0.0

    def watch(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*args: Any) -> Any:
            nonlocal inside
            start = time.perf_counter()
            answer = method(*args)
            inside += time.perf_counter() - start
            return answer

        return timed

    with watched(Stability, ("ask", "touch", "holds", "rewire", "reset", "wants_save"), watch):
        require(drive(graph), len(graph.tasks), "tasks that ran")
    return inside


def looks(graph: Graph) -> int:
    """How often the rule looks at an edge."""
    count = 0

    def watch(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def counted(*args: Any) -> Any:
            nonlocal count
            count += 1
            return method(*args)

        return counted

    with watched(Blocked, ("edge",), watch):
        drive(graph)
    return count


def overhead(_folder: Path, sizes: Sizes) -> Readings:
    graphs = {count: layers(count) for count in sizes.rule}
    edges = {count: sum(len(spec.reads) for spec in graph.tasks) for count, graph in graphs.items()}
    per_edge = {count: looks(graph) / edges[count] for count, graph in graphs.items()}
    times = {count: rule_s(graph) / count * 1e6 for count, graph in graphs.items()}
    small, large = min(sizes.rule), max(sizes.rule)
    return {
        "commit rule": Reading(times[large], "µs/task", "no data"),
        "looks at an edge": Reading(per_edge[large], "/edge", "no data"),
        "looks, largest DAG over smallest": Reading(per_edge[large] / per_edge[small], "x", "no data"),
    }
