"""A hundred random schedules of kills on a cluster of three nodes; ``python -m tests.backends.ray.chaos`` runs as many as one likes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow  # nodes and processes are killed and made, for minutes
@pytest.mark.timeout(1500)
def test_nothing_is_done_twice_whatever_part_of_ray_is_killed():
    command = [sys.executable, "-m", "tests.backends.ray.chaos", "--schedules", "100", "--seed", "1", "--jobs", "2"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "100 schedules" in done.stdout
