"""Runs ``async def`` functions on one event loop in a daemon thread of its own.

``submit`` only appends to a deque and wakes the loop if nobody has: a burst of calls costs one wake-up. Everything else happens in the
loop's thread, so nothing else is locked. asyncio tasks that a function leaves behind are cancelled before its answer is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from contextvars import Context, ContextVar
from typing import Any

from exoflow.errors import ClosedError, ExecutorUnavailable
from exoflow.worker import task_runner
from exoflow.worker.attempt import Done, Outcome, Raised, Stopped, TaskCall


class _Attempt:
    __slots__ = ("began", "call", "children", "done", "stop_asked", "task")

    def __init__(self, call: TaskCall, done: Done) -> None:
        self.call, self.done = call, done
        self.began = self.stop_asked = False
        self.task: asyncio.Task[None] | None = None
        self.children: set[asyncio.Task[Any]] | None = None


_attempt: ContextVar[_Attempt | None] = ContextVar("exoflow_attempt", default=None)


class LoopExecutor:
    """Up to ``slots`` coroutines at once. ``stop`` cancels; a coroutine that swallows the cancellation answers when it ends.

    ``close`` waits ``grace_s`` for such coroutines, then leaves the loop's daemon thread to end with the last of them.
    """

    name = "loop"
    can_kill = False
    is_elsewhere = False

    def __init__(self, slots: int = 10_000, *, grace_s: float = 5.0) -> None:
        self.slots = slots
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._closed = False
        self._woken = False
        self._arrived: deque[_Attempt] = deque()
        self._open: dict[str, _Attempt] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, call: TaskCall, done: Done) -> None:
        """See :class:`~exoflow.executors.base.Executor`."""
        attempt = _Attempt(call, done)
        with self._lock:
            if self._closed:
                raise ClosedError(what="executor 'loop'")
            loop = self._loop or self._start()
            self._arrived.append(attempt)
            if not self._woken:
                self._woken = True
                loop.call_soon_threadsafe(self._admit)

    def stop(self, key: str) -> None:
        """Cancel the coroutine, as :meth:`asyncio.Task.cancel` does."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel, key)

    def close(self) -> None:
        """See :class:`~exoflow.executors.base.Executor` and the top of this class."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel_all)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._grace_s)

    # --- in the loop's thread --------------------------------------------------------------------------------------------------

    def _start(self) -> asyncio.AbstractEventLoop:
        try:
            loop = asyncio.new_event_loop()
            loop.set_task_factory(_child_task)
            thread = threading.Thread(target=self._main, args=(loop,), name="exoflow-loop", daemon=True)
            thread.start()
        except (OSError, RuntimeError) as error:  # no more files, no more threads
            raise ExecutorUnavailable(executor=self.name, reason=str(error)) from error
        self._loop, self._thread = loop, thread
        return loop

    def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._finished():  # a function may have stopped the loop, or made an asyncio task that exits: asyncio lets that through
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        with self._lock:
            self._loop = None
        loop.close()

    def _admit(self) -> None:
        self._woken = False  # before the deque is emptied: who appends after this wakes us again
        while self._arrived:
            attempt = self._arrived.popleft()
            key = attempt.call.key
            self._open[key] = attempt
            attempt.task = asyncio.Task(self._drive(attempt), loop=self._loop, name=key, context=Context())

    def _cancel(self, key: str) -> None:
        attempt = self._open.get(key)
        if attempt is None or attempt.task is None:
            return
        attempt.stop_asked = True
        attempt.task.cancel()
        if not attempt.began:  # a task that is cancelled before its first step runs nothing, so nobody else would answer
            self._answer(attempt, Stopped(began=False))

    def _cancel_all(self) -> None:
        for key in list(self._open):
            self._cancel(key)
        self._stop_if_finished()

    async def _drive(self, attempt: _Attempt) -> None:
        attempt.began = True
        _attempt.set(attempt)
        outcome = await task_runner.run_async(attempt.call)
        while attempt.children:
            await _end(attempt.children)
        if attempt.stop_asked and isinstance(outcome, Raised) and isinstance(outcome.error, asyncio.CancelledError):
            outcome = Stopped()
        self._answer(attempt, outcome)

    def _answer(self, attempt: _Attempt, outcome: Outcome) -> None:
        del self._open[attempt.call.key]
        attempt.done(outcome)
        self._stop_if_finished()

    def _finished(self) -> bool:
        return self._closed and not self._open and not self._arrived

    def _stop_if_finished(self) -> None:
        if self._finished() and self._loop is not None:
            self._loop.stop()


def _child_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """The loop's task factory: notes to which attempt an asyncio task belongs."""
    task = asyncio.Task(coroutine, loop=loop, **options)
    attempt = _attempt.get()
    if attempt is not None:
        if attempt.children is None:
            attempt.children = set()
        attempt.children.add(task)
        task.add_done_callback(attempt.children.discard)
    return task


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):  # a stop that came after the function had ended
        await asyncio.wait(set(tasks))
