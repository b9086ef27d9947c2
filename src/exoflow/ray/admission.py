"""Whose turn it is: how many workflows run at once, and how many wait for that."""

from __future__ import annotations

import asyncio
import queue
from concurrent.futures import Future

from exoflow.define.task import task
from exoflow.runtime.threads import SYSTEM_THREADS

UNLIMITED = -1


class Admission:
    """At most ``running_max`` workflows have their turn, in the order in which they came; at most ``waiting_max`` wait for it."""

    def __init__(self, running_max: int, waiting_max: int) -> None:
        self.running_max, self.waiting_max = running_max, waiting_max
        self._lock = SYSTEM_THREADS.lock()
        self._running: set[str] = set()
        self._waiting: dict[str, Future[None]] = {}

    @property
    def is_limited(self) -> bool:
        return self.running_max != UNLIMITED

    def enter(self, workflow_id: str) -> None:
        """Let it have its turn, or wait for it. Raises queue.Full if too many do."""
        with self._lock:
            if not self.is_limited or len(self._running) < self.running_max:
                self._running.add(workflow_id)
            elif self.waiting_max not in (UNLIMITED, 0) and len(self._waiting) >= self.waiting_max:
                raise queue.Full(f"{len(self._waiting)} workflows wait for their turn already, so '{workflow_id}' was refused")
            else:
                self._waiting[workflow_id] = Future()

    def leave(self, workflow_id: str) -> None:
        """It has ended, or will not begin."""
        with self._lock:
            self._running.discard(workflow_id)
            gone = self._waiting.pop(workflow_id, None)
            if self._waiting and len(self._running) < self.running_max:
                following = next(iter(self._waiting))
                self._running.add(following)
                self._waiting.pop(following).set_result(None)
        if gone is not None:
            gone.cancel()

    def waits(self, workflow_id: str) -> bool:
        return workflow_id in self._waiting

    async def turn(self, workflow_id: str) -> None:
        """Wait for it."""
        with self._lock:
            future = self._waiting.get(workflow_id)
        if future is not None:
            await asyncio.wrap_future(future)


here: list[Admission] = []
"""That of the engine in this process."""


@task(deterministic=True, can_rollback=True, checkpoint=False)
async def turn(workflow_id: str) -> None:
    """Wait for the workflow's turn. The first task of a workflow where their number is limited, so that one that waits is saved, too."""
    await here[0].turn(workflow_id)
