"""Concurrency as something that can be replaced: the runtime and the client get every lock, thread, pause and wait from here.

A simulation gives its own, which run on virtual time and switch from one to another only at these calls. Those of the system hand out
what the standard library has, so nothing is paid for the seam once an engine is built.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Lock(Protocol):
    """As ``threading.Lock``: not re-entrant, and whoever likes may release it."""

    def acquire(self, blocking: bool = True) -> bool: ...  # noqa: FBT001, FBT002 - as in the standard library

    def release(self) -> None: ...

    def locked(self) -> bool: ...

    def __enter__(self) -> bool: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None: ...


class Signal(Protocol):
    """As ``threading.Event``."""

    def set(self) -> None: ...

    def clear(self) -> None: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Thread(Protocol):
    """Work that was started."""

    def join(self) -> None:
        """Wait until it is over; in the thread itself, go on at once."""


class Pool(Protocol):
    """A few threads that take work from a queue."""

    def submit(self, work: Callable[[], Any], /) -> object:
        """Do ``work`` on one of them. Raises RuntimeError after ``shutdown``."""

    def shutdown(self) -> None:
        """Do what was submitted, then end the threads."""


class Threads(Protocol):
    """All concurrency of an engine."""

    def lock(self) -> Lock:
        """A new lock."""

    def signal(self) -> Signal:
        """A new signal, not set."""

    def start(self, name: str, work: Callable[[], None]) -> Thread:
        """Do ``work`` in a thread of its own, which does not keep the process alive."""

    def pool(self, name: str, workers: int) -> Pool:
        """A new pool."""

    def wait(self, future: Future[T], timeout: float | None = None) -> T:
        """The result of ``future``. Raises what it ended with, or TimeoutError."""

    def sleep(self, seconds: float) -> None:
        """Do nothing for a while."""


class _SystemThread(threading.Thread):
    def join(self, timeout: float | None = None) -> None:
        if self is not threading.current_thread():
            super().join(timeout)


class SystemThreads:
    """The threads of the operating system."""

    def lock(self) -> Lock:
        return threading.Lock()

    def signal(self) -> Signal:
        return threading.Event()

    def start(self, name: str, work: Callable[[], None]) -> Thread:
        thread = _SystemThread(target=work, name=f"exoflow-{name}", daemon=True)
        thread.start()
        return thread

    def pool(self, name: str, workers: int) -> Pool:
        return ThreadPoolExecutor(workers, thread_name_prefix=f"exoflow-{name}")

    def wait(self, future: Future[T], timeout: float | None = None) -> T:
        return future.result(timeout)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM_THREADS = SystemThreads()
