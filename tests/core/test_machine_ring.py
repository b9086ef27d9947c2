"""The machine ring itself: situations are reached, scenarios repeat what they once found, the smallest one is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from exoflow.core.machine import Machine
from exoflow.testing.machine import scenario as sc
from exoflow.testing.machine.__main__ import main, try_seeds
from exoflow.testing.machine.settings import drawn_world
from exoflow.testing.machine.shrink import scenario_of, shrunk, trouble, world_of
from exoflow.testing.machine.situations import SITUATIONS

WORLDS = sorted((Path(__file__).parent / "worlds").glob("*.json"))


def test_what_was_wrong_once_is_right_for_ever() -> None:
    """Scenarios that broke the core when they were found."""
    assert {path.name: story for path in WORLDS if (story := trouble(sc.load(path)))} == {}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_situation_is_reached() -> None:
    """And none is reached that has no name. Slow: thousands of worlds."""
    reached: set[str] = set()
    for first in range(0, 40_000, 1000):
        reached |= set(try_seeds(range(first, first + 1000), checked=False).reached)
        if reached >= SITUATIONS:
            break
    assert reached == SITUATIONS


@pytest.mark.slow
def test_a_world_goes_the_same_way_as_a_scenario(tmp_path: Path) -> None:
    """Whatever happened by chance is repeated from the file, to the same end. Slow: 60 worlds twice."""
    for seed in range(60):
        world = drawn_world(seed, checked=True)
        if world is not None:
            world.run()
            sc.save(tmp_path / "world.json", scenario_of(world))
            again = world_of(sc.load(tmp_path / "world.json"))
            again.run()
            assert [entry.record for entry in again.durable] == [entry.record for entry in world.durable]
            assert again.steps == world.steps


@pytest.mark.slow
def test_what_is_wrong_is_made_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A core that does not listen when an output is lost: found, made small, kept, told. Slow: worlds until one shows it."""
    real = Machine._note

    def note(self: Machine, event: object) -> None:
        if type(event).__name__ != "OutputsLost":
            real(self, event)

    monkeypatch.setattr(Machine, "_note", note)
    monkeypatch.setattr("sys.argv", ["machine", "--seeds", "0:3000", "--keep", str(tmp_path), "--jobs", "1"])
    assert main() == 1
    said = capsys.readouterr().out
    assert "repeat: python -m exoflow.testing.machine --seeds" in said
    (path,) = tmp_path.glob("*.json")
    smallest = sc.load(path)
    assert trouble(smallest) == smallest.story != ""
    assert len(smallest.tasks) <= 3
    assert len(smallest.steps) <= 8
    monkeypatch.setattr("sys.argv", ["machine", "--scenario", str(path)])
    assert main() == 1
    monkeypatch.undo()
    assert trouble(smallest) == ""
    assert shrunk(smallest, seconds=0).story == ""
