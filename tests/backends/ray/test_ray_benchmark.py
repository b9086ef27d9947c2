"""What is measured on Ray can be measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.test_contestants import require_measured


@pytest.mark.slow  # a Ray of its own
@pytest.mark.timeout(300)
def test_the_engine_on_ray_is_measured(tmp_path: Path) -> None:
    require_measured("P7", tmp_path)
