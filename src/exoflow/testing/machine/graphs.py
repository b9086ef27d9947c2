"""Random workflows: shapes, annotations, retries, catching, timeouts."""

from __future__ import annotations

import functools
import random

from exoflow.core.checks import repair
from exoflow.core.spec.annotations import Annotations, Checkpoint, Unknown
from exoflow.core.spec.graph import Graph, TaskSpec, ordered
from exoflow.core.spec.retry import RetryPolicy
from exoflow.testing.machine.scenario import Lines, lines_of

_DOUBTS: list[Unknown] = ["ask", "fail"]
_SIZES = [1, 2, 3, 3, 4, 4, 5, 6, 8]


def random_annotations(rng: random.Random, *, doubts: bool = False) -> Annotations:
    """With ``doubts``, some committing tasks want to be asked (or to stop) when nobody knows whether they acted."""
    kind = rng.choice(["internal", "internal", "undoable", "committing"])
    checkpoint = rng.choice([Checkpoint.NONE, Checkpoint.NONE, Checkpoint.ASYNC, Checkpoint.ASYNC, Checkpoint.SYNC])
    on_unknown: Unknown = "retry"
    if doubts and kind == "committing" and checkpoint is not Checkpoint.NONE and rng.random() < 0.3:
        on_unknown = rng.choice(_DOUBTS)
    return Annotations(
        checkpoint=checkpoint,
        deterministic=rng.random() < 0.5,
        can_rollback=kind != "committing",
        has_rollback=kind == "undoable",
        on_unknown=on_unknown,
    )


def random_graph(rng: random.Random, size: int, *, doubts: bool = False, prefix: str = "t") -> Graph:
    """A workflow of ``size`` tasks, each of which leads to the last one. It may be unsafe."""
    specs: list[TaskSpec] = []
    used: set[str] = set()
    for index in range(size):
        names = [spec.id for spec in specs]
        ups = rng.sample(names, min(len(names), rng.choice([0, 1, 1, 2, 3])))
        if index == size - 1:
            ups = list(dict.fromkeys(ups + [name for name in names if name not in used]))
        used.update(ups)
        cut = rng.randint(0, len(ups)) if rng.random() < 0.2 else len(ups)
        specs.append(
            TaskSpec(
                id=f"{prefix}{index}",
                reads=tuple(ups[:cut]),
                after=tuple(ups[cut:]),
                annotations=random_annotations(rng, doubts=doubts),
                retry=RetryPolicy(retries=rng.choice([0, 3, 5])),
                catch=rng.random() < 0.15,
                timeout_s=1.0 if rng.random() < 0.2 else None,
            )
        )
    return ordered(specs, specs[-1].id)


@functools.lru_cache(maxsize=1024)
def drawn_graph(number: int) -> Graph | None:
    """The ``number``-th workflow of 1 to 8 tasks. What is unsafe is repaired, or left out half of the time (None)."""
    rng = random.Random(number)
    graph = random_graph(rng, rng.choice(_SIZES), doubts=True)
    repaired, changed = repair(graph)
    return None if changed and rng.random() < 0.5 else repaired


@functools.lru_cache(maxsize=8192)
def drawn_growth(number: int, *, unsafe: bool = False) -> Lines:
    """The ``number``-th sub-workflow of 1 to 4 tasks; with ``unsafe``, not repaired."""
    rng = random.Random(f"growth {number}")
    graph = random_graph(rng, rng.randint(1, 4))
    return lines_of(graph if unsafe else repair(graph)[0])
