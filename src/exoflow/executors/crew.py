"""A crew of daemon threads, started on demand, that take calls from one queue: the common part of the thread and the process executor.

Each thread works at a :class:`Station` of its own, which runs one call at a time. A call is claimed by taking it out of ``_waiting``
(``dict.pop`` gives it to exactly one taker, be it a thread that runs it or a ``stop`` that answers for it); who claimed it answers it.

A station may have a second call ready behind the one that it runs (:meth:`Crew.follow`), but only while no other thread is free for it; and
a thread that runs out of work takes it back from there, unless it has begun. So no call waits behind another while a thread is idle.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from exoflow.errors import ClosedError, ExecutorUnavailable, InvalidOptionError
from exoflow.worker import task_runner
from exoflow.worker.attempt import Done, Outcome, Returned, Stopped, TaskCall


class Attempt:
    """A call that has not been answered. ``station`` is where it runs; ``stop_asked`` is set before anything is done about a stop."""

    __slots__ = ("call", "done", "station", "stop_asked")

    def __init__(self, call: TaskCall, done: Done) -> None:
        self.call, self.done = call, done
        self.station: Station | None = None
        self.stop_asked = False


class Station(Protocol):
    """Where one thread of a crew runs its calls, one after the other."""

    def run(self, attempt: Attempt) -> Outcome:
        """Run the call to its end. Must look at ``attempt.stop_asked`` before the function begins."""

    def stop(self, attempt: Attempt) -> None:
        """End ``attempt`` if it runs here now, or has begun as a follower; from another thread, with the crew's lock held."""

    def take_back(self) -> bool:
        """Whether its follower, if it has one, has not begun and never will begin here. With the crew's lock held."""

    def close(self) -> None:
        """Release everything; from the station's own thread."""


class _Here(threading.local):
    """What a thread knows of itself."""

    next: str | None = None
    """The key of the call to take when the answer is given; "" while there is none, None in threads that take none."""


