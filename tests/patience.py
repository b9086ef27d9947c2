"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

DEADLINE_S = 20.0


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait for a condition; fail with ``what`` if it never holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what or condition}"
        time.sleep(0.01)
    return found
