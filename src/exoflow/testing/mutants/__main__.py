"""The command: hunts mutants, prints a table, and keeps what it found."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from exoflow.testing import campaign
from exoflow.testing.mutants import saved
from exoflow.testing.mutants.hunt import SCHEDULES_MAX, Hunt, hunt
from exoflow.testing.mutants.mutant import Mutant
from exoflow.testing.mutants.table import MUTANTS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m exoflow.testing.mutants", description=__doc__)
    parser.add_argument("--mutant", action="append", default=[], choices=sorted(MUTANTS), help="this one (may be repeated)")
    parser.add_argument("--ring", action="append", default=[], help="those that this ring should find (may be repeated)")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--schedules", type=int, default=SCHEDULES_MAX, help="give up after so many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="keep the seeds that killed, for CI")
    parser.add_argument("--saved", action="store_true", help="begin with the seeds that were kept")
    parser.add_argument("--record", action="store_true", help="append a campaign to docs/reliability/campaigns.jsonl")
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse()
    chosen = [m for m in MUTANTS.values() if arguments.all or m.name in arguments.mutant or m.ring in arguments.ring]
    began, at = campaign.now(), time.monotonic()
    hunts = []
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("fork")) as pool:
        for found in pool.map(
            partial(_hunt, first=arguments.first, schedules_max=arguments.schedules, begins_saved=arguments.saved), chosen
        ):
            print(line(found), flush=True)
            hunts.append(found)
    if arguments.save:
        saved.keep(hunts)
    survivors = [found for found in hunts if found.seed is None]
    print(summary(hunts))
    if arguments.record:
        campaign.append(Path("docs/reliability/campaigns.jsonl"), as_campaign(hunts, began, time.monotonic() - at, arguments.jobs))
    return 1 if survivors else 0


def _hunt(mutant: Mutant, first: int, schedules_max: int, *, begins_saved: bool) -> Hunt:
    if begins_saved:
        return saved.hunt_with_saved(mutant, schedules_max)
    return hunt(mutant, first, schedules_max)


def line(found: Hunt) -> str:
    """One row of the table."""
    outcome = f"{found.found} (seed {found.seed})" if found.seed is not None else "SURVIVES"
    return f"{found.mutant:<40} {found.ring:<10} {found.schedules:>6} {found.seconds:>6.1f} s  {outcome}"


def summary(hunts: list[Hunt]) -> str:
    killed = sorted(found.schedules for found in hunts if found.seed is not None)
    text = f"{len(killed)} of {len(hunts)} mutants found"
    return f"{text}, by {statistics.median(killed):g} schedules in the median, {killed[-1]} at most" if killed else text


def as_campaign(hunts: list[Hunt], began: str, seconds: float, jobs: int) -> campaign.Campaign:
    """``counts``: how many schedules each mutant took, by ring and name; -1 if it survived."""
    survivors = [found for found in hunts if found.seed is None]
    return campaign.Campaign(
        kind="mutants",
        command=" ".join(["python -m exoflow.testing.mutants", *sys.argv[1:]]),
        commit=campaign.commit_of(Path()),
        began=began,
        seconds=round(seconds, 1),
        cores=jobs,
        counts={f"{found.ring}: {found.mutant}": found.schedules if found.seed is not None else -1 for found in hunts},
        violations=len(survivors),
        stories=[f"{found.mutant} survived {found.schedules} schedules" for found in survivors],
    )


if __name__ == "__main__":
    sys.exit(main())
