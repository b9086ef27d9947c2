"""Every place where state leaves memory has a crash point, and dying there does no harm."""

from __future__ import annotations

import inspect
from fnmatch import fnmatchcase
from pathlib import Path
from typing import get_args

import pytest

from exoflow.executors.base import Executor
from exoflow.runtime.host import Host
from exoflow.store.base import BlobStore, Store
from exoflow.store.blobs import Files
from exoflow.testing.power import vfs
from tests.architecture.house import File
from tests.crash.conftest import Ask
from tests.crash.exits import exits, exits_of
from tests.crash.points import BELONG, HARMLESS, LET_BE, POINTS, SEAMS

ROOT = Path(__file__).parents[2]
PROTOCOLS = {"store": Store, "blobs": BlobStore, "files": Files, "executor": Executor, "host": Host}

# --- none is missing -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seam", PROTOCOLS)
def test_every_operation_of_a_seam_has_a_point(seam: str) -> None:
    methods = {name for name, _ in inspect.getmembers(PROTOCOLS[seam], inspect.isfunction) if not name.startswith("_")}
    known = {*SEAMS[seam], *HARMLESS[seam]}
    assert methods == known, f"{seam}: {methods ^ known}; does it let state out? Then it needs a point in points.py"
    assert {f"{seam}.{name}" for name in SEAMS[seam]} <= POINTS.keys()


def test_whatever_sqlite_does_to_its_files_has_a_point() -> None:
    operations = {name.rpartition(".")[2] for name in POINTS if name.startswith("sqlite.")}
    assert operations == set(get_args(vfs.Op))


def test_every_exit_of_the_package_has_a_point() -> None:
    missing = [name for name in sorted(exits(ROOT)) if name not in POINTS and not _listed(name)]
    assert not missing, f"{missing}: state leaves memory there; give it a crash point in points.py, or say to which one it belongs"


def test_nothing_is_listed_that_is_not_there() -> None:
    found = exits(ROOT)
    stale = [pattern for pattern in (*BELONG, *LET_BE) if not any(fnmatchcase(name, pattern) for name in found)]
    stale += [name for name in POINTS if name.startswith(("runtime.", "store.sqlite_file.", "executors.")) and name not in found]
    stale += [name for name in BELONG.values() if name not in POINTS]
    assert not stale


def _listed(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in (*BELONG, *LET_BE))


PLANTED = """
import os, shutil, subprocess
from os import replace as put
from pathlib import Path

class Keeper:
    def keep(self, path: Path, sock, db, connection):
        os.open(path, os.O_RDONLY)
        os.open(path, os.O_RDWR | os.O_CREAT)
        path.open()
        path.open("wb")
        open(path, mode="a")
        text = "a-b".replace("-", "+")
        path.replace(path.with_suffix(".old"))
        sock.sendmsg([b""])
        connection.send_bytes(b"")
        later = lambda: db.execute("DELETE FROM t")
        return [os.write, put, shutil.rmtree, subprocess.run]

def tell(fd):
    def inner():
        os.fsync(fd)
"""


def test_new_exits_are_found() -> None:
    assert sorted(exits_of(File("src/exoflow/store/keeper.py", PLANTED))) == [
        "store.keeper.Keeper.keep.<locals>.<lambda>.execute",
        *["store.keeper.Keeper.keep.open"] * 3,
        *["store.keeper.Keeper.keep.replace"] * 2,
        "store.keeper.Keeper.keep.rmtree",
        "store.keeper.Keeper.keep.run",
        "store.keeper.Keeper.keep.send_bytes",
        "store.keeper.Keeper.keep.sendmsg",
        "store.keeper.Keeper.keep.write",
        "store.keeper.tell.<locals>.inner.fsync",
    ]


# --- each is reached, and survived ---------------------------------------------------------------------------------------------------

MOMENTS = [(name, when) for name, point in POINTS.items() for when in point.moments]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "when"), MOMENTS, ids=[f"{name}:{when}" for name, when in MOMENTS])
def test_a_kill_there_does_no_harm(ask: Ask, name: str, when: str) -> None:
    """Slow: processes are started and killed."""
    point = POINTS[name]
    before = [{"at": {"point": point.after, "when": "after"}}] if point.after else []
    for victim in ("self", "engine") if point.in_worker else ("self", "family"):
        outcome = ask(point.workflow, traps=[*before, {"at": {"point": name, "when": when, "victim": victim}}])
        assert not outcome.violations, "\n".join(outcome.violations)
        assert outcome.points.get(f"{name}:{when}"), f"{point.workflow} does not come by {name}"
        engines_killed = len(before) + (not point.in_worker or victim == "engine")
        assert (outcome.kills, outcome.worker_kills) == (engines_killed, len(before) + 1 - engines_killed)
