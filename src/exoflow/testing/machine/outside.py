"""The outside world: what tasks have done to it, remembered by somebody who is not the engine, and objects at once."""

from __future__ import annotations

from typing import NamedTuple

from exoflow.core.spec.annotations import Kind
from exoflow.testing.machine.parts import Attempt, Provenance


class Violation(Exception):
    """Exactly-once is broken, or something else that is promised."""


class Effect(NamedTuple):
    """One application of an effect: by which attempt, on which values, as the how-manieth thing that happened."""

    attempt: int
    seen: Provenance
    at: int


class Outside:
    """Effects of undoable tasks that stand, commits by task and basis, and the order in which all came and went."""

    def __init__(self) -> None:
        self.clock = 0
        self.effects: dict[str, Effect] = {}
        self.commits: dict[tuple[str, int], Effect] = {}
        self.first_applied: dict[tuple[str, frozenset[tuple[str, int]]], int] = {}
        self.undone: dict[str, int] = {}
        self.repeated = 0

    def act(self, attempt: Attempt) -> None:
        """The function of ``attempt`` does its work."""
        notes = attempt.spec.annotations
        if notes.kind is Kind.INTERNAL:
            return
        self.clock += 1
        effect = Effect(attempt.number, attempt.seen, self.clock)
        task = attempt.task
        if notes.kind is Kind.UNDOABLE:
            if task in self.effects:
                raise Violation(f"the effect of {task} is applied while that of an earlier attempt stands")
            self.effects[task] = effect
            self.first_applied.setdefault((task, frozenset(attempt.seen.items())), self.clock)
            return
        known = self.commits.setdefault((task, attempt.basis), effect)
        if known is not effect:
            self.repeated += 1
            if notes.on_unknown != "retry":
                raise Violation(f"{task}, which must not run twice, committed twice")
            if known.seen != attempt.seen:
                raise Violation(f"{task} committed with the same key on other values: {known.seen} and {attempt.seen}")

    def undo(self, attempt: Attempt, *, unwinding: bool) -> None:
        """The rollback of an attempt does its work. Idempotent: there may be nothing (any more). ``unwinding``: as everything is."""
        self.clock += 1
        effect = self.effects.pop(attempt.task, None)
        if effect is None:
            return
        if unwinding:
            self.undone[attempt.task] = self.clock
        if effect.attempt != attempt.number:
            raise Violation(f"rollback of attempt {attempt.number} of {attempt.task}, whose effect is that of attempt {effect.attempt}")
        if effect.seen != attempt.seen:
            raise Violation(f"rollback of {attempt.task} got {attempt.seen}, the task {effect.seen}")
