"""The seams of an engine, wrapped: its store and its executors, with a place to die before and after everything that they do."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from exoflow import codec, fingerprints
from exoflow.codec import Bytes
from exoflow.core import journal
from exoflow.core.spec.graph import TaskSpec
from exoflow.store.base import BlobStore, Collected, Entry, Head, OwnerRow, Store, Verdict, Write
from exoflow.testing.crashes.points import Life
from exoflow.testing.crashes.single import SingleThread
from exoflow.testing.effects import Caller, Role, meaning_of
from exoflow.worker import task_runner
from exoflow.worker.attempt import Done, Grown, Outcome, Raised, Returned, Stopped, TaskCall

# --- the store ---------------------------------------------------------------------------------------------------------------


class MortalStore:
    """``store`` as one life sees it. The life may end before a write, when it has arrived and nobody knows, or while it is on its way
    and everything else goes on; then it never arrives."""

    durable = False  # as far as the engine knows: so it takes functions without importable names, and needs no signs of life

    def __init__(self, store: Store, life: Life, threads: SingleThread) -> None:
        self.url = store.url
        self.blobs: BlobStore = _MortalBlobs(store.blobs, life)
        self._store, self._life, self._threads = store, life, threads

    def commit(self, writes: Sequence[Write]) -> list[Verdict]:
        what = _in_words(writes)
        self._life.reach("commit", "before", what=what)
        if self._life.is_last("commit", "lost", what=what):
            self._threads.settle()
            self._life.die()
        verdicts = self._store.commit(writes)
        self._life.reach("commit", "after", what=what)
        return verdicts

    def claim(self, workflow_id: str, *, epoch: int, owner: str | None) -> int | None:
        claimed: int | None = self._life.around("claim", lambda: self._store.claim(workflow_id, epoch=epoch, owner=owner))
        return claimed

    def head(self, workflow_id: str) -> Head | None:
        return self._living().head(workflow_id)

    def heads(self, *, status: Sequence[str] = (), after: str = "", limit: int = 500) -> list[Head]:
        return self._living().heads(status=status, after=after, limit=limit)

    def entries(self, workflow_id: str, *, retired: bool = False, seqs: Sequence[int] = ()) -> list[Entry]:
        return self._living().entries(workflow_id, retired=retired, seqs=seqs)

    def delete(self, workflow_id: str, *, epoch: int) -> bool:
        return self._living().delete(workflow_id, epoch=epoch)

    def beat(self, row: OwnerRow | None, *, owner: str = "") -> list[tuple[str, str]]:
        return self._living().beat(row, owner=owner)

    def wish(self, workflow_id: str, wish: str) -> bool:
        return self._living().wish(workflow_id, wish)

    def owners(self) -> list[OwnerRow]:
        return self._living().owners()

    def _living(self) -> Store:
        self._life.check()
        return self._store

    def close(self) -> None:
        """The next life needs it."""


class _MortalBlobs:
    def __init__(self, blobs: BlobStore, life: Life) -> None:
        self._blobs, self._life = blobs, life

    def put(self, pieces: Iterable[Bytes]) -> str:
        name: str = self._life.around("blob", lambda: self._blobs.put(pieces))
        return name

    def open(self, name: str) -> memoryview:
        self._life.check()
        return self._blobs.open(name)

    def collect(self, *, grace_s: float, dry_run: bool = False) -> Collected:
        self._life.check()
        return self._blobs.collect(grace_s=grace_s, dry_run=dry_run)

    def names(self) -> Iterable[str]:
        return self._blobs.names()


def _in_words(writes: Sequence[Write]) -> str:
    """What a commit is about, for people."""
    said = []
    for write in writes:
        for body, _ in write.entries:
            record = journal.decode(body)
            task = getattr(record, "task", "")
            said.append(_RECORDS.get(type(record), type(record).__name__).format(task=task, tasks=", ".join(getattr(record, "tasks", ()))))
    return " and ".join(said) or "nothing"


_RECORDS: dict[type, str] = {
    journal.WorkflowBegan: "the beginning of the workflow",
    journal.OutputSaved: "the output of '{task}'",
    journal.AttemptIntended: "the intent of '{task}'",
    journal.AttemptFailed: "a failure of '{task}'",
    journal.UndoIntended: "that '{task}' is to be rolled back",
    journal.EffectUndone: "that '{task}' was rolled back",
    journal.EffectSettled: "that '{task}' had not acted",
    journal.TasksWithdrawn: "that outputs are void ({tasks})",
    journal.CancelDecided: "the decision to cancel",
    journal.WorkflowResumed: "that a person resumed the workflow",
    journal.WorkflowEnded: "the end of the workflow",
}


# --- the executors -----------------------------------------------------------------------------------------------------------


class Attempt(msgspec.Struct, kw_only=True):
    """One call of a function of the user, and what is to be remembered of it: a fingerprint of each argument at the start (``given``) and
    at the end (``kept``), one of them all (``inputs``) and one of the output; None where none can be taken. ``shown`` and ``error`` are
    what it returned or raised, for people."""

    caller: Caller
    spec: TaskSpec | None
    arguments: dict[str, Any] = {}
    given: dict[str, str | None] = {}
    kept: dict[str, str | None] = {}
    inputs: str | None = None
    ended: bool = False
    output: str | None = None
    shown: str = ""
    error: str = ""
    answer: Any = None


class StepExecutor:
    """Runs a call when the single thread has come to it. Whether the function would run on a loop, in a thread or in a process makes no
    difference, but that arguments for a process are copied."""

    can_kill = True
    is_elsewhere = False
    slots = 10_000

    def __init__(self, name: str, life: Life, threads: SingleThread, begin: Callable[[TaskCall], Attempt]) -> None:
        self.name = name
        self._life, self._threads, self._begin = life, threads, begin
        self._open: dict[str, tuple[TaskCall, Done]] = {}

    def submit(self, call: TaskCall, done: Done) -> None:
        self._open[call.key] = call, done
        self._threads.calls.append(lambda: self._run(call.key))

    def stop(self, key: str) -> None:
        if key in self._open:
            _, done = self._open.pop(key)
            self._threads.calls.append(lambda: done(Stopped(began=False)))

    def close(self) -> None:
        for key in list(self._open):
            self.stop(key)

    def _run(self, key: str) -> None:
        if key not in self._open:  # it was stopped
            return
        call, done = self._open.pop(key)
        if getattr(call.function, "__module__", None) == "exoflow.define.plan":  # what the engine adds by itself
            done(task_runner.run(call))
            return
        attempt = self._begin(call)
        caller = attempt.caller
        kind = caller.role if caller.role != "outside" else "task"
        self._life.reach(kind, "before", task=caller.task, attempt=caller.attempt)
        outcome = task_runner.run(msgspec.structs.replace(call, load=lambda: self._load(call, attempt)))
        self._life.check()
        note_outcome(attempt, outcome)
        self._life.reach(kind, "after", task=caller.task, attempt=caller.attempt)
        done(outcome)

    def _load(self, call: TaskCall, attempt: Attempt) -> Any:
        loaded = call.load()
        if self.name == "process":
            loaded = codec.decode(codec.encode(loaded))
        bound = inspect.signature(call.function).bind(*loaded[0], **loaded[1])
        attempt.given = fingerprints_of(bound.arguments)
        attempt.inputs = None if None in attempt.given.values() else meaning_of(attempt.given)
        if self.name != "process":
            attempt.arguments = bound.arguments
        return loaded


_OF_TASKS = (SystemExit, GeneratorExit, asyncio.CancelledError)
"""What a task may raise on its own account, and is no Exception."""


def note_outcome(attempt: Attempt, outcome: Outcome) -> None:
    """What came of a call."""
    attempt.ended = True
    attempt.kept, attempt.arguments = fingerprints_of(attempt.arguments), {}
    if isinstance(outcome, Returned):
        attempt.output, attempt.shown, attempt.answer = fingerprint(outcome.value), f"{outcome.value!r:.80}", outcome.value
    elif isinstance(outcome, Grown):
        attempt.output, attempt.shown = outcome.plan.meaning(), f"a DAG of {', '.join(outcome.plan.calls)}"[:80]
    elif isinstance(outcome, Raised):
        attempt.error = f"{outcome.info.type_name.rpartition('.')[2]}: {outcome.info.text}"[:200]
        if isinstance(outcome.error, BaseException) and not isinstance(outcome.error, (Exception, *_OF_TASKS)):
            raise outcome.error  # Ctrl-C, a time limit of the test: meant for whoever runs this


def fingerprints_of(arguments: dict[str, Any]) -> dict[str, str | None]:
    """One for each argument."""
    return {name: fingerprint(value) for name, value in arguments.items()}


def fingerprint(value: Any) -> str | None:
    """Equal for equal values; None if it has no state to look at."""
    try:
        return fingerprints.fingerprint(value)
    except codec.NotSerializable:
        return None


def role_of(call: TaskCall) -> Role:
    """Whether a call is of a task, of its rollback or of its on_unknown: the engine's keys end in that."""
    roles: dict[str, Role] = {"undo": "rollback", "ask": "on_unknown"}
    return roles.get(call.key.rpartition("#")[2].lstrip("0123456789"), "task")
