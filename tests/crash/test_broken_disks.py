"""The disk fails: an error of a known type, nothing lost, and all goes on once it is repaired (by another engine, or by this one)."""

from __future__ import annotations

import pytest

from tests.crash.conftest import Ask
from tests.crash.lives import ON_CLOSING

pytestmark = pytest.mark.slow  # processes are started

BLOBS = ("files.open_temp", "files.write", "files.flush", "files.rename", "files.flush_folder")
SQLITE = ("sqlite.db.write", "sqlite.db.sync", "sqlite.wal.write", "sqlite.wal.sync", "sqlite.wal.open")
TYPES = {"EIO": {"store_unavailable", "store_open"}, "ENOSPC": {"storage_full", "store_open", "store_unavailable"}}


@pytest.mark.parametrize("hit", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("point", [*BLOBS, *SQLITE])
@pytest.mark.parametrize("error", TYPES)
def test_an_operation_of_the_disk_fails_once(ask: Ask, point: str, error: str, hit: int) -> None:
    outcome = ask("large_outputs", traps=[{"at": {"point": point, "when": error, "hit": hit}}])
    assert not outcome.violations, "\n".join(outcome.violations)
    assert outcome.faults.keys() <= TYPES[error] | {ON_CLOSING}


@pytest.mark.parametrize("point", ["files.write", "sqlite.wal.write"])
def test_an_engine_waits_until_there_is_room_again(ask: Ask, point: str) -> None:
    """Nobody need start it again."""
    outcome = ask("large_outputs", traps=[{"at": {"point": point, "when": "ENOSPC", "hit": HITS_WHILE_IT_RUNS[point]}}])
    assert not outcome.violations, "\n".join(outcome.violations)
    assert outcome.points == {f"{point}:ENOSPC": 1}
    assert not outcome.faults
    assert outcome.lives == 2, "one that runs it, one that looks at it"


HITS_WHILE_IT_RUNS = {"files.write": 3, "sqlite.wal.write": 50}


@pytest.mark.parametrize("point", ["files.flush", "sqlite.wal.sync"])
def test_after_a_failed_flush_the_engine_gives_up(ask: Ask, point: str) -> None:
    """A second flush would report success for data that the system has dropped."""
    outcome = ask("large_outputs", traps=[{"at": {"point": point, "when": "EIO", "hit": HITS_OF_FLUSHES[point]}}])
    assert not outcome.violations, "\n".join(outcome.violations)
    assert outcome.faults == {"store_unavailable": 1}


HITS_OF_FLUSHES = {"files.flush": 1, "sqlite.wal.sync": 8}
