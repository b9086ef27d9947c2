"""Results of long runs: one JSON line for each, appended to a file that the reliability page is generated from.

A campaign is any run whose numbers are published: simulated schedules, kills, power-loss states, mutants. It says what was counted, at
which commit, by which command, so that whoever doubts a number can make it again.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
from pathlib import Path
from typing import Literal

import msgspec

Kind = Literal["simulation", "machine", "exhaustive", "cross-check", "kills", "power-loss", "bit-rot", "mutants", "crash-everywhere", "ray"]


class Campaign(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One run.

    Attributes:
        kind: what sort of run it was.
        command: repeats it.
        commit: of the tree that was tested; ``-dirty`` behind it if that had uncommitted changes.
        began: ISO date and time, UTC. seconds: how long it took. cores: how many processes worked at once.
        first_seed, last_seed: the range of seeds, both included; -1 where there are none.
        counts: what was done, by name (``schedules``, ``kills``, ``states``, …).
        situations: how often each named situation was reached.
        violations: how often exactly-once was broken. stories: what the first of them were, and how to repeat them.
    """

    kind: Kind
    command: str
    commit: str = ""
    began: str = ""
    seconds: float = 0.0
    cores: int = 1
    first_seed: int = -1
    last_seed: int = -1
    counts: dict[str, int] = {}
    situations: dict[str, int] = {}
    violations: int = 0
    stories: list[str] = []


def now() -> str:
    """The time, for ``began``."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def commit_of(folder: Path) -> str:
    """The commit that is checked out in ``folder``, or "" where there is no git."""
    try:
        command = ["git", "-C", os.fspath(folder), "describe", "--always", "--abbrev=12", "--exclude=*"]
        described = subprocess.run([*command, "--dirty"], capture_output=True, check=True, text=True)  # noqa: S603 - a constant list
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


def append(path: Path, campaign: Campaign) -> None:
    """Add ``campaign`` to the file at ``path``, which is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(campaign) + b"\n")


def read(path: Path) -> list[Campaign]:
    """All campaigns of a file, in order. Raises msgspec.ValidationError if a line is none."""
    return [msgspec.json.decode(line, type=Campaign) for line in path.read_bytes().splitlines() if line.strip()]
