"""Which calls share a task of Ray. One such task costs as much as ten calls of a short function, so short calls of a function go together.

That is for calls only that die without harm (``TaskCall.harmless``): when the worker dies, nobody knows which of them had begun. And it is
for functions only of which calls have been seen to be short, so that none waits long behind another.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from exoflow.backends.ray.far_end import Job
from exoflow.backends.ray.parcels import Parcel
from exoflow.worker.attempt import Done, TaskCall

TOGETHER_S = 0.004
"""Calls go together that should take so long in all."""
TOGETHER_MAX = 16
TOGETHER_BYTES = 64 * 1024
SCOUTS = 8
"""So many calls of a function that is not known yet go ahead, each for itself."""
HOLD_S = 0.02
"""The others wait so long for news of them."""
_FADING = 0.8
"""A call that took long counts less with each answer after it."""


class Attempt:
    """A call that has not been answered. ``sent`` is the task of Ray that it is in."""

    __slots__ = ("call", "done", "sent", "stop_asked")

    def __init__(self, call: TaskCall, done: Done) -> None:
        self.call, self.done = call, done
        self.stop_asked = False
        self.sent: Sent | None = None


class Packed(NamedTuple):
    """An attempt, ready to go. ``parcel`` is what does not go into the job."""

    attempt: Attempt
    job: Job
    parcel: Parcel | None


class Sent:
    """A task of Ray. ``report`` and ``beside`` are references to what it returns."""

    __slots__ = ("beside", "lot", "packed", "report")

    def __init__(self, lot: Lot, packed: list[Packed], report: Any, beside: Any) -> None:
        self.lot, self.packed, self.report, self.beside = lot, packed, report, beside


class Lot:
    """The calls of one function with one set of options. ``remote`` runs them as tasks of Ray; None: an actor does."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any], shipped: bytes, remote: Any) -> None:
        self.function, self.options, self.shipped, self.remote = function, options, shipped, remote
        self._waiting: deque[Packed] = deque()
        self._long_s: float | None = None  # how long a call may take; None: not known
        self._ahead = 0
        self._since_s = 0.0

    def add(self, packed: Packed) -> None:
        """Keep it until :meth:`ready` gives it back."""
        if not self._waiting:
            self._since_s = time.monotonic()
        self._waiting.append(packed)

    def remove(self, attempt: Attempt) -> bool:
        """Forget it. False if it is not here."""
        before = len(self._waiting)
        self._waiting = deque(each for each in self._waiting if each.attempt is not attempt)
        return len(self._waiting) < before

    def learn(self, longest_s: float) -> None:
        """One of the last calls took so long."""
        self._long_s = max(longest_s, (self._long_s or 0.0) * _FADING)

    def ready(self) -> Iterator[list[Packed]]:
        """What shall go now, by task of Ray. Rest may be left, for :meth:`patience_s`."""
        size = 1
        if self._long_s is not None:
            size = max(1, min(TOGETHER_MAX, int(TOGETHER_S / max(self._long_s, 1e-6))))
        elif self.patience_s() > 0:
            while self._waiting and self._ahead < SCOUTS:
                self._ahead += 1
                yield [self._waiting.popleft()]
            return
        while self._waiting:
            yield self._take(size)

    def _take(self, size: int) -> list[Packed]:
        taken = [self._waiting.popleft()]
        size_bytes = len(taken[0].job.arguments)
        while self._waiting and len(taken) < size:
            size_bytes += len(self._waiting[0].job.arguments)
            if size_bytes > TOGETHER_BYTES:
                break
            taken.append(self._waiting.popleft())
        return taken

    def patience_s(self) -> float:
        """How long what waits may go on waiting for news."""
        return max(0.0, self._since_s + HOLD_S - time.monotonic())

    def __len__(self) -> int:
        return len(self._waiting)
