"""What a rollback is called with: those arguments of its task that it takes, however either of them takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from exoflow.define.plan import Call
from exoflow.runtime.calls import undo_arguments
from exoflow.runtime.values import Values
from exoflow.store.memory import MemoryStore


def called(function: Callable[..., Any], undo: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What ``undo`` returns after ``function(*args, **kwargs)`` is to be undone."""
    call = Call("f", args, kwargs, "thread")
    given, named = undo_arguments(Values(MemoryStore(), "w"), call, (), function, undo)
    inspect.signature(undo).bind(*given, **named)
    return undo(*given, **named)


def test_a_rollback_gets_what_it_names() -> None:
    assert called(lambda a, b=2, *, c=3: None, lambda c, a: (a, c), 1, c=9) == (1, 9)


def test_defaults_of_the_task_are_values_that_it_got() -> None:
    assert called(lambda a, b=2: None, lambda b=None: b, 1) == 2


def test_a_rollback_with_the_same_star_gets_the_same_items() -> None:
    """It was called with a keyword of that name, which fails, and blocked the workflow."""
    assert called(lambda *seats: None, lambda *seats: seats, "1A", "1B") == ("1A", "1B")


def test_a_parameter_without_a_star_gets_the_items_as_a_tuple() -> None:
    assert called(lambda *seats: None, lambda seats: seats, "1A", "1B") == ("1A", "1B")


def test_what_stands_before_the_star_keeps_its_place() -> None:
    """The items were silently put elsewhere."""

    def book(trip: str, *seats: str, row: int = 3, **rest: Any) -> None: ...

    def cancel(trip: str, colour: str = "red", *seats: str, row: int = 0, **rest: Any) -> Any:
        return trip, colour, seats, row, rest

    assert called(book, cancel, "rome", "1A", "1B", row=5, meal="fish") == ("rome", "red", ("1A", "1B"), 5, {"meal": "fish"})


def test_a_star_that_the_task_does_not_have_stays_empty() -> None:
    assert called(lambda a: None, lambda *others, a: (a, others), 1) == (1, ())


def test_positional_only_parameters() -> None:
    def book(trip: str, /, seat: str) -> None: ...

    def cancel(seat: str, trip: str, /, row: int = 7) -> Any:
        return seat, trip, row

    assert called(book, cancel, "rome", "1A") == ("1A", "rome", 7)


def test_a_rollback_that_takes_everything_gets_everything_by_name() -> None:
    def book(trip: str, *seats: str, **rest: Any) -> None: ...

    assert called(book, lambda **all_of_it: all_of_it, "rome", "1A", meal="fish") == {"trip": "rome", "seats": ("1A",), "meal": "fish"}


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_rollback_may_take_nothing_but_a_keyword_of_its_own(name: str) -> None:
    assert called(lambda a, b: None, lambda **named: named[name], 1, 2) == {"a": 1, "b": 2}[name]
