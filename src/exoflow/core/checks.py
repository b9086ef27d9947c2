"""Static checks: the commit rule as a dry run (docs/semantics.md, section 4).

Everything that may start runs, every checkpoint lands. A task that can never start is a finding: it names the task, the
nondeterministic task whose output could change under it, the path between them, and the smallest set of annotation changes that lets
everything run. Each repair that is offered has been tried in another dry run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

import msgspec

from exoflow.core.readiness import GATE
from exoflow.core.spec.annotations import Checkpoint, Kind
from exoflow.core.spec.graph import Graph, TaskSpec
from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.spec.terms import terms_of
from exoflow.core.stability import Prop, Stability, inputs, position
from exoflow.core.state import State, Task

_TRIALS_MAX = 2_000_000
"""Tasks visited, at most, while looking for a smaller repair than the first that was found."""


class Repair(msgspec.Struct, frozen=True):
    """Set ``annotation`` of ``task`` to ``value``."""

    task: str
    annotation: str
    value: bool

    def __str__(self) -> str:
        return f"{self.annotation}={self.value} on '{self.task}'"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A task that could break exactly-once. ``path`` leads from the nondeterministic ``culprit`` to ``task``. Applying all ``repairs``
    makes the whole workflow safe."""

    code: str
    task: str
    culprit: str
    path: tuple[str, ...]
    repairs: tuple[Repair, ...]
    deterministic_would_do: bool = False

    def __str__(self) -> str:
        risk = {
            "unstable_input": f"'{self.task}' commits, but what it depends on could change after a crash",
            "unrecoverable_input": f"'{self.task}' has a rollback, whose arguments could be lost in a crash",
        }[self.code]
        either = f" (or deterministic=True on '{self.culprit}', if it is)" if self.deterministic_would_do else ""
        return (
            f"{risk}: '{self.culprit}' is nondeterministic and not saved, and reaches it by {' -> '.join(self.path)}; "
            f"repair: {', '.join(map(str, self.repairs)) or 'none found'}{either}"
        )


_CODES = {Prop.STABLE: "unstable_input", Prop.RECOVERABLE: "unrecoverable_input"}


def check(graph: Graph) -> list[Finding]:
    """Findings of a whole workflow; empty if no crash can break it."""
    if not _may_be_unsafe(graph.tasks):
        return []
    return _findings(_copy_of(graph))


def repair(graph: Graph, only: Collection[str] | None = None) -> tuple[Graph, tuple[str, ...]]:
    """``graph`` with the missing checkpoints turned on (those of ``only``, if given), and the tasks for which that was done."""
    if not _may_be_unsafe(graph.tasks):
        return graph, ()
    found = _cheapest_repair(_copy_of(graph), only)
    return with_checkpoints(graph, found), tuple(found)


def check_growth(state: State, task: Task, graph: Graph) -> tuple[Graph, list[Finding]]:
    """The same for a running workflow in which ``task`` returns ``graph``. In auto mode, checkpoints are turned on in ``graph``."""
    if not _may_be_unsafe(graph.tasks) and (state.unsettled == 0 or all(spec.annotations.kind is Kind.INTERNAL for spec in graph.tasks)):
        return graph, []  # tasks that need nothing, behind one that is saved: nobody else depends on more than before
    facts = _copy_of_state(state, task, graph)
    findings = _findings(facts)
    if findings and state.auto:
        names = {f"{task.id}/{spec.id}": spec.id for spec in graph.tasks}
        found = _cheapest_repair(facts, names)
        if found:
            return with_checkpoints(graph, [names[name] for name in found]), []
    return graph, findings


def save_shape(state: State, task: Task) -> None:
    """``task`` returned a DAG, which is saved whatever the annotation says: without it, nobody would find what its tasks left behind."""
    if not task.needs_saving:
        state.respecify(task, _saved(task.spec))


def are_alike(one: Graph | None, other: Graph | None) -> bool:
    """Whether they are equal, apart from what is saved: auto mode may have turned checkpoints on."""
    if one is None or other is None:
        return one is other
    return with_checkpoints(one, (spec.id for spec in one.tasks)) == with_checkpoints(other, (spec.id for spec in other.tasks))


