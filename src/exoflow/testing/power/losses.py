"""From a recording to verdicts: every moment at which the power might have gone, and every disk that may have been left."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from exoflow.store.base import OwnerRow
from exoflow.testing.power import log, workloads
from exoflow.testing.power.disk import Choice, Disk, Tree, choices
from exoflow.testing.power.judge import Known, Truth, examine, lay_out
from exoflow.testing.power.log import Log
from exoflow.testing.power.workloads import STORE, WITHOUT_ENGINE

_FINISH, _TWICE, _RECOVER = 0.02, 0.1, 0.004
"""Shares of the disks that an engine brings to the end, that are opened a second time, and whose recovery is recorded in turn."""
_DEPTH = 2


class Loss(msgspec.Struct):
    """A recording up to the moment at which the power went, and what became of what was not flushed then."""

    log: Log
    choice: Choice


class Tally(msgspec.Struct):
    """What was tried, and what was found."""

    recordings: int = 0
    moments: int = 0
    states: int = 0
    requests: int = 0
    blobs: int = 0
    finished: int = 0
    kinds: dict[str, int] = {}
    workloads: dict[str, int] = {}
    situations: dict[str, int] = {}
    last_seed: int = -1
    violations: int = 0
    stories: list[str] = []
    losses: list[Loss] = []

    def add(self, other: Tally) -> None:
        """Take in what another found."""
        for name in Tally.__struct_fields__:
            mine, more = getattr(self, name), getattr(other, name)
            if name == "last_seed":
                self.last_seed = max(mine, more)
            elif isinstance(mine, dict):
                more = {key: mine.get(key, 0) + more.get(key, 0) for key in mine.keys() | more.keys()}
                setattr(self, name, dict(sorted(more.items())))
            else:
                setattr(self, name, mine + more)


def folder() -> Path:
    """A new folder in memory, where there is such a thing: nothing here needs a real disk."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder made in it has a name that nobody can guess
    return Path(tempfile.mkdtemp(prefix="exoflow-power-", dir=memory if memory.is_dir() else None))


def try_workload(workload: str, seed: int, per_moment: int) -> Tally:
    """Record a workload and try losses of power in it, ``per_moment`` for each moment."""
    root = folder()
    try:
        tally = try_losses(workloads.record(workload, seed, root / "disk"), per_moment, seed)
        tally.last_seed = seed
        return tally
    finally:
        shutil.rmtree(root)


def try_losses(recorded: Log, per_moment: int, seed: int, depth: int = 0) -> Tally:
    """Let the power go before each flush and at the end, and judge ``per_moment`` of the disks that may be left each time: the one with
    what was flushed, the one with everything, and others by chance."""
    disk, truth, rng = Disk(recorded.disk), Truth(recorded), random.Random(seed)
    tally, seen = Tally(recordings=1, workloads={recorded.workload: 0}), set[int]()
    for at, event in enumerate([*recorded.events, None]):
        if event is None or isinstance(event, log.Flushed):
            tally.moments += 1
            for choice in _some(list(choices(disk.pending(), rng.getrandbits(32))), per_moment, rng):
                tree = disk.tree(choice)
                fingerprint = hash((tuple(tree.items()), truth.known.answered))
                if fingerprint not in seen:
                    seen.add(fingerprint)
                    lost = Loss(msgspec.structs.replace(recorded, events=recorded.events[:at]), choice)
                    tally.add(_judge(lost, tree, truth, rng, depth))
        if event is not None:
            disk.follow(event)
            truth.follow(event)
    tally.requests, tally.blobs = tally.requests + truth.known.answered, tally.blobs + len(truth.known.blobs)
    return tally


def _some(all_of_them: list[Choice], count: int, rng: random.Random) -> list[Choice]:
    if len(all_of_them) <= count:
        return all_of_them
    whole = sum(choice.kind == "up to a moment" for choice in all_of_them)
    return [all_of_them[0], all_of_them[whole], *rng.sample(all_of_them[1:], count - 2)]


