"""One function for each command of the core. Each ends, sooner or later, in exactly one event (or is a mere notice)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from exoflow import codec
from exoflow.core import commands as cmd
from exoflow.core import events as ev
from exoflow.core import journal
from exoflow.core.journal import Failure
from exoflow.core.state import Status
from exoflow.define.plan import Call
from exoflow.errors import (
    CheckpointCorruptError,
    CheckpointFailedError,
    EngineBug,
    ExoflowError,
    Fenced,
    InvalidStateError,
    PayloadTooLargeError,
    RefLostError,
    RemoteTaskError,
    StorageFullError,
    TaskFailed,
    WorkflowAlreadyExistsError,
    WorkflowBlockedError,
    WorkflowCancelledError,
    WorkflowFailed,
    WorkflowInDoubtError,
    WorkflowNotFoundError,
    named,
)
from exoflow.runtime.attempts import ask, give_up, run_task, stop, to_bytes, undo, unsaveable
from exoflow.runtime.loop import Loop
from exoflow.runtime.ownership import birth_of, life_of
from exoflow.runtime.refs import holder_of, when_all
from exoflow.runtime.run import Run
from exoflow.runtime.values import Saved, Spoiled, Values, store_ref
from exoflow.store.base import Head, Verdict, Write

_TEXT_MAX = 2000
_FULL_PAUSE_S = 0.5
"""How long an output waits until it is tried again to save it on a full disk."""


# --- durable -----------------------------------------------------------------------------------------------------------------


def append(loop: Loop, run: Run, command: cmd.Append) -> None:
    entries, blobs = [], list[str]()
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
        if stored is not None and (stored.blob is not None or stored.refs):
            blobs += stored.blobs
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
    def again() -> None:
        if not run.closed:
            loop.beside(partial(_save, loop, run, command, value, call, audit=audit))

    event: ev.Event
    try:
        encoded = value if isinstance(value, codec.Encoded) else codec.encode(value)
        kept: tuple[journal.KeptRef, ...] = ()
        if encoded.refs:
            waiting = run.values.refs.snapshots(command.task, command.attempt, encoded.refs)
            if waiting:
                when_all(waiting, again)
                return
            kept = run.values.refs.save(command.task, command.attempt, encoded.refs, partial(_put_ref, loop, command.task))
        stored, payload = to_bytes(loop, command.task, value, encoded, audit=audit, refs=kept)
        run.payloads[command.task, command.attempt] = payload
        event = ev.OutputStored(task=command.task, attempt=command.attempt, stored=stored)
    except (codec.NotSerializable, PayloadTooLargeError, CheckpointFailedError) as error:
        event = ev.OutputUnstorable(task=command.task, attempt=command.attempt, failure=unsaveable(command.task, call, error))
    except StorageFullError:  # until there is room again
        loop.clock.call_later(_FULL_PAUSE_S, again)
        return
    except Exception as error:  # the store is gone, or a fault of ours
        lost = run.values.refs.lost(error)
        if lost is None and not isinstance(error, RefLostError):
            give_up(loop, run, error)
            return
        event = ev.OutputsLost(tasks=tuple({command.task, *(lost or ())}), unsaved=command.task, reason=str(error))
    loop.post(run, event)


def _put_ref(loop: Loop, task: str, ref: str, data: Any) -> tuple[bytes, str | None]:
    return store_ref(loop.store, holder_of(task), ref, data, loop.settings.payload_limit)


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
    run.cancelled.reach()


def announce(loop: Loop, run: Run, command: cmd.Announce) -> None:
    run.accepted.reach()
    if not command.status.ended:
        return
    loop.retire(run)
    _tell_end(run, command)
    if run.values.held is not None:
        outcome = run.machine.state.outcome
        run.values.held.close(outcome.task if outcome is not None and command.status is Status.SUCCEEDED else None)


def _tell_end(run: Run, command: cmd.Announce) -> None:
    if command.status is Status.CANCELLED:
        run.cancelled.reach()
    else:
        reason = "it had ended before it could be cancelled"
        run.cancelled.fail(InvalidStateError(workflow_id=run.workflow_id, status=command.status, reason=reason))
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
