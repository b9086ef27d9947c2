"""Do tasks that call themselves deterministic give the same output again? Each is run again here, on the inputs that it had, and compared.

Nothing is written, and no task runs that may have an effect. (One that says it has none is believed.)
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import msgspec

from exoflow import codec, fingerprints
from exoflow.client.intake import what_changed
from exoflow.core.spec.annotations import Kind
from exoflow.core.state import Task as TaskState
from exoflow.define.plan import Plan
from exoflow.define.task import Task
from exoflow.errors import TaskNotFoundError, WorkflowNotFoundError
from exoflow.runtime.calls import arguments
from exoflow.runtime.recover import load
from exoflow.runtime.run import Run
from exoflow.runtime.threads import SYSTEM_THREADS
from exoflow.runtime.values import Spoiled
from exoflow.store.base import Store
from exoflow.worker import task_runner
from exoflow.worker.attempt import Died, Grown, LostInputs, Outcome, Raised, Returned, TaskCall

_OURS = "exoflow.define.plan:"
_DEPTH_MAX = 100


class Audited(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one task. ``verdict``: it agrees with what is saved (``against="saved"``), or with itself (``"again"``: nothing of it is
    saved, and it ran twice); it lies; it failed; or it was skipped. ``before`` and ``now`` are fingerprints of the two outputs, ``differs``
    the way to the first difference and both values there; ``reason`` says why it was skipped or how it failed."""

    task: str
    verdict: Literal["agrees", "lies", "failed", "skipped"]
    against: Literal["saved", "again", ""] = ""
    before: str = ""
    now: str = ""
    differs: str = ""
    reason: str = ""


class _Skip(Exception):
    """This task cannot be audited, for the reason given."""


def audit(store: Store, name: str, task: str | None = None) -> list[Audited]:
    """Audit the tasks of workflow ``name`` that are annotated deterministic, or one of its tasks. Of the others nothing is said.

    Raises WorkflowNotFoundError, TaskNotFoundError, StoreCorruptError, PayloadUnreadableError, CheckpointCorruptError.
    """
    head = store.head(name)
    if head is None:
        raise WorkflowNotFoundError(workflow_id=name, store=store.url)
    run = load(store, head, head.epoch, SYSTEM_THREADS)
    tasks = run.machine.state.tasks
    if task is not None and task not in tasks:
        raise TaskNotFoundError(workflow_id=name, what="task", task=task, hint="; see exoflow show")
    chosen = [each for each in tasks.values() if each.deterministic] if task is None else [tasks[task]]
    auditor = _Auditor(run)
    return [auditor.audit(each) for each in chosen if not run.calls[each.id].task.startswith(_OURS)]


class _Auditor:
    def __init__(self, run: Run) -> None:
        self._run = run

    def audit(self, task: TaskState) -> Audited:
        try:
            self._require_auditable(task)
            before = self._saved(task)
            against: Literal["saved", "again"] = "again" if before is None else "saved"
            first = before if before is not None else self._output(task)
            return _compared(task.id, against, first, self._output(task))
        except _Skip as skip:
            return Audited(task=task.id, verdict="skipped", reason=str(skip))
        except _Failed as failed:
            return Audited(task=task.id, verdict="failed", reason=str(failed))

    def _require_auditable(self, task: TaskState) -> None:
        if not task.deterministic:
            raise _Skip("it is not annotated deterministic" if not task.spec.annotations.deterministic else "it catches exceptions")
        if task.kind is not Kind.INTERNAL:
            raise _Skip(f"it is {task.kind.name.lower()}: it may have effects, and is not run for an audit")
        self._function(task)

    def _function(self, task: TaskState) -> Task[..., Any]:
        key = self._run.calls[task.id].task
        found = self._run.find(key)
        if not isinstance(found, Task):
            raise _Skip(f"its function '{key}' is not to be found; name the module or file that defines it with -m")
        before, now = self._run.code.get(key, ""), found.code.fingerprint()
        if before.partition(":")[0] == now.partition(":")[0] and before != now:
            raise _Skip("its code is not what it was")
        return found

    def _saved(self, task: TaskState) -> Any | None:
        """The output that the journal holds; None if it holds none."""
        if task.id not in self._run.values.saved or not task.durable:
            return None
        try:
            return _Output(self._run.values.load(task.id), task.meaning)
        except Spoiled as error:
            raise _Skip(f"its saved output is damaged: {error}") from None

    def _output(self, task: TaskState) -> _Output:
        """What it gives now. Raises _Skip if its inputs are not to be had, _Failed if it raises."""
        outcome = self._outcome(task)
        if isinstance(outcome, Returned):
            return _Output(outcome.value)
        if isinstance(outcome, Grown):
            return _Output(outcome.plan)
        if isinstance(outcome, Died):
            raise _Failed(outcome.reason)
        assert isinstance(outcome, Raised)
        raise _Failed(f"{outcome.info.type_name.rpartition('.')[2]}: {outcome.info.text}")

    def _outcome(self, task: TaskState) -> Outcome:
        run, inputs = self._run, self._run.inputs(task.id)
        for up in inputs:
            self._make_at_hand(run.machine.state.tasks[up])
        try:
            given = codec.decode(codec.encode(arguments(run.values, run.calls[task.id], inputs)))  # of its own, whatever it does to them
        except (codec.NotSerializable, codec.Unreadable):
            given = arguments(run.values, run.calls[task.id], inputs)
        except LostInputs as lost:
            raise _Skip(f"an input is not to be had: {lost}") from None
        context = run.context(task.id, task.attempt, task.basis)
        call = TaskCall(key=task.id, function=self._function(task).function, load=lambda: given, context=context, may_grow=True)
        return task_runner.run(call)

    def _make_at_hand(self, up: TaskState) -> None:
        """The output of ``up``: saved, or made again if that is harmless and gives the same."""
        if up.id in self._run.values.saved and up.durable:
            return
        try:
            self._run.values.raw(up.id)
        except KeyError:
            if not (up.deterministic and up.kind is Kind.INTERNAL):
                raise _Skip(f"its input '{up.id}' was not saved") from None
            outcome = self._outcome(up)
            if not isinstance(outcome, Returned):
                raise _Skip(f"its input '{up.id}' could not be made again") from None
            self._run.values.put(up.id, outcome.value)


