"""Try the core in random worlds: ``python -m exoflow.testing.machine --seeds 0:1000000 --jobs 2``.

Stops at the first seed that breaks something, prints how to repeat it, and writes the smallest scenario that still does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from exoflow.testing import campaign
from exoflow.testing.machine import scenario as sc
from exoflow.testing.machine.drive import Tally, drive, record, report
from exoflow.testing.machine.settings import SETTINGS, drawn_world
from exoflow.testing.machine.shrink import scenario_of, shrunk, world_of
from exoflow.testing.machine.situations import SITUATIONS
from exoflow.testing.machine.world import World

MODULE = "exoflow.testing.machine"
_LOT = 2000


def try_seeds(seeds: range, setting: str = "", *, checked: bool | None = None) -> Tally:
    """Run and judge the worlds of these seeds."""
    tally = Tally()
    for seed in seeds:
        world = drawn_world(seed, setting, checked=checked)
        if world is None:
            tally.counts["refused"] += 1
            continue
        tally.counts["schedules"] += 1
        try:
            world.run()
            world.judge()
        except Exception as error:  # anything that is wrong is found, however it shows
            tally.broken.append(f"seed {seed}: {type(error).__name__}: {error}\n  repeat: {_command(seed, setting)} --story")
        tally.reached.update(world.reached)
        tally.counts["steps"] += len(world.steps)
        tally.counts["faults"] += world.faults
    return tally


def _command(seed: int, setting: str) -> str:
    chosen = f" --setting '{setting}'" if setting else ""
    return f"python -m {MODULE} --seeds {seed}:{seed + 1}{chosen}"


def lots(first: int, last: int) -> Iterator[range]:
    """``first`` to ``last`` (not included) in pieces."""
    for at in range(first, last, _LOT):
        yield range(at, min(at + _LOT, last))


def tell(world: World) -> int:
    """Run a world step by step, for reading. 1 if something is wrong."""
    for line in sc.lines_of(world.graph):
        print(line)
    wrong = ""
    try:
        while world.step():
            print(world.steps[-1])
        world.run()
        world.judge()
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
        print(world.steps[-1])
    print(world.machine.story())
    print(wrong or f"{world.status}: nothing is wrong")
    return 1 if wrong else 0


def save_smallest(seed: int, setting: str, folder: Path) -> str:
    """Shrink the world of a seed to a scenario in ``folder``; its path."""
    world = drawn_world(seed, setting, checked=True)
    if world is None:
        return ""
    try:
        world.run()
        world.judge()
    except Exception as error:
        smallest = shrunk(scenario_of(world, found=_command(seed, setting)))
        path = folder / f"seed_{seed}.json"
        sc.save(path, smallest)
        return f"{path}: {smallest.story or f'does not repeat as a scenario: {error}'}"
    return ""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--seeds", default="0:100000", help="FIRST:LAST, the last one not included")
    parser.add_argument("--setting", default="", choices=["", *SETTINGS], help="one sort of trouble only; otherwise the seed chooses")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: when the seeds are used up")
    parser.add_argument("--broken", type=int, default=1, help="stop after so many broken seeds")
    parser.add_argument("--keep", type=Path, default=Path("tests/core/worlds"), help="folder for scenarios of broken seeds")
    parser.add_argument("--story", action="store_true", help="tell the first seed step by step")
    parser.add_argument("--scenario", type=Path, help="tell this scenario step by step")
    parser.add_argument("--record", action="store_true", help="append a campaign to docs/reliability/campaigns.jsonl")
    return parser.parse_args(arguments)


class _Work:
    """What a process does with a lot of seeds."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def __call__(self, seeds: range) -> Tally:
        return try_seeds(seeds, self.setting)


def main() -> int:
    """The command."""
    arguments = parse()
    first, _, last = arguments.seeds.partition(":")
    if arguments.scenario is not None:
        return tell(world_of(sc.load(arguments.scenario)))
    if arguments.story:
        world = drawn_world(int(first), arguments.setting, checked=True)
        return tell(world) if world is not None else 0
    began, at = campaign.now(), time.monotonic()
    ends: list[int] = [int(first)]
    total = drive(
        _Work(arguments.setting),
        lots(int(first), int(last)),
        jobs=arguments.jobs,
        minutes=arguments.minutes,
        broken_max=arguments.broken,
        done=lambda seeds, _: ends.append(seeds.stop),
    )
    seconds = time.monotonic() - at
    never = sorted(SITUATIONS - set(total.reached))
    print("never reached: " + "; ".join(never) if never else f"all {len(SITUATIONS)} situations reached")
    for text in total.broken[: min(3, arguments.broken)]:
        print(save_smallest(int(text.partition(":")[0].removeprefix("seed ")), arguments.setting, arguments.keep))
    if arguments.record:
        record("machine", total, began=began, seconds=seconds, cores=arguments.jobs, module=MODULE, seeds=(int(first), max(ends) - 1))
    return report("machine", total, seconds)


if __name__ == "__main__":
    sys.exit(main())
