"""How lives are to be killed: drawn from a seed, or told."""

from __future__ import annotations

import functools
import random
import signal
from dataclasses import dataclass, field
from typing import Any

import msgspec

from exoflow.testing.ledger import Trap
from tests.crash.lives import Cut
from tests.crash.points import FAULTS, POINTS, At
from tests.crash.workflows import Case

DEPTHS = (1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 8, 12, 20)
WORKER, POINT, SIGNALS, FAULT = 0.4, 0.5, 0.06, 0.04
HITS_MAX = 3


@dataclass
class Measure:
    """A run without kills, and one with one in the middle. ``first`` and ``again``: how often its first life came by each crash point, and
    a life after a kill."""

    entries: int = 12
    calls: int = 6
    duration_s: float = 0.03
    first: dict[str, int] = field(default_factory=dict)
    again: dict[str, int] = field(default_factory=dict)

    @functools.cached_property
    def moments(self) -> list[At]:
        """Every way to kill a first life at a crash point, in a random order that is always the same."""
        return moments(self.first)

    @functools.cached_property
    def moments_again(self) -> list[At]:
        """The same for a later life."""
        return moments(self.again)


def moments(reached: dict[str, int]) -> list[At]:
    """Each of these points, at its first, second, third and last time, before, during and after."""
    found = []
    for name, count in sorted(reached.items()):
        for hit in sorted({*range(1, min(count, HITS_MAX) + 1), count}):
            found += [At(name, when, hit) for when in POINTS[name].moments]
            if POINTS[name].in_worker:
                found += [At(name, when, hit, "engine") for when in POINTS[name].moments]
    random.Random("always the same").shuffle(found)
    return found


@dataclass
class Plan:
    """How a life is to be killed, as far as it can be said before it begins. ``share``: of the length of a run without kills. ``signals``
    are sent to the command ``exoflow``, one after the other."""

    how: str
    share: float
    victim: str
    traps: tuple[Trap, ...] = ()
    cut: Cut | None = None
    at: At | None = None
    slow_s: float = 0.0
    signals: tuple[int, ...] = ()

    @property
    def kills_worker(self) -> bool:
        """And that alone."""
        at_point = self.at is not None and POINTS[self.at.point].in_worker and self.at.victim == "self"
        return self.victim == "worker" or at_point or any(trap.victim == "worker" for trap in self.traps)


def draw_plan(rng: random.Random, seed: int, case: Case, measure: Measure, number: int, deaths_left: int, *, in_processes: bool) -> Plan:
    """The next kill. In later lives there is less left to do, so it comes earlier."""
    share = rng.random() * (1.1 if number == 1 else rng.choice((1.0, 0.6, 0.3)))
    victim = rng.choice(("engine", "engine", "family"))
    if case.by_command and rng.random() < SIGNALS:
        return Plan("signal", share, "engine", signals=_signals(rng))
    if rng.random() < FAULT and (disk := _fault(rng, measure.first if number == 1 else measure.again)):
        return Plan("fault", share, "engine", at=disk)
    if rng.random() < POINT:
        plan = Plan("point", share, victim, at=_at(rng, seed, measure, number, of_workers=in_processes and not case.in_processes))
        if plan.at is not None and (deaths_left or not plan.kills_worker):
            return plan
    if in_processes and deaths_left and rng.random() < WORKER / 2:
        return Plan("time", share, "worker")
    how = rng.choice(("time", "time", "moment", "moment", "moment", "effect", "write", "write", "undo" if number > 1 else "effect"))
    traps: list[Trap] = []
    if in_processes and deaths_left and rng.random() < WORKER:
        hit = 1 + int(rng.random() * measure.entries / 2)
        traps.append(Trap(life=number, pid=0, hit=hit, victim="worker", when=rng.choice(("before", "after"))))
    plan = Plan(how, share, victim, slow_s=rng.choice((0.0, 0.0, 0.0, 0.001, 0.004)))
    when: Any = rng.choice(("before", "after"))
    if how == "moment":
        traps.append(Trap(life=number, pid=0, hit=1 + int(share * measure.entries), victim=victim, when=when))
    elif how == "effect":
        traps.append(Trap(life=number, pid=0, hit=rng.choice((1, 1, 2, 3)), op="apply", victim=victim, when=when))
    elif how == "undo":
        traps.append(Trap(life=number, pid=0, hit=rng.choice((1, 1, 2, 3)), op="undo", victim=victim, when=when))
    elif how == "write":
        cut_when = rng.choice(("before", "during", "during", "after", "instead", "instead"))
        plan.cut = Cut(1 + int(share * measure.calls), cut_when, rng.random() * (0.02 if cut_when == "instead" else 0.0008))
    plan.traps = tuple(traps)
    return plan


_OF_WORKERS = moments({name: HITS_MAX for name in POINTS if name.startswith(("wire.", "worker.", "executors.process_pool."))})


def _at(rng: random.Random, seed: int, measure: Measure, number: int, *, of_workers: bool) -> At | None:
    """Runs with consecutive seeds come through all moments of first lives; those of later lives are drawn. ``of_workers``: there are
    some that were not there when the workflow was measured."""
    if of_workers and rng.random() < 1 / 2:
        return rng.choice(_OF_WORKERS)
    if number == 1 and measure.moments:
        at = measure.moments[seed % len(measure.moments)]
    elif number > 1 and measure.moments_again:
        at = rng.choice(measure.moments_again)
    else:
        return None
    return (
        At(at.point, at.when, at.hit, "family") if at.victim == "self" and rng.random() < 1 / 3 and not POINTS[at.point].in_worker else at
    )


def draw_rival(rng: random.Random, measure: Measure) -> Plan | None:
    """Another engine comes, and perhaps dies, too."""
    return Plan("point", 0.0, "engine", at=rng.choice(measure.moments_again)) if measure.moments_again and rng.random() < 1 / 2 else None


def _fault(rng: random.Random, reached: dict[str, int]) -> At | None:
    """Nobody dies, but the disk fails once."""
    disks = [name for name in reached if name.startswith(("files.", "sqlite."))]
    if not disks:
        return None
    point = rng.choice(disks)
    return At(point, rng.choice(FAULTS), rng.randint(1, reached[point]))


def _signals(rng: random.Random) -> tuple[int, ...]:
    asking = rng.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
    return rng.choice(((asking,), (asking,), (asking, signal.SIGTERM), (asking, signal.SIGKILL), (signal.SIGTERM, signal.SIGTERM)))


def told(
    *, slow_s: float = 0.0, cut: dict[str, Any] | None = None, at: dict[str, Any] | None = None, signals: tuple[int, ...] = (), **trap: Any
) -> Plan:
    """A plan from JSON: the fields of a Trap, of a Cut or of an At, and how slow the store is; or signals, and at which ``share`` of a run
    they come."""
    if signals:
        return Plan("signal", trap["share"], "engine", signals=signals)
    if at is not None:
        return Plan("told", 0.0, "engine", at=msgspec.convert(at, At), slow_s=slow_s)
    if cut is not None:
        return Plan("told", 0.0, "engine", cut=Cut(**cut), slow_s=slow_s)
    caught = msgspec.convert({"life": 0, "pid": 0, "hit": 1, **trap}, Trap)
    return Plan("told", 0.0, caught.victim, (caught,), slow_s=slow_s)
