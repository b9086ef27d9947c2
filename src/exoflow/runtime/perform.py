"""One function for each command of the core. Each ends, sooner or later, in exactly one event (or is a mere notice)."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from exoflow import codec
from exoflow.core import commands as cmd
from exoflow.core import events as ev
from exoflow.core import journal
from exoflow.core.journal import Failure, Stored
from exoflow.core.state import Phase, Status
from exoflow.define.plan import Call
from exoflow.define.task import Task
from exoflow.errors import (
    CheckpointCorruptError,
    EngineBug,
    ExoflowError,
    Fenced,
    InvalidStateError,
    PayloadTooLargeError,
    RemoteTaskError,
    StorageFullError,
    StoreUnavailable,
    TaskFailed,
    UnresumableTaskError,
    WorkflowAlreadyExistsError,
    WorkflowBlockedError,
    WorkflowCancelledError,
    WorkflowFailed,
    WorkflowInDoubtError,
    WorkflowNotFoundError,
    named,
)
from exoflow.runtime.calls import arguments, undo_arguments
from exoflow.runtime.loop import Ended, Loop
from exoflow.runtime.ownership import birth_of, life_of
from exoflow.runtime.run import Run
from exoflow.runtime.values import Saved, Spoiled, Values, decode, store_bytes
from exoflow.store.base import Head, Verdict, Write
from exoflow.worker.attempt import Died, Done, Grown, InputsLost, Outcome, Raised, Returned, Stopped, TaskCall
from exoflow.worker.context import TaskContext

_ENCODE_AT_ONCE_ITEMS = 10_000
"""Containers with more items are pickled beside the next tasks, not before them."""
_TEXT_MAX = 2000
_FULL_PAUSE_S = 0.5
"""How long an output waits until it is tried again to save it on a full disk."""

_FINAL = frozenset(
    f"exoflow.errors.{name}"
    for name in (
        "ArgumentNotSerializableError",
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


# --- durable -----------------------------------------------------------------------------------------------------------------


def append(loop: Loop, run: Run, command: cmd.Append) -> None:
    entries, blobs = [], []
    retire: list[int] = []
    create = resumed = False
    for record in command.records:
        payload = stored = None
        seq = run.next_seq
        run.next_seq += 1
        run.note_entry(record, seq)
        if isinstance(record, journal.OutputSaved):
            stored = record.stored
            payload = run.payloads.pop((record.task, record.attempt), None)
            run.values.saved[record.task] = Saved(record.stored, seq, payload)
        elif isinstance(record, journal.WorkflowBegan):
            stored = record.plan
            payload = run.payloads.pop(("", 0), None)
            create = True
        elif isinstance(record, journal.WorkflowResumed):
            resumed = True
        elif isinstance(record, journal.RoundsDropped):
            retire += run.pop_entries(record.past)
        entries.append((journal.encode(record), payload))
        if stored is not None and stored.blob is not None:
            blobs.append(stored.blob)
    write = Write(
        workflow_id=run.workflow_id,
        epoch=run.epoch,
        entries=tuple(entries),
        retire=tuple(retire),
        blobs=tuple(blobs),
        head=_head(loop, run, command.status) if create or resumed or command.status.ended else None,
        create=create,
    )
    loop.committer.put(write, partial(_answered, loop, run, command.ticket))


def _head(loop: Loop, run: Run, status: Status) -> Head:
    outcome = run.machine.state.outcome
    note = outcome.failure.text[:200] if outcome is not None and outcome.failure is not None else ""
    return Head(
        workflow_id=run.workflow_id,
        epoch=run.epoch,
        owner=None if status.ended else loop.owner,
        status=status,
        created_ms=run.created_ms,
        updated_ms=loop.clock.now_ms(),
        digest=run.digest,
        note=note,
    )


def _answered(loop: Loop, run: Run, ticket: int, verdict: Verdict | ExoflowError) -> None:
    if verdict == "applied":
        loop.post(run, ev.Appended(ticket=ticket))
        return
    error: ExoflowError
    if isinstance(verdict, ExoflowError):
        error = verdict
    elif verdict == "exists":
        error = WorkflowAlreadyExistsError(workflow_id=run.workflow_id, status="unknown yet")
    else:
        error = Fenced(workflow_id=run.workflow_id, epoch=life_of(run.epoch))
    loop.post(run, lambda: loop.abandon(run, error))


def save(loop: Loop, run: Run, command: cmd.Save) -> None:
    """Encode an output, flush its bytes if it is large; on a thread of the saver, while other tasks run."""
    audit = run.machine.state.tasks[command.task].deterministic
    loop.beside(partial(_save, loop, run, command, run.values.raw(command.task), run.calls[command.task], audit=audit))


def _save(loop: Loop, run: Run, command: cmd.Save, value: Any, call: Call, *, audit: bool) -> None:
    event: ev.Event
    try:
        stored, payload = _to_bytes(loop, command.task, value, audit=audit)
        run.payloads[command.task, command.attempt] = payload
        event = ev.OutputStored(task=command.task, attempt=command.attempt, stored=stored)
    except (codec.NotSerializable, PayloadTooLargeError) as error:
        event = ev.OutputUnstorable(task=command.task, attempt=command.attempt, failure=_unsaveable(command.task, call, error))
    except StorageFullError:  # until there is room again
        again = partial(_save, loop, run, command, value, call, audit=audit)
        loop.clock.call_later(_FULL_PAUSE_S, lambda: None if run.closed else loop.beside(again))
        return
    except Exception as error:  # the store is gone, or a fault of ours
        _give_up(loop, run, error)
        return
    loop.post(run, event)


def _give_up(loop: Loop, run: Run, error: Exception, ended: Ended | None = None) -> None:
    fault = error
    if not isinstance(fault, ExoflowError):
        fault = EngineBug(message=f"{type(error).__name__}: {error}", story=run.machine.story())
        fault.__cause__ = error
    loop.post(run, lambda: loop.abandon(run, fault), ended)


def _to_bytes(loop: Loop, task: str, value: Any, *, audit: bool) -> tuple[Stored, bytes | None]:
    encoded = value if isinstance(value, codec.Encoded) else codec.encode(value)
    meaning = ""
    if audit and encoded.size <= loop.settings.inline_bytes:
        with contextlib.suppress(codec.NotSerializable, codec.Unreadable):  # then there is nothing to audit against
            meaning = codec.fingerprint(codec.decode(value) if isinstance(value, codec.Encoded) else value)
    return store_bytes(
        loop.store,
        encoded,
        inline_bytes=loop.settings.inline_bytes,
        limit_bytes=loop.settings.payload_limit,
        what=f"result of '{task}'",
        meaning=meaning,
    )


def _unsaveable(task: str, call: Call, error: codec.NotSerializable | PayloadTooLargeError) -> Failure:
    if isinstance(error, PayloadTooLargeError):
        return Failure(kind="unusable", types=("exoflow.errors.PayloadTooLargeError",), text=str(error))
    text = f"result of '{task}' ({call.task}) cannot be pickled: at {error.path} ({error.type_name}): {error.reason}"
    return Failure(kind="unusable", types=("exoflow.errors.ResultNotSerializableError", "builtins.TypeError"), text=text)


# --- running -----------------------------------------------------------------------------------------------------------------


def run_task(loop: Loop, run: Run, command: cmd.Run) -> None:
    if command.task not in run.machine.state.tasks:
        return  # started and dropped in one turn
    call = run.calls[command.task]
    inputs = run.inputs(command.task)

    def build() -> tuple[TaskCall, Done] | None:
        if not _current(run, command.task, command.attempt):
            return None
        key = run.key(command.task, command.attempt)
        found = run.find(call.task)
        lane = loop.lane(call.executor)
        finished = partial(_finished, loop, run, command, call, (lane, key), loop.clock.now_ms())
        if not isinstance(found, Task):
            missing = UnresumableTaskError(task=call.task, location="an unknown place")
            loop.beside(lambda: finished(Raised(_info(missing), missing)))
            lane.running += 1
            return None
        run.live[key] = call.executor
        load = partial(arguments, run.values, call, inputs)
        context = _context(run, command)
        check = loop.settings.check_inputs
        return TaskCall(key=key, function=found.function, load=load, context=context, may_grow=True, check_inputs=check), finished

    loop.submit(run, call.executor, build)


def _current(run: Run, task: str, attempt: int) -> bool:
    """Whether this attempt is still what the machine waits for."""
    state = run.machine.state.tasks.get(task)
    return state is not None and state.attempt == attempt and state.phase is Phase.RUNNING


def _context(run: Run, command: cmd.Run | cmd.Undo | cmd.Ask) -> TaskContext:
    return TaskContext(
        workflow_id=run.workflow_id,
        task_id=command.task,
        attempt=command.attempt,
        epoch=life_of(run.epoch),
        basis=command.basis,
        birth=birth_of(run.epoch),
    )


def _finished(loop: Loop, run: Run, command: cmd.Run, call: Call, ended: Ended, started_ms: int, outcome: Outcome) -> None:
    """On the executor's thread: say to the core what came of an attempt."""
    task, attempt = command.task, command.attempt
    try:
        event = _event_of(loop, run, command, call, started_ms, outcome)
    except Exception as error:  # a fault of ours must not end a thread that is not ours
        _give_up(loop, run, error, ended)
        return

    def settle() -> None:
        if isinstance(outcome, Raised) and outcome.error is not None and _current(run, task, attempt):
            run.errors[task] = outcome.error
        loop.perform(run, run.machine.handle(event))
        run.values.discard(task, attempt)

    loop.post(run, settle, ended)


