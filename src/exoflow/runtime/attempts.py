"""Attempts: from the command that starts one, over its executor, to the event that says what came of it.

A function that is about a task (its rollback, the one that is asked about a doubt) goes the same way.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from exoflow import codec, fingerprints
from exoflow.core import commands as cmd
from exoflow.core import events as ev
from exoflow.core.journal import Failure, KeptRef, Stored
from exoflow.core.spec.annotations import Kind
from exoflow.core.state import Phase
from exoflow.define.dag import Arguments
from exoflow.define.plan import Call
from exoflow.define.task import Task
from exoflow.errors import (
    CheckpointFailedError,
    EngineBug,
    ExoflowError,
    PayloadTooLargeError,
    StorageFullError,
    StoreUnavailable,
    UnresumableTaskError,
)
from exoflow.refs.base import is_death
from exoflow.runtime.calls import arguments, undo_arguments
from exoflow.runtime.loop import Job, Loop
from exoflow.runtime.run import Run
from exoflow.runtime.values import decode, store_bytes
from exoflow.worker.attempt import Died, ErrorInfo, Grown, InputsLost, LostInputs, Outcome, Raised, Returned, Stopped, TaskCall
from exoflow.worker.task_runner import describe

_ENCODE_AT_ONCE_ITEMS = 10_000
"""Containers with more items are pickled beside the next tasks, not before them."""
_AT_ONCE_BYTES = 64 * 1024
"""So much is handed to the store at once; what is larger, beside the next tasks."""

_FINAL = frozenset(
    f"exoflow.errors.{name}"
    for name in (
        "ArgumentNotJsonError",
        "ArgumentNotSerializableError",
        "ArgumentsTooLargeError",
        "FunctionRefusedError",
        "InputMutatedError",
        "SelfWaitError",
        "SignatureError",
        "UnresumableTaskError",
        "WrongContextError",
    )
)
"""Trying again would not help."""
_UNUSABLE = frozenset({"exoflow.errors.PayloadTooLargeError", "exoflow.errors.ResultNotSerializableError"})
"""Said by a worker process of what the function returned."""


class _Attempt(Job):
    """An attempt to run a task. An object with methods, not closures: there are many at once, and the garbage collector walks each cell."""

    __slots__ = ("_call", "_command", "_event", "_loop", "_outcome", "_started_ms")

    def __init__(self, loop: Loop, run: Run, command: cmd.Run) -> None:
        call = run.calls[command.task]
        super().__init__(run, loop.lane(call.executor), run.key(command.task, command.attempt))
        self._loop, self._command, self._call = loop, command, call

    def begin(self) -> bool:
        run, command = self.run, self._command
        if not is_current(run, command.task, command.attempt):
            return False
        self._started_ms = self._loop.clock.now_ms()
        found = run.find(self._call.task)
        if not isinstance(found, Task):
            missing = UnresumableTaskError(task=self._call.task, location="an unknown place")
            self._loop.beside(lambda: self._finished(Raised(describe(missing), missing)))
            return True
        call = TaskCall(
            key=self.key,
            function=found.function,
            load=self._load,
            context=run.context(command.task, command.attempt, command.basis),
            may_grow=True,
            check_inputs=self._loop.settings.check_inputs,
            options=self._call.options,
            harmless=command.attempt == 1 and run.machine.state.tasks[command.task].kind is Kind.INTERNAL,
        )
        run.live[self.key] = self.lane.executor
        self.lane.executor.submit(call, self._finished)
        return True

    def _load(self) -> Arguments:
        run, task = self.run, self._command.task
        try:
            return arguments(run.values, self._call, run.inputs(task), task, as_they_are=self.lane.executor.is_elsewhere)
        except Exception as error:
            lost = run.values.refs.lost(error)
            if lost is None:
                raise
            raise LostInputs(lost, str(error), intact=True) from error

    def _finished(self, outcome: Outcome) -> None:
        """On the executor's thread: say to the core what came of it."""
        self._outcome = outcome
        try:
            self._event = self._event_of(outcome)
        except Exception as error:  # a fault of ours must not end a thread that is not ours
            give_up(self._loop, self.run, error, self)
            return
        self._loop.post(self.run, self._settle, self)

    def _settle(self) -> None:
        run, outcome = self.run, self._outcome
        task, attempt = self._command.task, self._command.attempt
        if isinstance(outcome, Raised) and outcome.error is not None and is_current(run, task, attempt):
            run.errors[task] = outcome.error
        self._loop.perform(run, run.machine.handle(self._event))
        run.values.discard(task, attempt)
        if run.values.held is not None:
            run.values.held.settle(run.is_wanted)

    def _event_of(self, outcome: Outcome) -> ev.Event:
        task, attempt = self._command.task, self._command.attempt
        if isinstance(outcome, (Returned, Grown)):
            return self._returned(outcome)
        if isinstance(outcome, Stopped):
            return ev.TaskStopped(task=task, attempt=attempt)
        lost = _lost(self.run, task, attempt, outcome)
        if lost is not None:
            return lost
        if isinstance(outcome, InputsLost):  # of what this workflow does not hold
            outcome = Died(outcome.reason, stranded=True)
        elif isinstance(outcome, Raised) and outcome.error is not None and is_death(outcome.error):
            outcome = Died(f"{outcome.info.type_name}: {outcome.info.text}", stranded=True)
        return ev.TaskFailed(task=task, attempt=attempt, failure=_failure(outcome), chance=self._loop.clock.chance())

    def _returned(self, outcome: Returned | Grown) -> ev.Event:
        loop, run, command = self._loop, self.run, self._command
        task, attempt = command.task, command.attempt
        value, graph, stored = (outcome.value, None, None) if isinstance(outcome, Returned) else (outcome.plan, None, None)
        try:
            if isinstance(outcome, Grown):
                from_elsewhere = isinstance(value, codec.Encoded)
                value = decode(value, task) if from_elsewhere else value
                loop.require_runnable(value, durable=from_elsewhere or loop.store.durable)
                graph = value.graph
            elif self._call.catch:
                value = (decode(value, task) if isinstance(value, codec.Encoded) else value, None)
            if (command.save or graph is not None) and _quick(value):
                encoded = value if isinstance(value, codec.Encoded) else codec.encode(value)
                if encoded.size <= _AT_ONCE_BYTES and not encoded.refs:  # what looked small may hold arrays
                    audit = _is_deterministic(run, task) and graph is None
                    with contextlib.suppress(StorageFullError, StoreUnavailable):  # no fault of the task; the saver has more patience
                        stored, run.payloads[task, attempt] = to_bytes(loop, task, value, encoded, audit=audit)
        except (codec.NotSerializable, PayloadTooLargeError) as error:
            return ev.TaskFailed(task=task, attempt=attempt, failure=unsaveable(task, self._call, error))
        except ExoflowError as error:
            info = describe(error)
            failure = Failure(kind="unusable", types=(info.type_name, *info.bases), text=info.text, traceback=info.traceback)
            return ev.TaskFailed(task=task, attempt=attempt, failure=failure)
        run.values.arrive(task, attempt, value, save=command.save or graph is not None)
        return ev.TaskSucceeded(
            task=task, attempt=attempt, stored=stored, growth=graph, started_ms=self._started_ms, ended_ms=loop.clock.now_ms()
        )


