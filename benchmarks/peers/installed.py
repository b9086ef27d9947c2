"""What a rival's installation takes (P12), asked from inside its environment."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reading import Durable, Reading, Readings
from benchmarks.starting import MB, first_result, import_s

NOTE = "environment.json"
"""Written last, in an environment: what it holds, and that it is complete."""


def footprint(module: str, commands: Sequence[Sequence[str]], durable: Durable) -> Readings:
    """``commands``: each starts it with an empty store, prints a first result and waits."""
    note = json.loads((Path(sys.prefix) / NOTE).read_text("utf-8"))
    starts = [first_result(command) for command in commands]
    return {
        "packages": Reading(note["packages"], "", "no data"),
        "room on disk": Reading(note["room_bytes"] / MB, "MB", "no data"),
        "import": Reading(import_s(module, len(commands)), "s", "no data"),
        "idle memory": Reading(statistics.median(resident for _, resident in starts), "MB", durable),
        "start to first result": Reading(statistics.median(taken for taken, _ in starts), "s", durable),
    }
