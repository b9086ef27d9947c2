"""Tasks that say they are deterministic are run again on what they got, and what they say is compared; nothing is written."""

from __future__ import annotations

import dataclasses
import itertools
import threading

import pytest

import exoflow
from exoflow.client.audit import first_difference
from exoflow.errors import TaskNotFoundError, WorkflowNotFoundError
from exoflow.testing import audit
from exoflow.testing.store_suite import content

PURE = {"deterministic": True, "can_rollback": True}


@pytest.fixture
def counter():
    """What a liar reads beside its arguments."""
    return itertools.count()


@exoflow.task(can_rollback=True)
def read(n):
    return list(range(n))


@exoflow.task(**PURE)
def double(numbers):
    return [2 * number for number in numbers]


def verdicts(audited):
    return {each.task: each.verdict for each in audited}


def test_who_tells_the_truth_agrees_with_what_is_saved(engine):
    engine.run(double.bind(read.bind(3)), name="w")
    (only,) = audit(engine, "w")
    assert (only.task, only.verdict, only.against, only.before == only.now) == ("double", "agrees", "saved", True)


def test_a_liar_is_named_with_both_fingerprints_and_the_place(memory, counter):
    @exoflow.task(**PURE)
    def price(rows):
        return {"rows": [{"id": row, "price": next(counter)} for row in rows]}

    memory.run(price.bind(read.bind(2)), name="w")
    before = content(memory.store)
    (liar,) = audit(memory, "w")
    assert (liar.verdict, liar.against, liar.differs) == ("lies", "saved", "['rows'][0]['price']: 0 before, 2 now")
    assert len(liar.before) == len(liar.now) == 32
    assert liar.before != liar.now
    assert content(memory.store) == before, "an audit writes nothing"


def test_what_is_not_saved_is_made_twice(memory, counter):
    liar = exoflow.task(name="liar", checkpoint=False, **PURE)(lambda numbers: next(counter))
    honest = exoflow.task(name="honest", checkpoint=False, **PURE)(len)
    both = exoflow.task(can_rollback=True)(lambda *outputs: None)
    memory.run(both.bind(liar.bind(read.bind(2)), honest.bind(read.bind(2))), name="w")
    found = audit(memory.store, "w")
    assert [(each.task, each.verdict, each.against) for each in found] == [("liar", "lies", "again"), ("honest", "agrees", "again")]


def test_inputs_that_were_not_saved_are_made_again(memory):
    unsaved = double.options(checkpoint=False, name="unsaved")
    memory.run(double.bind(unsaved.bind(read.bind(3))), name="w")
    assert verdicts(audit(memory, "w")) == {"unsaved": "agrees", "double": "agrees"}


def test_what_had_effects_or_lost_its_inputs_is_not_run(memory, counter):
    runs = []
    drawn = exoflow.task(name="drawn", can_rollback=True, checkpoint=False)(lambda: next(counter))
    on_lost = exoflow.task(name="on_lost", **PURE)(lambda number: number)
    commits = exoflow.task(name="commits", deterministic=True)(lambda number: runs.append("commits"))
    undoable = exoflow.task(name="undoable", deterministic=True, rollback=lambda number: None)(lambda number: runs.append("undoable"))
    catches = exoflow.task(name="catches", catch_exceptions=True, **PURE)(lambda number: number)
    raw = exoflow.task(name="raw", can_rollback=True)(lambda: 1)
    both = exoflow.task(can_rollback=True)(lambda *outputs: None)
    memory.run(both.bind(on_lost.bind(drawn.bind()), commits.bind(raw.bind()), undoable.bind(raw.bind()), catches.bind(1)), name="w")
    assert sorted(runs) == ["commits", "undoable"]
    reasons = {each.task: each.reason for each in audit(memory, "w")}
    assert reasons == {
        "on_lost": "its input 'drawn' was not saved",
        "commits": "it is committing: it may have effects, and is not run for an audit",
        "undoable": "it is undoable: it may have effects, and is not run for an audit",
    }
    assert sorted(runs) == ["commits", "undoable"]
    assert audit(memory, "w", "catches")[0].reason == "it catches exceptions"
    assert audit(memory, "w", "raw")[0].reason == "it is not annotated deterministic"


