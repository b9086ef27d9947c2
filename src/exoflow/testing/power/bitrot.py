"""Disks that forget: bytes of a store change, one at a time, while nobody looks.

    python -m exoflow.testing.power.bitrot                     every byte of a small store and its blobs, and some of its log
    python -m exoflow.testing.power.bitrot --flips 20000       random bytes of many stores

The store was left in the middle of its work, with finished and unfinished workflows, inline values and blobs. After each change it is read
as a whole, and after some, an engine works on it to the end. Whoever asks gets the right answer, or an error that says that something is
damaged; or what is damaged is made again, where the annotations allow it. Never a wrong answer, never an effect that happens twice, never
any other exception. (Of the log, SQLite takes what is behind a damaged place for the end: what is read then is what the store held at an
earlier time, which nobody can tell from a power loss.)
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import apsw
import msgspec

from exoflow.errors import CheckpointCorruptError, ExoflowError, StoreCorruptError, StoreOpenError, WorkflowBlockedError
from exoflow.store.sqlite import SqliteStore
from exoflow.testing import campaign
from exoflow.testing.power import log, workloads
from exoflow.testing.power.__main__ import CAMPAIGNS
from exoflow.testing.power.disk import WHOLE, Choice, Disk, Tree
from exoflow.testing.power.judge import Known, Snapshot, Truth, examine, lay_out
from exoflow.testing.power.losses import folder
from exoflow.testing.power.workloads import STORE

CLEAR = (StoreOpenError, StoreCorruptError, CheckpointCorruptError, WorkflowBlockedError)
"""Errors that say that something is damaged."""
_LOG = f"{STORE}-wal"
_LOG_STEP = 16
_HEADER = 100
_STORIES_MAX = 20


class Specimen(msgspec.Struct):
    """A store in the middle of its work: what lies on the disk, and what must be true of it. Made anew from its seed by each process,
    so two processes have two."""

    root: Path
    tree: Tree
    truth: Truth
    known: Known


class Findings(msgspec.Struct):
    """How often what came of a changed byte, and what should not have."""

    flips: int = 0
    outcomes: dict[str, int] = {}
    violations: list[str] = []

    def add(self, other: Findings) -> None:
        """Take in what another found."""
        self.flips += other.flips
        self.violations += other.violations
        for name, count in other.outcomes.items():
            self.outcomes[name] = self.outcomes.get(name, 0) + count


def make(seed: int, root: Path, *, with_log: bool) -> Specimen:
    """Record a run and take what the disk held at some moment in its second half; ``with_log``: before the log was moved into the file."""
    rng = random.Random(seed)
    recorded = workloads.record("rotting", seed, root)
    answers = [at for at, event in enumerate(recorded.events) if isinstance(event, log.Answered)]
    disk, truth = Disk(recorded.disk), Truth(recorded)
    for event in recorded.events[: 1 + rng.choice(answers[len(answers) // 2 :])]:
        disk.follow(event)
        truth.follow(event)
    tree = disk.tree(Choice("everything", (WHOLE,) * len(disk.pending())))
    if not with_log:
        lay_out(root, tree)
        SqliteStore(root / STORE).close()
        there = {path: root / path for path in tree if (root / path).exists()}
        tree = {path: None if file.is_dir() else file.read_bytes() for path, file in there.items()}
    return Specimen(root, tree, truth, truth.known)


def places(tree: Tree) -> list[tuple[str, int]]:
    """Every byte of every file."""
    return [(path, at) for path, content in tree.items() for at in range(len(content or b""))]


def judge(specimen: Specimen, path: str, at: int, bits: int, *, by_engine: bool = True) -> Findings:
    """Change ``bits`` of one byte and see what comes of it: when all is read, and when an engine works on it."""
    content = bytearray(specimen.tree[path] or b"")
    content[at] ^= bits
    changed = {**specimen.tree, path: bytes(content)}
    if path == _LOG:
        outcome, found = _read_log(specimen, changed)
    else:
        lay_out(specimen.root, changed)
        outcome, found = _read(specimen)
        if by_engine:
            outcome, wrong = _worked_on(specimen, outcome)
            found += wrong
    where = f"{path.rpartition('/')[2]} byte {at} ^ {bits:#x}"
    return Findings(flips=1, outcomes={outcome: 1}, violations=[f"{where}: {line}" for line in found])


def _read_log(specimen: Specimen, changed: Tree) -> tuple[str, list[str]]:
    """The store must hold what it held at some time."""
    lay_out(specimen.root, changed)
    anything = msgspec.structs.replace(specimen.known, answered=0, blobs=frozenset())
    try:
        found, held = examine(specimen.root / STORE, specimen.truth, anything)
    except (StoreOpenError, StoreCorruptError) as error:
        return type(error).__name__, []
    return ("as it was" if held == specimen.known.asked else "as it was before"), found


def _worked_on(specimen: Specimen, read: str) -> tuple[str, list[str]]:
    done = workloads.finish(specimen.root / STORE, specimen.truth, specimen.known)
    found = done.violations
    found += [f"{name}: {type(error).__name__}: {error}" for name, error in done.refused.items() if not isinstance(error, CLEAR)]
    if not done.refused:
        return f"{read}, and the engine got through", found
    return "engine: " + " and ".join(sorted({type(error).__name__ for error in done.refused.values()})), found


def _read(specimen: Specimen) -> tuple[str, list[str]]:
    """Read all that there is, without an engine."""
    expected = specimen.truth.snapshot(specimen.known.asked)
    try:
        store = SqliteStore(specimen.root / STORE)
    except CLEAR as error:
        return type(error).__name__, []
    except (ExoflowError, apsw.Error, OSError, ValueError, TypeError, LookupError) as error:
        return "", [f"opening: {type(error).__name__}: {error}"]
    try:
        return ("a blob is refused" if _is_damaged(store) else "right"), [*_differences(store, expected)]
    except StoreCorruptError as error:
        return type(error).__name__, []
    except (ExoflowError, apsw.Error, OSError, ValueError, TypeError, LookupError) as error:
        return "", [f"reading: {type(error).__name__}: {error}"]
    finally:
        store.close()


def _differences(store: SqliteStore, expected: Snapshot) -> Iterator[str]:
    """The digests of payloads are in the bodies, for the engine to check; a page that damages one is found all the same."""
    heads = store.heads(limit=1000)
    if {head.workflow_id: head for head in heads} != {name: held.head for name, held in expected.workflows.items()}:
        yield f"there are {[head.workflow_id for head in heads]}, or their heads differ"
    if sorted(store.owners(), key=lambda row: row.owner) != expected.owners:
        yield "the owners differ"
    for name, held in expected.workflows.items():
        for retired, entries in ((False, held.active), (True, held.journal)):
            if [entry.body for entry in store.entries(name, retired=retired)] != [entry.body for entry in entries]:
                yield f"the journal of {name} differs"


def _is_damaged(store: SqliteStore) -> bool:
    for name in store.blobs.names():
        try:
            store.blobs.open(name)
        except ValueError:
            return True
    return False


# --- campaigns -----------------------------------------------------------------------------------------------------------------------


def every_byte(seed: int, share: tuple[int, int], step: int = 1, engines: int = 1) -> Findings:
    """Of a store and its blobs (or every ``step``-th), and fewer of its log, where all are alike. ``share`` (3, 4): every fourth of those
    places, from the third. An engine works on the file's header and on one in ``engines`` of the rest."""
    total = Findings()
    for with_log in (False, True):
        outer = folder()
        try:
            specimen = make(seed, outer / "disk", with_log=with_log)
            rng = random.Random(seed)
            here = [place for place in places(specimen.tree) if with_log == (place[0] == _LOG)][:: step * (_LOG_STEP if with_log else 1)]
            for path, at in here[share[0] :: share[1]]:
                by_engine = (path == STORE and at < _HEADER) or rng.randrange(engines) == 0
                total.add(judge(specimen, path, at, rng.randint(1, 255), by_engine=by_engine))
        finally:
            shutil.rmtree(outer)
    return total


