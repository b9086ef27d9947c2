"""Hunting a mutant: the schedules of a ring, one after the other, until one shows that something is wrong.

Each hunt has a process of its own, forked, because a mutant cannot be taken out again, and because it may do anything: turn in circles, or
fill the memory.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import resource
import signal
import time
import traceback
from collections.abc import Iterator

import msgspec

from exoflow.testing.mutants import patch
from exoflow.testing.mutants.mutant import Mutant

RINGS = "exoflow.testing.mutants.rings"
SCHEDULES_MAX = 50_000
MEMORY_MAX = 4 << 30


class Hunt(msgspec.Struct, kw_only=True):
    """What came of it.

    Attributes:
        schedules: how many were run.
        seed: the one that showed it, None if none did.
        found: what it showed, in a line.
        sound_too: seeds that show something in the engine as it is as well, and so do not count.
    """

    mutant: str
    ring: str
    schedules: int = 0
    seed: int | None = None
    found: str = ""
    seconds: float = 0.0
    sound_too: list[int] = []


class Hangs(BaseException):
    """A schedule took too long. Not an Exception, so that nothing on the way takes it for one."""


def hunt(mutant: Mutant, first: int = 0, schedules_max: int = SCHEDULES_MAX) -> Hunt:
    """Run schedules, from the seed ``first`` on, until one finds something in the mutant and nothing in the engine as it is."""
    total = Hunt(mutant=mutant.name, ring=mutant.ring)
    while total.schedules < schedules_max:
        part = in_child(mutant, first, schedules_max - total.schedules)
        total.schedules += part.schedules
        total.seconds += part.seconds
        if part.seed is None:
            break
        if in_child(mutant, part.seed, 1, sound=True).seed is None:
            total.seed, total.found = part.seed, part.found
            break
        total.sound_too.append(part.seed)
        first = part.seed + 1
    return total


def in_child(mutant: Mutant, first: int, schedules_max: int, *, sound: bool = False) -> Hunt:
    """The same in a forked process, until the first finding of any kind. With ``sound``, in the engine as it is."""
    began = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
            if not sound:
                patch.apply(mutant)
            os.write(writing, msgspec.json.encode(run_until_found(mutant, first, schedules_max)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    if not said:
        raise RuntimeError(f"the hunt for {mutant.name} died")
    found = msgspec.json.decode(said, type=Hunt)
    found.seconds = time.monotonic() - began
    return found


def run_until_found(mutant: Mutant, first: int, schedules_max: int) -> Hunt:
    """In this process, with whatever engine it has."""
    ring = importlib.import_module(RINGS).RINGS[mutant.ring]  # only now, because the engine in it is to be the one with the bug
    found = Hunt(mutant=mutant.name, ring=mutant.ring)
    with ring.open(mutant) as attempt:
        for seed in itertools.count(first):
            try:
                with _limited(ring.limit_s):
                    found.schedules += attempt(seed, schedules_max)
            except (Exception, Hangs) as error:
                found.schedules += getattr(error, "schedules", 1)
                better = getattr(error, "seed", None)
                found.seed, found.found = seed if better is None else better, _in_a_line(error)
                break
            if ring.once or found.schedules >= schedules_max:
                break
    return found


@contextlib.contextmanager
def _limited(limit_s: float) -> Iterator[None]:
    def ring_the_bell(_signal: int, _frame: object) -> None:
        raise Hangs(f"it did not end within {limit_s} s")

    before = signal.signal(signal.SIGALRM, ring_the_bell)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _in_a_line(error: BaseException) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:160]
