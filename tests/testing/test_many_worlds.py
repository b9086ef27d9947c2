"""The core in tens of thousands of random worlds, each time CI runs. ``python -m exoflow.testing.machine`` goes on from there."""

from __future__ import annotations

import pytest

from exoflow.testing.machine.__main__ import try_seeds

LOT = 4_000
FIRST = range(100_000, 164_000, LOT)


@pytest.mark.slow  # thousands of schedules
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", FIRST)
def test_nothing_is_judged_wrong(first: int) -> None:
    tally = try_seeds(range(first, first + LOT))
    assert not tally.broken
    assert tally.counts["schedules"] * len(FIRST) > 50_000
