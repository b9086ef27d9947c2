"""``make demo-ray`` proves its point."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.examples import pages


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_with_ray_proves_its_point():
    """It starts two Rays, and kills one of them."""
    demo = [sys.executable, str(pages.ROOT / "examples/training/demo.py")]
    done = subprocess.run(demo, env=pages.environment(), capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  NO " not in done.stdout
