"""Typed settings and where they come from: arguments win over the environment, that over ``[tool.exoflow]`` of pyproject.toml."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import msgspec

from exoflow.errors import InvalidOptionError

ENVIRONMENT_PREFIX = "EXOFLOW_"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set for an engine.

    Attributes:
        store: URL of the store; by default an SQLite file in ``.exoflow/`` of the working directory.
        threads: worker threads of the thread executor. processes: workers of the process executor. Both: number of tasks at once.
        loop_tasks: ``async def`` tasks at once.
        lease_s: seconds after which another host may take over the workflows of an engine that shows no life.
        inline_bytes: outputs up to this size are saved in the journal, larger ones as blobs.
        payload_limit: bytes of the largest value that is accepted.
        tasks_max: tasks of one DAG.
        check_invariants: have the engine check itself after every event (slow; for tests and for finding faults).
        check_inputs: have each task that changes an argument in place fail (slow; for tests). Those of worker processes cannot.
        drain_s: seconds that close() lets running tasks finish.
    """

    store: str = "sqlite:.exoflow/exoflow.db"
    threads: int = 0
    processes: int = 0
    loop_tasks: int = 10_000
    lease_s: float = 10.0
    inline_bytes: int = 64 * 1024
    payload_limit: int = 2 * 1024**3
    tasks_max: int = 1_000_000
    check_invariants: bool = False
    check_inputs: bool = False
    drain_s: float = 5.0


def load(**given: Any) -> Settings:
    """Settings from all sources; None counts as not given. Raises InvalidOptionError naming the key."""
    values = dict(_from_pyproject(Path.cwd()))
    for name in Settings.__struct_fields__:
        text = os.environ.get(ENVIRONMENT_PREFIX + name.upper())
        if text:
            values[name] = text
    values.update({name: value for name, value in given.items() if value is not None})
    for name in values:
        if name not in Settings.__struct_fields__:
            import difflib

            close = difflib.get_close_matches(name, Settings.__struct_fields__, 1)
            guess = f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(Settings.__struct_fields__)}"
            raise InvalidOptionError(message=f"settings: there is no '{name:.60}'{guess} (from {_SOURCES})")
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidOptionError(message=f"settings: {error} (from {_SOURCES})") from None
    for name, (low, wanted) in _RANGES.items():
        value = getattr(settings, name)
        if not (low <= value < math.inf):
            raise InvalidOptionError(message=f"settings: {name} must be {wanted}, got {value} (from {_SOURCES})")
    return settings


_SOURCES = f"arguments, {ENVIRONMENT_PREFIX}… variables or [tool.exoflow]"
_RANGES = {
    "threads": (0, "a whole number from 0 (0: as many as suit the machine)"),
    "processes": (0, "a whole number from 0 (0: as many as suit the machine)"),
    "loop_tasks": (1, "a whole number from 1"),
    "lease_s": (0.001, "a finite number of seconds > 0"),
    "inline_bytes": (0, "a whole number from 0"),
    "payload_limit": (1, "a whole number from 1"),
    "tasks_max": (1, "a whole number from 1"),
    "drain_s": (0, "a finite number of seconds from 0"),
}


def _from_pyproject(folder: Path) -> dict[str, Any]:
    path = folder / "pyproject.toml"
    if not path.is_file():
        return {}
    import tomllib

    try:
        table: Any = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:  # bad TOML, bad UTF-8
        raise InvalidOptionError(message=f"{path} is not TOML: {error}") from None
    for key in ("tool", "exoflow"):
        table = table.get(key, {})
        if not isinstance(table, dict):
            raise InvalidOptionError(message=f"[tool.exoflow] in {path} must be a table, '{key}' is {type(table).__name__}")
    return dict(table)