class _Failed(Exception):
    """The task raised."""


class _Output:
    """A value, and its fingerprint."""

    def __init__(self, value: Any, meaning: str = "") -> None:
        self.value = value
        self.meaning = value.meaning() if isinstance(value, Plan) else meaning or _fingerprint(value)


def _compared(task: str, against: Literal["saved", "again"], before: _Output, now: _Output) -> Audited:
    if "" in (before.meaning, now.meaning):
        raise _Skip("its output has no state that could be compared")
    if before.meaning == now.meaning:
        return Audited(task=task, verdict="agrees", against=against, before=before.meaning, now=now.meaning)
    if isinstance(before.value, Plan) and isinstance(now.value, Plan):
        differs = f"it returned another DAG: {what_changed(before.value, now.value)}"
    else:
        differs = first_difference(before.value, now.value)
    return Audited(task=task, verdict="lies", against=against, before=before.meaning, now=now.meaning, differs=differs)


def _fingerprint(value: Any) -> str:
    if codec.refs_in(value):  # who makes one again makes another
        return ""
    try:
        return fingerprints.fingerprint(value)
    except codec.NotSerializable:
        return ""


# --- where two values differ -------------------------------------------------------------------------------------------------


def first_difference(before: Any, now: Any) -> str:
    """The way from the values to the first place where they differ, and what is there: ``['rows'][3].price: 5 before, 6 now``."""
    path = ""
    for _ in range(_DEPTH_MAX):
        steps = _steps(before, now)
        if steps is None:
            break
        names = [[name for name, _ in parts] for parts in steps]
        if names[0] != names[1]:
            return f"{path or 'the output'}: {_gone_and_come(*names)}"
        differing = next(((name, a, b) for (name, a), (_, b) in zip(*steps, strict=True) if _fingerprint(a) != _fingerprint(b)), None)
        if differing is None:
            break
        path, before, now = path + differing[0], differing[1], differing[2]
    return f"{path or 'the output'}: {before!r:.80} before, {now!r:.80} now"


def _steps(before: Any, now: Any) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]] | None:
    """The parts of two containers of one kind, each with its name; None if they are not such."""
    if type(before) is not type(now):
        return None
    parts = _parts(before), _parts(now)
    return None if parts[0] is None or parts[1] is None else (parts[0], parts[1])


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    if isinstance(value, dict):
        return [(f"[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{place}]", item) for place, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    state = getattr(value, "__dict__", None)
    return [(f".{name}", item) for name, item in state.items()] if isinstance(state, dict) and not isinstance(value, type) else None


def _gone_and_come(before: list[str], now: list[str]) -> str:
    said = [f"{name} is gone" for name in before if name not in now][:1] + [f"{name} has come" for name in now if name not in before][:1]
    return "; ".join(said) or "the same parts in another order"
