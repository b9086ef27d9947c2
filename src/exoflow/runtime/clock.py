"""Time and chance, as something that can be replaced: the loop gets them from here and hands them to the core as fields of events."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """What the runtime may know of time."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, for people only."""

    def monotonic_s(self) -> float:
        """Seconds that never go back, for deadlines."""

    def chance(self) -> float:
        """A random number in [0, 1), for jitter."""

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Call ``action`` once, about ``delay_s`` seconds from now, on some thread. ``action`` must not block for long."""

    def close(self) -> None:
        """Forget what is still to be called."""


class SystemClock:
    """Real time. One thread, started when first needed, sleeps until the next timer is due."""

    def __init__(self) -> None:
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    def chance(self) -> float:
        return random.random()  # noqa: S311 - jitter, not a secret

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        due = time.monotonic() + delay_s
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._timers, (due, next(self._order), action))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="exoflow-clock", daemon=True)
                self._thread.start()
            elif self._timers[0][0] == due:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._timers or self._timers[0][0] > time.monotonic()):
                    self._changed.wait(max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None)
                if self._closed:
                    return
                action = heapq.heappop(self._timers)[2]
            action()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._timers.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
