"""``make soak``: does an engine that works for minutes stay as it is? Mixed work without end, in one process; memory, handles, threads and
files are printed as it goes, and the command fails if one of them grows."""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import exoflow
from benchmarks.engine.growth import resident_bytes
from benchmarks.engine.tasks import PURE, chain, commit, fan_out, fan_out_result, internal, pure, pure_async, total
from benchmarks.reading import require
from exoflow.errors import TaskFailed

_WINDOW = 200
"""Workflows under way at once."""
_KEPT = 1_000
"""Workflows that have ended and are not deleted yet."""
MEMORY_MAX, MEMORY_SLACK_MB = 1.05, 4.0
"""So much more memory than early on is not taken for growth: caches fill, and memory is given back to the system in large pieces."""


class Sample(NamedTuple):
    """How the process stands. ``files``: in the folder of the store, blobs and all."""

    at_s: float
    workflows: int
    resident_mb: float
    handles: int
    threads: int
    files: int


def sample(folder: Path, at_s: float, workflows: int) -> Sample:
    files = sum(len(names) for _, _, names in os.walk(folder))
    return Sample(at_s, workflows, resident_bytes() / 1e6, len(os.listdir("/proc/self/fd")), threading.active_count(), files)


def growth_of(samples: Sequence[Sample]) -> list[str]:
    """What has grown, a line each: the last third against the second one. (In the first, everything is imported and started.)"""
    third = len(samples) // 3
    early, late = samples[third : 2 * third], samples[2 * third :]
    found = []
    for name in ("resident_mb", "handles", "threads", "files"):
        before, now = (statistics.median(getattr(each, name) for each in part) for part in (early, late))
        limit = before * MEMORY_MAX + MEMORY_SLACK_MB if name == "resident_mb" else before + 2
        if now > limit:
            found.append(f"{name} grew from {before:,.1f} to {now:,.1f}; at most {limit:,.1f} is taken for flat")
    return found


# --- the work ------------------------------------------------------------------------------------------------------------------------


class Stumble(Exception):
    """What a task that is tried again raises first."""


_stumbled: set[int] = set()


@exoflow.task(retries=1, backoff=0.001)
def stumbles(x: int) -> int:
    """Raises the first time."""
    if x not in _stumbled:
        _stumbled.add(x)
        raise Stumble
    _stumbled.remove(x)
    return x + 1


@exoflow.task
def fails(_x: int) -> int:
    raise Stumble


@exoflow.task(can_rollback=True)
def large(x: int) -> bytes:
    """An output that becomes a blob."""
    return x.to_bytes(8, "big") * 20_000


@exoflow.task(**PURE)
def length(value: bytes) -> int:
    return len(value)


@exoflow.task(can_rollback=True)
def countdown(n: int) -> exoflow.Node | int:
    """A loop written as recursion."""
    return countdown.bind(n - 1) if n else 0


@exoflow.task(can_rollback=True)
def unfolds(n: int) -> exoflow.Node:
    """A sub-workflow."""
    return total.bind([internal.bind(i) for i in range(n)])


Work = tuple[Callable[[int], exoflow.Node], Callable[[int], object]]
"""A workflow by its number, and its result: an exception's class if it fails."""

WORK: tuple[Work, ...] = (
    (commit.bind, lambda x: x + 1),
    (lambda _x: chain(commit, 5), lambda _x: 5),
    (lambda _x: chain(internal, 10), lambda _x: 10),
    (lambda _x: fan_out(internal, 20), lambda _x: fan_out_result(20)),
    (lambda _x: fan_out(pure, 20), lambda _x: fan_out_result(20)),
    (lambda _x: fan_out(pure_async, 20), lambda _x: fan_out_result(20)),
    (lambda x: length.bind(large.bind(x)), lambda _x: 160_000),
    (stumbles.bind, lambda x: x + 1),
    (fails.bind, lambda _x: TaskFailed),
    (lambda _x: countdown.bind(20), lambda _x: 0),
    (lambda _x: unfolds.bind(10), lambda _x: fan_out_result(10)),
)


def work(engine: exoflow.Engine) -> Iterator[int]:
    """One workflow after the other, a window of them at once; each is looked at when it has ended, and deleted a while later. Yields how
    many have ended."""
    under_way: collections.deque[tuple[int, exoflow.WorkflowFuture]] = collections.deque()
    ended: collections.deque[str] = collections.deque()
    for number in itertools.count():
        make, _ = WORK[number % len(WORK)]
        under_way.append((number, engine.run_async(make(number), wait_accepted=False)))
        if len(under_way) < _WINDOW:
            continue
        first, future = under_way.popleft()
        wanted = WORK[first % len(WORK)][1](first)
        error = future.exception()
        require(type(error) if error is not None else future.result(), wanted, f"workflow {first}")
        ended.append(future.name)
        if len(ended) > _KEPT:
            engine.delete(ended.popleft())
        yield first + 1


def soak(folder: Path, seconds: float, every_s: float, say: Callable[[str], None]) -> list[Sample]:
    """Work for ``seconds``, and look every ``every_s``."""
    samples: list[Sample] = []
    start = time.monotonic()
    say(f"{'seconds':>8}{'workflows':>11}{'MB':>9}{'handles':>9}{'threads':>9}{'files':>7}")
    with exoflow.Engine(folder / "engine.db") as engine:
        for ended in work(engine):
            at_s = time.monotonic() - start
            if at_s >= every_s * (len(samples) + 1):
                samples.append(sample(folder, at_s, ended))
                say("{:8.0f}{:11,}{:9.1f}{:9}{:9}{:7}".format(*samples[-1]))
            if at_s >= seconds:
                return samples
    return samples


def main(arguments: list[str] | None = None) -> int:
    """The command: 1 if something grew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="a folder for the store")
    options = parser.parse_args(arguments)
    seconds = options.minutes * 60
    with tempfile.TemporaryDirectory(prefix="exoflow-soak-", dir=options.scratch) as folder:
        samples = soak(Path(folder), seconds, seconds / 30, lambda text: print(text, flush=True))
    grown = growth_of(samples)
    print("\n".join(grown) or "nothing grew")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