def _event_of(loop: Loop, run: Run, command: cmd.Run, call: Call, started_ms: int, outcome: Outcome) -> ev.Event:
    task, attempt = command.task, command.attempt
    if isinstance(outcome, (Returned, Grown)):
        return _returned(loop, run, command, call, started_ms, outcome)
    if isinstance(outcome, Stopped):
        return ev.TaskStopped(task=task, attempt=attempt)
    if isinstance(outcome, InputsLost):
        return ev.InputsLost(task=task, attempt=attempt, lost=outcome.tasks, spoiled=outcome.tasks)
    return ev.TaskFailed(task=task, attempt=attempt, failure=_failure(outcome), chance=loop.clock.chance())


def _returned(loop: Loop, run: Run, command: cmd.Run, call: Call, started_ms: int, outcome: Returned | Grown) -> ev.Event:
    task, attempt = command.task, command.attempt
    value, graph, stored = (outcome.value, None, None) if isinstance(outcome, Returned) else (outcome.plan, None, None)
    try:
        if isinstance(outcome, Grown):
            from_elsewhere = isinstance(value, codec.Encoded)
            value = decode(value, task) if from_elsewhere else value
            loop.require_runnable(value, durable=from_elsewhere or loop.store.durable)
            graph = value.graph
        elif call.catch:
            value = (decode(value, task) if isinstance(value, codec.Encoded) else value, None)
        if (command.save or graph is not None) and _quick(value):
            audit = _is_deterministic(run, task) and graph is None
            with contextlib.suppress(StorageFullError, StoreUnavailable):  # no fault of the task; the saver has more patience
                stored, run.payloads[task, attempt] = _to_bytes(loop, task, value, audit=audit)
    except (codec.NotSerializable, PayloadTooLargeError) as error:
        return ev.TaskFailed(task=task, attempt=attempt, failure=_unsaveable(task, call, error))
    except ExoflowError as error:
        info = _info(error)
        failure = Failure(kind="unusable", types=(info.type_name, *info.bases), text=info.text, traceback=info.traceback)
        return ev.TaskFailed(task=task, attempt=attempt, failure=failure)
    run.values.arrive(task, attempt, value)
    return ev.TaskSucceeded(task=task, attempt=attempt, stored=stored, growth=graph, started_ms=started_ms, ended_ms=loop.clock.now_ms())


