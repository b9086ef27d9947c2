"""Compare the commit rule with brute force: ``python -m exoflow.testing.machine.cross_check``.

For each workflow, in every state that schedules and losses can lead to, for every task that could start there (and commits, or has a
rollback): what the gate of the engine allows, brute force (``reference``) must find safe; how often the gate holds back what would be safe
is counted. ``exoflow.check`` must accept exactly the workflows in which some way without faults starts every task where that is safe.

Workflows are all of up to three tasks, as in ``exhaustive``, and by seeds random ones of four and five.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from exoflow.core import growth, replay
from exoflow.core import state as core
from exoflow.core.checks import check
from exoflow.core.readiness import GATE
from exoflow.core.spec.ids import UNEXECUTED as NO_VERSION
from exoflow.core.stability import inputs
from exoflow.testing import campaign
from exoflow.testing.machine.drive import Tally, drive, record, report
from exoflow.testing.machine.exhaustive import CONFIGURATIONS, configuration
from exoflow.testing.machine.graphs import random_graph
from exoflow.testing.machine.reference import ACTED, DURABLE, PRESENT, Reference, State
from exoflow.testing.machine.scenario import Lines, graph_of, lines_of

MODULE = "exoflow.testing.machine.cross_check"
_LOT = 50


class Gate:
    """The engine's rule, asked about states of the reference."""

    def __init__(self, lines: Lines) -> None:
        self.state = replay.new_state("w", 1)
        self.state.root = growth.build(self.state, graph_of(lines))
        self.tasks = [self.state.tasks[line.id] for line in lines]

    def set(self, state: State) -> None:
        """Go to this state."""
        for task, status in zip(reversed(self.tasks), reversed(state), strict=True):
            ran = status >= PRESENT or any(down.version != NO_VERSION or down.effect for down in task.downs)  # so did what is above it
            task.version = 1 if ran else NO_VERSION
            task.present, task.durable, task.effect = status == PRESENT, status == DURABLE, status == ACTED
            self.state.move(task, core.Phase.DONE if ran else core.Phase.IDLE)
        self.state.stability.reset()

    def allows(self, at: int) -> bool:
        """Whether task ``at`` may start there."""
        task = self.tasks[at]
        prop = GATE[task.kind]
        return self.state.stability.holds(prop, inputs(prop, task))


def compare(lines: Lines) -> Tally:
    """Everything about one workflow."""
    tally = Tally()
    reference, gate = Reference(lines), Gate(lines)
    tally.counts["workflows"] += 1
    tally.counts["states"] += len(reference.moves)

    accepted, possible = not check(graph_of(lines)), reference.can_finish()
    tally.counts["accepted" if accepted else "refused"] += 1
    if accepted and not possible:
        tally.broken.append(f"accepted, but somebody can never start safely: {lines}")
    if possible and not accepted:
        tally.counts["refused without need"] += 1
    for state in sorted(reference.lawful):
        starting = {move.starts for move in reference.moves[state] if move.starts >= 0}
        if starting:
            gate.set(state)
        for at in starting:
            allowed, safe = gate.allows(at), reference.safe(state, at)
            kind = reference.nodes[at].kind
            if allowed and not safe:
                tally.broken.append(f"the gate lets {lines[at].id} start in {state}, which is not safe: {lines}")
            tally.counts[f"{kind}: safe to start"] += safe
            tally.counts[f"{kind}: held back without need"] += safe and not allowed
    return tally


def drawn(seed: int) -> Lines:
    """A random workflow of four or five tasks. Not caught, no sub-workflows: what matters is who rests on what."""
    rng = random.Random(seed)
    return lines_of(random_graph(rng, rng.choice([4, 4, 5])))


class _Work:
    """Configurations by their numbers, or drawn workflows by seeds."""

    def __init__(self, *, random: bool) -> None:
        self.random = random

    def __call__(self, numbers: range) -> Tally:
        tally = Tally()
        for number in numbers:
            tally.add(compare(drawn(number) if self.random else configuration(number)))
        return tally


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--seeds", default="", help="FIRST:LAST: random workflows of four and five tasks; otherwise all of up to three")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: when all is done")
    parser.add_argument("--record", action="store_true", help="append a campaign to docs/reliability/campaigns.jsonl")
    return parser.parse_args(arguments)


def main() -> int:
    """The command."""
    arguments = parse()
    began, at = campaign.now(), time.monotonic()
    first, _, last = (arguments.seeds or f"0:{CONFIGURATIONS}").partition(":")
    ends = [int(first)]
    lots = [range(start, min(start + _LOT, int(last))) for start in range(int(first), int(last), _LOT)]
    work = _Work(random=bool(arguments.seeds))
    total = drive(work, lots, jobs=arguments.jobs, minutes=arguments.minutes, broken_max=10, done=lambda lot, _: ends.append(lot.stop))
    seconds = time.monotonic() - at
    if arguments.record:
        seeds = (int(first), max(ends) - 1) if arguments.seeds else (-1, -1)
        record("cross-check", total, began=began, seconds=seconds, cores=arguments.jobs, module=MODULE, seeds=seeds)
    return report("cross-check", total, seconds)


if __name__ == "__main__":
    sys.exit(main())
