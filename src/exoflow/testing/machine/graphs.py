"""Random workflows: shapes, annotations, retries, catching, timeouts."""

from __future__ import annotations

import random

from exoflow.core.spec.annotations import Annotations, Checkpoint, Unknown
from exoflow.core.spec.graph import Graph, TaskSpec, ordered
from exoflow.core.spec.retry import RetryPolicy

_DOUBTS: list[Unknown] = ["ask", "fail"]


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
