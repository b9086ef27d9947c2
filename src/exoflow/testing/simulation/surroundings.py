"""What a simulated engine lives on: threads, clock and host made of strands and virtual time (the seams of ``runtime/``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from exoflow.runtime.host import Lock as HostLock
from exoflow.store.base import Store
from exoflow.testing.simulation.scheduler import Process, Scheduler, Strand, Ticket

T = TypeVar("T")
EPOCH_MS = 1_790_000_000_000
"""Wall-clock time at virtual second 0."""


class SimLock:
    """A lock; whoever finds it taken waits, and of those that wait the seed draws the next."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._held = False
        self._waiting: deque[Ticket] = deque()

    def acquire(self, blocking: bool = True) -> bool:  # noqa: FBT001, FBT002 - as in the standard library
        self._scheduler.nudge()
        while self._held:
            if not blocking:
                return False
            self._waiting.append(self._scheduler.ticket())
            self._scheduler.park()
        self._held = True
        return True

    def release(self) -> None:
        self._held = False
        while self._waiting:
            self._scheduler.wake(self._waiting.popleft())  # all of them: only one will find it free
        if self._scheduler.current is not None and self._scheduler.current.process.alive:
            self._scheduler.nudge()

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        self.release()


class SimSignal:
    """A flag to wait for."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._set = False
        self._waiting: list[Ticket] = []

    def set(self) -> None:
        self._set = True
        waiting, self._waiting = self._waiting, []
        for ticket in waiting:
            self._scheduler.wake(ticket)
        self._scheduler.nudge()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            ticket = self._scheduler.ticket()
            self._waiting.append(ticket)
            if not self._scheduler.park(timeout):
                self._waiting = [other for other in self._waiting if other is not ticket]
        return self._set


class SimThread:
    """A strand, as the runtime sees it."""

    def __init__(self, scheduler: Scheduler, strand: Strand) -> None:
        self._scheduler, self._strand = scheduler, strand

    def join(self) -> None:
        self._scheduler.join(self._strand)


class SimPool:
    """Each piece of work in a strand of its own: every order that a few threads could give is possible."""

    def __init__(self, scheduler: Scheduler, process: Process, name: str) -> None:
        self._scheduler, self._process, self._name = scheduler, process, name
        self._strands: list[Strand] = []
        self._closed = False

    def submit(self, work: Callable[[], Any], /) -> object:
        if self._closed:
            raise RuntimeError("the pool is shut down")
        self._strands.append(self._scheduler.start(self._name, work, self._process))
        return None

    def shutdown(self) -> None:
        self._closed = True
        for strand in self._strands:
            self._scheduler.join(strand)


class SimThreads:
    """See :class:`~exoflow.runtime.threads.Threads`."""

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        self._scheduler, self._process = scheduler, process

    def lock(self) -> SimLock:
        return SimLock(self._scheduler)

    def signal(self) -> SimSignal:
        return SimSignal(self._scheduler)

    def start(self, name: str, work: Callable[[], None]) -> SimThread:
        return SimThread(self._scheduler, self._scheduler.start(name, work, self._process))

    def pool(self, name: str, workers: int) -> SimPool:
        return SimPool(self._scheduler, self._process, name)

    def wait(self, future: Future[T], timeout: float | None = None) -> T:
        if not future.done():
            ticket = self._scheduler.ticket()
            Future.add_done_callback(future, lambda _: self._scheduler.wake(ticket))
            self._scheduler.park(timeout)
            if not future.done():
                raise TimeoutError
        return future.result(0)

    def sleep(self, seconds: float) -> None:
        self._scheduler.park(seconds)


class SimClock:
    """See :class:`~exoflow.runtime.clock.Clock`. The wall clock may jump, the monotonic one never does."""

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        self._scheduler, self._process = scheduler, process
        self._closed = False

    def now_ms(self) -> int:
        return EPOCH_MS + int((self._scheduler.now + self._process.late_s) * 1000)

    def monotonic_s(self) -> float:
        return self._scheduler.now

    def chance(self) -> float:
        return self._scheduler.rng.random()

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        def fire() -> None:
            if not self._closed and self._process.alive:
                self._scheduler.start("clock", action, self._process)

        self._scheduler.at(self._scheduler.now + delay_s, fire)

    def close(self) -> None:
        self._closed = True


class Locks:
    """The kernel's side of file locks: which process holds which."""

    def __init__(self) -> None:
        self.holders: dict[str, Process] = {}


class SimHost:
    """See :class:`~exoflow.runtime.host.Host`: the process ``process`` on its host."""

    def __init__(self, process: Process, locks: Locks, ids: Callable[[], str]) -> None:
        self._process, self._locks, self._ids = process, locks, ids
        self._living: set[str] = set()

    @property
    def name(self) -> str:
        return self._process.host

    @property
    def pid(self) -> int:
        return 1

    def new_id(self) -> str:
        return self._ids()

    def enter(self, owner: str, store: Store) -> HostLock:
        self._living.add(owner)
        path = f"{self._process.host}/{owner}"
        self._locks.holders[path] = self._process
        return HostLock(path)

    def leave(self, owner: str, lock: HostLock) -> None:
        if self._process.alive:
            self._living.discard(owner)
            self._locks.holders.pop(lock.path, None)

    def is_here(self, owner: str) -> bool:
        return owner in self._living

    def is_unlocked(self, path: str) -> bool:
        holder = self._locks.holders.get(path)
        return holder is None or not holder.alive

    def unlink(self, path: str) -> None:
        if self._process.alive:
            self._locks.holders.pop(path, None)

    def clear_up(self, lock: HostLock, keep: Collection[str]) -> None:
        folder = f"{self._process.host}/"
        for path in list(self._locks.holders):
            if path.startswith(folder) and path.removeprefix(folder) not in keep and self.is_unlocked(path):
                self.unlink(path)
