"""This process's connection to Ray: used if it is there, made if it is not, and ended by whoever made it when nobody uses it any more."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator

import ray

_lock = threading.Lock()
_users = 0
_is_ours = False


def enter(address: str | None = None) -> None:
    """Be connected until :func:`leave`: to the cluster that this process uses already; else to that of ``address`` or ``RAY_ADDRESS``; else
    to a Ray of our own on this machine. Raises whatever Ray raises when it cannot (it takes a few seconds)."""
    global _users, _is_ours  # noqa: PLW0603 - it is a fact about the process
    with _lock:
        if not ray.is_initialized():
            where = address or os.environ.get("RAY_ADDRESS")
            if where:
                ray.init(address=where, logging_level=logging.WARNING)
            else:
                with _our_path():
                    ray.init("local", include_dashboard=False, logging_level=logging.WARNING)
            _is_ours = True
        _users += 1


def ensure() -> None:
    """Be connected as :func:`enter` would, to the end of this process."""
    if not ray.is_initialized():
        enter()


def leave() -> None:
    """No longer need the connection."""
    global _users, _is_ours  # noqa: PLW0603 - it is a fact about the process
    with _lock:
        _users -= 1
        if _users == 0 and _is_ours:
            _is_ours = False
            ray.shutdown()


@contextlib.contextmanager
def _our_path() -> Iterator[None]:
    """Processes started here find the modules that this one finds."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
