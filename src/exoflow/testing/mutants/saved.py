"""Seeds that killed a mutant, kept in a file beside the tests, so that every run of the tests kills it again within a few schedules."""

from __future__ import annotations

from pathlib import Path

import msgspec

from exoflow.testing.mutants.hunt import Hunt, hunt
from exoflow.testing.mutants.mutant import Mutant

FILE = Path("tests/testing/mutants/killing_seeds.json")


def read() -> dict[str, int]:
    """The seed that killed it, by mutant."""
    return msgspec.json.decode(FILE.read_bytes(), type=dict[str, int]) if FILE.exists() else {}


def keep(hunts: list[Hunt]) -> None:
    """Note the seeds of ``hunts`` beside those of other mutants, which stay."""
    seeds = read() | {found.mutant: found.seed for found in hunts if found.seed is not None}
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(dict(sorted(seeds.items()))), indent=1) + b"\n")


def hunt_with_saved(mutant: Mutant, schedules_max: int) -> Hunt:
    """Hunt, beginning at the seed that is kept (a change of the engine may have moved the moment to one near it)."""
    return hunt(mutant, read().get(mutant.name, 0), schedules_max)
