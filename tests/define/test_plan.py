"""From nodes to a plan: what replaces nodes in arguments, what stays as it is, what the plan means."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exoflow import InputNode, codec, task
from exoflow.define.dag import Node, Slot, nodes_in, substitute
from exoflow.define.plan import Plan, encode_plan, find_dag, graph_of, make_plan
from exoflow.errors import ForeignNodeError

settings.register_profile("deterministic", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("deterministic")


@task
def leaf(value=None):
    return value


@task
def join(*values, **named):
    return values, named


@dataclasses.dataclass
class Box:
    inside: object
    label: str = ""
    up: object = None


class Pair(NamedTuple):
    left: object
    right: object


class Mark:
    """Stands for a node in a shape."""

    def __repr__(self):
        return "MARK"


MARK = Mark()


def nested(inner):
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
        inner.map(Box),
        st.builds(Pair, inner, inner),
    )


shapes = st.recursive(st.one_of(st.integers(), st.text(max_size=3), st.just(MARK)), nested, max_leaves=25)


def count(value):
    if value is MARK:
        return 1
    if isinstance(value, dict):
        return sum(map(count, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(count, value))
    if isinstance(value, Box):
        return count(value.inside)
    return 0


@given(shapes)
def test_each_mark_is_replaced_and_the_rest_keeps_its_shape(shape):
    found = []

    def replace(mark):
        found.append(mark)
        return "new"

    before = repr(shape)
    result = substitute((shape,), {}, replace, (Mark,))[0][0]
    assert repr(result) == before.replace("MARK", "'new'")
    if count(shape) == 0:
        assert result is shape, "what holds nothing is not copied"
    assert repr(shape) == before
    assert len(found) <= count(shape)


def test_what_is_shared_is_replaced_once_and_stays_shared():
    node = leaf.bind()
    shared = [node]
    result = substitute(({"a": shared, "b": (shared, shared)},), {}, lambda _: 1, (Node,))[0][0]
    assert result == {"a": [1], "b": ([1], [1])}
    assert result["a"] is result["b"][0] is result["b"][1]


def test_what_holds_itself_is_left_alone():
    box = Box([1, 2])
    box.up = box
    assert substitute((box,), {}, lambda _: 0, (Node,))[0][0] is box
    ring: list[object] = []
    ring.append(ring)
    assert nodes_in(({"k": ring},), {}) == []


def test_a_graph_of_objects_is_walked_once():
    """Many ways lead through it; walking each would never end."""
    layers = [Box(None)]
    for _ in range(200):
        layers.append(Box([layers[-1], layers[-1]], up=layers[0]))
    assert nodes_in((layers[-1],), {}) == []


def test_nodes_are_found_in_order_and_as_often_as_they_occur():
    a, b = leaf.bind(1), leaf.bind(2)
    assert nodes_in(([a, {"k": (b, a)}, Pair(b, 1)],), {}) == [a, b, a, b]


def test_the_plan_of_a_dag():
    a = leaf.bind(1)
    plan = make_plan(join.bind(a, [a, leaf.bind(2)], k=InputNode()), (5,))
    assert list(plan.calls) == ["leaf", "leaf_2", "join"]
    call = plan.calls["join"]
    assert [slot.index for slot in (call.args[0], *call.args[1])] == [0, 0, 1]
    assert all(isinstance(slot, Slot) for slot in (call.args[0], *call.args[1]))
    assert call.kwargs == {"k": 5}
    (spec,) = [spec for spec in plan.graph.tasks if spec.id == "join"]
    assert spec.reads == ("leaf", "leaf_2")
    assert plan.graph.root == "join"
    assert graph_of(join.bind(a, InputNode())).root == "join"


def test_what_a_plan_means():
    """The definition and the arguments, not the code; the same after a trip through bytes."""
    from exoflow.runtime.values import decode

    def means(node, *args, **kwargs):
        return make_plan(node, args, kwargs).meaning()

    base = means(join.bind(leaf.bind(1)))
    assert base == means(join.bind(leaf.bind(1)))
    assert base == decode(encode_plan(make_plan(join.bind(leaf.bind(1)))), "plan").meaning()
    others = [
        join.bind(leaf.bind(2)),
        join.bind(leaf.bind(1.0)),
        join.bind(k=leaf.bind(1)),
        join.bind(leaf.bind(1), leaf.bind(1)),
        join.options(retries=1).bind(leaf.bind(1)),
        join.options(name="x").bind(leaf.bind(1)),
        join.bind(leaf.options(checkpoint="sync").bind(1)),
        join.bind(leaf.options(executor="inline").bind(1)),
        join.bind(leaf.options(rollback=undo).bind(1)),
        join.bind(leaf.options(deterministic=True).bind(1)),
        leaf.bind(join.bind(1)),
    ]
    meanings = [means(node) for node in others]
    assert len({base, *meanings}) == len(others) + 1
    inp = InputNode()
    assert means(join.bind(inp[0], inp.k), 1, k=2) == means(join.bind(1, 2)), "inputs are arguments"


def undo(value):
    """Undoes nothing."""


def test_a_node_is_no_value():
    with pytest.raises(ForeignNodeError, match="node 'leaf' is part of a DAG, not a value"):
        copy.deepcopy(leaf.bind())


@pytest.mark.parametrize("plain", [1, None, [], (), {}, [1, 2], {"a": [1]}, "x", [[1]], Box(1)])
def test_plain_outputs_are_no_dags(plain):
    assert find_dag(plain) is None


def test_outputs_that_are_dags():
    for output in (leaf.bind(), [leaf.bind(), 1], (1, leaf.bind()), {"a": leaf.bind()}):
        plan = find_dag(output)
        assert plan is not None
        assert "leaf" in plan.calls
    assert find_dag([[leaf.bind()]]) is None, "deeper down it would have to be looked for in every output"


@pytest.mark.slow
def test_thousands_of_tasks_in_a_row():
    """No recursion, and no time that grows with the square. (Many tasks take a while.)"""
    node = leaf.bind()
    for _ in range(20_000):
        node = leaf.bind(node)
    plan = make_plan(node)
    assert len(plan.calls) == 20_001
    assert plan.graph.tasks[0].id == "leaf"


class FieldByField(pickle.Pickler):
    """As plans were pickled before they were in columns: stores that were written then are still read."""

    def reducer_override(self, value):
        return (Plan, msgspec.structs.astuple(value)) if isinstance(value, Plan) else NotImplemented


def test_a_plan_comes_back_as_it_was():
    first = leaf.bind([1, "two"])
    third = join.bind(first, leaf.options(timeout=3, checkpoint="async").bind(), named={"up": first})
    third.come_after(leaf.bind(None))
    plan = make_plan(third)
    encoded = encode_plan(plan)
    assert codec.decode(encoded) == codec.sketch(encoded) == plan
    before = io.BytesIO()
    FieldByField(before, protocol=5).dump(plan)
    assert before.getvalue() != encoded.header
    assert pickle.loads(before.getvalue()) == plan
