"""The static shape of a workflow: task specifications and the edges between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from exoflow.core.spec.annotations import Annotations
from exoflow.core.spec.retry import RetryPolicy
from exoflow.errors import CycleError


class TaskSpec(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One task: ``reads`` are the tasks whose outputs it gets, ``after`` those that must merely have finished; no task is named twice.
    ``catch`` turns a final failure into the output ``(None, error)``."""

    id: str
    reads: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    annotations: Annotations = Annotations()
    retry: RetryPolicy = RetryPolicy()
    timeout_s: float | None = None
    catch: bool = False

    @property
    def deterministic(self) -> bool:
        """A second run would make the same output. Where a failure is caught, whether it fails belongs to the output, and that (a timeout,
        a dead worker) is a matter of chance even where the function is not. Where a doubt is settled by an answer, that is the output."""
        return self.annotations.deterministic and not self.catch and self.annotations.on_unknown == "retry"


class Graph(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tasks in a topological order (upstream first), and the one whose output is the result."""

    tasks: tuple[TaskSpec, ...]
    root: str


def ordered(specs: Iterable[TaskSpec], root: str) -> Graph:
    """The graph of ``specs`` in a stable topological order. Raises CycleError, showing the circle."""
    by_id: dict[str, TaskSpec] = {}
    waiting: dict[str, int] = {}
    downstream: dict[str, list[str]] = {}
    done = list[str]()
    for spec in specs:
        by_id[spec.id] = spec
        if spec.reads or spec.after:
            waiting[spec.id] = len(spec.reads) + len(spec.after)
            for up in spec.reads + spec.after:
                downstream.setdefault(up, []).append(spec.id)
        else:
            done.append(spec.id)
    for id_ in done:  # grows while it is walked
        for down in downstream.get(id_, ()):
            waiting[down] -= 1
            if waiting[down] == 0:
                done.append(down)
    if len(done) < len(by_id):
        raise CycleError(path=" -> ".join(_circle(by_id, {id_ for id_, count in waiting.items() if count > 0})))
    return Graph(tuple(by_id[id_] for id_ in done), root)


def _circle(by_id: dict[str, TaskSpec], stuck: set[str]) -> Sequence[str]:
    at, path = min(stuck), list[str]()
    while at not in path:
        path.append(at)
        spec = by_id[at]
        at = next(up for up in spec.reads + spec.after if up in stuck)
    circle = path[path.index(at) :]
    return [at, *reversed(circle)]