def _judge(lost: Loss, tree: Tree, truth: Truth, rng: random.Random, depth: int) -> Tally:
    """One disk."""
    root, known = Path(lost.log.root), truth.known
    tally = Tally(states=1, kinds={lost.choice.kind: 1}, workloads={lost.log.workload: 1})
    lay_out(root, tree)
    found, held = examine(root / STORE, truth, known, twice=rng.random() < _TWICE)
    tally.situations = _situations(tree, known, held)
    if not found and lost.log.workload not in WITHOUT_ENGINE:
        chance = rng.random()
        if chance < _FINISH:
            lay_out(root, tree)
            if rng.random() < 0.5:
                _leave_locks(truth.snapshot(held).owners)
            found = _finished(root / STORE, truth, known)
            tally.finished = 1
        elif chance < _FINISH + _RECOVER and depth < _DEPTH:
            lay_out(root, tree)
            before = _after(lost.log, truth, known, held)
            tally.add(try_losses(workloads.record_recovery(before, rng.getrandbits(32)), 3, rng.getrandbits(32), depth + 1))
    if found:
        tally.violations, tally.losses = 1, [lost]
        tally.stories = [f"{lost.log.workload} {lost.log.seed}, {lost.choice.kind}, after {len(lost.log.events)} events: {found[0]}"]
    return tally


def _leave_locks(owners: list[OwnerRow]) -> None:
    """The lock files of engines that lost power may be there, and nobody holds them."""
    for row in owners:
        path = Path(row.lock_path)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(0o600)


def _finished(path: Path, truth: Truth, known: Known) -> list[str]:
    """What is wrong after an engine has worked on it. It may not refuse anything: nothing is damaged."""
    done = workloads.finish(path, truth, known)
    return [*done.violations, *(f"{name}: {type(error).__name__}: {error}" for name, error in done.refused.items())]


def _after(recorded: Log, truth: Truth, known: Known, held: int) -> Log:
    """The beginning of a recording of the recovery of a disk that was found to hold so many requests."""
    return Log(
        workload=recorded.workload,
        seed=recorded.seed,
        root=recorded.root,
        requests=truth.requests[:held],
        entries=truth.entries[: known.entries],
        blobs=sorted(known.blobs),
        ended=known.ended,
    )


def _situations(tree: Tree, known: Known, held: int) -> dict[str, int]:
    """What makes a disk worth trying."""
    names = {path.rpartition("/")[2] for path in tree}
    reached = {
        "no store yet": "x.db" not in names,
        "a database in the making": "x.db-journal" in names,
        "a log to recover from": bool(tree.get(f"{STORE}-wal")),
        "a blob half written": any(name.startswith("tmp-") for name in names),
        "a request in flight": known.asked > known.answered,
        "a request that nobody answered survived": held > known.answered,
    }
    return {name: 1 for name, is_so in reached.items() if is_so}


def repeat(lost: Loss) -> list[str]:
    """What is wrong with a disk that was kept; it is made at the same path, and removed afterwards."""
    disk, truth = Disk(lost.log.disk), Truth(lost.log)
    for event in lost.log.events:
        disk.follow(event)
        truth.follow(event)
    root, tree = Path(lost.log.root), disk.tree(lost.choice)
    try:
        lay_out(root, tree)
        found, _ = examine(root / STORE, truth, truth.known, twice=True)
        if not found and lost.log.workload not in WITHOUT_ENGINE:
            lay_out(root, tree)
            found = _finished(root / STORE, truth, truth.known)
        return found
    finally:
        shutil.rmtree(root, ignore_errors=True)


def seeds(first: int) -> Iterator[tuple[str, int]]:
    """Workloads with seeds, without end."""
    while True:
        for workload in workloads.WORKLOADS:
            yield workload, first
        first += 1
