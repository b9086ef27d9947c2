"""``make bench``: measure, print, and (if everything was measured) write docs/benchmarks and the table of docs/performance.md."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import page, record, rounds
from benchmarks.goals import TITLES
from benchmarks.reading import TINY, Sizes
from exoflow.testing.campaign import commit_of

LOAD_MAX = 0.7


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 if something could not be measured or was not done as it should. A missed goal is a result like any other."""
    options = parsed(arguments)
    groups = [group for group in TITLES if not options.only or group in options.only]
    sizes = options.sizes if options.growth_max is None else _at_most(options.sizes, options.growth_max)
    contestants, peer_versions = rounds.home(), dict[str, str]()
    if options.peers:
        from benchmarks.peers import environments

        contestants += environments.contestants(_say)
        peer_versions = environments.versions()
    made, start = dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), time.monotonic()
    load = os.getloadavg()[0]
    machine = record.machine(options.scratch)
    if load > LOAD_MAX:
        _say(f"the machine is busy (load {load:.1f}): these figures are good for trying only")
    if machine["file system"] == "tmpfs":
        _say(f"{options.scratch} lies in memory, where a flush costs nothing: name a folder on a disk with --scratch")
    table = rounds.run(contestants, groups, options.rounds, sizes, options.scratch, _say)
    result = record.Record(
        began=made,
        seconds=round(time.monotonic() - start, 1),
        command=rounds.without_folders(" ".join(["python", "-m", "benchmarks", *(sys.argv[1:] if arguments is None else arguments)])),
        commit=commit_of(rounds.ROOT),
        rounds=options.rounds,
        load=round(load, 2),
        machine=machine,
        versions=record.versions() | peer_versions,
        settings={each.name: each.setting for each in contestants},
        sizes=_plain(sizes),
        series=table.series(options.rounds),
        failures=table.failures,
    )
    print(page.table(result))
    for failure in table.failures:
        _say(failure)
    if options.output is not None:
        page.publish(result, options.output)
    elif is_whole(options):
        record.write(result, page.FOLDER / page.RESULTS)
        page.main([])
    return 1 if table.failures else 0


def is_whole(options: argparse.Namespace) -> bool:
    """Whether the figures of such a run are for the documents."""
    return not options.only and options.sizes == Sizes()


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=tuple(TITLES), metavar="GROUP", help=f"of {', '.join(TITLES)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="also the rivals; their environments are made on demand, once")
    parser.add_argument("--tiny", dest="sizes", action="store_const", const=TINY, default=Sizes(), help="only try whether all of it works")
    parser.add_argument("--growth-max", type=int, help="the largest DAG of P13; default 1,000,000")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="a folder on the disk that is to be measured")
    parser.add_argument("--output", type=Path, help="write results and charts there, whatever was measured, and leave docs alone")
    return parser.parse_args(arguments)


def _at_most(sizes: Sizes, growth_max: int) -> Sizes:
    return dataclasses.replace(sizes, growth=tuple(count for count in sizes.growth if count <= growth_max))


def _plain(sizes: Sizes) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(sizes).items()}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
