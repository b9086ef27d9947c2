"""Fingerprints of values: equal for equal values in every process, different for different ones."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exoflow import codec, fingerprints
from tests.api.scene import run_python
from tests.codec.values import Colour, Pair, Plain, Point, values

settings.register_profile("deterministic", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("deterministic")


@given(values)
def test_a_copy_has_the_same_fingerprint(value):
    """Deep copies, and what comes back from bytes."""
    mark = fingerprints.fingerprint(value)
    assert len(mark) == 32
    assert fingerprints.fingerprint(value) == mark
    assert fingerprints.fingerprint(copy.deepcopy(value)) == mark
    assert fingerprints.fingerprint(codec.decode(codec.encode(value))) == mark
    assert fingerprints.fingerprint(pickle.loads(pickle.dumps(value))) == mark


@given(values, values)
def test_different_values_have_different_fingerprints(one, other):
    """``repr`` says enough of these values to tell them apart, but for the order in sets."""
    same = fingerprints.fingerprint(one) == fingerprints.fingerprint(other)
    if repr(one) == repr(other) and type(one) is type(other) and not isinstance(one, Plain):
        assert same
    elif one != other:
        assert not same


@given(st.lists(st.one_of(st.integers(), st.text(), st.booleans()), unique=True))
def test_the_order_in_which_a_set_grew_does_not_matter(items):
    grown, shrunk = set(items), set(range(10_000))
    shrunk.clear()
    for item in reversed(items):
        shrunk.add(item)
    assert fingerprints.fingerprint(grown) == fingerprints.fingerprint(shrunk)
    assert fingerprints.fingerprint(frozenset(grown)) == fingerprints.fingerprint(frozenset(shrunk))


def test_kinds_are_told_apart():
    """What is equal for Python, or prints alike, may still be another argument."""

    class Other(enum.Enum):
        RED = 1

    groups = [
        [1, 1.0, True, "1", b"1", 1 + 0j, [1], (1,), {1}, frozenset({1}), {1: None}, bytearray(b"1")],
        [0, False, None, "", b"", [], (), {}, set(), frozenset(), 0.0, -0.0, bytearray()],
        ["a", b"a", Colour.RED, Other.RED, "RED"],
        [Point(1), Point(1, 2), Pair(1, None), (1, None), {"x": 1, "y": None}, Plain(1)],
        [["ab"], ["a", "b"], ["", "ab"], [["ab"]], [["a"], "b"]],
        [{"a": 1, "b": 2}, {"b": 2, "a": 1}],
        [float("inf"), float("-inf"), float("nan")],
        [len, print, int, str, Point, Pair],
        [lambda: 1, lambda: 2, lambda x: 1],
    ]
    for group in groups:
        marks = [fingerprints.fingerprint(value) for value in group]
        assert len(set(marks)) == len(group), group


def test_enums_of_one_name_in_two_modules_are_told_apart():
    one, other = (enum.Enum("Shade", "RED", module=module) for module in ("here", "there"))
    assert fingerprints.fingerprint(one.RED) != fingerprints.fingerprint(other.RED)


def test_not_a_number_is_equal_to_itself_here():
    assert fingerprints.fingerprint(float("nan")) == fingerprints.fingerprint(float("nan"))


def test_values_that_hold_themselves():
    ring: list[object] = [1]
    ring.append(ring)
    other: list[object] = [1]
    other.append(other)
    assert fingerprints.fingerprint(ring) == fingerprints.fingerprint(other)
    other[0] = 2
    assert fingerprints.fingerprint(ring) != fingerprints.fingerprint(other)


def test_a_value_held_twice_is_a_value():
    """Whether two places hold one object or two equal ones makes no difference to a task, so it makes none here."""
    inner = [1, 2]
    assert fingerprints.fingerprint([inner, inner]) == fingerprints.fingerprint([[1, 2], [1, 2]])


def test_arrays_by_content():
    np = pytest.importorskip("numpy")
    array = np.arange(12.0).reshape(3, 4)
    assert fingerprints.fingerprint(array) == fingerprints.fingerprint(array.copy())
    for other in (array + 1, array.astype(np.float32), array.reshape(4, 3), array.T):
        assert fingerprints.fingerprint(other) != fingerprints.fingerprint(array)


@pytest.mark.parametrize(
    "make",
    [
        threading.Lock,
        lambda: (n for n in range(2)),
        lambda: {"deep": [threading.Lock()]},
        lambda: open("/dev/null"),  # noqa: SIM115 - closed below
    ],
)
def test_what_has_no_state_to_look_at(make):
    value = make()
    with pytest.raises(codec.NotSerializable):
        fingerprints.fingerprint(value)
    if hasattr(value, "close"):
        value.close()


def test_what_refuses_to_be_looked_at():
    class Refuses:
        def __reduce__(self):
            raise ZeroDivisionError("not me")

    with pytest.raises(codec.NotSerializable, match="not me"):
        fingerprints.fingerprint([Refuses()])


def test_very_deep_values():
    deep: object = None
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(codec.NotSerializable):
        fingerprints.fingerprint(deep)


PRINT = """
import json
from exoflow import fingerprints
from tests.codec.values import SAMPLES
print(json.dumps([fingerprints.fingerprint(value) for value in SAMPLES]))
"""


@pytest.mark.slow
def test_every_process_gives_the_same():
    """(Starts processes with different hash seeds.)"""
    printed = {run_python(PRINT, env={"PYTHONHASHSEED": seed}) for seed in ("0", "1", "99")}
    assert len(printed) == 1
    marks = json.loads(printed.pop())
    assert len(set(marks)) == len(marks)


class Sealed:
    """Says by itself what it means."""

    def __init__(self, value, wrapping):
        self.value, self.wrapping = value, wrapping

    def __exoflow_meaning__(self):
        return self.value


def test_an_object_may_say_what_it_means():
    mark = fingerprints.fingerprint([Sealed({"a": 1}, b"x")])
    assert mark == fingerprints.fingerprint([Sealed({"a": 1}, b"y")])
    assert mark != fingerprints.fingerprint([Sealed({"a": 2}, b"x")])
    assert mark != fingerprints.fingerprint([{"a": 1}])
