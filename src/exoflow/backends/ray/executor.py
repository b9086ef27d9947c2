"""Runs functions as tasks of Ray, or on actors that it names.

One thread of this process talks to Ray: it loads and pickles inputs, starts tasks, and passes on what became of them, as Ray's callbacks
tell it. Ray is never asked to run anything twice. What it reports as a failure of its own (a worker, an actor or a node is gone) is an
attempt of which nobody knows what it did.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import ray
from ray import exceptions as rx

from exoflow import codec
from exoflow.backends.ray import cluster, outcomes, shipping
from exoflow.backends.ray.far_end import Job, encode_job
from exoflow.backends.ray.parcels import Body, pack
from exoflow.errors import ArgumentNotSerializableError, ClosedError, InvalidOptionError
from exoflow.worker import task_runner
from exoflow.worker.attempt import Died, Done, Outcome, Returned, Stopped, TaskCall

SLOTS = 1000
"""So many tasks Ray has at once. It must know of more than it can run, so that workers find the next and a cluster can grow."""
_PARTS = {"[0]": "args", "[1]": "kwargs"}  # of what call.load() gives


class _Attempt:
    """A call that has not been answered. ``outcome`` and ``body`` are references of Ray to what the far end returns."""

    __slots__ = ("body", "call", "done", "kills", "outcome", "stop_asked")

    def __init__(self, call: TaskCall, done: Done) -> None:
        self.call, self.done = call, done
        self.stop_asked = False
        self.outcome: ray.ObjectRef[Any] | None = None
        self.body: ray.ObjectRef[Any] | None = None
        self.kills = True


class RayExecutor:
    """Up to ``slots`` tasks at once. Ray is looked for when the first call comes: what this process is connected to; the cluster at
    ``address`` or ``RAY_ADDRESS``; else one is started here, and ended when the last executor of this process that uses it is closed.

    ``stop`` kills the worker that runs the task. On an actor it only keeps a task from starting: killing the actor would take its state
    from others. ``close`` waits ``grace_s`` for those.
    """

    name = "ray"
    can_kill = True

    def __init__(self, *, address: str | None = None, slots: int = SLOTS, grace_s: float = 5.0) -> None:
        if type(slots) is not int or slots < 1:
            raise InvalidOptionError(message=f"slots of executor 'ray' must be an int of at least 1, got {slots!r}")
        self.slots = slots
        self._address, self._grace_s = address, grace_s
        self._lock = threading.Lock()
        self._closed = False
        self._open: dict[str, _Attempt] = {}
        self._todo: deque[Callable[[], None]] = deque()
        self._bell = threading.Semaphore(0)
        self._is_awake = False
        self._is_connected = False
        self._thread: threading.Thread | None = None
        self._remotes: dict[tuple[int, int], tuple[Callable[..., Any], dict[str, Any], tuple[bytes, Any]]] = {}

    def submit(self, call: TaskCall, done: Done) -> None:
        """See :class:`~exoflow.executors.base.Executor`. ``Returned.value`` will be :class:`~exoflow.codec.Encoded`."""
        attempt = _Attempt(call, done)
        with self._lock:
            if self._closed:
                raise ClosedError(what="executor 'ray'")
            self._open[call.key] = attempt
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="exoflow-ray", daemon=True)
                self._thread.start()
        self._let(partial(self._start, attempt))

    def stop(self, key: str) -> None:
        """See :class:`~exoflow.executors.base.Executor` and the top of this class."""
        attempt = self._open.get(key)
        if attempt is not None:
            attempt.stop_asked = True
            self._let(partial(self._cancel, attempt))

    def check(self, task: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
        """See :class:`~exoflow.executors.base.PlacingExecutor`."""
        shipping.check_options(task, options)
        try:
            shipping.ship(function)
        except codec.NotSerializable as error:
            raise ArgumentNotSerializableError(
                task=task, path=f"the function, {error.path}", type_name=error.type_name, reason=error.reason
            ) from None

    def close(self) -> None:
        """See :class:`~exoflow.executors.base.Executor` and the top of this class."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for key in list(self._open):
            self.stop(key)
        self._let(self._note_end)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._grace_s)

    # --- the thread --------------------------------------------------------------------------------------------------------------

    def _let(self, action: Callable[[], None]) -> None:
        """Have the thread do ``action``; from any thread."""
        self._todo.append(action)
        if not self._is_awake:
            self._is_awake = True
            self._bell.release()

    def _work(self) -> None:
        while not (self._closed and not self._open):
            self._bell.acquire()
            self._is_awake = False  # from here on whoever adds something rings again
            while self._todo:
                self._todo.popleft()()
        if self._is_connected:
            self._remotes.clear()
            cluster.leave()

    def _note_end(self) -> None:
        """Nothing but to wake the thread, so that it looks whether it may end."""

    def _start(self, attempt: _Attempt) -> None:
        if attempt.stop_asked:
            self._answer(attempt, Stopped(began=False))
            return
        packed = task_runner.guard(partial(_pack, attempt.call))
        if not isinstance(packed, Returned):
            self._answer(attempt, packed)
            return
        try:
            if not self._is_connected:
                cluster.enter(self._address)
                self._is_connected = True
            self._send(attempt, *packed.value)
        except Exception as error:  # whatever Ray raises: it has not taken the task
            self._answer(attempt, outcomes.unavailable(error))

    def _send(self, attempt: _Attempt, note: bytes, body: Body | None) -> None:
        call, options = attempt.call, attempt.call.options
        given = (note,) if body is None else (note, body)
        shipped, remote = self._remote(call.function, options)
        if remote is None:
            handle = ray.get_actor(options[shipping.ACTOR], options.get(shipping.NAMESPACE))
            attempt.kills = False
            refs = handle.__ray_call__.options(num_returns=2, max_task_retries=0, retry_exceptions=False).remote(
                shipping.run_on_actor, shipped, *given
            )
        else:
            refs = remote.remote(*given)
        attempt.outcome, attempt.body = refs
        refs[0].future().add_done_callback(partial(self._heard, attempt))

    def _remote(self, function: Callable[..., Any], options: dict[str, Any]) -> tuple[bytes, Any]:
        """``function`` as it is shipped, and the remote function of Ray that runs it; None if an actor does."""
        key = (id(function), id(options))
        known = self._remotes.get(key)
        if known is None or known[0] is not function or known[1] is not options:
            shipped = shipping.ship(function)
            remote = None if shipping.ACTOR in options else shipping.remote(function, shipped, options)
            known = self._remotes[key] = function, options, (shipped, remote)
        return known[2]

    def _heard(self, attempt: _Attempt, future: Future[Any]) -> None:
        """On a thread of Ray's: it must not wait for this one."""
        self._let(partial(self._take, attempt, future))

    def _take(self, attempt: _Attempt, future: Future[Any]) -> None:
        error = future.exception()
        if error is None:
            answer = future.result()
            if len(answer) == 1:  # the rest is beside
                assert attempt.body is not None
                attempt.body.future().add_done_callback(lambda body: self._let(partial(self._take_body, attempt, answer, body)))
                return
            self._answer(attempt, outcomes.told(answer, None))
        elif attempt.stop_asked or isinstance(error, rx.TaskCancelledError):
            self._answer(attempt, Stopped() if attempt.stop_asked else Died("somebody cancelled it in Ray"))
        else:
            self._answer(attempt, outcomes.untold(error))

    def _take_body(self, attempt: _Attempt, answer: bytes, future: Future[Any]) -> None:
        error = future.exception()
        self._answer(attempt, outcomes.untold(error) if error is not None else outcomes.told(answer, future.result()))

    def _cancel(self, attempt: _Attempt) -> None:
        if attempt.outcome is not None and attempt.call.key in self._open:
            ray.cancel(attempt.outcome, force=attempt.kills, recursive=True)

    def _answer(self, attempt: _Attempt, outcome: Outcome) -> None:
        del self._open[attempt.call.key]
        attempt.done(outcome)


def _pack(call: TaskCall) -> tuple[bytes, Body | None]:
    task, inputs = call.context.task_id, call.load()
    try:
        encoded = codec.encode(inputs)
        if b"__main__" in encoded.header:  # workers of Ray do not have it
            encoded = shipping.by_value(inputs)
    except codec.NotSerializable as error:
        path = _PARTS.get(error.path[:3], error.path[:3]) + error.path[3:]
        raise ArgumentNotSerializableError(task=task, path=path, type_name=error.type_name, reason=error.reason) from None
    inside, body = pack(encoded)
    return encode_job(Job(call.context, call.may_grow, inside)), body
