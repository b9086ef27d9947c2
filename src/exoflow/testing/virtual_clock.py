"""Time that jumps, for tests with real threads: back-off, timeouts and sleeps of an hour pass at once.

:class:`VirtualClock` moves by itself, to the next timer, whenever no task runs and nothing happens any more; so a test just runs its
workflow. A task that is to take long says ``clock.sleep(3600)``. What a task does otherwise takes no time at all, and while it does it,
time stands still unless the test says :meth:`VirtualClock.advance`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import threading
from collections.abc import Callable

from exoflow.executors.base import Executor
from exoflow.settings import Settings
from exoflow.wiring import Parts, executor_for
from exoflow.worker.attempt import Done, Outcome, TaskCall
from exoflow.worker.context import inside_task

_SETTLED_S = 0.003
"""Real time in which nothing must happen before time jumps. A jump that comes too early does no harm: no task runs then."""
_LOOKED_S = 0.02
"""The same before :meth:`VirtualClock.advance`, whose caller may be quicker than the engine."""


class VirtualClock:
    """See the top of this module. ``Engine(..., parts=clock.parts())`` uses it; engines may share one. ``seed`` is that of the jitter."""

    def __init__(self, *, seed: int = 0) -> None:
        self._now_s = 0.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._chance = random.Random(seed)
        self._changed = threading.Condition()
        self._changes = 0
        self._busy = 0  # tasks that run and do not sleep
        self._sleepers: set[_Sleeper] = set()
        self._engines = 0
        self._thread: threading.Thread | None = None

    def parts(self) -> Parts:
        """For an engine: this clock, and executors that say to it when they run something."""

        def clock() -> VirtualClock:
            with self._changed:
                self._engines += 1
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="exoflow-virtual-clock", daemon=True)
                    self._thread.start()
            return self

        def watched(name: str, settings: Settings, fds: tuple[int, ...]) -> Executor:
            return _Watched(executor_for(name, settings, fds), self)

        return Parts(clock=clock, executor_for=watched)

    # --- for tests and tasks ---------------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let so much time pass, whatever runs: wait until nothing happens, then call what is due, in order, on this thread."""
        until_s = self._now_s + seconds
        while True:
            with self._changed:
                self._settle(_LOOKED_S)
                if not self._timers or self._timers[0][0] > until_s:
                    self._now_s = max(self._now_s, until_s)
                    return
                action = self._next()
            action()

    def sleep(self, seconds: float) -> None:
        """In a task: wait until so much time has passed. Elsewhere: let it pass."""
        if inside_task() is None:
            self.advance(seconds)
            return
        woken = threading.Event()
        self._lie_down(seconds, woken.set)
        woken.wait()

    async def sleep_async(self, seconds: float) -> None:
        """The same in an ``async def`` task."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        sleeper = self._lie_down(seconds, lambda: loop.call_soon_threadsafe(woken.set))
        try:
            await woken.wait()
        except asyncio.CancelledError:
            self._wake(sleeper)
            raise

    def _lie_down(self, seconds: float, wake: Callable[[], object]) -> _Sleeper:
        sleeper = _Sleeper(wake)
        with self._changed:
            self._sleepers.add(sleeper)
            self._busy -= 1
        self.call_later(seconds, lambda: self._wake(sleeper))
        return sleeper

    def _wake(self, sleeper: _Sleeper) -> None:
        with self._changed:
            if sleeper not in self._sleepers:
                return
            self._sleepers.discard(sleeper)
            self._busy += 1
        sleeper.wake()

    # --- for the engine --------------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """See :class:`~exoflow.runtime.clock.Clock`, also for what follows."""
        return 1_700_000_000_000 + int(self._now_s * 1000)

    def monotonic_s(self) -> float:
        return self._now_s

    def chance(self) -> float:
        return self._chance.random()

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._timers, (self._now_s + delay_s, next(self._order), action))
            self._note()

    def close(self) -> None:
        """One engine needs it no more. When none does, whoever sleeps is woken, and the clock stands still."""
        with self._changed:
            self._engines -= 1
            if self._engines > 0:
                return
            self._timers.clear()
            sleepers, thread, self._thread = list(self._sleepers), self._thread, None
            self._note()
        for sleeper in sleepers:
            self._wake(sleeper)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def runs(self, more: int) -> None:
        """So many more tasks run."""
        with self._changed:
            self._busy += more
            self._note()

    # --- moving ----------------------------------------------------------------------------------------------------------------

    def _note(self) -> None:
        self._changes += 1
        self._changed.notify_all()

    def _settle(self, seconds: float) -> None:
        """Wait, with the lock, until nothing has happened for so long."""
        before = -1
        while before != self._changes:
            before = self._changes
            self._changed.wait(seconds)

    def _next(self) -> Callable[[], None]:
        due_s, _, action = heapq.heappop(self._timers)
        self._now_s = max(self._now_s, due_s)
        return action

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                while self._thread is me and (not self._timers or self._busy > 0):
                    self._changed.wait()
                self._settle(_SETTLED_S)
                if self._thread is not me:
                    return
                if not self._timers or self._busy > 0:
                    continue
                action = self._next()
            action()


class _Sleeper:
    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake


class _Watched:
    """An executor that says to a clock when it has something to run."""

    def __init__(self, executor: Executor, clock: VirtualClock) -> None:
        self.name, self.can_kill, self.slots = executor.name, executor.can_kill, executor.slots
        self.is_elsewhere = executor.is_elsewhere
        self._executor, self._clock = executor, clock

    def submit(self, call: TaskCall, done: Done) -> None:
        def answered(outcome: Outcome) -> None:
            try:
                done(outcome)
            finally:
                self._clock.runs(-1)

        self._clock.runs(1)
        try:
            self._executor.submit(call, answered)
        except BaseException:
            self._clock.runs(-1)
            raise

    def stop(self, key: str) -> None:
        self._executor.stop(key)

    def close(self) -> None:
        self._executor.close()
