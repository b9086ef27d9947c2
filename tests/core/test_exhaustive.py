"""The exhaustive tier: its configurations are all there are; a slice of them; it finds what is planted; it goes on where it stopped."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from exoflow.core.readiness import GATE
from exoflow.core.spec.annotations import Kind
from exoflow.testing.machine import scenario as sc
from exoflow.testing.machine.exhaustive import CONFIGURATIONS, SIZES, configuration, main, try_configuration, try_lot, try_pairs


@pytest.mark.slow
def test_there_are_as_many_as_there_should_be_and_no_two_are_equal() -> None:
    """Slow: all 47,322 of them."""
    assert SIZES == {1: 18, 2: 648, 3: 46_656}
    assert CONFIGURATIONS == 47_322
    assert len({configuration(number) for number in range(CONFIGURATIONS)}) == CONFIGURATIONS
    with pytest.raises(ValueError, match="47322"):
        configuration(CONFIGURATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SIZES[1] + SIZES[2], 111))
def test_all_of_one_and_two_tasks(first: int) -> None:
    """Every crash and every loss in each. Slow: 3,000 runs each time, 18,000 together."""
    tally = try_lot(range(first, first + 111))
    assert tally.broken == []
    assert tally.counts["configurations"] == 111
    assert tally.counts["refused"] == tally.counts["mended"] >= (first > 0)
    assert tally.counts["runs"] > 2000


@pytest.mark.slow
def test_some_of_three_tasks() -> None:
    """The whole takes a quarter of an hour: python -m exoflow.testing.machine.exhaustive. Slow: thousands of runs."""
    rng = random.Random(3)
    for _ in range(40):
        assert try_configuration(rng.randrange(SIZES[1] + SIZES[2], CONFIGURATIONS)).broken == []


@pytest.mark.slow
def test_some_pairs_of_faults() -> None:
    """Slow: a thousand runs."""
    tally = try_pairs(range(800))
    assert tally.broken == []
    assert tally.counts["pairs"] + tally.counts["refused"] == 800


def test_a_core_that_does_not_hold_commits_back_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A nondeterministic task that is not saved, and a commit on it. (The check uses the same rule, and so no longer refuses it.)"""
    monkeypatch.delitem(GATE, Kind.COMMITTING)
    number = next(n for n in range(CONFIGURATIONS) if configuration(n) == (sc.Line("t0"), sc.Line("t1", ("t0",), kind="committing")))
    broken = try_configuration(number, tmp_path).broken[0]
    assert f"repeat: python -m exoflow.testing.machine.exhaustive --first {number}" in broken
    (path,) = tmp_path.glob("*.json")
    assert len(sc.load(path).steps) == 3


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Slow: hundreds of runs."""
    progress = str(tmp_path / "progress")
    for last, runs in (("24", 1), ("72", 2), ("72", 0)):
        monkeypatch.setattr("sys.argv", ["exhaustive", "--last", last, "--progress", progress])
        before = len(Path(progress).read_bytes().splitlines()) if runs != 1 else 0
        assert main() == 0
        assert len(Path(progress).read_bytes().splitlines()) == before + runs
    assert "72 configurations" in capsys.readouterr().out
