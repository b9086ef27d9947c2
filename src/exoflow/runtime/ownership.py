"""Who may drive a workflow: owners, their signs of life, and how the death of one is noticed.

A workflow's head names its owner and an epoch that only grows, and that no other workflow of its name ever has. Every write carries the
epoch, so an owner that lost a workflow can do no harm to it. What is decided here is only *when* to take over:

* **Same host:** each owner holds a lock (``flock``) on a file of its own; its worker processes inherit it. The kernel lets go of it when
  the last of them is gone, however they died. So a dead owner is noticed at once, a paused one is never taken for dead, and no task of
  the old owner runs any more when the new one starts.
* **Another host:** each owner's row counts beats. A row that has not changed for ``lease_s`` seconds *of the observer's own monotonic
  clock* is dead. An owner that could not beat for most of that time stops by itself before then.
"""

from __future__ import annotations

from collections.abc import Callable

from exoflow.codec import digest
from exoflow.errors import ClosedError, EnvironmentFault, ExoflowError
from exoflow.runtime.clock import Clock
from exoflow.runtime.host import Host
from exoflow.runtime.threads import Thread, Threads
from exoflow.store.base import OwnerRow, Store

_BEAT_S_MAX = 1.0
_LIFE_BITS = 24
_BIRTH_BITS = 38


def first_epoch(unique: str) -> int:
    """The epoch in which a new workflow begins: a birth number drawn from ``unique``, and life 1. So the epochs of a workflow that was
    deleted never come again under its name, and whoever still holds one can do no harm."""
    birth = int.from_bytes(digest((unique.encode(),))) % (1 << _BIRTH_BITS)
    return (birth << _LIFE_BITS) + 1


def birth_of(epoch: int) -> int:
    """What tells a workflow from others of its name, before and after it."""
    return epoch >> _LIFE_BITS


def life_of(epoch: int) -> int:
    """How often the workflow has been owned, this time included: what people and the core know as its epoch."""
    return epoch % (1 << _LIFE_BITS)


class Observer:
    """Somebody who looks whether owners live."""

    def __init__(self, store: Store, clock: Clock, host: Host) -> None:
        self._store, self._clock, self._host = store, clock, host
        self._seen: dict[str, tuple[int, float]] = {}

    def is_dead(self, owner: str | None) -> bool:
        """Whether nobody drives what ``owner`` owned. True at once for owners of this host; for others, after watching for a lease."""
        if owner is None:
            return True
        if self._host.is_here(owner):
            return False
        row = next((row for row in self._store.owners() if row.owner == owner), None)
        if row is None:
            return True  # it gave up its row in good order
        if row.host == self._host.name and row.lock_path:
            return self._host.is_unlocked(row.lock_path)
        beat, since = self._seen.get(owner, (-1, 0.0))
        now = self._clock.monotonic_s()
        if beat != row.beat:
            self._seen[owner] = (row.beat, now)
            return False
        return now - since > row.lease_s


class Owner(Observer):
    """This engine as an owner. ``on_wish`` is called with requests that others left for workflows of ours, ``on_late`` when the lease
    may have run out, ``on_beat`` after each sign of life."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        threads: Threads,
        host: Host,
        lease_s: float,
        *,
        on_wish: Callable[[str, str], None],
        on_late: Callable[[], None],
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(store, clock, host)
        self.id = host.new_id()
        self._threads, self._lease_s = threads, lease_s
        self._on_wish, self._on_late, self._on_beat = on_wish, on_late, on_beat
        self._beat = 0
        self._stop = threads.signal()
        self._thread: Thread | None = None
        self._starting = threads.lock()
        self._shown = self._gone = False
        self.lock = host.enter(self.id, store)

    def start(self) -> None:
        """Show life from now on (before the first workflow is owned). Raises ClosedError after ``leave``."""
        if not self._store.durable or self._thread is not None:
            return
        with self._starting:
            if self._gone:
                raise ClosedError(what="the engine")
            if self._thread is None:
                self._clear_up()
                self._shown = True  # even if the answer is an error
                self._store.beat(self._row())
                self._thread = self._threads.start("heartbeat", self._run)

    def _clear_up(self) -> None:
        """Remove the rows and lock files of this host's dead: also of those that died before they owned anything, or after. Whoever has
        no row counts as dead, so no workflow is taken from anybody by this."""
        rows = {row.owner: row for row in self._store.owners()}
        for row in rows.values():
            if row.host == self._host.name and row.lock_path and self._host.is_unlocked(row.lock_path):
                self.bury(row.owner)
        self._host.clear_up(self.lock, keep=rows.keys())

    def _row(self) -> OwnerRow:
        self._beat += 1
        host, path = self._host, self.lock.path
        return OwnerRow(owner=self.id, host=host.name, pid=host.pid, lock_path=path, beat=self._beat, lease_s=self._lease_s)

    def _run(self) -> None:
        pause_s = min(self._lease_s / 4, _BEAT_S_MAX)
        last = self._clock.monotonic_s()
        while not self._stop.wait(pause_s):
            try:
                wishes = self._store.beat(self._row())
            except EnvironmentFault:
                wishes = []
            else:
                last = self._clock.monotonic_s()
                self._on_beat()
            if self._clock.monotonic_s() - last > self._lease_s * 0.75:
                self._on_late()
                last = self._clock.monotonic_s()  # nothing is owned any more; what comes next is
            for workflow_id, wish in wishes:
                self._on_wish(workflow_id, wish)

    def bury(self, owner: str | None) -> None:
        """Remove what a dead owner left."""
        row = next((row for row in self._store.owners() if row.owner == owner), None)
        if row is not None:
            if row.lock_path:
                self._host.unlink(row.lock_path)
            self._store.beat(None, owner=row.owner)

    def stop(self) -> None:
        """No more signs of life."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def leave(self) -> None:
        """Be dead. Call it when no workflow is driven and no task runs any more."""
        with self._starting:  # another thread may be about to show the first sign of life
            self._gone = True
        try:
            if self._shown:
                self._store.beat(None, owner=self.id)
        except ExoflowError:
            return  # the row stays; whoever looks finds the lock free
        finally:
            self._host.leave(self.id, self.lock)