def with_checkpoints(graph: Graph, names: Iterable[str]) -> Graph:
    """``graph`` with ``checkpoint=True`` on the tasks of these names."""
    chosen = set(names)
    return msgspec.structs.replace(graph, tasks=tuple(_saved(spec) if spec.id in chosen else spec for spec in graph.tasks))


def _saved(spec: TaskSpec) -> TaskSpec:
    return msgspec.structs.replace(spec, annotations=msgspec.structs.replace(spec.annotations, checkpoint=Checkpoint.ASYNC))


def _may_be_unsafe(specs: Iterable[TaskSpec]) -> bool:
    """If every nondeterministic task is saved, every version can be had again, and nothing can go wrong."""
    return any(not spec.deterministic and spec.annotations.checkpoint is Checkpoint.NONE for spec in specs)


# --- the dry run -------------------------------------------------------------------------------------------------------------


class _Facts:
    """A graph to try on: specs with absolute ids, and which have run already (and whether they are saved): those are past repair."""

    def __init__(self, specs: list[TaskSpec], root: str) -> None:
        self.specs, self.root = specs, root
        self.executed: dict[str, bool] = {}
        self.parents: dict[str, str] = {}

    def state(self, saved: Collection[str] = (), deterministic: Collection[str] = ()) -> State:
        """A fresh copy, with these tasks saved or deterministic."""
        state = State("dry-run", 0)
        state.stability = Stability(state)
        tasks = state.tasks
        readers: dict[Task, list[Task]] = {}
        for given in self.specs:
            spec = _saved(given) if given.id in saved else given
            if spec.id in deterministic:
                spec = msgspec.structs.replace(spec, annotations=msgspec.structs.replace(spec.annotations, deterministic=True))
            task = tasks[spec.id] = Task(spec.id, terms_of(spec))
            task.follow(tuple([tasks[up] for up in spec.reads]), tuple([tasks[up] for up in spec.after]))
            for up in task.ups:
                readers.setdefault(up, []).append(task)
            if given.id in self.parents:
                task.parent = tasks[self.parents[given.id]]
                task.parent.grew = True
            if given.id in self.executed:
                task.version, task.durable = 1, self.executed[given.id]
        for up, found in readers.items():
            up.readers = tuple(found)
        state.root = tasks[self.root]
        return state


def _copy_of(graph: Graph) -> _Facts:
    return _Facts(list(graph.tasks), graph.root)


def _copy_of_state(state: State, grown: Task, graph: Graph) -> _Facts:
    """The live tasks as a graph, with ``graph`` in the place of ``grown``'s output, and what is executed already."""
    from exoflow.core.ending import upstream_first

    tail = f"{grown.id}/{graph.root}"
    root = state.root
    facts = _Facts([], tail if root is None or root is grown else root.id)
    specs = facts.specs
    for task in upstream_first(state):
        reads = tuple(tail if up is grown else up.id for up in task.reads)
        after = tuple(tail if up is grown else up.id for up in task.after)
        specs.append(msgspec.structs.replace(task.spec, id=task.id, reads=reads, after=after))
        if task.version != UNEXECUTED:
            facts.executed[task.id] = task.needs_saving or task.durable
        if task.parent is not None:
            facts.parents[task.id] = task.parent.id
        if task is grown:
            facts.parents.update((f"{grown.id}/{spec.id}", grown.id) for spec in graph.tasks)
            specs += [
                msgspec.structs.replace(
                    spec,
                    id=f"{grown.id}/{spec.id}",
                    reads=(grown.id, *(f"{grown.id}/{up}" for up in spec.reads)),
                    after=tuple(f"{grown.id}/{up}" for up in spec.after),
                )
                for spec in graph.tasks
            ]
    return facts