def test_a_task_that_fails_now_says_so(memory, counter):
    @exoflow.task(**PURE)
    def once():
        if next(counter):
            raise LookupError("it is gone")
        return 1

    memory.run(once.bind(), name="w")
    (failed,) = audit(memory, "w")
    assert (failed.verdict, failed.reason) == ("failed", "LookupError: it is gone")


def test_a_dag_is_an_output_too(memory, counter):
    part = exoflow.task(can_rollback=True)(lambda number: number)

    @exoflow.task(**PURE)
    def grows():
        return [part.bind(1) for _ in range(next(counter) + 1)]

    @exoflow.task(**PURE)
    def grows_alike():
        return [double.bind([1]), double.bind([2])]

    both = exoflow.task(can_rollback=True)(lambda *outputs: None)
    memory.run(both.bind(grows.bind(), grows_alike.bind()), name="w")
    found = audit(memory, "w")
    assert verdicts(found) == {"grows": "lies", "grows_alike": "agrees", "grows_alike/double": "agrees", "grows_alike/double_2": "agrees"}
    assert "it returned another DAG: tasks gone" in found[0].differs


def test_a_task_that_changes_its_arguments_does_not_mislead(memory):
    pops = exoflow.task(name="pops", **PURE)(lambda numbers: [numbers.pop(), len(numbers)])
    memory.run(pops.options(checkpoint=False).bind([1, 2, 3]) >> double.bind([1]), name="w")
    assert verdicts(audit(memory, "w"))["pops"] == "agrees"


def test_an_output_without_state_cannot_be_compared(memory):
    @exoflow.task(checkpoint=False, **PURE)
    def lock():
        return threading.Lock()

    memory.run(exoflow.task(can_rollback=True)(lambda held: 1).bind(lock.bind()), name="w")
    assert audit(memory, "w")[0].reason == "its output has no state that could be compared"


def test_a_running_workflow_is_audited_as_far_as_it_got(memory):
    go_on = threading.Event()
    wait = exoflow.task(can_rollback=True)(lambda numbers: go_on.wait(30))
    future = memory.run_async(wait.bind(double.options(checkpoint="sync").bind(read.bind(2))), name="w")
    try:
        while not memory.get_metadata("w").tasks[1].durable:
            threading.Event().wait(0.001)
        assert verdicts(audit(memory, "w")) == {"double": "agrees"}
    finally:
        go_on.set()
    assert future.result() is True


def test_names_that_do_not_exist(memory):
    memory.run(double.bind([1]), name="w")
    with pytest.raises(WorkflowNotFoundError):
        audit(memory, "nobody")
    with pytest.raises(TaskNotFoundError):
        audit(memory, "w", "nobody")


# --- where values differ ---------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    price: object


class Box:
    def __init__(self, **inside):
        vars(self).update(inside)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (1, 2, "the output: 1 before, 2 now"),
        ([1, [2, 3]], [1, [2, 4]], "[1][1]: 3 before, 4 now"),
        ({"a": (1,)}, {"a": [1]}, "['a']: (1,) before, [1] now"),
        ([1], [1, 2], "the output: [1] has come"),
        ({"a": 1, "b": 2}, {"a": 1, "c": 2}, "the output: ['b'] is gone; ['c'] has come"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "the output: the same parts in another order"),
        (Row([1]), Row([2]), ".price[0]: 1 before, 2 now"),
        (Box(a=Box(b=1)), Box(a=Box(b=2)), ".a.b: 1 before, 2 now"),
        ({1, 2}, {1, 3}, "the output: {1, 2} before, {1, 3} now"),
    ],
)
def test_the_first_difference(before, now, said):
    assert first_difference(before, now) == said
