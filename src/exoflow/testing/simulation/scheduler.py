"""Simulated threads on one thread of the system: who goes on next is drawn from the seed, time jumps to what comes next.

A :class:`Strand` is a simulated thread, a :class:`Process` is what can be killed or paused with all its strands. A strand runs until it
calls :meth:`Scheduler.step` or :meth:`Scheduler.park`; nothing else ever switches. So a whole run is a function of its seed.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from asyncio import _set_running_loop
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

from exoflow.testing.simulation import greenlets
from exoflow.testing.simulation.greenlets import Greenlet

STEP_S = 20e-6
"""Virtual seconds that each step takes, so that no loop without pauses can stop time."""


class _Loop(asyncio.AbstractEventLoop):
    """Stands for an event loop where only its being there is of interest."""


_LOOP = _Loop()  # type: ignore[abstract]


class Killed(BaseException):
    """Raised in a strand whose process has died: it must run no further."""


class Process:
    """Strands that live and die together. ``late_s`` is how far its wall clock is off."""

    def __init__(self, name: str, host: str = "") -> None:
        self.name, self.host = name, host
        self.alive = True
        self.paused_until = 0.0
        self.late_s = 0.0
        self.strands: dict[Strand, None] = {}
        self.on_death: list[Callable[[], None]] = []


class Strand:
    """A simulated thread."""

    __slots__ = (
        "greenlet",
        "name",
        "number",
        "on_loop",
        "parked",
        "patient",
        "priority",
        "process",
        "stopped",
        "ticket",
        "waiters",
        "woken",
    )

    greenlet: Greenlet

    def __init__(self, number: int, name: str, process: Process, priority: float) -> None:
        self.number, self.name, self.process, self.priority = number, name, process, priority
        self.parked = self.woken = self.stopped = self.patient = self.on_loop = False
        self.ticket = 0
        self.waiters: list[Ticket] | None = []  # None: it is over

    def require_life(self) -> None:
        """Raise Killed if it must run no further."""
        if self.stopped or not self.process.alive:
            raise Killed


Ticket = tuple[Strand, int]
"""One wait of a strand; waking by it does nothing once that wait is over."""


class Scheduler:
    """Runs strands, one at a time. ``policy`` is "random", or "priority": the strand of the highest priority runs, and at a few steps
    whoever runs falls to the end (which finds bugs that need one strand to be late at the right moments)."""

    def __init__(self, seed: int, *, policy: str = "random", preempt: float = 0.1, changes: int = 3, horizon: int = 2000) -> None:
        self.rng = random.Random(f"schedule {seed}")
        self.policy, self._preempt = policy, preempt
        self._random = self.rng.random
        self._special: dict[int, Callable[[], None]] = {}
        if policy == "priority":
            self._special.update((self.rng.randrange(horizon), self._demote) for _ in range(changes))
        self.now = 0.0
        self.steps = 0
        self.current: Strand | None = None
        self._runnable: list[Strand] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._strands = 0
        self._hub = greenlets.current()
        self._processes: list[Process] = []
        self._dying: list[Process] = []
        self._streak = 0
        self._trace = blake2b(digest_size=16)
        self.failure: BaseException | None = None
        self.log: list[str] | None = None
        self.done = False

    # --- what happened -------------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Add to the trace, whose digest two runs of one seed must share."""
        self._trace.update(text.encode())
        if self.log is not None:
            who = self.current
            self.log.append(f"{self.now:9.4f} {who.process.name if who else '-':>4} {who.name if who else '':<18} {text}")

    @property
    def trace(self) -> str:
        return self._trace.hexdigest()

    # --- called by strands ---------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Another strand may go on here."""
        me = self.current
        if me is not None:
            me.require_life()
            self._runnable.append(me)
            self._hub.switch()
            me.require_life()

    def nudge(self) -> None:
        """The same at a place where switching is rarely of interest: only now and then."""
        if self._preempt and self.current is not None and self._random() < self._preempt:
            self.step()

    def ticket(self) -> Ticket:
        """For whoever shall wake this strand from its next :meth:`park`."""
        assert self.current is not None, "only a strand can wait"
        return self.current, self.current.ticket + 1

    def park(self, timeout_s: float | None = None) -> bool:
        """Wait for :meth:`wake`. False if ``timeout_s`` passed before."""
        me = self.current
        assert me is not None, "only a strand can wait"
        me.require_life()
        me.ticket += 1
        me.parked, me.woken, me.patient = True, False, timeout_s is None
        if timeout_s is not None:
            ticket = (me, me.ticket)
            self.at(self.now + max(0.0, timeout_s), lambda: self._time_out(ticket))
        self._hub.switch()
        me.require_life()
        return me.woken

    def _time_out(self, ticket: Ticket) -> None:
        strand, number = ticket
        if strand.parked and strand.ticket == number:
            strand.parked = False
            self._runnable.append(strand)

    def wake(self, ticket: Ticket) -> None:
        """Let a parked strand go on, if it is still the wait that the ticket is for."""
        strand, number = ticket
        if strand.parked and strand.ticket == number:
            strand.parked, strand.woken = False, True
            self._runnable.append(strand)

    def process(self, name: str, host: str = "") -> Process:
        """A new process, on ``host``."""
        process = Process(name, host)
        self._processes.append(process)
        return process

    def start(self, name: str, work: Callable[[], None], process: Process) -> Strand:
        """A new strand of ``process`` that does ``work``."""
        self._strands += 1
        strand = Strand(self._strands, name, process, self.rng.random() if self.policy == "priority" else 0.0)

        def body() -> None:
            try:
                if process.alive and not strand.stopped:
                    work()
            except Killed:
                if process.alive and not strand.stopped:
                    raise
            except BaseException as error:
                if process.alive and self.failure is None:
                    self.failure = error
            finally:
                process.strands.pop(strand, None)
                waiters, strand.waiters = strand.waiters, None
                for waiter in waiters or ():
                    self.wake(waiter)

        strand.greenlet = greenlets.new(body, self._hub)
        process.strands[strand] = None
        self._runnable.append(strand)
        return strand

    def join(self, strand: Strand) -> None:
        """Wait for the end of ``strand``; its own end it does not wait for."""
        while strand.waiters is not None and strand is not self.current:
            strand.waiters.append(self.ticket())
            self.park()

    def at(self, due: float, action: Callable[[], None]) -> None:
        """Call ``action`` at that time, outside any strand."""
        self._order += 1
        heapq.heappush(self._timers, (due, self._order, action))

    # --- death and pauses ----------------------------------------------------------------------------------------------------

    def kill(self, process: Process) -> None:
        """No strand of ``process`` ever runs again. If the caller is one, it ends here."""
        if process.alive:
            process.alive = False
            self._dying.append(process)
            for action in process.on_death:
                action()
        if self.current is not None and self.current.process is process:
            raise Killed

    def stop(self, strand: Strand) -> None:
        """End one strand, as if its own worker process had been killed."""
        strand.stopped = True
        if strand is self.current:
            raise Killed
        if strand.parked:
            strand.parked = False
            self._runnable.append(strand)

    def pause(self, process: Process, seconds: float) -> None:
        """No strand of ``process`` runs for so long."""
        process.paused_until = max(process.paused_until, self.now + seconds)

    def _reap(self) -> None:
        while self._dying:
            process = self._dying.pop()
            self._runnable[:] = [strand for strand in self._runnable if strand.process is not process]
            for strand in list(process.strands):
                strand.parked = False
                # Its stack is unwound at once, not when the collector comes to it; nothing that it touches on the way does anything.
                for _ in range(100):
                    if not strand.greenlet:
                        break
                    self.current = strand
                    strand.greenlet.throw(Killed)
                self.current = None
                strand.waiters = None
            process.strands.clear()

    # --- the hub -------------------------------------------------------------------------------------------------------------

    def run(self, *, steps_max: int) -> bool:
        """Let strands run until ``done`` is set. False if nothing can happen any more, or ``steps_max`` steps were not enough. Raises what
        a strand did not catch."""
        runnable, timers = self._runnable, self._timers
        while not self.done:
            if self._dying:
                self._reap()
            if self.failure is not None:
                raise self.failure
            while timers and (timers[0][0] <= self.now or not runnable):
                due, _, action = heapq.heappop(timers)
                self.now = max(self.now, due)
                action()
                if self._dying:
                    self._reap()
            if not runnable or self.steps >= steps_max:
                return False
            strand = self._pick() if len(runnable) > 1 else runnable.pop()
            process = strand.process
            if process.paused_until > self.now:
                self.at(process.paused_until, lambda strand=strand: self._resume(strand))  # type: ignore[misc]
                continue
            self.steps += 1
            self.now += STEP_S
            if self.steps in self._special:
                runnable.append(strand)
                self._special[self.steps]()
                continue
            self.current = strand
            if strand.on_loop:
                _set_running_loop(_LOOP)
                strand.greenlet.switch()
                _set_running_loop(None)
            else:
                strand.greenlet.switch()
            self.current = None
        return True

    @contextmanager
    def on_loop(self) -> Iterator[None]:
        """For a while, the strand that runs is the thread of an event loop: it must not block for long."""
        strand = self.current
        assert strand is not None
        strand.on_loop = True
        _set_running_loop(_LOOP)
        try:
            yield
        finally:
            strand.on_loop = False
            _set_running_loop(None)

    def _resume(self, strand: Strand) -> None:
        if strand.process.alive:
            self._runnable.append(strand)

    def alarm(self, step: int, action: Callable[[], None]) -> None:
        """Call ``action`` outside any strand, just before the step of that number."""
        self._special[step] = action

    def _demote(self) -> None:
        """Whoever would run now falls to the end."""
        if self._runnable:
            best = max(self._runnable, key=lambda strand: (strand.priority, -strand.number))
            best.priority -= 1.0

    def _pick(self) -> Strand:
        runnable = self._runnable
        if self.policy == "priority" and self._streak < 50:
            best = max(range(len(runnable)), key=lambda index: (runnable[index].priority, -runnable[index].number))
            self._streak += 1
        else:  # whoever waits must come to its turn some time
            best = int(self._random() * len(runnable))
            self._streak = 0
        runnable[best], runnable[-1] = runnable[-1], runnable[best]
        return runnable.pop()

    def close(self) -> None:
        """Unwind whatever is left."""
        for process in self._processes:
            process.alive = False
            self._dying.append(process)
        self._reap()
