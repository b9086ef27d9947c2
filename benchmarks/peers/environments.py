"""Environments for the rivals: made on demand in a cache folder ($EXOFLOW_BENCH_CACHE, or one in the user's cache), and kept there.

Remove a rival's folder to have its newest release the next time.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.installed import NOTE
from benchmarks.rounds import Contestant

_NOT_THEIRS = ("pip", "setuptools")


@dataclasses.dataclass(frozen=True)
class Peer:
    """A rival: what pip and npm install for it, and what its driver needs beside that."""

    folder: str
    pip: tuple[str, ...]
    npm: tuple[str, ...] = ()
    beside: tuple[str, ...] = ("numpy",)


DBOS = Peer("dbos", ("dbos",))
RAY = Peer("ray", ("ray",))
RESTATE = Peer("restate", ("restate-sdk", "hypercorn"), ("@restatedev/restate-server",))
PEERS = (DBOS, RAY, RESTATE)

_DURABLE = frozenset({"P1", "P2", "P3", "P4", "P11", "P12"})


def cache() -> Path:
    given = os.environ.get("EXOFLOW_BENCH_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "exoflow-benchmarks"


def contestants(say: Callable[[str], None]) -> list[Contestant]:
    """All rivals. Makes the environments that are missing; raises CalledProcessError if that fails."""
    python = {peer: _ready(peer, say) for peer in PEERS}
    dbos, ray, restate = ("-m", "benchmarks.peers.on_dbos"), ("-m", "benchmarks.peers.on_ray"), ("-m", "benchmarks.peers.on_restate")
    return [
        Contestant(
            "DBOS, SQLite", (python[DBOS], *dbos), _DURABLE | {"P8"}, "as it comes: rollback journal, synchronous=FULL", flushes=True
        ),
        Contestant("DBOS, SQLite in WAL", (python[DBOS], *dbos, "--wal"), _DURABLE | {"P8"}, "WAL, synchronous=FULL", flushes=True),
        Contestant("Restate", (python[RESTATE], *restate), _DURABLE, "as it comes: RocksDB log, flushed", flushes=True),
        Contestant("plain Ray", (python[RAY], *ray), frozenset({"P1", "P2", "P5", "P6", "P8", "P12"}), "nothing is durable"),
    ]


def versions() -> dict[str, str]:
    """Of the rivals, from the environments that there are."""
    found: dict[str, str] = {}
    for peer in PEERS:
        note = cache() / peer.folder / NOTE
        if note.exists():
            found |= json.loads(note.read_text("utf-8"))["versions"]
    return found


def _ready(peer: Peer, say: Callable[[str], None]) -> str:
    """The interpreter of its environment, which is made unless it is complete."""
    folder = cache() / peer.folder
    if not (folder / NOTE).exists():
        say(f"installing {', '.join(peer.pip + peer.npm)} into an environment of its own (once)")
        shutil.rmtree(folder, ignore_errors=True)
        make(peer, folder)
    return str(folder / "bin" / "python")


def make(peer: Peer, folder: Path) -> None:
    """Install what it takes. Its packages and their room are counted before anything is put beside them."""
    python = str(folder / "bin" / "python")
    _run([sys.executable, "-m", "venv", str(folder)])
    site = next(folder.glob("lib/python*/site-packages"))
    before = _room_bytes(site)
    _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.pip])
    if peer.npm:
        _run(["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(folder), *peer.npm])
    versions = {name: version for name, version in _installed(site) if name not in _NOT_THEIRS}
    room = _room_bytes(site) - before + _room_bytes(folder / "node_modules")
    modules = list(_node_packages(folder / "node_modules"))
    note = {
        "packages": len(versions) + len(modules),
        "room_bytes": room,
        "versions": {name: version for name, version in [*versions.items(), *modules] if name in peer.pip + peer.npm},
    }
    _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.beside])
    (folder / NOTE).write_text(json.dumps(note), "utf-8")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)


def _room_bytes(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


def _installed(site: Path) -> Iterator[tuple[str, str]]:
    """(name, version) of each package."""
    for folder in site.glob("*.dist-info"):
        name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
        yield name.lower().replace("_", "-"), version


def _node_packages(folder: Path) -> Iterator[tuple[str, str]]:
    for path in [*folder.glob("*/package.json"), *folder.glob("@*/*/package.json")]:
        package: dict[str, Any] = json.loads(path.read_text("utf-8"))
        yield package["name"], package["version"]