class Crew:
    """See the top of this module. ``grace_s`` is how long :meth:`close` waits for functions that nobody can stop.

    Threads are woken one by one: whoever was woken takes a call, and wakes the next if there is more. So short functions are run by few
    threads, which need not fight for the interpreter, and long ones by many. (Six threads and no-ops: 1.4 times as many calls a second as
    when each call wakes a thread.)
    """

    def __init__(self, name: str, *, workers: int, station: Callable[[], Station], grace_s: float | None) -> None:
        if type(workers) is not int or workers < 1:
            raise InvalidOptionError(message=f"workers of executor '{name}' must be an int of at least 1, got {workers!r}")
        self._name, self._workers, self._station, self._grace_s = name, workers, station, grace_s
        self.lock = threading.Lock()
        self._closed = False
        self._open: dict[str, Attempt] = {}
        self._waiting: dict[str, Attempt] = {}
        self._queue: deque[str] = deque()
        self._followers: dict[Station, Attempt] = {}  # claimed, but may be taken back; changed with the lock held
        self._idle: list[threading.Lock] = []  # what idle threads wait for
        self._is_coming = False  # a thread was woken, and has not looked at the queue yet
        self._threads: list[threading.Thread] = []
        self._here = _Here()

    def submit(self, call: TaskCall, done: Done) -> None:
        """See :meth:`~exoflow.executors.base.Executor.submit`."""
        attempt, here = Attempt(call, done), self._here
        with self.lock:
            if self._closed:
                raise ClosedError(what=f"executor '{self._name}'")
            if not self._threads:
                self._hire()
            self._open[call.key] = self._waiting[call.key] = attempt
            if here.next == "":  # this thread is giving an answer and will be free: a chain of tasks need not wake another for each
                here.next = call.key
                return
            if here.next:  # there is more than this thread can do
                self._queue.append(here.next)
                here.next = None
            self._queue.append(call.key)
            self._wake()

    def _wake(self) -> None:
        """Let one more thread look at the queue, unless one is about to. Call it with the lock held."""
        if self._is_coming:
            return
        if self._idle:
            self._is_coming = True
            self._idle.pop().release()
        elif len(self._threads) < self._workers:
            with contextlib.suppress(ExecutorUnavailable):  # those that we have will do
                self._hire()

    def stop(self, key: str) -> None:
        """See :meth:`~exoflow.executors.base.Executor.stop`."""
        attempt = self._open.get(key)
        if attempt is None:
            return
        attempt.stop_asked = True
        with self.lock:
            taken = self._waiting.pop(key, None) is not None or self._take_back(attempt)
            if not taken and attempt.station is not None:  # else its thread is about to look at stop_asked
                attempt.station.stop(attempt)
        if taken:
            self.answer(attempt, Stopped(began=False))

    def close(self) -> None:
        """See :meth:`~exoflow.executors.base.Executor.close`."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
        for key in list(self._open):
            self.stop(key)
        with self.lock:
            while self._idle:
                self._idle.pop().release()
        deadline = None if self._grace_s is None else time.monotonic() + self._grace_s
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _hire(self) -> None:
        name = f"exoflow-{self._name}-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more threads
            raise ExecutorUnavailable(executor=self._name, reason=str(error)) from error
        self._threads.append(thread)
        self._is_coming = True

    def _work(self) -> None:
        station, here, bell = self._station(), self._here, threading.Lock()
        bell.acquire()
        key = self._take(bell, woken=True)
        while key is not None:
            attempt = self._waiting.pop(key, None)  # None: stopped before it began
            while attempt is not None:
                self._serve(attempt, station)
                attempt = self._next(station, here)
            key = self._take(bell, woken=False)
        station.close()

    def _next(self, station: Station, here: _Here) -> Attempt | None:
        """What this thread goes on with, before it looks at the queue."""
        key, here.next = here.next, None
        if station in self._followers:
            with self.lock:
                follower = self._followers.pop(station, None)
            if follower is not None:
                return follower
        return self._waiting.pop(key, None) if key else None

    def _take(self, bell: threading.Lock, *, woken: bool) -> str | None:
        """The next call's key, or None at the end of the crew."""
        while True:
            with self.lock:
                if woken:
                    self._is_coming = False
                if self._queue:
                    key = self._queue.popleft()
                    if self._queue:
                        self._wake()
                    return key
                for station in self._followers:
                    if self.give_back(station):
                        return self._queue.popleft()
                if self._closed:
                    return None
                self._idle.append(bell)
            bell.acquire()
            woken = True

    def _serve(self, attempt: Attempt, station: Station) -> None:
        attempt.station = station
        ran = task_runner.guard(lambda: station.run(attempt))
        if station not in self._followers:
            self._here.next = ""
        self.answer(attempt, ran.value if isinstance(ran, Returned) else ran)  # a fault of ours must not cost the answer

    # --- for stations that have a call ready behind the one that they run -----------------------------------------------------

    def follow(self, station: Station) -> Attempt | None:
        """A follower for ``station``: the next call in the queue, if no other thread is free for it."""
        with self.lock:
            if self._idle or self._is_coming or len(self._threads) < self._workers:
                return None
            while self._queue:
                attempt = self._waiting.pop(self._queue.popleft(), None)
                if attempt is not None:
                    attempt.station, self._followers[station] = station, attempt
                    return attempt
        return None

    def is_following(self, attempt: Attempt, station: Station) -> bool:
        """Whether nobody has taken it back."""
        return self._followers.get(station) is attempt

    def give_back(self, station: Station) -> bool:
        """Let the follower of ``station`` be the first in the queue again; False if it has begun. With the lock held."""
        attempt = self._followers.get(station)
        if attempt is not None:
            if not station.take_back():
                return False
            del self._followers[station]
            attempt.station = None
            self._waiting[attempt.call.key] = attempt
            self._queue.appendleft(attempt.call.key)
            self._wake()
        return True

    def retract(self, attempt: Attempt) -> bool:
        """Whether it was a follower that had not begun, and is nobody's any more: the caller must answer it."""
        with self.lock:
            return self._take_back(attempt)

    def _take_back(self, attempt: Attempt) -> bool:
        station = attempt.station
        if station is None or not self.is_following(attempt, station) or not station.take_back():
            return False
        del self._followers[station]
        return True

    def answer(self, attempt: Attempt, outcome: Outcome) -> None:
        """Say what came of it. Whoever claimed it does, once."""
        del self._open[attempt.call.key]
        attempt.done(outcome)


def cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