def _is_deterministic(run: Run, task: str) -> bool:
    state = run.machine.state.tasks.get(task)
    return state is not None and state.deterministic


def _quick(value: Any) -> bool:
    """Whether encoding it costs less than handing that to another thread."""
    if isinstance(value, codec.Encoded):
        return value.size <= 1 << 16
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return size <= 1 << 16
    if isinstance(value, (str, bytes, bytearray)):
        return len(value) <= 1 << 16
    return not isinstance(value, (list, tuple, dict, set, frozenset)) or len(value) <= _ENCODE_AT_ONCE_ITEMS


def _info(error: BaseException) -> Any:
    from exoflow.worker.task_runner import describe

    return describe(error)


def _failure(outcome: Raised | Died) -> Failure:
    if isinstance(outcome, Died):
        return Failure(kind="died", types=("exoflow.errors.WorkerDiedError",), text=outcome.reason)
    info = outcome.info
    kind = "final" if info.type_name in _FINAL else "unusable" if info.type_name in _UNUSABLE else "raised"
    if info.type_name == "exoflow.errors.PayloadUnreadableError":
        kind = "blocked"
    return Failure(kind=kind, types=(info.type_name, *info.bases), text=info.text, traceback=info.traceback, pickled=info.pickled)


def stop(loop: Loop, run: Run, command: cmd.Stop) -> None:
    key = run.key(command.task, command.attempt)
    executor = run.live.get(key)
    if executor is not None:
        loop.lane(executor).executor.stop(key)
    else:  # it is still in the queue, and will be dropped there
        loop.post(run, ev.TaskStopped(task=command.task, attempt=command.attempt))


