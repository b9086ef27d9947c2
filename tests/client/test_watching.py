"""Waiting for what another engine drives, without an engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from exoflow.client.watching import Watching
from exoflow.errors import ClosedError
from exoflow.runtime.run import WorkflowFuture
from exoflow.runtime.threads import SYSTEM_THREADS


class Clock:
    """Calls when told to."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        self.later.append(action)

    def tick(self) -> None:
        waiting, self.later = self.later, []
        for action in waiting:
            action()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watching(clock: Clock) -> Watching:
    return Watching(clock, SYSTEM_THREADS)  # type: ignore[arg-type]


def future(**end: object) -> WorkflowFuture:
    made = WorkflowFuture("w", SYSTEM_THREADS)
    if "result" in end:
        made.set_result(end["result"])
    return made


def test_it_looks_until_there_is_something_to_wait_for(watching: Watching, clock: Clock) -> None:
    found = iter([None, None, future(result=7)])
    watched = watching.watch("w", lambda: next(found))
    clock.tick()
    clock.tick()
    assert not watched.done()
    clock.tick()
    assert watched.result(0) == 7
    assert clock.later == []


def test_what_looking_raises_is_the_end(watching: Watching, clock: Clock) -> None:
    watched = watching.watch("w", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    clock.tick()
    with pytest.raises(ZeroDivisionError):
        watched.result(0)


def test_nobody_waits_for_an_engine_that_is_closed(watching: Watching, clock: Clock) -> None:
    """Its clock forgets what was to be called, so nobody would ever look again."""
    unsettled = future()
    watched = [watching.watch("w", lambda: None), watching.watch("w", lambda: unsettled)]
    clock.tick()
    watching.close()
    watched.append(watching.watch("w", lambda: None))
    for each in watched:
        with pytest.raises(ClosedError):
            each.result(0)
    unsettled.set_result("late")  # changes nothing any more
