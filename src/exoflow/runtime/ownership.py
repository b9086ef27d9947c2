"""Who may drive a workflow: owners, their signs of life, and how the death of one is noticed.

A workflow's head names its owner and an epoch that only grows; every write carries the epoch, so an owner that lost a workflow can do no
harm to it. What is decided here is only *when* to take over:

* **Same host:** each owner holds a lock (``flock``) on a file of its own; its worker processes inherit it. The kernel lets go of it when
  the last of them is gone, however they died. So a dead owner is noticed at once, a paused one is never taken for dead, and no task of
  the old owner runs any more when the new one starts.
* **Another host:** each owner's row counts beats. A row that has not changed for ``lease_s`` seconds *of the observer's own monotonic
  clock* is dead. An owner that could not beat for most of that time stops by itself before then.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from exoflow.errors import EnvironmentFault, ExoflowError
from exoflow.runtime.clock import Clock
from exoflow.store.base import OwnerRow, Store

_BEAT_S_MAX = 1.0
_living: dict[str, int] = {}
"""Owners of this process that are not closed, by id; with the process, because a fork inherits the dict and not the owners."""


def new_id() -> str:
    """An id that nobody else has."""
    return uuid.uuid4().hex


def host_id() -> str:
    """This boot of this machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"


class Owner:
    """This engine as an owner. ``on_wish`` is called with requests that others left for workflows of ours, ``on_late`` when the lease
    may have run out."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        lease_s: float,
        *,
        folder: Path | None,
        on_wish: Callable[[str, str], None],
        on_late: Callable[[], None],
    ) -> None:
        self.id = new_id()
        self._store, self._clock, self._lease_s = store, clock, lease_s
        self._on_wish, self._on_late = on_wish, on_late
        self._seen: dict[str, tuple[int, float]] = {}
        self._beat = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        _living[self.id] = os.getpid()
        self.lock_fd: int | None = None
        self._lock_path = ""
        if folder is not None and store.durable:
            locks = folder / "locks"
            locks.mkdir(mode=0o700, exist_ok=True)
            self._lock_path = str(locks / self.id)
            self.lock_fd = _lock(self._lock_path)

    def start(self) -> None:
        """Show life from now on (before the first workflow is owned)."""
        if not self._store.durable or self._thread is not None:
            return
        with self._starting:
            if self._thread is None:
                self._clear_up()
                self._store.beat(self._row())
                self._thread = threading.Thread(target=self._run, name="exoflow-heartbeat", daemon=True)
                self._thread.start()

    def _clear_up(self) -> None:
        """Remove the rows and lock files of this host's dead: also of those that died before they owned anything, or after. Whoever has
        no row counts as dead, so no workflow is taken from anybody by this."""
        rows = {row.owner: row for row in self._store.owners()}
        for row in rows.values():
            if row.host == host_id() and row.lock_path and _is_unlocked(row.lock_path):
                self.bury(row.owner)
        if self._lock_path:
            for path in Path(self._lock_path).parent.iterdir():
                if path.name not in rows and path.name != self.id:
                    _unlink_if_unlocked(path)

    def _row(self) -> OwnerRow:
        self._beat += 1
        return OwnerRow(owner=self.id, host=host_id(), pid=os.getpid(), lock_path=self._lock_path, beat=self._beat, lease_s=self._lease_s)

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
            if self._clock.monotonic_s() - last > self._lease_s * 0.75:
                self._on_late()
                last = self._clock.monotonic_s()  # nothing is owned any more; what comes next is
            for workflow_id, wish in wishes:
                self._on_wish(workflow_id, wish)

    def is_dead(self, owner: str | None) -> bool:
        """Whether nobody drives what ``owner`` owned. True at once for owners of this host; for others, after watching for a lease."""
        if owner is None:
            return True
        if _living.get(owner) == os.getpid():
            return False
        row = next((row for row in self._store.owners() if row.owner == owner), None)
        if row is None:
            return True  # it gave up its row in good order
        if row.host == host_id() and row.lock_path:
            return _is_unlocked(row.lock_path)
        beat, since = self._seen.get(owner, (-1, 0.0))
        now = self._clock.monotonic_s()
        if beat != row.beat:
            self._seen[owner] = (row.beat, now)
            return False
        return now - since > row.lease_s

    def bury(self, owner: str | None) -> None:
        """Remove what a dead owner left."""
        row = next((row for row in self._store.owners() if row.owner == owner), None)
        if row is not None:
            if row.lock_path:
                Path(row.lock_path).unlink(missing_ok=True)
            self._store.beat(None, owner=row.owner)

    def close(self) -> None:
        """No more signs of life. Call it when no workflow is owned any more."""
        _living.pop(self.id, None)
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        try:
            if self._thread is not None:
                self._store.beat(None, owner=self.id)
        except ExoflowError:
            return  # the row stays; whoever looks finds the lock free
        finally:
            if self.lock_fd is not None:
                Path(self._lock_path).unlink(missing_ok=True)
                os.close(self.lock_fd)
                self.lock_fd = None


def _lock(path: str) -> int:
    """Make a file and lock it. Between the two, somebody who clears up may have taken it for a dead owner's and removed it: then again."""
    while True:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)


def _is_unlocked(path: str) -> bool:
    try:
        fd = _try_to_lock(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    os.close(fd)
    return True


def _unlink_if_unlocked(path: Path) -> None:
    """The lock is held while the file is removed, so that its maker cannot get it first (see :func:`_lock`)."""
    try:
        fd = _try_to_lock(str(path))
    except OSError:
        return
    path.unlink(missing_ok=True)
    os.close(fd)


def _try_to_lock(path: str) -> int:
    """Raises OSError if it is not there, or locked."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
