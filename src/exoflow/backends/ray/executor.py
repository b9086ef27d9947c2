"""Runs functions as tasks of Ray, or on actors that it names.

One thread of this process talks to Ray: it loads and pickles inputs, starts tasks, and passes on what became of them, as Ray's callbacks
tell it. Ray is never asked to run anything twice. What it reports as a failure of its own (a worker, an actor or a node is gone) is an
attempt of which nobody knows what it did.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import ray
from ray import exceptions as rx
from ray.actor import ActorHandle

from exoflow import codec
from exoflow.backends.ray import cluster, outcomes, shipping
from exoflow.backends.ray.far_end import Job, decode_report, encode_jobs
from exoflow.backends.ray.lots import Attempt, Lot, Packed, Sent
from exoflow.backends.ray.objects import NATIVE
from exoflow.backends.ray.parcels import pack
from exoflow.errors import ArgumentNotSerializableError, ClosedError, InvalidOptionError
from exoflow.refs.carried import for_elsewhere
from exoflow.worker import task_runner
from exoflow.worker.attempt import Died, Done, Outcome, Returned, Stopped, TaskCall

SLOTS = 1000
"""So many tasks Ray has at once. It must know of more than it can run, so that workers find the next and a cluster can grow."""
TROUBLE_S = 5.0
"""Ray that could not be reached is left alone so long; it may take a minute to say so."""
_PARTS = {"[0]": "args", "[1]": "kwargs"}  # of what call.load() gives


class RayExecutor:
    """Up to ``slots`` tasks at once. Ray is looked for when the first call comes: what this process is connected to; the cluster at
    ``address`` or ``RAY_ADDRESS``; else one is started here, and ended when the last executor of this process that uses it is closed.

    ``stop`` kills the worker that runs the task. On an actor it only keeps a task from starting: killing the actor would take its state
    from others. ``close`` waits ``grace_s`` for those.
    """

    name = "ray"
    can_kill = True
    is_elsewhere = True

    def __init__(self, *, address: str | None = None, slots: int = SLOTS, grace_s: float = 5.0) -> None:
        if type(slots) is not int or slots < 1:
            raise InvalidOptionError(message=f"slots of executor 'ray' must be an int of at least 1, got {slots!r}")
        self.slots = slots
        self._address, self._grace_s = address, grace_s
        self._lock = threading.Lock()
        self._closed = False
        self._open: dict[str, Attempt] = {}
        self._todo: deque[Callable[[], None]] = deque()
        self._bell = threading.Semaphore(0)
        self._is_awake = False
        self._is_connected = False
        self._trouble: tuple[float, Exception] | None = None
        self._thread: threading.Thread | None = None
        self._lots: dict[tuple[int, str], Lot] = {}
        self._waiting: set[Lot] = set()

    def submit(self, call: TaskCall, done: Done) -> None:
        """See :class:`~exoflow.executors.base.Executor`. ``Returned.value`` will be :class:`~exoflow.codec.Encoded`."""
        attempt = Attempt(call, done)
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
            waits = [lot.patience_s() for lot in self._waiting]
            self._bell.acquire(timeout=min(waits) if waits else None)
            self._is_awake = False  # from here on whoever adds something rings again
            while self._todo:
                self._todo.popleft()()
            for lot in list(self._waiting):
                for packed in lot.ready():
                    self._send(lot, packed)
                if not lot:
                    self._waiting.discard(lot)
        if self._is_connected:
            self._lots.clear()
            cluster.leave()

    def _note_end(self) -> None:
        """Nothing but to wake the thread, so that it looks whether it may end."""

    def _start(self, attempt: Attempt) -> None:
        if attempt.stop_asked:
            self._answer(attempt, Stopped(began=False))
            return
        packed = task_runner.guard(partial(_pack, attempt))
        if not isinstance(packed, Returned):
            self._answer(attempt, packed)
            return
        try:
            self._connect()
            lot = self._lot(attempt.call)
        except Exception as error:  # whatever Ray raises: it has not taken the task
            self._answer(attempt, outcomes.unavailable(error))
            return
        if attempt.call.harmless and packed.value.parcel is None and lot.remote is not None:
            lot.add(packed.value)
            self._waiting.add(lot)
        else:
            self._send(lot, [packed.value])

    def _connect(self) -> None:
        if self._is_connected:
            return
        if self._trouble is not None and time.monotonic() < self._trouble[0]:
            raise self._trouble[1]
        try:
            cluster.enter(self._address)
        except Exception as error:
            self._trouble = time.monotonic() + TROUBLE_S, error
            raise
        self._is_connected = True

    def _lot(self, call: TaskCall) -> Lot:
        key = id(call.function), repr(call.options)  # of a plan that was loaded, or grew, they are other objects that say the same
        lot = self._lots.get(key)
        if lot is None or lot.function is not call.function:
            shipped = shipping.ship(call.function)
            remote = None if shipping.ACTOR in call.options else shipping.remote(call.function, shipped, call.options)
            lot = self._lots[key] = Lot(call.function, call.options, shipped, remote)
        return lot

    def _send(self, lot: Lot, packed: list[Packed]) -> None:
        note, parcel = encode_jobs([each.job for each in packed]), packed[0].parcel
        given = (note,) if parcel is None else (note, parcel)
        try:
            if lot.remote is None:
                handle = ray.get_actor(lot.options[shipping.ACTOR], lot.options.get(shipping.NAMESPACE))
                method = handle.__ray_call__.options(num_returns=2, max_task_retries=0, retry_exceptions=False)
                report, beside = method.remote(shipping.run_on_actor, lot.shipped, *given)
            else:
                report, beside = lot.remote.remote(*given)
        except Exception as error:  # whatever Ray raises: it has not taken the task
            for each in packed:
                self._answer(each.attempt, outcomes.unavailable(error))
            return
        sent = Sent(lot, packed, report, beside)
        for each in packed:
            each.attempt.sent = sent
        report.future().add_done_callback(partial(self._heard, sent))

    def _heard(self, sent: Sent, future: Future[Any]) -> None:
        """On a thread of Ray's: it must not wait for this one."""
        self._let(partial(self._take, sent, future))

    def _take(self, sent: Sent, future: Future[Any]) -> None:
        error = future.exception()
        if error is not None:
            sent.beside.future()  # or else Ray complains that nobody wants to know what became of it
            for each in sent.packed:
                self._answer(each.attempt, _without_report(each.attempt, error))
            return
        told = future.result()
        answered, refs = told if isinstance(told, tuple) else (told, {})
        report = decode_report(answered)
        sent.lot.learn(report.longest_s)
        for index, (each, answer) in enumerate(zip(sent.packed, report.answers, strict=False)):
            self._answer(each.attempt, outcomes.told(answer, refs.get(index, ()), sent.beside))
        for each in sent.packed[len(report.answers) :]:  # it has not begun
            each.attempt.sent = None
            if each.attempt.stop_asked:
                self._answer(each.attempt, Stopped(began=False))
            else:
                self._send(sent.lot, [each])

    def _cancel(self, attempt: Attempt) -> None:
        if attempt.call.key not in self._open:
            return
        if attempt.sent is not None:
            ray.cancel(attempt.sent.report, force=attempt.sent.lot.remote is not None, recursive=True)
        elif self._lot(attempt.call).remove(attempt):
            self._answer(attempt, Stopped(began=False))

    def _answer(self, attempt: Attempt, outcome: Outcome) -> None:
        attempt.sent = None  # references of Ray must not be left to the garbage collector
        if isinstance(outcome, Returned) and any(isinstance(ref, ActorHandle) for ref in outcome.value.refs):
            threading.Thread(target=self._answer_beside, args=(attempt, outcome), name="exoflow-ray-actor", daemon=True).start()
            return
        del self._open[attempt.call.key]
        attempt.done(outcome)

    def _answer_beside(self, attempt: Attempt, outcome: Outcome) -> None:
        """The engine may wait for a snapshot of an actor when it gets this."""
        attempt.done(outcome)
        self._let(partial(self._forget, attempt))

    def _forget(self, attempt: Attempt) -> None:
        del self._open[attempt.call.key]


def _without_report(attempt: Attempt, error: BaseException) -> Outcome:
    if attempt.stop_asked:
        return Stopped()
    if isinstance(error, rx.TaskCancelledError):
        return Died("its worker was stopped for the sake of another task, or by somebody else")
    return outcomes.untold(error)


def _pack(attempt: Attempt) -> Packed:
    call = attempt.call
    task, inputs = call.context.task_id, call.load()
    try:
        encoded = codec.encode(inputs)
        if b"__main__" in encoded.header:  # workers of Ray do not have it
            encoded = shipping.by_value(inputs)
    except codec.NotSerializable as error:
        path = _PARTS.get(error.path[:3], error.path[:3]) + error.path[3:]
        raise ArgumentNotSerializableError(task=task, path=path, type_name=error.type_name, reason=error.reason) from None
    inside, parcel = pack(for_elsewhere(encoded, task, NATIVE) if encoded.refs else encoded)
    return Packed(attempt, Job(call.context, call.may_grow, inside), parcel)