def undo(loop: Loop, run: Run, command: cmd.Undo) -> None:
    def answer(outcome: Outcome) -> ev.Event:
        task, attempt = command.task, command.attempt
        if isinstance(outcome, Returned):
            return ev.UndoSucceeded(task=task, attempt=attempt)
        if isinstance(outcome, InputsLost):
            return ev.InputsLost(task=task, attempt=attempt, lost=outcome.tasks, spoiled=outcome.tasks)
        failure = _failure(outcome) if isinstance(outcome, (Raised, Died)) else Failure(kind="died", types=(), text="stopped")
        return ev.UndoFailed(task=task, attempt=attempt, failure=failure, chance=loop.clock.chance())

    _side_call(loop, run, command, run.calls[command.task].rollback, "undo", answer)


def ask(loop: Loop, run: Run, command: cmd.Ask) -> None:
    def answer(outcome: Outcome) -> ev.Event:
        task = command.task
        if not isinstance(outcome, Returned):
            failure = _failure(outcome) if isinstance(outcome, (Raised, Died)) else Failure(kind="died", types=(), text="no answer")
            return ev.DoubtUnanswered(task=task, failure=failure)
        value = decode(outcome.value, task) if isinstance(outcome.value, codec.Encoded) else outcome.value
        return settle_doubt(run, task, value)

    _side_call(loop, run, command, run.calls[command.task].on_unknown, "ask", answer)


def settle_doubt(run: Run, task: str, value: Any) -> ev.DoubtAnswered:
    """False: it did not happen. True: it did, and there is no output. Anything else is the output."""
    if value is False:
        return ev.DoubtAnswered(task=task, happened=False)
    output = None if value is True else value
    run.values.arrive(task, run.machine.state.tasks[task].attempt, (output, None) if run.calls[task].catch else output)
    return ev.DoubtAnswered(task=task, happened=True)


def _side_call(loop: Loop, run: Run, command: cmd.Undo | cmd.Ask, name: str, what: str, answer: Callable[[Outcome], ev.Event]) -> None:
    """A rollback or an ``on_unknown`` function, on the executor of its task, with those of the task's arguments that it takes."""
    call = run.calls[command.task]
    inputs = run.inputs(command.task)
    executor = call.executor
    if executor == "loop" and not inspect.iscoroutinefunction(run.find(name)):
        executor = "thread"  # it would hold up every other task of the loop

    def build() -> tuple[TaskCall, Done] | None:
        found, function = run.find(call.task), run.find(name)
        lane = loop.lane(executor)
        key = run.key(command.task, command.attempt, what)

        def finished(outcome: Outcome) -> None:
            loop.post(run, lambda: loop.perform(run, run.machine.handle(answer(outcome))), (lane, key))

        if not isinstance(found, Task) or function is None:
            missing = UnresumableTaskError(task=name or call.task, location="an unknown place")
            lane.running += 1
            loop.beside(lambda: finished(Raised(_info(missing), missing)))
            return None
        load = partial(undo_arguments, run.values, call, inputs, found.function, function)
        run.live[key] = executor
        return TaskCall(key=key, function=function, load=load, context=_context(run, command)), finished

    loop.submit(run, executor, build)


# --- keeping, telling --------------------------------------------------------------------------------------------------------


def keep(_loop: Loop, run: Run, command: cmd.Keep) -> None:
    run.values.keep(command.task, command.attempt)


def adopt(_loop: Loop, run: Run, command: cmd.Adopt) -> None:
    run.values.put(command.task, (None, exception_of(command.failure, run.errors.get(command.task))))


def exception_of(failure: Failure, error: BaseException | None = None) -> BaseException:
    """The exception that a failure stands for: ``error``, the object itself, if it was raised here; its copy; or a description."""
    if error is not None and failure.kind == "raised":
        return error
    copy: object = None
    if failure.pickled is not None:
        with contextlib.suppress(codec.Unreadable):  # its class is not here: a description says all there is
            copy = codec.decode(codec.Encoded(failure.pickled))
    if isinstance(copy, BaseException):
        if failure.traceback:  # a copy has none of its own
            copy.add_note(f"It was raised in another process, or earlier:\n{failure.traceback.rstrip()}")
        return copy
    name = failure.types[0] if failure.types else "Exception"
    ours = named(name)
    if ours is not None:
        return ours.retold(failure.text)
    return RemoteTaskError(type_name=name, text=failure.text, traceback=failure.traceback)


