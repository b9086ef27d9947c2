"""Values for property tests: made from data alone, so that two processes with different hash seeds make equal ones."""

from __future__ import annotations

import dataclasses
import enum
import fractions
from collections import OrderedDict
from typing import NamedTuple

from hypothesis import strategies as st


class Colour(enum.Enum):
    RED = 1
    GREEN = "g"


@dataclasses.dataclass(frozen=True)
class Point:
    x: object
    y: object = None


class Pair(NamedTuple):
    left: object
    right: object


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and other.value == self.value

    def __hash__(self) -> int:
        return 0


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(),
    st.binary(),
    st.sampled_from(Colour),
    st.fractions(),
)
keys = st.one_of(st.booleans(), st.integers(), st.text(), st.binary(), st.tuples(st.integers(), st.text()))


def containers(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(keys, inner, max_size=5),
        st.frozensets(keys, max_size=5),
        st.sets(keys, max_size=5),
        inner.map(Point),
        st.builds(Pair, inner, inner),
        inner.map(Plain),
        st.dictionaries(st.text(), inner, max_size=3).map(OrderedDict),
        st.binary().map(bytearray),
    )


values = st.recursive(scalars, containers, max_leaves=20)

SAMPLES: list[object] = [
    None, True, 0, -(10**40), 1.5, -0.0, float("inf"), 1j, "", "ä\udcff", b"\0", bytearray(b"x"), Colour.RED, fractions.Fraction(1, 3),
    [], (), {}, set(), frozenset({"a", "b", "c", 1, 2.5, (1, "x")}), {"k": [1, (2, {3})]}, Point({"x", "y"}), Pair(1, Point(2)), Plain([1]),
    OrderedDict(a=1), range(3), slice(1, 2), Ellipsis, int, len, Point, {b"k": {frozenset({1, "1"}): None}}, [1, 1.0, True, "1", b"1"],
]  # fmt: skip
"""One of each kind, for a comparison between processes."""
