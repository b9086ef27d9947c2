"""``exoflow simulate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exoflow.testing import campaign
from exoflow.testing.simulation.generate import scenario
from exoflow.testing.simulation.scenario import read, write
from exoflow.testing.simulation.shrink import simulate_one
from tests.simulation.test_many import forgetful

__all__ = ["forgetful"]


def test_one_seed_tells_what_happened(exo: Any) -> None:
    said = exo("simulate", "--seed", "5", "--log").out
    assert "w0 SUCCEEDED" in said
    assert "commit\n" in said
    told = exo.json("simulate", "--seed", "5")
    assert f"trace {told['trace']}\n" in said
    assert told["violations"] == []
    assert told["scenario"]["seed"] == 5


def test_a_saved_scenario(exo: Any) -> None:
    write(Path("s.json"), scenario(7))
    assert exo.json("simulate", "--scenario", "s.json")["trace"] == simulate_one(scenario(7)).trace
    Path("s.json").write_text("[]")
    assert "'s.json' is no scenario" in exo("simulate", "--scenario", "s.json", code=2).err
    assert "is no scenario" in exo("simulate", "--scenario", "nowhere.json", code=2).err


def test_many_seeds_are_counted_and_recorded(exo: Any) -> None:
    said = exo("simulate", "--seeds", "0:9", "--record", "campaigns.jsonl").out
    assert said.startswith("10 schedules, seeds 0 to 9: 0 broke something; workflows: ")
    assert "situations never reached: " in said
    (line,) = campaign.read(Path("campaigns.jsonl"))
    assert (line.kind, line.first_seed, line.last_seed, line.counts["schedules"]) == ("simulation", 0, 9, 10)
    assert line.command == "exoflow simulate --seeds 0:9 --jobs 1"


def test_fresh_seeds_for_a_time(exo: Any) -> None:
    assert exo.json("simulate", "--minutes", "0.001")["schedules"] >= 25


@pytest.mark.slow  # hundreds of schedules
@pytest.mark.usefixtures("forgetful")
def test_what_broke_can_be_repeated(exo: Any) -> None:
    told = exo.json("simulate", "--seeds", "0:200", code=1)
    seed = told["found"][0]["seed"]
    assert f"seed {seed}: " in exo("simulate", "--seeds", f"{seed}:{seed}", code=1).out
    said = exo("simulate", "--seed", str(seed), "--shrink", code=1)
    assert "VIOLATION" in said.out
    (path,) = Path().glob("scenario-*.json")
    assert f"exoflow simulate --scenario {path} --log" in said.err
    assert simulate_one(read(path)).violations
    assert json.loads(path.read_text())


@pytest.mark.parametrize("words", [(), ("--seeds", "9"), ("--seeds", "9:1"), ("--seeds", "a:b")])
def test_what_it_needs_to_know(exo: Any, words: tuple[str, ...]) -> None:
    assert "--seed" in exo("simulate", *words, code=2).err
