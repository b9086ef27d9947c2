"""Listeners: how a workflow waits for something outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from exoflow.ray.workflow.status import Event
from exoflow.runtime.clock import SystemClock

EventListenerType = Callable[[], "EventListener"]


class EventListener:
    """Derive from it. It keeps nothing: one object polls, another acknowledges, perhaps in another process, perhaps after a crash."""

    async def poll_for_event(self, *args: Any, **kwargs: Any) -> Event:
        """Return the event, once it is there."""
        raise NotImplementedError

    async def event_checkpointed(self, event: Event) -> None:
        """The event is saved, so that its source may forget it. May come more than once for one event."""


class TimerListener(EventListener):
    """The event is that a moment has come."""

    async def poll_for_event(self, timestamp: float) -> None:
        """Return at ``timestamp``, in seconds since 1970."""
        await asyncio.sleep(timestamp - SystemClock().now_ms() / 1000)
