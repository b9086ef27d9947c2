"""Where a process may die, and the life of one that does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from exoflow.testing.effects import SimulatedCrash

Kind = Literal["task", "rollback", "on_unknown", "effect", "commit", "blob", "claim"]
When = Literal["before", "after", "lost"]

WORDS: dict[tuple[Kind, When], str] = {
    ("task", "before"): "right before task '{task}' (attempt {attempt}) began",
    ("task", "after"): "right after task '{task}' (attempt {attempt}) had returned, before its output was known to anybody",
    ("rollback", "before"): "right before the rollback of '{task}' (attempt {attempt}) began",
    ("rollback", "after"): "right after the rollback of '{task}' (attempt {attempt}) had returned, before anybody knew",
    ("on_unknown", "before"): "right before on_unknown of '{task}' (attempt {attempt}) was asked",
    ("on_unknown", "after"): "right after on_unknown of '{task}' (attempt {attempt}) had answered, before anybody knew",
    ("effect", "before"): "inside {task}, right before {what}",
    ("effect", "after"): "inside {task}, right after {what} had happened, before anybody knew",
    ("commit", "before"): "right before {what} was written to the store",
    ("commit", "lost"): "while {what} was on its way to the store, where it never arrived; everything else went on meanwhile",
    ("commit", "after"): "when {what} was in the store, before anybody knew",
    ("blob", "before"): "right before the bytes of a large value were written",
    ("blob", "after"): "when the bytes of a large value were written, before anybody knew",
    ("claim", "before"): "in a recovery, right before the workflow was taken over",
    ("claim", "after"): "in a recovery, when the workflow was taken over, before anybody knew",
}


class Point(msgspec.Struct, frozen=True):
    """One place in a run. ``what`` is an effect, or what a commit is about; ``task`` of an effect is who makes it, in words."""

    kind: Kind
    when: When
    task: str = ""
    attempt: int = 0
    what: str = ""

    def __str__(self) -> str:
        return WORDS[self.kind, self.when].format(task=self.task, attempt=self.attempt, what=self.what)


class Life:
    """One engine, from its start to its death. It dies at the ``crash_at``-th place that it reaches, or never."""

    def __init__(self, number: int, crash_at: int | None) -> None:
        self.number, self.crash_at = number, crash_at
        self.trace: list[Point] = []
        self.dead = False

    def check(self) -> None:
        """Raise SimulatedCrash if it is over: the dead do nothing more."""
        if self.dead:
            raise SimulatedCrash

    def reach(self, kind: Kind, when: When, **fields: Any) -> None:
        """A place; perhaps the last one. Raises SimulatedCrash."""
        if self.is_last(kind, when, **fields):
            self.die()

    def is_last(self, kind: Kind, when: When, **fields: Any) -> bool:
        """A place; whether it is the one to die at, which the caller sees to."""
        self.check()
        self.trace.append(Point(kind, when, **fields))
        return len(self.trace) == self.crash_at

    def die(self) -> None:
        """Raises SimulatedCrash."""
        self.dead = True
        raise SimulatedCrash

    def around(self, kind: Kind, action: Callable[[], Any], **fields: Any) -> Any:
        """What ``action`` gives; the life may end right before and right after it."""
        self.reach(kind, "before", **fields)
        done = action()
        self.reach(kind, "after", **fields)
        return done