def random_bytes(seed: int, flips: int) -> Findings:
    """Of a store of its own."""
    outer, total, rng = folder(), Findings(), random.Random(seed)
    try:
        specimen = make(seed, outer / "disk", with_log=rng.random() < 0.3)
        for path, at in rng.choices(places(specimen.tree), k=flips):
            total.add(judge(specimen, path, at, 1 << rng.randrange(8)))
    finally:
        shutil.rmtree(outer)
    return total


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m exoflow.testing.power.bitrot", description="Change bytes of stores, one at a time.")
    parser.add_argument("--flips", type=int, default=0, help="so many random bytes of many stores (default: every byte of one)")
    parser.add_argument("--step", type=int, default=1, help="of one store, only every so many-th byte")
    parser.add_argument("--engines", type=int, default=16, help="of one store, an engine works on one in so many (default 16)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="the first one (default 0)")
    parser.add_argument("--record", type=Path, nargs="?", const=CAMPAIGNS, help=f"append the result to a file (default {CAMPAIGNS})")
    given = parser.parse_args(arguments)
    began, clock, commit = campaign.now(), time.monotonic(), campaign.commit_of(Path(__file__).parent)
    total, last = Findings(), given.seed
    with ProcessPoolExecutor(given.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        if given.flips:
            last = given.seed + (given.flips - 1) // 500
            work = [pool.submit(random_bytes, seed, min(500, given.flips)) for seed in range(given.seed, last + 1)]
        else:
            work = [pool.submit(every_byte, given.seed, (job, given.jobs), given.step, given.engines) for job in range(given.jobs)]
        for future in work:
            total.add(future.result())
            print(f"{total.flips} bytes, {len(total.violations)} violations", file=sys.stderr, flush=True)
    seconds = time.monotonic() - clock
    print(f"{total.flips} changed bytes, {len(total.violations)} violations, {seconds:.0f} s")
    print("\n".join(f"  {count:>9}  {name}" for name, count in sorted(total.outcomes.items(), key=lambda item: -item[1])))
    print("\n".join(total.violations[:_STORIES_MAX]))
    if given.record:
        what = f"--flips {given.flips}" if given.flips else f"--step {given.step} --engines {given.engines}"
        result = campaign.Campaign(
            kind="bit-rot",
            command=f"python -m exoflow.testing.power.bitrot {what} --jobs {given.jobs} --seed {given.seed}",
            commit=commit,
            began=began,
            seconds=round(seconds, 1),
            cores=given.jobs,
            first_seed=given.seed,
            last_seed=last,
            counts={"flips": total.flips},
            situations=total.outcomes,
            violations=len(total.violations),
            stories=total.violations[:_STORIES_MAX],
        )
        campaign.append(given.record, result)
    return int(bool(total.violations))


if __name__ == "__main__":
    raise SystemExit(main())