def _lost(run: Run, task: str, attempt: int, outcome: Outcome) -> ev.InputsLost | None:
    """What the core is told of an attempt that failed because inputs, or the data behind their Refs, are gone; None of any other."""
    if isinstance(outcome, InputsLost):
        tasks = outcome.tasks or (run.values.refs.lost(outcome.error) if outcome.error is not None else None)
        if tasks is None:
            return None
        return ev.InputsLost(task=task, attempt=attempt, lost=tasks, spoiled=() if outcome.intact else tasks, began=outcome.began)
    error = outcome.error or _unpickled(outcome.info) if isinstance(outcome, Raised) and codec.identities else None
    lost = run.values.refs.lost(error) if error is not None else None
    return None if lost is None else ev.InputsLost(task=task, attempt=attempt, lost=lost, began=True)


def _unpickled(info: ErrorInfo) -> BaseException | None:
    with contextlib.suppress(codec.Unreadable):
        copy = codec.decode(codec.Encoded(info.pickled)) if info.pickled is not None else None
        if isinstance(copy, BaseException):
            return copy
    return None


def run_task(loop: Loop, run: Run, command: cmd.Run) -> None:
    if command.task in run.machine.state.tasks:  # or else it was started and dropped in one turn
        loop.submit(_Attempt(loop, run, command))


