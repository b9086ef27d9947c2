"""Many runs in several processes: pieces of work handed out one by one, counts added up, a line of progress now and then."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import msgspec

from exoflow.testing import campaign

Piece = TypeVar("Piece")

CAMPAIGNS = Path("docs/reliability/campaigns.jsonl")
_PROGRESS_S = 20.0


class Tally(msgspec.Struct):
    """What some runs came to: counts by name, how many runs reached each situation, and what was wrong (with how to repeat it)."""

    counts: Counter[str] = msgspec.field(default_factory=Counter)
    reached: Counter[str] = msgspec.field(default_factory=Counter)
    broken: list[str] = msgspec.field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take in the tally of more runs."""
        self.counts.update(other.counts)
        self.reached.update(other.reached)
        self.broken += other.broken


def drive(
    work: Callable[[Piece], Tally],
    pieces: Iterable[Piece],
    *,
    jobs: int,
    minutes: float,
    broken_max: int = 1,
    done: Callable[[Piece, Tally], None] = lambda _piece, _tally: None,
) -> Tally:
    """Do ``work`` on each piece, ``jobs`` at a time, until there is none left, the time is up (0: no limit), or ``broken_max`` things are
    broken. ``done`` is told of each finished piece."""
    total, began = Tally(), time.monotonic()
    until = began + minutes * 60 if minutes else float("inf")
    told = began
    for piece, tally in _results(work, pieces, jobs):
        total.add(tally)
        done(piece, tally)
        for text in tally.broken:
            print(text.partition("\n")[0][:300], file=sys.stderr, flush=True)
        if time.monotonic() - told >= _PROGRESS_S:
            told = time.monotonic()
            print(f"{told - began:.0f} s: {counted(total.counts)}; {len(total.broken)} broken", file=sys.stderr, flush=True)
        if len(total.broken) >= broken_max or time.monotonic() > until:
            break
    return total


def _results(work: Callable[[Piece], Tally], pieces: Iterable[Piece], jobs: int) -> Iterator[tuple[Piece, Tally]]:
    if jobs == 1:
        _quieten()
        for piece in pieces:
            yield piece, work(piece)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), initializer=_quieten) as pool:
        waiting: dict[Future[Tally], Piece] = {}
        left = iter(pieces)
        try:
            while True:
                for piece in itertools.islice(left, 2 * jobs - len(waiting)):
                    waiting[pool.submit(work, piece)] = piece
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _quieten() -> None:
    """Worlds are circles that live for a millisecond; collecting them in large lots costs less."""
    gc.set_threshold(50_000)


def counted(counts: Counter[str]) -> str:
    """For people."""
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


def report(kind: campaign.Kind, total: Tally, seconds: float) -> int:
    """Print what came of it; the exit code."""
    for text in total.broken:
        print(text)
    print(f"{kind}: {counted(total.counts)} in {seconds:.0f} s; {len(total.broken)} broken")
    return 1 if total.broken else 0


def record(
    kind: campaign.Kind, total: Tally, *, began: str, seconds: float, cores: int, module: str, seeds: tuple[int, int] = (-1, -1)
) -> None:
    """Append the campaign to the file of campaigns."""
    campaign.append(
        CAMPAIGNS,
        campaign.Campaign(
            kind=kind,
            command=" ".join(["python", "-m", module, *sys.argv[1:]]),
            commit=campaign.commit_of(Path()),
            began=began,
            seconds=round(seconds, 1),
            cores=cores,
            first_seed=seeds[0],
            last_seed=seeds[1],
            counts=dict(sorted(total.counts.items())),
            situations=dict(sorted(total.reached.items())),
            violations=len(total.broken),
            stories=total.broken[:5],
        ),
    )
