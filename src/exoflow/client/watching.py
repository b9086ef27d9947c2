"""Waiting for workflows that other engines drive: they are looked at now and then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any

from exoflow.errors import ClosedError
from exoflow.runtime.clock import Clock
from exoflow.runtime.run import WorkflowFuture
from exoflow.runtime.threads import Threads

LOOK_AGAIN_S = 0.05
"""How often a workflow that another process drives is looked at."""


class Watching:
    """The futures of such workflows, for one engine."""

    def __init__(self, clock: Clock, threads: Threads) -> None:
        self._clock, self._threads = clock, threads
        self._open: dict[WorkflowFuture, None] = {}
        self._closed = False

    def watch(self, name: str, look: Callable[[], WorkflowFuture | None]) -> WorkflowFuture:
        """A future that ends like the one that ``look`` gives some time; as long as it gives None, it is called again. What it raises, the
        future ends with."""
        future = WorkflowFuture(name, self._threads)

        def again() -> None:
            try:
                found = look()
            except Exception as error:  # whatever it is, it must not end the clock's thread
                self._end(future, error=error)
                return
            if found is None:
                self._clock.call_later(LOOK_AGAIN_S, again)
            else:
                Future.add_done_callback(found, lambda done: self._end_like(future, done))

        self._open[future] = None
        self._clock.call_later(LOOK_AGAIN_S, again)
        if self._closed:
            self._end(future, error=ClosedError(what="the engine"))
        return future

    def close(self) -> None:
        """Nobody looks any more: end what is open with ClosedError."""
        self._closed = True
        for future in list(self._open):
            self._end(future, error=ClosedError(what="the engine"))

    def _end_like(self, future: WorkflowFuture, done: Future[Any]) -> None:
        error = done.exception()
        self._end(future, value=None if error is not None else done.result(), error=error)

    def _end(self, future: WorkflowFuture, *, value: Any = None, error: BaseException | None) -> None:
        self._open.pop(future, None)
        with contextlib.suppress(InvalidStateError):  # somebody was quicker
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)
