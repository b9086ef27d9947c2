"""Everything that an engine gets from outside, in one thread: what would run beside is done when somebody waits, one piece at a time, in
an order that a seed decides. So a run is the same whenever it is repeated, and a crash leaves nothing behind."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, TypeVar

from exoflow.runtime import host
from exoflow.runtime.threads import Lock, Pool, Signal, Thread
from exoflow.store.base import Store
from exoflow.testing.crashes.points import Life

T = TypeVar("T")

JUMPS_MAX = 1_000
"""So often may time jump until a run counts as one that never ends."""


class Stuck(Exception):
    """Nothing is left to be done, and what is waited for has not come."""


class _Parked(BaseException):
    """A thread of the engine has nothing to do. What it did so far is done; it starts again from its beginning when its signal is set."""


class _Lock:
    """Only who waits for a write that will never arrive ever finds it taken, and that one waits for ever."""

    def __init__(self, single: SingleThread) -> None:
        self._single, self._is_taken = single, False

    def acquire(self, blocking: bool = True) -> bool:  # noqa: FBT001, FBT002 - as in the standard library
        if self._is_taken and blocking:
            self._single.park(_Signal(self._single))
        taken, self._is_taken = self._is_taken, True
        return not taken

    def release(self) -> None:
        self._is_taken = False

    def locked(self) -> bool:
        return self._is_taken

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _Signal:
    def __init__(self, single: SingleThread) -> None:
        self._single, self._is_set = single, False

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._is_set and timeout is None:
            self._single.park(self)
        return self._is_set


class _Started:
    def join(self) -> None:
        """There is nothing to wait for."""


class _Pool:
    def __init__(self, submit: Callable[[Callable[[], Any]], None]) -> None:
        self._submit = submit

    def submit(self, work: Callable[[], Any], /) -> object:
        self._submit(work)
        return None

    def shutdown(self) -> None:
        """There are no threads to end."""


class SingleThread:
    """The Threads of one life. ``chance`` chooses what comes next, if more than one thing can; without it, the oldest does."""

    def __init__(self, life: Life, chance: random.Random | None) -> None:
        self._life, self._chance = life, chance
        self._beside: deque[Callable[[], Any]] = deque()
        self._parked: list[tuple[_Signal, Callable[[], None]]] = []
        self._running: Callable[[], None] | None = None
        self.calls: deque[Callable[[], None]] = deque()
        self.clock = VirtualTime()

    # --- what the runtime asks for ---------------------------------------------------------------------------------------------

    def lock(self) -> Lock:
        return _Lock(self)

    def signal(self) -> Signal:
        return _Signal(self)

    def start(self, name: str, work: Callable[[], None]) -> Thread:
        self._beside.append(lambda: self._run(work))
        return _Started()

    def pool(self, name: str, workers: int) -> Pool:
        return _Pool(self._beside.append)

    def wait(self, future: Future[T], timeout: float | None = None) -> T:
        while not future.done():
            if not self.step() and not self.clock.jump():
                raise Stuck
        return future.result()

    def sleep(self, seconds: float) -> None:
        self.clock.pass_s(seconds)

    # --- one piece at a time ---------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do one thing that would run beside whoever waits. False if there is none."""
        self._life.check()
        woken = next((each for each in self._parked if each[0].wait(0)), None)
        if woken is not None:
            self._parked.remove(woken)
            self._run(woken[1])
        elif self._beside and not (self.calls and self._chance is not None and self._chance.random() < 0.5):
            self._beside.popleft()()
        elif self.calls:
            if self._chance is not None:
                self.calls.rotate(self._chance.randrange(len(self.calls)))
            self.calls.popleft()()
        else:
            return False
        return True

    def settle(self) -> None:
        """Do all there is."""
        while self.step():
            pass

    def _run(self, work: Callable[[], None]) -> None:
        outer, self._running = self._running, work
        try:
            work()
        except _Parked:
            return
        finally:
            self._running = outer

    def park(self, signal: _Signal) -> None:
        """The thread that runs now waits for ``signal``."""
        if self._running is None:
            raise Stuck
        self._parked.append((signal, self._running))
        raise _Parked


class VirtualTime:
    """A clock that moves when nothing else is left to be done."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._jumps = 0

    def now_ms(self) -> int:
        return 1_700_000_000_000 + int(self._now_s * 1000)

    def monotonic_s(self) -> float:
        return self._now_s

    def chance(self) -> float:
        return 0.5

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self._now_s + delay_s, next(self._order), action))

    def jump(self) -> bool:
        """To the next timer. False if there is none, or time has jumped too often."""
        self._jumps += 1
        if not self._timers or self._jumps > JUMPS_MAX:
            return False
        due_s, _, action = heapq.heappop(self._timers)
        self._now_s = max(self._now_s, due_s)
        action()
        return True

    def pass_s(self, seconds: float) -> None:
        """So much time passes."""
        self._now_s += seconds

    def close(self) -> None:
        self._timers.clear()


class OneHost:
    """A process whose engine is the only one: that of an earlier life is dead."""

    name, pid = "here", 1

    def __init__(self, life: Life) -> None:
        self._owner, self._life, self._ids = "", life.number, itertools.count(1)

    def new_id(self) -> str:
        return f"{self._life}.{next(self._ids)}"

    def enter(self, owner: str, store: Store) -> host.Lock:
        self._owner = owner
        return host.Lock()

    def leave(self, owner: str, lock: host.Lock) -> None:
        """Nobody asks any more."""

    def is_here(self, owner: str) -> bool:
        return owner == self._owner

    def is_unlocked(self, path: str) -> bool:
        return True

    def unlink(self, path: str) -> None:
        """There are no lock files."""

    def clear_up(self, lock: host.Lock, keep: Collection[str]) -> None:
        """There are no lock files."""
