"""Bugs to plant into the engine of a life, each as one change: whoever finds nothing must be shown to be able to find something.

A plant is applied in the process that dies, after the fork, before the engine is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exoflow.core import commands as cmd
from exoflow.core import events as ev
from exoflow.core import journal, withdrawal
from exoflow.core.spec.annotations import Annotations
from exoflow.core.stability import Stability
from exoflow.core.state import State, Task
from exoflow.runtime import attempts, calls, perform, recover
from exoflow.runtime.commit import GroupCommitter
from exoflow.worker.context import TaskContext

PLANTS: dict[str, Callable[[], None]] = {}


def plant(change: Callable[[], None]) -> Callable[[], None]:
    PLANTS[change.__name__] = change
    return change


@plant
def commits_do_not_wait() -> None:
    """A committing task starts as soon as its inputs exist."""
    assert Stability.ask
    Stability.ask = lambda self, prop, task: True  # type: ignore[method-assign]


@plant
def acknowledged_when_queued() -> None:
    """What is saved on the way counts as durable when it is on its way to the store."""
    put = GroupCommitter.put

    def too_early(self: GroupCommitter, write: Any, answer: Any) -> None:
        if write.head is not None:  # it begins or ends the workflow
            put(self, write, answer)
        else:
            put(self, write, lambda _verdict: None)
            answer("applied")

    GroupCommitter.put = too_early  # type: ignore[method-assign]


@plant
def no_intents() -> None:
    """An undoable task starts without a word in the journal."""
    assert Annotations.leaves_intent
    Annotations.leaves_intent = property(lambda self: False)  # type: ignore[assignment]


@plant
def rollbacks_are_skipped() -> None:
    """It is said that the effect was undone, and that is all."""

    def pretend(loop: Any, run: Any, command: cmd.Undo) -> None:
        loop.post(run, ev.UndoSucceeded(task=command.task, attempt=command.attempt))

    assert perform.PERFORM[cmd.Undo]
    perform.PERFORM[cmd.Undo] = pretend


@plant
def rollbacks_upstream_first() -> None:
    """Parents are undone without waiting for their children."""
    review = withdrawal.review

    def hasty(state: State, task: Task) -> None:
        task.holds = 0
        review(state, task)

    withdrawal.review = hasty


@plant
def rollbacks_get_other_values() -> None:
    """A rollback is called with other values than its task."""

    def wrong(*given: Any) -> Any:
        args, kwargs = undo_arguments(*given)
        return args, dict.fromkeys(kwargs, ())

    undo_arguments = calls.undo_arguments
    assert attempts.undo_arguments is undo_arguments
    attempts.undo_arguments = wrong


@plant
def saved_work_is_forgotten() -> None:
    """Recovery overlooks what was saved."""
    read_records = recover.read_records

    def forgetful(*given: Any) -> Any:
        return [record for record in read_records(*given) if not isinstance(record, journal.OutputSaved)]

    recover.read_records = forgetful


@plant
def key_of_the_attempt() -> None:
    """The idempotency key differs from attempt to attempt."""
    stable = TaskContext.idempotency_key.fget  # type: ignore[attr-defined]
    TaskContext.idempotency_key = property(lambda self: f"{stable(self)}-{self.epoch}-{self.attempt}")  # type: ignore[assignment]


@plant
def doubts_are_denied() -> None:
    """A task in doubt runs again without a question."""

    def deny(loop: Any, run: Any, command: cmd.Ask) -> None:
        loop.post(run, ev.DoubtAnswered(task=command.task, happened=False))

    assert perform.PERFORM[cmd.Ask]
    perform.PERFORM[cmd.Ask] = deny
