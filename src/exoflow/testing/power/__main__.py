"""Lose power many thousand times.

    python -m exoflow.testing.power --states 100000 --jobs 2            a campaign
    python -m exoflow.testing.power --states 100000 --record            one whose numbers are kept
    python -m exoflow.testing.power --repeat losses/1.loss              a disk that was kept

Ends with 1 if anything was lost. What a seed records depends a little on how the threads of the engine were scheduled, so each disk with a
violation is kept in ``losses/`` and can be made again exactly.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import msgspec

from exoflow.testing import campaign
from exoflow.testing.power.losses import Loss, Tally, repeat, seeds, try_workload

CAMPAIGNS = Path("docs/reliability/campaigns.jsonl")
_KEPT_MAX = 20
_TELL_S = 15.0


def run(states: int, *, jobs: int, first_seed: int, per_moment: int, workload: str = "") -> Tally:
    """Try workloads one after the other, with new seeds, until that many disks were judged."""
    total, began, told = Tally(), time.monotonic(), time.monotonic()
    for tally in _tallies(jobs, first_seed, per_moment, workload):
        total.add(tally)
        for story in tally.stories:
            print(story, file=sys.stderr, flush=True)
        if total.states >= states:
            break
        if time.monotonic() - told > _TELL_S:
            told = time.monotonic()
            print(f"{total.states} disks, {total.violations} violations, {told - began:.0f} s", file=sys.stderr, flush=True)
    return total


def _tallies(jobs: int, first_seed: int, per_moment: int, workload: str) -> Iterator[Tally]:
    work = ((name, seed) for name, seed in seeds(first_seed) if workload in ("", name))
    if jobs == 1:
        yield from (try_workload(name, seed, per_moment) for name, seed in work)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = set[Future[Tally]]()
        try:
            while True:
                while len(running) < 2 * jobs:
                    name, seed = next(work)
                    running.add(pool.submit(try_workload, name, seed, per_moment))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(cancel_futures=True)


def keep(losses: list[Loss], folder: Path) -> list[Path]:
    """Save disks with violations, so that ``--repeat`` can make them again."""
    paths = []
    for number, loss in enumerate(losses[:_KEPT_MAX], 1):
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{number}.loss")
        paths[-1].write_bytes(msgspec.msgpack.encode(loss))
    return paths


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m exoflow.testing.power", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--states", type=int, default=5_000, help="disks to judge (default 5000)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="the first one (default 0)")
    parser.add_argument("--per-moment", type=int, default=20, help="disks for each moment of a recording (default 20)")
    parser.add_argument("--workload", default="", help="only this one")
    parser.add_argument("--keep", type=Path, default=Path("losses"), help="folder for disks with violations")
    parser.add_argument("--record", type=Path, nargs="?", const=CAMPAIGNS, help=f"append the result to a file (default {CAMPAIGNS})")
    parser.add_argument("--repeat", type=Path, help="judge a kept disk again")
    given = parser.parse_args(arguments)
    if given.repeat:
        found = repeat(msgspec.msgpack.decode(given.repeat.read_bytes(), type=Loss))
        print("\n".join(found) or "nothing was lost")
        return int(bool(found))
    began, clock, commit = campaign.now(), time.monotonic(), campaign.commit_of(Path(__file__).parent)
    tally = run(given.states, jobs=given.jobs, first_seed=given.seed, per_moment=given.per_moment, workload=given.workload)
    seconds = time.monotonic() - clock
    print(report(tally, seconds))
    for path in keep(tally.losses, given.keep):
        print(f"python -m exoflow.testing.power --repeat {path}")
    if given.record:
        command = f"python -m exoflow.testing.power --states {given.states} --jobs {given.jobs} --seed {given.seed}"
        command += f" --per-moment {given.per_moment}" + (f" --workload '{given.workload}'" if given.workload else "")
        result = campaign.Campaign(
            kind="power-loss",
            command=command,
            commit=commit,
            began=began,
            seconds=round(seconds, 1),
            cores=given.jobs,
            first_seed=given.seed,
        )
        campaign.append(given.record, with_numbers(result, tally))
    return int(tally.violations > 0)


def report(tally: Tally, seconds: float) -> str:
    """The numbers, for people."""
    lines = [
        f"{tally.states} disks after power losses at {tally.moments} moments of {tally.recordings} recorded runs",
        f"{tally.requests} requests answered and {tally.blobs} blobs kept in those runs",
        f"{tally.violations} violations; an engine brought {tally.finished} disks to the end",
        f"{seconds:.0f} s, {tally.states / max(seconds, 0.001):.0f} disks a second",
    ]
    for title, counts in (("left of what was not flushed", tally.kinds), ("ran", tally.workloads), ("reached", tally.situations)):
        lines += [f"{title}:", *(f"  {count:>9}  {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))]
    return "\n".join([*lines, *tally.stories[:_KEPT_MAX]])


def with_numbers(result: campaign.Campaign, tally: Tally) -> campaign.Campaign:
    """The numbers, for the page."""
    counts = {name: getattr(tally, name) for name in ("states", "moments", "recordings", "requests", "blobs", "finished")}
    for by in (tally.kinds, tally.workloads):
        counts |= {f"states, {name}": count for name, count in by.items()}
    stories = tally.stories[:_KEPT_MAX]
    return msgspec.structs.replace(
        result, counts=counts, situations=tally.situations, violations=tally.violations, stories=stories, last_seed=tally.last_seed
    )


if __name__ == "__main__":
    raise SystemExit(main())
