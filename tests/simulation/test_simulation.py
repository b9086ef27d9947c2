"""Schedules from seeds, each with faults of its own, judged; and that a seed means the same everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from exoflow.testing.simulation.driver import simulate_one
from exoflow.testing.simulation.generate import scenario
from exoflow.testing.simulation.scenario import read, write

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.json"))


@pytest.mark.slow  # hundreds of whole lives of engines
@pytest.mark.parametrize("first", range(0, 400, 50))
def test_whatever_goes_wrong_each_effect_stands_once(first: int) -> None:
    statuses: Counter[str] = Counter()
    for seed in range(first, first + 50):
        outcome = simulate_one(scenario(seed))
        assert outcome.violations == [], f"seed {seed}: {outcome.violations[0]}"
        statuses.update(outcome.statuses.values())
    assert statuses["SUCCEEDED"] > 30, statuses


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_what_went_wrong_once_never_does_again(path: Path) -> None:
    outcome = simulate_one(read(path))
    assert outcome.violations == []


TRACES = """
from exoflow.testing.simulation.driver import simulate_one
from exoflow.testing.simulation.generate import scenario
print([simulate_one(scenario(seed)).trace for seed in range(40, 60)])
"""


@pytest.mark.slow  # starts two interpreters
def test_a_seed_means_the_same_in_every_process() -> None:
    """I12: whatever order sets and dicts of that process have."""
    traces = [
        subprocess.run(
            [sys.executable, "-c", TRACES], env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=True, capture_output=True, text=True
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert traces[0] == f"{[simulate_one(scenario(seed)).trace for seed in range(40, 60)]}\n"


def test_a_scenario_can_be_read_again(tmp_path: Path) -> None:
    for seed in range(30):
        write(tmp_path / "s.json", scenario(seed))
        assert read(tmp_path / "s.json") == scenario(seed)