def is_current(run: Run, task: str, attempt: int) -> bool:
    """Whether this attempt is still what the machine waits for."""
    state = run.machine.state.tasks.get(task)
    return state is not None and state.attempt == attempt and state.phase is Phase.RUNNING


def _is_deterministic(run: Run, task: str) -> bool:
    state = run.machine.state.tasks.get(task)
    return state is not None and state.deterministic


def _quick(value: Any) -> bool:
    """Whether encoding it costs less than handing that to another thread."""
    if isinstance(value, codec.Encoded):
        return value.size <= _AT_ONCE_BYTES
    size = value.nbytes if hasattr(type(value), "nbytes") else None  # not by the object: it may stand for something far away
    if isinstance(size, int):
        return size <= _AT_ONCE_BYTES
    if isinstance(value, (str, bytes, bytearray)):
        return len(value) <= _AT_ONCE_BYTES
    return not isinstance(value, (list, tuple, dict, set, frozenset)) or len(value) <= _ENCODE_AT_ONCE_ITEMS


def _failure(outcome: Raised | Died) -> Failure:
    if isinstance(outcome, Died):
        kind = "stranded" if outcome.stranded else "died"
        return Failure(kind=kind, types=("exoflow.errors.WorkerDiedError",), text=outcome.reason)
    info = outcome.info
    kind = "final" if info.type_name in _FINAL else "unusable" if info.type_name in _UNUSABLE else "raised"
    if info.type_name == "exoflow.errors.PayloadUnreadableError":
        kind = "blocked"
    return Failure(kind=kind, types=(info.type_name, *info.bases), text=info.text, traceback=info.traceback, pickled=info.pickled)


def undo(loop: Loop, run: Run, command: cmd.Undo) -> None:
    def answer(outcome: Outcome) -> ev.Event:
        task, attempt = command.task, command.attempt
        if isinstance(outcome, Returned):
            return ev.UndoSucceeded(task=task, attempt=attempt)
        lost = _lost(run, task, attempt, outcome)
        if lost is not None:
            return lost
        if isinstance(outcome, InputsLost):
            outcome = Died(outcome.reason, stranded=True)
        failure = _failure(outcome) if isinstance(outcome, (Raised, Died)) else Failure(kind="died", types=(), text="stopped")
        return ev.UndoFailed(task=task, attempt=attempt, failure=failure, chance=loop.clock.chance())

    loop.submit(_SideCall(loop, run, command, run.calls[command.task].rollback, "undo", answer))


def ask(loop: Loop, run: Run, command: cmd.Ask) -> None:
    def answer(outcome: Outcome) -> ev.Event:
        task = command.task
        if not isinstance(outcome, Returned):
            failure = _failure(outcome) if isinstance(outcome, (Raised, Died)) else Failure(kind="died", types=(), text="no answer")
            return ev.DoubtUnanswered(task=task, failure=failure)
        value = decode(outcome.value, task) if isinstance(outcome.value, codec.Encoded) else outcome.value
        return settle_doubt(run, task, value)

    loop.submit(_SideCall(loop, run, command, run.calls[command.task].on_unknown, "ask", answer))


def settle_doubt(run: Run, task: str, value: Any) -> ev.DoubtAnswered:
    """False: it did not happen. True: it did, and there is no output. Anything else is the output."""
    if value is False:
        return ev.DoubtAnswered(task=task, happened=False)
    output = None if value is True else value
    run.values.arrive(task, run.machine.state.tasks[task].attempt, (output, None) if run.calls[task].catch else output)
    return ev.DoubtAnswered(task=task, happened=True)