def release(_loop: Loop, run: Run, command: cmd.Release) -> None:
    run.values.release(command.task)


def grow(_loop: Loop, run: Run, command: cmd.Grow) -> None:
    run.grow(command, run.values.load(command.task))


def forget(_loop: Loop, run: Run, command: cmd.Forget) -> None:
    for task in command.tasks:
        run.calls.pop(task, None)
        run.values.forget(task)
        run.errors.pop(task, None)


def set_timer(loop: Loop, run: Run, command: cmd.SetTimer) -> None:
    event = ev.TimerFired(task=command.task, attempt=command.attempt, key=command.key)
    if command.delay_s <= 0:
        loop.post(run, event)
    else:
        loop.clock.call_later(command.delay_s, lambda: loop.post(run, event))


def cancel_accepted(_loop: Loop, run: Run, _command: cmd.CancelAccepted) -> None:
    if not run.cancelled.done():
        run.cancelled.set_result(None)


def announce(loop: Loop, run: Run, command: cmd.Announce) -> None:
    if not run.accepted.done():
        run.accepted.set_result(None)
    if not command.status.ended:
        return
    loop.retire(run)
    if not run.cancelled.done():
        if command.status is Status.CANCELLED:
            run.cancelled.set_result(None)
        else:
            run.cancelled.set_exception(
                InvalidStateError(workflow_id=run.workflow_id, status=command.status, reason="it had ended before it could be cancelled")
            )
    outcome = run.machine.state.outcome
    if outcome is None:
        raise EngineBug(message="a workflow ended without an outcome", story=run.machine.story())
    if command.status is not Status.SUCCEEDED:
        run.future.set_exception(failure_of(run.workflow_id, outcome, run.errors.get(outcome.task)))
        return
    try:
        run.future.set_result(result_of(run.values, outcome.task))
    except ExoflowError as error:
        run.future.set_exception(error)


def result_of(values: Values, task: str, head: Head | None = None) -> Any:
    """The output of a task of a workflow that has ended. Raises CheckpointCorruptError, PayloadUnreadableError; WorkflowNotFoundError if
    the workflow of this ``head`` has been deleted meanwhile."""
    try:
        return values.load(task)
    except (Spoiled, KeyError) as error:
        now = values.store.head(values.workflow_id) if head is not None else None
        if head is not None and (now is None or birth_of(now.epoch) != birth_of(head.epoch)):
            raise WorkflowNotFoundError(workflow_id=values.workflow_id, store=values.store.url) from None
        why = "somebody may have been told it already"
        raise CheckpointCorruptError(workflow_id=values.workflow_id, task=task, what=values.store.url, why=why) from error


def failure_of(name: str, outcome: journal.WorkflowEnded, cause: BaseException | None = None) -> WorkflowFailed:
    """What callers of a workflow that ended without a result get. ``cause`` is the exception object, if it was raised in this process."""
    task, failure = outcome.task, outcome.failure
    if outcome.status == Status.CANCELLED:
        return WorkflowCancelledError(workflow_id=name, standing=", ".join(outcome.standing) or "none")
    if outcome.status == Status.IN_DOUBT:
        return WorkflowInDoubtError(workflow_id=name, task=task, attempt=outcome.attempt)
    text = failure.text if failure is not None else ""
    error: WorkflowFailed
    if outcome.status == Status.BLOCKED:
        error = WorkflowBlockedError(workflow_id=name, reason=f"task '{task}': {text}" if task else text)
    else:
        type_name = failure.types[0].rpartition(".")[2] if failure is not None and failure.types else "error"
        error = TaskFailed(workflow_id=name, task=task, attempt=outcome.attempt, error=f"{type_name}: {_cut(text)}")
    if failure is not None:
        error.__cause__ = exception_of(failure, cause)
    return error


def _cut(text: str) -> str:
    """Enough of it for a message; the exception itself has all of it."""
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}… ({len(text)} characters)"


PERFORM: dict[type, Callable[[Loop, Run, Any], None]] = {
    cmd.Append: append,
    cmd.Run: run_task,
    cmd.Stop: stop,
    cmd.Undo: undo,
    cmd.Ask: ask,
    cmd.Save: save,
    cmd.Keep: keep,
    cmd.Adopt: adopt,
    cmd.Release: release,
    cmd.Grow: grow,
    cmd.Forget: forget,
    cmd.SetTimer: set_timer,
    cmd.Announce: announce,
    cmd.CancelAccepted: cancel_accepted,
}
