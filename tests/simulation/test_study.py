"""Users ask what crashes would do to a workflow of theirs."""

from __future__ import annotations

import pytest

import exoflow
from exoflow.testing import simulate


@exoflow.task
def price() -> float:
    raise AssertionError("simulations call no function of users")


def give_back(room: float) -> None:
    raise AssertionError("nor their rollbacks")


@exoflow.task(rollback=give_back)
def book(room: float) -> str:
    raise AssertionError


@exoflow.task
def charge(room: str) -> None:
    raise AssertionError


@exoflow.task(checkpoint=False, can_rollback=True)
def guess() -> float:
    raise AssertionError


@pytest.mark.slow  # whole lives of engines
def test_it_says_what_may_happen_to_each_task() -> None:
    report = simulate(charge.bind(book.bind(price.bind())), seeds=60)
    assert report.ok, report
    assert report.schedules == 60
    assert {task.task: task.kind for task in report.tasks} == {"price": "committing", "book": "undoable", "charge": "committing"}
    text = str(report)
    assert "'charge' had its effect again, with the same idempotency key, in " in text
    assert "'book' was rolled back in " in text


def test_an_unsafe_workflow_is_not_simulated() -> None:
    report = simulate(charge.bind(guess.bind()), seeds=5)
    assert not report.ok
    assert report.schedules == 0
    assert "'guess' is nondeterministic and not saved" in report.findings[0]


def test_mode_auto_makes_it_safe_first() -> None:
    report = simulate(charge.bind(guess.bind()), seeds=range(3), mode="auto")
    assert report.ok
    assert sum(report.statuses.values()) >= 3
