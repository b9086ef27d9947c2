"""Random workflows: shapes, annotations, retries, catching, timeouts."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

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


def draws_and_commits(rng: random.Random) -> Graph:
    """Where the commit rule is needed most (docs/semantics.md, section 4), and chance alone hardly ever leads: draws that are never saved,
    what is saved of them, commits that rest on it, and others who still need the draws."""
    specs: list[TaskSpec] = []

    def add(
        letter: str, count: int, reads: Sequence[str], checkpoint: Checkpoint, *, commits: bool = False, draws: bool = False
    ) -> list[str]:
        names = [f"{letter}{index}" for index in range(count)]
        for name in names:
            ups = rng.sample(reads, rng.randint(1, min(2, len(reads)))) if reads else []
            notes = Annotations(checkpoint=checkpoint, deterministic=not draws and rng.random() < 0.5, can_rollback=not commits)
            specs.append(TaskSpec(id=name, reads=tuple(ups), annotations=notes))
        return names

    draws = add("d", rng.randint(1, 3), [], Checkpoint.NONE, draws=True)
    saved = add("s", rng.randint(1, 3), draws, Checkpoint.ASYNC)
    commits = add("c", rng.randint(1, 2), saved, Checkpoint.ASYNC, commits=True)
    add("o", rng.randint(0, 2), draws + commits[:1], Checkpoint.NONE)
    used = {up for spec in specs for up in spec.reads}
    specs.append(TaskSpec(id="end", reads=tuple(spec.id for spec in specs if spec.id not in used)))
    return ordered(specs, "end")


@functools.lru_cache(maxsize=1024)
def drawn_graph(number: int) -> Graph | None:
    """The ``number``-th workflow, mostly of 1 to 8 tasks. What is unsafe is repaired, or left out half of the time (None)."""
    rng = random.Random(number)
    graph = draws_and_commits(rng) if number % 8 == 7 else random_graph(rng, rng.choice(_SIZES), doubts=True)
    repaired, changed = repair(graph)
    return None if changed and rng.random() < 0.5 else repaired


@functools.lru_cache(maxsize=8192)
def drawn_growth(number: int, *, unsafe: bool = False) -> Lines:
    """The ``number``-th sub-workflow of 1 to 4 tasks; with ``unsafe``, not repaired."""
    rng = random.Random(f"growth {number}")
    graph = random_graph(rng, rng.randint(1, 4))
    return lines_of(graph if unsafe else repair(graph)[0])
