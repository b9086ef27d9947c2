"""The machine and the process that an engine lives in, as far as ownership needs to know them: names, and locks that end with a process."""

from __future__ import annotations

import fcntl
import functools
import os
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import msgspec

from exoflow.runtime.clock import SystemClock
from exoflow.runtime.threads import SYSTEM_THREADS
from exoflow.store.base import Store


class Lock(msgspec.Struct, frozen=True):
    """What shows to others of the same host that an owner lives: the file at ``path``, held by ``fd``, which its worker processes inherit.
    Without a path, its lease alone tells."""

    path: str = ""
    fd: int | None = None


class Host(Protocol):
    """Where an engine lives. A simulation gives its own."""

    @property
    def name(self) -> str:
        """This boot of this machine."""

    @property
    def pid(self) -> int:
        """This process."""

    def new_id(self) -> str:
        """An id that nobody else has."""

    def enter(self, owner: str, store: Store) -> Lock:
        """``owner`` lives in this process from now on; the kernel lets go of the lock when the last process that has it is gone."""

    def leave(self, owner: str, lock: Lock) -> None:
        """It does no more."""

    def is_here(self, owner: str) -> bool:
        """Whether it lives in this process."""

    def is_unlocked(self, path: str) -> bool:
        """Whether no process holds that lock any more, or it has been removed."""

    def unlink(self, path: str) -> None:
        """Remove the lock file of a dead owner."""

    def clear_up(self, lock: Lock, keep: Collection[str]) -> None:
        """Remove the lock files beside ``lock`` that nobody holds, but for those of the owners ``keep``."""


class SystemHost:
    """This process on this machine."""

    def __init__(self) -> None:
        self._living: dict[str, int] = {}  # with the process, because a fork inherits the dict and not the owners
        self._clock = SystemClock()

    @functools.cached_property
    def name(self) -> str:
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            boot = ""
        return f"{os.uname().nodename}/{boot}"

    @property
    def pid(self) -> int:
        return os.getpid()

    def new_id(self) -> str:
        """In the order of time, or a store's indexes of ids would be written all over: 22 KB a workflow among 50,000 instead of 6."""
        return f"{self._clock.now_ms():012x}{os.urandom(10).hex()}"

    def enter(self, owner: str, store: Store) -> Lock:
        """Stores that know of no folder (``directory``) get no lock."""
        self._living[owner] = os.getpid()
        folder: Path | None = getattr(store, "directory", None)
        if folder is None or not store.durable:
            return Lock()
        locks = folder / "locks"
        locks.mkdir(mode=0o700, exist_ok=True)
        path = str(locks / owner)
        return Lock(path, _lock(path))

    def leave(self, owner: str, lock: Lock) -> None:
        if self._living.pop(owner, None) is not None and lock.fd is not None:
            self.unlink(lock.path)
            _let_go(lock.fd)

    def is_here(self, owner: str) -> bool:
        return self._living.get(owner) == os.getpid()

    def is_unlocked(self, path: str) -> bool:
        try:
            fd = _try_to_lock(path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        _let_go(fd)
        return True

    def unlink(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def clear_up(self, lock: Lock, keep: Collection[str]) -> None:
        if not lock.path:
            return
        own = Path(lock.path)
        for path in own.parent.iterdir():
            if path.name not in keep and path != own:
                _unlink_if_unlocked(path)


SYSTEM_HOST = SystemHost()

_held: set[int] = set()
"""Descriptors of lock files that are open here. A fork closes them: what a task leaves behind is no sign of its engine's life."""
_no_fork = SYSTEM_THREADS.lock()
"""Held while a lock file is opened or closed, so that a fork finds every descriptor in ``_held``."""


def _lock(path: str) -> int:
    """Make a file and lock it. Between the two, somebody who clears up may have taken it for a dead owner's and removed it: then again."""
    while True:
        fd = _open(path, os.O_CREAT)
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:
            pass
        _let_go(fd)


def _unlink_if_unlocked(path: Path) -> None:
    """The lock is held while the file is removed, so that its maker cannot get it first (see :func:`_lock`)."""
    try:
        fd = _try_to_lock(str(path))
    except OSError:
        return
    path.unlink(missing_ok=True)
    _let_go(fd)


def _try_to_lock(path: str) -> int:
    """Raises OSError if it is not there, or locked."""
    fd = _open(path, 0)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        _let_go(fd)
        raise
    return fd


def _open(path: str, flags: int) -> int:
    with _no_fork:
        fd = os.open(path, flags | os.O_RDWR | os.O_CLOEXEC, 0o600)
        _held.add(fd)
    return fd


def _let_go(fd: int) -> None:
    with _no_fork:
        _held.discard(fd)
        os.close(fd)


def _let_go_in_child() -> None:
    """The parent's locks stay: they end when the last descriptor is closed. (Workers are not forked from Python, so they keep theirs.)"""
    while _held:
        os.close(_held.pop())
    _no_fork.release()


os.register_at_fork(before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_let_go_in_child)
