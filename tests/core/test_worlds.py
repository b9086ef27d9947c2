"""Random workflows in random worlds: whatever crashes, gets lost, fails or is cancelled, the outcome is that of a run without failures.

Each seed draws a workflow and a schedule of faults. ``python -m exoflow.testing.machine`` runs any number of them.
"""

from __future__ import annotations

import pytest

from exoflow.testing.machine.settings import SETTINGS, drawn_world

SEEDS = 800


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_outcome_is_that_of_a_run_without_failures(setting: str) -> None:
    """Whatever happens on the way, one version of each task is seen by everyone and each effect stands once. Slow: hundreds of seeds."""
    worlds = 0
    for seed in range(SEEDS):
        world = drawn_world(seed, setting)
        if world is None:
            continue
        worlds += 1
        try:
            world.run()
            world.judge()
        except Exception as error:
            error.add_note(f"seed {seed}, setting {setting!r}")
            raise
    assert worlds > SEEDS / 2
