"""Folding the journal gives back what the machine knew; and the commands do not depend on hash order."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
from exoflow.testing.machine.world import World
from exoflow.testing.machine.settings import drawn_world
def do(self, event, real=World.do):
    before = self.machine.handle
    def handle(event):
        said = before(event)
        print(event, said)
        return said
    self.machine.handle = handle
    try:
        real(self, event)
    finally:
        del self.machine.handle
World.do = do
for seed in range(40):
    world = drawn_world(seed)
    if world is not None:
        world.run()
"""


@pytest.mark.slow
def test_the_commands_are_the_same_whatever_the_hash_seed() -> None:
    """Slow: two interpreters."""
    logs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True, timeout=60
        ).stdout
        for seed in ("0", "1")
    ]
    assert len(logs[0]) > 10_000
    assert logs[0] == logs[1]