class _SideCall(Job):
    """A rollback or an ``on_unknown`` function, on the executor of its task, with those of the task's arguments that it takes."""

    __slots__ = ("_answer", "_call", "_command", "_loop", "_name")

    def __init__(
        self, loop: Loop, run: Run, command: cmd.Undo | cmd.Ask, name: str, what: str, answer: Callable[[Outcome], ev.Event]
    ) -> None:
        call = run.calls[command.task]
        executor = call.executor
        if executor == "loop" and not inspect.iscoroutinefunction(run.find(name)):
            executor = "thread"  # it would hold up every other task of the loop
        super().__init__(run, loop.lane(executor), run.key(command.task, command.attempt, what))
        self._loop, self._command, self._call, self._name, self._answer = loop, command, call, name, answer

    def begin(self) -> bool:
        run, call = self.run, self._call
        found, function = run.find(call.task), run.find(self._name)
        if isinstance(function, Task):
            function = function.function
        if not isinstance(found, Task) or function is None:
            missing = UnresumableTaskError(task=self._name or call.task, location="an unknown place")
            self._loop.beside(lambda: self._finished(Raised(describe(missing), missing)))
            return True
        task = self._command.task
        load = partial(undo_arguments, run.values, call, run.inputs(task), found.function, function, task)
        run.live[self.key] = self.lane.executor
        self.lane.executor.submit(
            TaskCall(
                key=self.key,
                function=function,
                load=load,
                context=run.context(self._command.task, self._command.attempt, self._command.basis),
                options=call.options,
            ),
            self._finished,
        )
        return True

    def _finished(self, outcome: Outcome) -> None:
        self._loop.post(self.run, lambda: self._loop.perform(self.run, self.run.machine.handle(self._answer(outcome))), self)


def stop(loop: Loop, run: Run, command: cmd.Stop) -> None:
    key = run.key(command.task, command.attempt)
    executor = run.live.get(key)
    if executor is not None:
        executor.stop(key)
    else:  # it is still in the queue, and will be dropped there
        loop.post(run, ev.TaskStopped(task=command.task, attempt=command.attempt))


def give_up(loop: Loop, run: Run, error: Exception, ended: Job | None = None) -> None:
    fault = error
    if not isinstance(fault, ExoflowError):
        fault = EngineBug(message=f"{type(error).__name__}: {error}", story=run.machine.story())
        fault.__cause__ = error
    loop.post(run, lambda: loop.abandon(run, fault), ended)


def to_bytes(
    loop: Loop, task: str, value: Any, encoded: codec.Encoded, *, audit: bool, refs: tuple[KeptRef, ...] = ()
) -> tuple[Stored, bytes | None]:
    meaning = ""
    if audit and not encoded.refs and encoded.size <= loop.settings.inline_bytes:
        with contextlib.suppress(codec.NotSerializable, codec.Unreadable):  # then there is nothing to audit against
            meaning = fingerprints.fingerprint(codec.decode(value) if isinstance(value, codec.Encoded) else value)
    return store_bytes(
        loop.store,
        encoded,
        inline_bytes=loop.settings.inline_bytes,
        limit_bytes=loop.settings.payload_limit,
        what=f"result of '{task}'",
        meaning=meaning,
        refs=refs,
    )


def unsaveable(task: str, call: Call, error: codec.NotSerializable | PayloadTooLargeError | CheckpointFailedError) -> Failure:
    if not isinstance(error, codec.NotSerializable):
        return Failure(kind="unusable", types=(f"exoflow.errors.{type(error).__name__}",), text=str(error))
    text = f"result of '{task}' ({call.task}) cannot be pickled: at {error.path} ({error.type_name}): {error.reason}"
    return Failure(kind="unusable", types=("exoflow.errors.ResultNotSerializableError", "builtins.TypeError"), text=text)
