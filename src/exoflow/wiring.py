"""From settings to running parts: the one place that chooses a store and executors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from exoflow import settings as sources
from exoflow.executors.base import Executor
from exoflow.executors.registry import open_executor
from exoflow.runtime.clock import Clock, SystemClock
from exoflow.runtime.host import SYSTEM_HOST, Host
from exoflow.runtime.threads import SYSTEM_THREADS, Threads
from exoflow.settings import Settings
from exoflow.store.base import Store
from exoflow.store.registry import open_store


def store_for(settings: Settings) -> Store:
    """The store that the settings name. Raises StoreConfigError, StoreOpenError."""
    return open_store(settings.store)


def executor_for(name: str, settings: Settings, inherit_fds: tuple[int, ...]) -> Executor:
    """The executor of that name. ``inherit_fds`` stay open in its processes. Raises InvalidOptionError, MissingExtraError."""
    options: dict[str, Any] = {}
    if name == "thread":
        options = {"workers": settings.threads or None, "grace_s": settings.drain_s}
    elif name == "loop":
        options = {"slots": settings.loop_tasks, "grace_s": settings.drain_s}
    elif name == "process":
        options = {"workers": settings.processes or None, "inherit_fds": inherit_fds}
    elif name == "ray":
        options = {"grace_s": settings.drain_s}
    return open_executor(name, **options)


@dataclass(frozen=True)
class Parts:
    """What an engine is built on, its store aside. A simulation gives its own."""

    clock: Callable[[], Clock] = SystemClock
    threads: Threads = SYSTEM_THREADS
    host: Host = SYSTEM_HOST
    executor_for: Callable[[str, Settings, tuple[int, ...]], Executor] = executor_for
    settings: Callable[..., Settings] = sources.load
