"""``make demo-spark`` proves its point."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.examples import pages


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_with_spark_proves_its_point():
    """It starts three Java processes, and kills two of them."""
    demo = [sys.executable, str(pages.ROOT / "examples/imports/demo.py")]
    done = subprocess.run(demo, env=pages.environment(), capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  NO " not in done.stdout
