"""The commit rule, kept incrementally, gives at every moment what its definition gives; and it does not search again and again."""

from __future__ import annotations

import random

import pytest

from exoflow.core import growth, replay, stability
from exoflow.core.spec.annotations import Annotations, Checkpoint
from exoflow.core.spec.graph import Graph, TaskSpec, ordered
from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.stability import Prop, inputs
from exoflow.core.state import Phase, State, Task
from exoflow.testing.machine.definition import by_definition
from exoflow.testing.machine.graphs import random_graph


def fresh(graph: Graph) -> State:
    state = replay.new_state("w", 1)
    state.root = growth.build(state, graph)
    return state


def improve(rng: random.Random, state: State) -> bool:
    """One more fact: a task whose inputs have run runs (and may return a DAG), or an output becomes durable."""
    may_run = [t for t in state.tasks.values() if t.version == UNEXECUTED and all(up.version != UNEXECUTED for up in t.ups)]
    may_land = [t for t in state.tasks.values() if t.version != UNEXECUTED and not t.durable]
    if not may_run and not may_land:
        return False
    if may_run and (not may_land or rng.random() < 0.6):
        task = rng.choice(may_run)
        task.version = 1
        state.move(task, Phase.DONE)
        if task.id.count("/") < 2 and rng.random() < 0.15:
            growth.grow(state, task, random_graph(rng, rng.randint(1, 3)))
    else:
        task = rng.choice(may_land)
        task.durable = True
    state.stability.touch(task)
    return True


@pytest.mark.slow
def test_every_answer_is_that_of_the_definition_whatever_runs_and_lands_in_whatever_order() -> None:
    """Also after losses and withdrawals, and whoever was told no is told when that changes. Slow: 600 random DAGs, each fact checked."""
    answers = 0
    for seed in range(600):
        rng = random.Random(seed)
        state = fresh(random_graph(rng, rng.randint(1, 9)))
        asked: dict[tuple[Prop, Task], None] = {}
        eager = rng.random()
        while improve(rng, state):
            woken = set(state.agenda)
            state.agenda.clear()
            truth = by_definition(state)
            for prop, task in list(asked):
                if task.version != UNEXECUTED:
                    del asked[prop, task]
                    continue
                good = truth[prop].issuperset(inputs(prop, task))
                assert task in woken or not good, f"seed {seed}: {task} was not told that {prop.name} holds now"
                if task in woken:  # whoever is told asks again
                    assert state.stability.ask(prop, task) == good
                    if good:
                        del asked[prop, task]
            if rng.random() < 0.05:  # facts get worse
                for task in state.tasks.values():
                    task.durable = task.durable and rng.random() < 0.5
                state.stability.reset()
                asked.clear()
                truth = by_definition(state)
            for task in state.tasks.values():
                for prop in Prop:
                    if rng.random() < eager:
                        assert state.stability.holds(prop, [task]) == (task in truth[prop]), f"seed {seed}: {prop.name} of {task}"
                        answers += 1
            waiting = [task for task in state.tasks.values() if task.version == UNEXECUTED and not any(task is who for _, who in asked)]
            if waiting:
                task, prop = rng.choice(waiting), rng.choice([Prop.STABLE, Prop.RECOVERABLE])
                task.asked = 0
                good = state.stability.ask(prop, task)
                assert good == truth[prop].issuperset(inputs(prop, task)), f"seed {seed}: {prop.name} for {task}"
                if not good:
                    asked[prop, task] = None
                    path = [(each.prop, each.task) for each in state.stability.blame_path(prop, task)]
                    assert path[0][0] in (prop, Prop.RECOVERABLE)
                    assert path[0][1] in inputs(prop, task)
                    assert all(member not in truth[each] for each, member in path), f"seed {seed}: {path} blames what is good"
    assert answers > 20_000


def test_several_outputs_hold_only_if_each_does() -> None:
    state = fresh(ordered([_spec("a"), _spec("b"), _spec("c", "a", "b")], "c"))
    a, b = state.tasks["a"], state.tasks["b"]
    a.version, a.durable = 1, True
    assert state.stability.holds(Prop.STABLE, [a])
    assert state.stability.holds(Prop.STABLE, [])
    assert not state.stability.holds(Prop.STABLE, [a, b])


def _spec(name: str, *reads: str, det: bool = False) -> TaskSpec:
    return TaskSpec(id=name, reads=reads, annotations=Annotations(checkpoint=Checkpoint.ASYNC, deterministic=det, can_rollback=True))


def chain(size: int, *, det: bool) -> Graph:
    specs = [_spec("t0", det=det)]
    specs += [_spec(f"t{i}", f"t{i - 1}", det=det) for i in range(1, size)]
    return Graph(tuple(specs), specs[-1].id)


def fan_out(size: int, *, det: bool) -> Graph:
    leaves = [f"t{i}" for i in range(1, size)]
    specs = [_spec("t0", det=det), *(_spec(leaf, "t0", det=det) for leaf in leaves), _spec("end", *leaves, det=det)]
    return Graph(tuple(specs), "end")


def diamonds(size: int, *, det: bool) -> Graph:
    specs = [_spec("t0", det=det)]
    last = "t0"
    for i in range(size // 3):
        specs += [_spec(f"l{i}", last, det=det), _spec(f"r{i}", last, det=det), _spec(f"j{i}", f"l{i}", f"r{i}", det=det)]
        last = f"j{i}"
    return Graph(tuple(specs), last)


@pytest.mark.slow
@pytest.mark.parametrize("det", [True, False], ids=["deterministic", "nondeterministic"])
@pytest.mark.parametrize("order", ["as they run", "all at the end", "all at the end, last first"])
@pytest.mark.parametrize("shape", [chain, fan_out, diamonds])
def test_twenty_thousand_tasks_cost_a_few_steps_for_each_edge(shape, order: str, det: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task asks before it runs, as committing tasks do, and checkpoints land in this order. Slow: 20,000 tasks."""
    steps = 0
    real_edge, real_ends_open, real_is_plain = stability.Blocked.edge, stability._ends_open, stability._is_plain

    def edge(self):
        nonlocal steps
        before = self.cursor
        found = real_edge(self)
        steps += 1 + self.cursor - before
        return found

    def is_plain(prop, task):
        nonlocal steps
        steps += 1 + len(inputs(prop, task))
        return real_is_plain(prop, task)

    def ends_open(known, walked):
        nonlocal steps
        here = known
        while here is not None and not here.is_open and here not in walked:
            steps += 1
            here = here.blame
            assert steps < limit, "quadratic"
        return real_ends_open(known, walked)

    monkeypatch.setattr(stability.Blocked, "edge", edge)
    monkeypatch.setattr(stability, "_is_plain", is_plain)
    monkeypatch.setattr(stability, "_ends_open", ends_open)
    graph = shape(20_000, det=det)
    limit = 12 * sum(1 + len(spec.reads) for spec in graph.tasks)
    state = fresh(graph)
    tasks = list(state.tasks.values())
    for task in tasks:
        state.stability.ask(Prop.STABLE, task)
        task.version = 1
        state.stability.touch(task)
        if order == "as they run":
            task.durable = True
            state.stability.touch(task)
    if order != "as they run":
        for task in tasks if order == "all at the end" else reversed(tasks):
            task.durable = True
            state.stability.touch(task)
    assert steps < limit
    assert state.stability.holds(Prop.STABLE, tasks)
