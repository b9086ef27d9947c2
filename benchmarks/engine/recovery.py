"""Kill -9 in the middle of a chain, and a start among what ended long ago (P11). Run as a program it is the process that is killed, and the
one that goes on."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import exoflow
from benchmarks.engine.proof import require_stored
from benchmarks.killing import ProcessLife, after_kill, mark
from benchmarks.reading import Reading, Readings, Sizes, require
from exoflow.store.base import Head, Write
from exoflow.store.sqlite import SqliteStore

_GROUP = 10_000
"""Workflows in one commit."""
_PAGE = 50
_ENTRIES = ((b"began", b"plan"), (b"saved", b"value"), (b"ended", None))


@exoflow.task
def step(before: int, folder: str, step_s: float) -> int:
    mark(Path(folder), before + 1)
    time.sleep(step_s)
    return before + 1


def recovery(folder: Path, sizes: Sizes) -> Readings:
    command = [sys.executable, "-m", "benchmarks.engine.recovery", str(folder), sizes.text()]
    readings = after_kill(folder, sizes, lambda: ProcessLife(command))
    require_stored(folder / "engine.db", workflows=1, records=sizes.steps + 2)
    return readings | among_ended(folder / "old.db", sizes.stored)


def among_ended(path: Path, count: int) -> Readings:
    """Of a store with so many workflows that ended, one in a thousand FAILED: opening it with an engine, finding what is to be resumed,
    a page of the FAILED ones."""
    failed = fill(path, count)
    start = time.perf_counter()
    with exoflow.Engine(path) as engine:
        opened = time.perf_counter()
        require(engine.resume_all(), {}, "what is to be resumed")
        resumed = time.perf_counter()
        page = engine.store.heads(status=("FAILED",), after=f"old-{count // 2:09d}", limit=_PAGE)
        paged = time.perf_counter()
        require(len(page), min(_PAGE, sum(number > count // 2 for number in failed)), "heads on the page")
    return {
        "open a store of a million workflows": Reading(opened - start, "s", "no data"),
        "find the unfinished among them": Reading((resumed - opened) * 1e3, "ms", "no data"),
        "page of a rare status": Reading((paged - resumed) * 1e3, "ms", "no data"),
    }


def fill(path: Path, count: int) -> range:
    """A store with ``count`` workflows that have ended; returns the numbers of those that FAILED."""
    failed = range(0, count, 1_000)
    store = SqliteStore(path)
    for first in range(0, count, _GROUP):
        heads = [
            Head(
                workflow_id=f"old-{number:09d}",
                epoch=1,
                owner=None,
                status="FAILED" if number in failed else "SUCCEEDED",
                created_ms=1,
                updated_ms=1,
                digest="",
            )
            for number in range(first, min(first + _GROUP, count))
        ]
        writes = [Write(workflow_id=head.workflow_id, epoch=1, entries=_ENTRIES, head=head, create=True) for head in heads]
        require(set(store.commit(writes)), {"applied"}, "answers to a commit")
    store.close()
    return failed


def live(folder: Path, sizes: Sizes) -> None:
    """Run the chain, or go on with it."""
    node = step.bind(0, str(folder), sizes.step_s)
    for _ in range(sizes.steps - 1):
        node = step.bind(node, str(folder), sizes.step_s)
    with exoflow.Engine(folder / "engine.db") as engine:
        require(engine.run(node, name="chain"), sizes.steps, "result")


if __name__ == "__main__":
    live(Path(sys.argv[1]), Sizes.of(sys.argv[2]))
