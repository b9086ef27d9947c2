"""What crashes do to a workflow of a user: its shape and annotations in simulated engines, its functions replaced by ones that tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from exoflow.client.intake import Dag as UserDag
from exoflow.client.intake import root_of
from exoflow.core.checks import check
from exoflow.core.spec.annotations import Checkpoint, Kind
from exoflow.core.spec.graph import Graph, TaskSpec
from exoflow.define.plan import graph_of
from exoflow.testing.simulation.generate import scenario
from exoflow.testing.simulation.scenario import Dag, TaskLine, WorkflowLine

_CHECKPOINTS: dict[Checkpoint, bool | Literal["sync"]] = {Checkpoint.NONE: False, Checkpoint.ASYNC: True, Checkpoint.SYNC: "sync"}
_KINDS: dict[Kind, Literal["internal", "undoable", "committing"]] = {
    Kind.INTERNAL: "internal",
    Kind.UNDOABLE: "undoable",
    Kind.COMMITTING: "committing",
}


class TaskStudy(msgspec.Struct, frozen=True, kw_only=True):
    """One task: in how many schedules its function was called more than once, its effect was undone, and its commit was sent again with the
    same key; and how often it was called at most."""

    task: str
    kind: str
    called_again: int
    calls_max: int
    undone: int
    sent_again: int


class SimulationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        schedules: how many lives of the workflow were simulated.
        unsafe: what the static check says; nothing is simulated then.
        violations: how exactly-once was broken, each with the seed that repeats it. Never yours to repair: please report them.
        statuses: how the workflow ended, and how often.
        tasks: what happened to each.
    """

    schedules: int
    unsafe: list[str]
    violations: list[str]
    statuses: dict[str, int]
    tasks: list[TaskStudy]

    @property
    def ok(self) -> bool:
        """Nothing broke."""
        return not self.unsafe and not self.violations

    @property
    def findings(self) -> list[str]:
        """What to know, in plain words."""
        return [*self.unsafe, *self.violations, *(words for task in self.tasks for words in self._words(task))]

    def _words(self, task: TaskStudy) -> Iterable[str]:
        of = f"of {self.schedules} schedules"
        if task.sent_again:
            yield (
                f"'{task.task}' had its effect again, with the same idempotency key, in {task.sent_again} {of}: it must be idempotent for "
                "equal inputs; if it is not, give it a rollback, or on_unknown"
            )
        if task.undone:
            yield f"'{task.task}' was rolled back in {task.undone} {of}: its rollback must be idempotent"
        if task.kind == "internal" and task.called_again:
            yield f"'{task.task}' was called again in {task.called_again} {of}, at most {task.calls_max} times"

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items())) or "nothing ran"
        return "\n".join([f"{self.schedules} schedules: {ends}", *(f"  {line}" for line in self.findings)])


def simulate(
    dag: UserDag, /, *args: Any, seeds: int | Iterable[int] = 200, mode: Literal["strict", "auto"] = "strict", **kwargs: Any
) -> SimulationReport:
    """Simulate lives of a workflow with crashes, lost answers, failing and hanging tasks, several engines.

    Its shape, annotations, retries and timeouts are what counts; its functions are not called, so what a task would return as a
    sub-workflow is not seen. :func:`~exoflow.testing.crash_everywhere` runs the real functions. ``seeds`` is how many schedules, or which.
    Raises UsageError if the DAG is malformed, MissingExtraError without the extra 'sim'.
    """
    from exoflow.testing.simulation.driver import simulate_one  # needs the extra, and is looked at by nobody who does not simulate

    graph = graph_of(root_of(dag, args, kwargs)[0])
    findings = [] if mode == "auto" else check(graph)
    if findings:
        return SimulationReport(schedules=0, unsafe=[str(finding) for finding in findings], violations=[], statuses={}, tasks=[])
    line = WorkflowLine(name="w0", dag=_lines(graph), mode=mode)
    statuses = Counter[str]()
    violations: list[str] = []
    again, most, undone, sent = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    chosen = range(seeds) if isinstance(seeds, int) else list(seeds)
    for seed in chosen:
        outcome = simulate_one(scenario(seed, workflow=line, faults=2.0))
        statuses.update(outcome.statuses.values())
        violations += [f"seed {seed}: {violation}" for violation in outcome.violations]
        for task, counts in outcome.tasks.items():
            again[task] += counts.calls > 1
            most[task] = max(most[task], counts.calls)
            undone[task] += counts.undone > 0
            sent[task] += counts.sent_again > 0
    studies = [
        TaskStudy(
            task=each.name,
            kind=each.kind,
            called_again=again[each.name],
            calls_max=most[each.name],
            undone=undone[each.name],
            sent_again=sent[each.name],
        )
        for each in line.dag.tasks
    ]
    return SimulationReport(schedules=len(chosen), unsafe=[], violations=violations, statuses=dict(statuses), tasks=studies)


def _lines(graph: Graph) -> Dag:
    lines = [_line(spec) for spec in graph.tasks]
    root = next(line for line in lines if line.name == graph.root)
    return Dag(tasks=(*(line for line in lines if line is not root), root))


def _line(spec: TaskSpec) -> TaskLine:
    said = spec.annotations
    return TaskLine(
        name=spec.id,
        reads=spec.reads,
        after=spec.after,
        kind=_KINDS[said.kind],
        checkpoint=_CHECKPOINTS[said.checkpoint],
        deterministic=said.deterministic,
        on_unknown=said.on_unknown,
        retries=spec.retry.retries,
        timeout_s=spec.timeout_s,
        catch=spec.catch,
    )
