"""The commit rule, compared with brute force: sound, and never stricter than it must be."""

from __future__ import annotations

import random

import pytest

from exoflow.core import stability
from exoflow.testing.machine.cross_check import compare, drawn, main
from exoflow.testing.machine.drive import Tally
from exoflow.testing.machine.exhaustive import CONFIGURATIONS, SIZES, configuration
from exoflow.testing.machine.reference import DURABLE, LOST, PRESENT, UNEXECUTED, Reference
from exoflow.testing.machine.scenario import Line


def agrees(tally: Tally) -> None:
    assert tally.broken == []
    assert [name for name, count in tally.counts.items() if count and "without need" in name] == []


@pytest.mark.slow
def test_all_of_one_and_two_tasks_and_some_of_three() -> None:
    """The whole takes a minute: python -m exoflow.testing.machine.cross_check. Slow: thousands of states."""
    total = Tally()
    for number in range(SIZES[1] + SIZES[2]):
        total.add(compare(configuration(number)))
    rng = random.Random(1)
    for _ in range(400):
        total.add(compare(configuration(rng.randrange(SIZES[1] + SIZES[2], CONFIGURATIONS))))
    agrees(total)
    assert total.counts["committing: safe to start"] > 1000
    assert total.counts["undoable: safe to start"] > 1000


@pytest.mark.slow
def test_some_of_four_and_five_tasks() -> None:
    """Slow: tens of thousands of states."""
    total = Tally()
    for seed in range(300):
        total.add(compare(drawn(seed)))
    agrees(total)


def test_the_reference_knows_why_a_cut_is_not_enough() -> None:
    """The first counter-example of docs/semantics.md: everything that c reads is saved, and still it is not safe to start it."""
    lines = (
        Line("a"),
        Line("b", ("a",), save="async"),
        Line("c", ("b",), kind="committing", save="async"),
        Line("d", ("a",)),
        Line("both", ("c", "d"), save="async"),
    )
    reference = Reference(lines)
    before_d_ran = (PRESENT, DURABLE, UNEXECUTED, UNEXECUTED, UNEXECUTED)
    assert before_d_ran in reference.lawful
    assert not reference.safe(before_d_ran, 2)
    assert not reference.can_finish(), "d's output can be lost as well, and then a is needed again"
    d_is_saved = Reference((*lines[:3], Line("d", ("a",), save="async"), lines[4]))
    assert d_is_saved.safe((LOST, DURABLE, UNEXECUTED, DURABLE, UNEXECUTED), 2)


def of_two_tasks() -> Tally:
    total = Tally()
    for number in range(SIZES[1], 300):
        total.add(compare(configuration(number)))
    return total


@pytest.mark.slow
def test_a_rule_that_allows_everything_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow: hundreds of workflows."""
    monkeypatch.setattr(stability.Blocked, "is_bad", lambda self, root: False)
    broken = of_two_tasks().broken
    assert any("which is not safe" in text for text in broken)
    assert any("can never start safely" in text for text in broken)


@pytest.mark.slow
def test_a_rule_that_wants_everything_saved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow: hundreds of workflows."""
    monkeypatch.setattr(stability.Blocked, "is_bad", lambda self, root: not self.task.durable)
    monkeypatch.setattr(stability, "_is_plain", lambda prop, task: False)
    counts = of_two_tasks().counts
    assert counts["committing: held back without need"] > 0
    assert counts["refused without need"] > 0


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["cross_check", "--seeds", "0:20"])
    assert main() == 0
    assert "20 workflows" in capsys.readouterr().out
