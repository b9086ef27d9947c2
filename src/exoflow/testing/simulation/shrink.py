"""From a scenario that breaks something to a small one that breaks the same: fewer faults, clients, engines, tasks, annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from exoflow.testing.simulation.driver import simulate_one
from exoflow.testing.simulation.scenario import Dag, Scenario, TaskLine, WorkflowLine

_replace = msgspec.structs.replace
_PLAIN = TaskLine(name="plain")
_SEEDS = 6
"""How many schedules of a smaller scenario are tried: the one that broke may no longer be the one that its seed draws."""


def shrink(scenario: Scenario, *, rounds_max: int = 400, told: Callable[[str], None] = lambda _: None) -> Scenario:
    """The smallest scenario that was found with a violation of the same invariant, in at most ``rounds_max`` simulations."""
    wanted = _broken(scenario)
    if not wanted:
        return scenario
    best, left = scenario, rounds_max
    progress = True
    while progress and left > 0:
        progress = False
        for smaller in _smaller(best):
            found = _still(smaller, wanted)
            left -= _SEEDS
            if found is not None:
                best, progress = found, True
                told(f"{len(msgspec.json.encode(best))} bytes, {len(best.faults)} faults")
                break
            if left <= 0:
                break
    return best


def _broken(scenario: Scenario) -> set[str]:
    return {violation.invariant for violation in simulate_one(scenario).violations}


def _still(scenario: Scenario, wanted: set[str]) -> Scenario | None:
    for number in range(_SEEDS):
        tried = _replace(scenario, seed=scenario.seed + number) if number else scenario
        if _broken(tried) & wanted:
            return tried
    return None


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Each a step smaller, the largest steps first."""
    half = len(scenario.faults) // 2
    if half:
        yield _replace(scenario, faults=scenario.faults[half:])
        yield _replace(scenario, faults=scenario.faults[:half])
    for workflow in scenario.workflows:
        if len(scenario.workflows) > 1:
            yield _replace(
                scenario,
                workflows=tuple(each for each in scenario.workflows if each is not workflow),
                operations=tuple(each for each in scenario.operations if each.workflow != workflow.name),
            )
    if len(scenario.engines) > 1:
        yield _replace(scenario, engines=scenario.engines[:-1])
    for name in ("faults", "operations"):
        for each in getattr(scenario, name):
            yield _replace(scenario, **{name: tuple(other for other in getattr(scenario, name) if other is not each)})
    for index, workflow in enumerate(scenario.workflows):
        for dag in _smaller_dags(workflow.dag):
            yield _with(scenario, index, _replace(workflow, dag=dag))
        if workflow.on_failure != "keep":
            yield _with(scenario, index, _replace(workflow, on_failure="keep"))
    for name, plain in (
        ("checked", False),
        ("inline_bytes", 65536),
        ("preempt", 0.0),
        ("policy", "random"),
        ("slots", 4),
        ("loop_share", 0.0),
        ("lease_s", 1.0),
    ):
        if getattr(scenario, name) != plain:
            yield _replace(scenario, **{name: plain})
    for index, operation in enumerate(scenario.operations):
        if operation.at_s:
            yield _replace(scenario, operations=_put(scenario.operations, index, _replace(operation, at_s=0.0)))


def _with(scenario: Scenario, index: int, workflow: WorkflowLine) -> Scenario:
    return _replace(scenario, workflows=_put(scenario.workflows, index, workflow))


def _put(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return (*items[:index], item, *items[index + 1 :])


def _smaller_dags(dag: Dag) -> Iterator[Dag]:
    for line in dag.tasks[:-1]:
        yield _without(dag, line)
    if len(dag.tasks) > 1:
        yield Dag(tasks=dag.tasks[:-1])
    for index, line in enumerate(dag.tasks):
        for simpler in _simpler(line):
            yield Dag(tasks=_put(dag.tasks, index, simpler))


def _without(dag: Dag, gone: TaskLine) -> Dag:
    """Its readers read what it read."""

    def passed(names: tuple[str, ...], instead: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each for name in names for each in (instead if name == gone.name else (name,))))

    lines = []
    for line in dag.tasks:
        if line is not gone:
            reads = passed(line.reads, gone.reads)
            lines.append(_replace(line, reads=reads, after=tuple(name for name in passed(line.after, gone.after) if name not in reads)))
    return Dag(tasks=tuple(lines))


def _simpler(line: TaskLine) -> Iterator[TaskLine]:
    if line.does != "return":
        yield _replace(line, does="return", times=0, late=False, grows=())
    for index, inner in enumerate(line.grows):
        if len(line.grows) > 1 and line.does == "grow":
            yield _replace(line, grows=(inner,))
        for dag in _smaller_dags(inner):
            if line.does == "grow" or len(dag.tasks) == 1:
                yield _replace(line, grows=_put(line.grows, index, dag))
    for name in ("timeout_s", "retries", "catch", "executor", "late", "on_unknown", "kind"):
        plain = getattr(_PLAIN, name)
        if (
            getattr(line, name) != plain
            and not (name == "executor" and line.does == "die")
            and not (name == "kind" and line.on_unknown != "retry")
        ):
            yield _replace(line, **{name: plain})
    if line.checkpoint == "sync":
        yield _replace(line, checkpoint=True)
    for up in line.reads:
        yield _replace(line, reads=tuple(name for name in line.reads if name != up))
    for up in line.after:
        yield _replace(line, after=tuple(name for name in line.after if name != up))
