"""The judge is judged: every bug that we know how to make is found, and the engine without it is not accused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from exoflow.testing.mutants import patch
from exoflow.testing.mutants.__main__ import as_campaign
from exoflow.testing.mutants.hunt import Hunt, hunt
from exoflow.testing.mutants.mutant import Mutant
from exoflow.testing.mutants.table import MUTANTS

ROOT = Path(__file__).parents[3]
SCHEDULES_MAX = {"machine": 2_000, "simulation": 300, "kills": 30, "power": 1_000, "suites": 150}
"""A change of the engine may have moved the moment that shows a bug to another seed behind the one that was kept."""


@pytest.mark.parametrize("name", MUTANTS)
def test_it_has_not_withered(name: str) -> None:
    """Its text still stands in the engine, once, and what it becomes is Python."""
    mutant = MUTANTS[name]
    compile(patch.changed_source(mutant), mutant.module, "exec")


def test_they_differ() -> None:
    assert len({(mutant.module, mutant.old, mutant.new) for mutant in MUTANTS.values()}) == len(MUTANTS)
    assert len({mutant.breaks for mutant in MUTANTS.values()}) == len(MUTANTS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ring", sorted({mutant.ring for mutant in MUTANTS.values()}))
def test_every_mutant_is_found(ring: str) -> None:
    """By the schedule that found it before, which shows nothing in the engine as it is. Slow: an engine of its own for each mutant.

    If one is not, look first whether the bug is still one; then ``python -m exoflow.testing.mutants --mutant NAME --save`` looks for
    another schedule."""
    command = [sys.executable, "-m", "exoflow.testing.mutants", f"--ring={ring}", "--saved", f"--schedules={SCHEDULES_MAX[ring]}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _bug(old: str, new: str) -> Mutant:
    return Mutant(name="of this test", breaks="", module="exoflow.core.ending", old=old, new=new)


@pytest.mark.slow
def test_what_is_no_bug_is_not_found() -> None:
    """Slow: an engine of its own."""
    found = hunt(_bug("state.outcome = record", "state.outcome = record  # as it is"), schedules_max=20)
    assert (found.seed, found.found) == (None, "")
    assert found.schedules > 10


@pytest.mark.slow
def test_a_bug_that_ends_everything_is_found_at_once() -> None:
    """Slow: an engine of its own."""
    found = hunt(_bug("state.outcome = record", "raise KeyError('outcome')"), schedules_max=20)
    assert found.schedules == 1
    assert found.found == "KeyError: 'outcome'"


def test_a_campaign_says_how_many_schedules_each_took() -> None:
    hunts = [Hunt(mutant="found", ring="machine", schedules=7, seed=6), Hunt(mutant="not", ring="kills", schedules=9)]
    campaign = as_campaign(hunts, "now", 1.0, 2)
    assert campaign.counts == {"machine: found": 7, "kills: not": -1}
    assert campaign.violations == 1
    assert campaign.stories == ["not survived 9 schedules"]


def test_a_text_that_is_not_there_is_said() -> None:
    with pytest.raises(ValueError, match="stands 0 times in exoflow"):
        patch.changed_source(_bug("no such text", ""))