def _dry_run(facts: _Facts, saved: Collection[str] = (), deterministic: Collection[str] = ()) -> list[Task]:
    """Run all that may start; return the tasks that wait for ever although their inputs have run."""
    state = facts.state(saved, deterministic)
    waiting = {task: sum(up.version == UNEXECUTED for up in task.ups) for task in state.tasks.values()}
    ready = deque(task for task, count in waiting.items() if count == 0 and task.version == UNEXECUTED)
    held: dict[Task, None] = {}
    while ready:
        task = ready.popleft()
        if task.version != UNEXECUTED:
            continue
        gate = GATE.get(task.kind)
        if gate is not None and not state.stability.ask(gate, task):
            held[task] = None
            continue
        held.pop(task, None)
        task.version = 1
        task.durable = task.needs_saving or task is state.root
        state.stability.touch(task)
        ready += state.agenda
        state.agenda.clear()
        for down in task.readers:
            waiting[down] -= 1
            if waiting[down] == 0:
                ready.append(down)
    return list(held)


# --- what to say about it ----------------------------------------------------------------------------------------------------


def _findings(facts: _Facts) -> list[Finding]:
    stuck = _dry_run(facts)
    if not stuck:
        return []
    cure = _cheapest_repair(facts, None)
    findings = []
    for task in stuck:
        culprit = _culprit(task)
        path = _path(culprit, task)
        findings.append(
            Finding(
                code=_CODES[GATE[task.kind]],
                task=task.id,
                culprit=culprit.id,
                path=path,
                repairs=tuple(Repair(name, "checkpoint", True) for name in cure),
                deterministic_would_do=not _dry_run(facts, deterministic={_culprit(each).id for each in stuck}),
            )
        )
    return findings


def _culprit(stuck: Task) -> Task:
    """The nearest unsaved nondeterministic task among the ancestors of ``stuck``, on the side of the input that is not good."""
    gate = GATE[stuck.kind]
    prop, at = position(gate, stuck)
    first = inputs(prop, stuck)[at:]
    frontier, seen = deque(first), set(first)
    while frontier:
        task = frontier.popleft()
        if not task.deterministic and not task.durable:
            return task
        for up in inputs(gate, task):
            if up not in seen:
                seen.add(up)
                frontier.append(up)
    return first[0]


def _path(start: Task, end: Task) -> tuple[str, ...]:
    """A shortest way downstream."""
    came_from: dict[Task, Task] = {}
    frontier = deque([start])
    while frontier:
        task = frontier.popleft()
        if task is end:
            break
        for down in task.readers:
            if down not in came_from and down is not start:
                came_from[down] = task
                frontier.append(down)
    path = [end]
    while path[-1] is not start and path[-1] in came_from:
        path.append(came_from[path[-1]])
    return tuple(task.id for task in reversed(path))


def _cheapest_repair(facts: _Facts, only: Collection[str] | None) -> list[str]:
    """The fewest checkpoints to turn on: first any set that works, then a single task if one will do, then the set without what it can
    spare. Empty if turning on checkpoints (of ``only``) does not help."""
    chosen: dict[str, None] = {}
    stuck = _dry_run(facts)
    while stuck:
        before = len(chosen)
        for task in stuck:
            for up in _unsaved_ancestors(task):
                if up.id not in chosen and up.id not in facts.executed and (only is None or up.id in only):
                    chosen[up.id] = None
                    break
        if len(chosen) == before:
            return []
        stuck = _dry_run(facts, chosen)
    budget = _TRIALS_MAX
    if len(chosen) > 1:
        for spec in facts.specs:
            budget -= len(facts.specs)
            if budget < 0:
                break
            candidate = spec.annotations.checkpoint is Checkpoint.NONE and spec.id not in facts.executed
            if candidate and (only is None or spec.id in only) and not _dry_run(facts, {spec.id}):
                return [spec.id]
    for name in list(chosen):
        budget -= len(facts.specs)
        if budget < 0:
            break
        rest = {other for other in chosen if other != name}
        if not _dry_run(facts, rest):
            del chosen[name]
    return list(chosen)


def _unsaved_ancestors(task: Task) -> Iterable[Task]:
    """Nearest first; nondeterministic ones only, because saving those is what makes inputs stable."""
    gate = GATE[task.kind]
    frontier, seen = deque([task]), {task}
    while frontier:
        for up in inputs(gate, frontier.popleft()):
            if up not in seen:
                seen.add(up)
                frontier.append(up)
                if not up.deterministic and up.spec.annotations.checkpoint is Checkpoint.NONE:
                    yield up
