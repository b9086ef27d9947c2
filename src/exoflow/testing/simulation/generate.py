"""From a seed to a scenario: shapes, annotations, behaviours, engines, clients, faults. Much goes well in most of them."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from exoflow.core import checks
from exoflow.core.spec.annotations import Annotations, Checkpoint
from exoflow.core.spec.graph import Graph, TaskSpec
from exoflow.testing.simulation.scenario import Dag, Fault, Operation, Scenario, TaskLine, WorkflowLine

_WRITES = ("fail", "unknown", "delay", "slow", "crash_before", "crash_after", "late", "pause", "power")
_READS = ("fail", "delay", "crash_before", "crash_after")
FAULTS: dict[str, tuple[str, ...]] = {
    "commit": (*_WRITES, "full", "torn", "crash_inside"),
    "claim": (*_WRITES, "twice"),
    "beat": (*_WRITES, "twice"),
    "wish": (*_WRITES, "twice"),
    "delete": (*_WRITES, "twice"),
    "head": (*_READS, "stale"),
    "heads": (*_READS, "stale"),
    "owners": (*_READS, "stale"),
    "entries": (*_READS, "flip", "corrupt"),
    "blob.put": (*_WRITES, "full"),
    "blob.flush": ("fail", "crash_before", "power", "delay"),
    "blob.open": (*_READS, "flip", "lose"),
    "task": ("crash", "raise", "die", "hang", "pause", "power", "jump"),
    "effect": ("crash", "raise", "die", "hang", "pause"),
    "task.acted": ("crash", "die", "hang", "pause", "power"),
    "ref.get": ("lose", "lose", "lose_all"),
    "ref.checkpoint": ("lose",),
    "ref.changed": ("raise", "die", "crash", "hang"),
    "undo": ("crash", "raise", "die", "hang", "pause"),
    "undo.done": ("crash", "raise", "die", "pause"),
    "ask": ("crash", "raise", "die"),
    "ask.told": ("crash", "raise", "die"),
    "moment": ("crash", "crash", "pause", "pause", "power", "jump"),
}
"""What may go wrong at each point."""
_WEIGHTS = {
    "commit": 6,
    "claim": 2,
    "task": 3,
    "effect": 3,
    "task.acted": 4,
    "undo": 2,
    "undo.done": 2,
    "ref.get": 2,
    "ref.changed": 2,
    "moment": 6,
    "blob.put": 2,
    "entries": 2,
}
_OFTEN = {"commit": 14, "claim": 3, "beat": 8, "wish": 2, "delete": 2, "heads": 4, "owners": 6, "entries": 6, "head": 12, "moment": 500}


def scenario(seed: int, *, workflow: WorkflowLine | None = None, faults: float = 1.0) -> Scenario:
    """The scenario of a seed, with ``workflow`` instead of drawn ones if it is given. ``faults`` scales how many there are."""
    rng = random.Random(f"scenario {seed}")
    rivals = rng.random() < 0.15
    engines = ("a", "b") if rivals else _engines(rng)
    workflows = (
        (workflow,) if workflow is not None else tuple(_workflow(rng, f"w{number}") for number in range(rng.choice((1, 1, 1, 1, 2, 3))))
    )
    size = sum(len(workflow.dag.tasks) for workflow in workflows)
    lease_s = rng.choice((0.1, 0.5, 1.0, 1.0, 2.0))
    given = Scenario(
        seed=seed,
        workflows=workflows,
        engines=engines,
        operations=_operations(rng, workflows, len(engines)) + (_rivalry(workflows) if rivals else ()),
        faults=(_faults(rng, size, lease_s, faults) + (_pauses(rng, size, lease_s) if rivals else ()) + _outage(rng)) if faults else (),
        policy=rng.choice(("random", "random", "priority")),
        preempt=rng.choice((0.0, 0.05, 0.3, 0.8)),
        lease_s=lease_s,
        inline_bytes=rng.choice((65536, 65536, 0, 200)),
        slots=rng.choice((1, 2, 4, 16)),
        loop_share=rng.choice((0.0, 0.0, 0.5)),
        checked=rng.random() < 0.1,
    )
    return msgspec.structs.replace(given, faults=given.faults + _unmasking(rng)) if given.lies and faults else given


def _engines(rng: random.Random) -> tuple[str, ...]:
    count = rng.choice((1, 1, 1, 2, 2, 3))
    if rng.random() < 0.5:
        return ("a",) * count
    return tuple(rng.choice("ab") if number else "a" for number in range(count))


# --- workflows -------------------------------------------------------------------------------------------------------------------


def _workflow(rng: random.Random, name: str) -> WorkflowLine:
    size = rng.randint(100, 200) if rng.random() < 0.003 else rng.choice((1, 2, 2, 3, 3, 4, 4, 5, 6, 8, 12))
    dag = _dag(rng, size, depth=0)
    if rng.random() < 0.9:  # the engine could do it, each time that it is asked to run the workflow, and that takes long
        dag = _made_safe(dag)
    auto = rng.random() < 0.7 if any(line.grows for line in dag.tasks) and size <= 12 else rng.random() < 0.05
    return WorkflowLine(name=name, dag=dag, mode="auto" if auto else "strict", on_failure="rollback" if rng.random() < 0.2 else "keep")


def _made_safe(dag: Dag) -> Dag:
    """With the missing checkpoints on."""
    if len(dag.tasks) > 12:
        chosen = {line.name for line in dag.tasks if not line.deterministic or line.catch}
    else:
        specs = [
            TaskSpec(
                id=line.name,
                reads=line.reads,
                after=line.after,
                annotations=Annotations(
                    checkpoint=Checkpoint.NONE if line.checkpoint is False else Checkpoint.ASYNC,
                    deterministic=line.deterministic,
                    can_rollback=line.kind != "committing",
                    has_rollback=line.kind == "undoable",
                ),
                catch=line.catch,
            )
            for line in dag.tasks
        ]
        chosen = set(checks.repair(Graph(tuple(specs), specs[-1].id))[1])
    return Dag(
        tasks=tuple(
            msgspec.structs.replace(line, checkpoint=line.checkpoint or True) if line.name in chosen else line for line in dag.tasks
        )
    )


def _dag(rng: random.Random, size: int, *, depth: int) -> Dag:
    shape = rng.choice(("chain", "random", "random", "layers", "fan", "diamonds"))
    lines: list[TaskLine] = []
    used: set[str] = set()
    for index in range(size):
        names = [line.name for line in lines]
        ups = _ups(rng, shape, names, index, size)
        if index == size - 1:
            ups = list(dict.fromkeys(ups + [name for name in names if name not in used]))
        used.update(ups)
        cut = rng.randint(0, len(ups)) if rng.random() < 0.12 else len(ups)
        line = _line(rng, f"t{index}", tuple(ups[:cut]), tuple(ups[cut:]), depth)
        if depth and index == size - 1:  # its failure, or no output, would stand for its parent's, and nobody could tell whose it is
            line = msgspec.structs.replace(line, catch=False, on_unknown="retry")
        lines.append(line)
    return Dag(tasks=tuple(_with_changes(rng, lines) if not depth and (shape == "chain" or rng.random() < 0.3) else lines))


def _with_changes(rng: random.Random, lines: list[TaskLine]) -> list[TaskLine]:
    """Some tasks pass on what each of them changes. Whoever reads that must be the only one."""
    often = rng.choice((0.3, 0.9))
    readers = {line.name: [other for other in lines if line.name in other.reads] for line in lines}
    changed = {line.name: line for line in lines}
    for line in lines:
        before = changed[line.name]
        if before.does in ("return", "nest", "big", "refer") and not before.catch and before.on_unknown == "retry":
            up = changed[line.reads[0]] if len(line.reads) == 1 else None
            goes_on = up is not None and up.does in ("hold", "change") and len(readers[up.name]) == 1
            if goes_on and rng.random() < often:
                changed[line.name] = msgspec.structs.replace(before, does="change")
            elif len(readers[line.name]) == 1 and rng.random() < often:
                changed[line.name] = msgspec.structs.replace(before, does="hold")
    return list(changed.values())


def _ups(rng: random.Random, shape: str, names: list[str], index: int, size: int) -> list[str]:
    if not names:
        return []
    if shape == "chain":
        return [names[-1]]
    if shape == "fan":
        return [names[0]] if index < size - 1 else names[1:] or names
    if shape == "layers":
        width = 3
        start = (index // width - 1) * width
        return names[start : start + width] if start >= 0 else []
    if shape == "diamonds":
        return [names[-1]] if index % 3 == 1 else [names[-2]] if index % 3 == 2 else names[-2:]
    return rng.sample(names, min(len(names), rng.choice((0, 1, 1, 2, 3))))


def _line(rng: random.Random, name: str, reads: tuple[str, ...], after: tuple[str, ...], depth: int) -> TaskLine:
    kind = rng.choice(("internal", "internal", "undoable", "committing"))
    fields: dict[str, Any] = {
        "kind": kind,
        "checkpoint": rng.choice((False, True, True, "sync")),
        "deterministic": rng.random() < 0.45,
        "retries": rng.choice((0, 2, 3, 3)),
        "catch": rng.random() < 0.1,
        "executor": rng.choice(("thread", "thread", "process", "inline") if rng.random() < 0.5 else ("thread", "process")),
    }
    if kind == "committing" and fields["checkpoint"] is not False and rng.random() < 0.35:
        fields["on_unknown"] = rng.choice(("ask", "ask", "fail"))
    if rng.random() < 0.1:
        fields["timeout_s"] = rng.choice((0.5, 1.5))
    fields |= _behaviour(rng, fields, depth)
    return TaskLine(name=name, reads=reads, after=after, **fields)


def _behaviour(rng: random.Random, fields: dict[str, Any], depth: int) -> dict[str, Any]:
    chance = rng.random()
    if chance < 0.52:
        return {}
    if chance < 0.60:
        return {"does": "refer"}
    if chance < 0.605 and fields["deterministic"]:
        return {"does": "lie"}
    if chance < 0.66:
        return {"does": "nest"}
    if chance < 0.70:
        return {"does": "big"}
    if chance < 0.80:
        times = rng.choice((1, 1, 1, 2, 2, 9)) if fields["retries"] else 1
        # An exception of a function that is not idempotent says that its work was not done.
        late = fields.get("on_unknown", "retry") == "retry" and rng.random() < 0.5
        return {"does": "raise", "times": times, "late": late}
    if chance < 0.84:
        return {"does": "hang", "times": rng.choice((1, 2)), "late": rng.random() < 0.5}
    if chance < 0.88:
        return {"does": "die", "times": rng.choice((1, 2, 4)), "late": rng.random() < 0.5, "executor": "process"}
    if depth < 2 and "on_unknown" not in fields:
        if chance < 0.96:
            variants = 1 if fields["deterministic"] else rng.choice((1, 2, 3))
            return {"does": "grow", "grows": tuple(_dag(rng, rng.randint(1, 3), depth=depth + 1) for _ in range(variants))}
        if chance < 0.99:
            return {"does": "map", "times": rng.randint(0, 2), "grows": (_dag(rng, 1, depth=depth + 2),)}
    return {}


# --- clients and faults ------------------------------------------------------------------------------------------------------------


def _operations(rng: random.Random, workflows: tuple[WorkflowLine, ...], engines: int) -> tuple[Operation, ...]:
    operations: list[Operation] = []

    def add(do: Any, name: str, late_s: float) -> None:
        at_s = rng.random() * late_s if rng.random() < 0.8 else rng.random() * late_s * 20
        operations.append(Operation(do=do, workflow=name, engine=rng.randrange(engines), at_s=round(at_s, 4)))

    for workflow in workflows:
        name = workflow.name
        operations.append(Operation(do="run", workflow=name, engine=rng.randrange(engines)))
        if rng.random() < 0.25:
            add("run", name, 0.02)
        if rng.random() < 0.15:
            add("wait", name, 0.02)
        if rng.random() < 0.22:
            add(rng.choice(("cancel", "cancel+rollback", "cancel+rollback")), name, 0.02)
        if rng.random() < 0.1:
            add("resume", name, 0.1)
        if rng.random() < 0.05:
            add("delete", name, 0.1)
        if rng.random() < 0.1:
            add("look", name, 0.02)
    if rng.random() < 0.2:
        add("resume_all", "", 0.05)
    if rng.random() < 0.1:
        add("collect", "", 0.02)
    return tuple(operations)


def _faults(rng: random.Random, size: int, lease_s: float, scale: float) -> tuple[Fault, ...]:
    count = rng.choice((0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 12))
    points = list(FAULTS)
    weights = [_WEIGHTS.get(point, 1) for point in points]
    burst = rng.random() < 0.4
    first = rng.random()
    found: dict[tuple[str, int], Fault] = {}
    for _ in range(round(count * scale)):
        at = rng.choices(points, weights)[0]
        do = rng.choice(FAULTS[at])
        often = _OFTEN.get(at, 4) * (1 + size / 8)
        place = first + rng.random() * 0.1 if burst else rng.random() ** 1.5
        nth = 1 + int(place * often)
        found[at, nth] = Fault(at=at, nth=nth, do=do, much=_much(rng, do, lease_s))
    return tuple(found.values())


def _rivalry(workflows: tuple[WorkflowLine, ...]) -> tuple[Operation, ...]:
    """Each engine wants the result of what the other drives."""
    return tuple(Operation(do="run", workflow=each.name, engine=number, at_s=0.002) for each in workflows for number in (0, 1))


def _pauses(rng: random.Random, size: int, lease_s: float) -> tuple[Fault, ...]:
    """Engines stand still at bad moments for so long that they are taken for dead."""
    points = ("commit", "commit", "task", "effect", "task.acted", "undo", "claim", "moment")
    found: dict[tuple[str, int], Fault] = {}
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.choice(points)
        nth = 1 + int(rng.random() * _OFTEN.get(at, 4) * (1 + size / 8))
        found[at, nth] = Fault(at=at, nth=nth, do="pause", much=round(lease_s * rng.choice((1.2, 1.5, 2.5, 4.0)) + rng.random() * 0.01, 4))
    return tuple(found.values())


def _unmasking(rng: random.Random) -> tuple[Fault, ...]:
    """A lie about determinism shows when a saved output has to be made again."""
    crash = Fault(at="moment", nth=rng.randint(60, 400), do="crash")
    return crash, *(Fault(at="entries", nth=nth, do="flip", much=round(rng.random() * 8, 3)) for nth in range(1, 6))


def _outage(rng: random.Random) -> tuple[Fault, ...]:
    """Now and then many beats in a row fail."""
    if rng.random() > 0.04:
        return ()
    first = rng.randint(2, 6)
    return tuple(Fault(at="beat", nth=first + number, do="fail") for number in range(rng.randint(3, 12)))


def _much(rng: random.Random, do: str, lease_s: float) -> float:
    if do in ("delay", "slow", "pause", "late", "hang"):
        return round(lease_s * rng.choice((0.1, 0.5, 0.9, 1.1, 2.0, 3.0)) + rng.random() * 0.01, 4)
    if do == "jump":
        return rng.choice((-3600.0, 3600.0, -0.5, 315_360_000.0))
    if do in ("torn", "flip", "crash_inside"):
        return round(rng.random() * 8, 3)
    return 0.0
