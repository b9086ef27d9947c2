"""The soak works, and sees what grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import WORK, Sample, growth_of, soak


def samples(**growing: float) -> list[Sample]:
    flat = Sample(at_s=0, workflows=0, resident_mb=60, handles=15, threads=13, files=300)
    return [flat._replace(**{name: getattr(flat, name) + step * at for name, step in growing.items()}) for at in range(30)]


def test_what_stays_as_it_is_has_not_grown() -> None:
    assert growth_of(samples()) == []
    assert growth_of(samples(at_s=10, workflows=1_000)) == []


@pytest.mark.parametrize(("name", "step"), [("resident_mb", 1.0), ("handles", 0.5), ("threads", 0.5), ("files", 1.0)])
def test_what_grows_is_said(name: str, step: float) -> None:
    (found,) = growth_of(samples(**{name: step}))
    assert found.startswith(f"{name} grew from ")


@pytest.mark.slow  # some hundred workflows of all kinds
def test_it_works_and_looks(tmp_path: Path) -> None:
    said: list[str] = []
    taken = soak(tmp_path, seconds=1.0, every_s=0.2, say=said.append)
    assert len(taken) >= 2
    assert len(said) == 1 + len(taken)
    assert taken[-1].workflows > len(WORK)
    assert all(each.resident_mb > 10 and each.handles > 3 for each in taken)
