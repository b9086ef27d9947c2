"""What a run alone shows to be wrong: what its tasks did is compared with what they say of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.graph import TaskSpec
from exoflow.testing.crashes.report import Finding
from exoflow.testing.crashes.seams import Attempt
from exoflow.testing.crashes.trial import Trial, in_words
from exoflow.testing.effects import Entry


def internal_effects(trial: Trial) -> Iterator[Finding]:
    for entry in trial.entries:
        spec = _spec(trial, entry.caller.task)
        if entry.caller.role == "task" and entry.op != "undo" and spec is not None and spec.annotations.kind is Kind.INTERNAL:
            yield Finding(
                kind="internal_effect",
                task=entry.caller.task,
                what=entry.what,
                said=f"task '{entry.caller.task}' made the effect '{entry}'",
                why=_INTERNAL,
                repair=_COMMIT_INSTEAD,
            )


def twice(trial: Trial) -> Iterator[Finding]:
    first: dict[tuple[Any, ...], Entry] = {}
    for entry in trial.standing:
        caller = entry.caller
        if caller.role == "outside":
            continue
        of = caller.attempt if caller.role == "rollback" else 0
        known = first.setdefault((caller.role, caller.task, of, entry.what, entry.place), entry)
        if known.caller.call != caller.call:
            yield _twice(trial, known, entry)


def _twice(trial: Trial, one: Entry, two: Entry) -> Finding:
    task, spec = two.caller.task, _spec(trial, two.caller.task)
    why, repair = _OF_ROLLBACK if two.caller.role == "rollback" else _blame(trial, spec, one, two)
    same = "" if one.meaning == two.meaning else f", first as '{one}', then as '{two}'"
    said = f"'{two.what}' happened twice, both times by {in_words(two.caller).partition(' (')[0]}{same}"
    return Finding(kind="twice", task=task, what=two.what, said=said, why=why, repair=repair)


def _blame(trial: Trial, spec: TaskSpec | None, one: Entry, two: Entry) -> tuple[str, str]:
    kind = spec.annotations.kind if spec is not None else Kind.COMMITTING
    if kind is Kind.INTERNAL:
        return _INTERNAL, _COMMIT_INSTEAD
    if kind is Kind.UNDOABLE:
        return "its rollback did not take the first one back", "let rollback= undo it"
    if _got_others(trial, one, two):
        return "its inputs were others the second time", "see which task above it gives other outputs for equal inputs"
    if one.key is not None and two.key is not None:
        return f"it used two keys, '{one.key}' and '{two.key}', so the outside took them for two", _ONE_KEY
    return _NO_KEY


def not_idempotent(trial: Trial) -> Iterator[Finding]:
    first: dict[tuple[Any, ...], Entry] = {}
    for entry in trial.entries:
        if entry.op == "undo" or entry.key is None or entry.caller.role != "task":
            continue
        known = first.setdefault((entry.caller.task, entry.what, entry.key, entry.place), entry)
        if known.meaning != entry.meaning and not _got_others(trial, known, entry):
            yield Finding(
                kind="not_idempotent",
                task=entry.caller.task,
                what=entry.what,
                said=f"task '{entry.caller.task}' asked for '{known}' and then, under the same key, for '{entry}'",
                why="a task that commits must ask for the same when it runs again on equal inputs; the outside ignores or refuses others",
                repair="make what is random, or read from elsewhere, in a task of its own above it, whose output is saved",
            )


def left_by_rollbacks(trial: Trial) -> Iterator[Finding]:
    for undo in trial.attempts:
        if undo.caller.role != "rollback" or not undo.ended or undo.error:
            continue
        task = undo.caller.task
        for entry in trial.standing:
            if entry.caller.task == task and entry.caller.role == "task" and entry.caller.call < undo.caller.call:
                yield Finding(
                    kind="rollback_left",
                    task=task,
                    what=entry.what,
                    said=f"the rollback of '{task}' returned, but '{entry}' still stands",
                    why="rollback= promises to undo all that the task did",
                    repair=f"undo '{entry.what}' in it; if it does, say so: effects.undo('{entry.what}'), or "
                    f"effects.wrap(..., undo={{'the method': '{entry.what}'}})",
                )


def taken_from_others(trial: Trial) -> Iterator[Finding]:
    effects = {entry.number: entry for entry in trial.entries}
    for entry in trial.entries:
        for lost in (effects[number] for number in entry.gone):
            if lost.caller.task != entry.caller.task and entry.caller.role == "rollback":
                yield Finding(
                    kind="missing",
                    task=lost.caller.task,
                    what=lost.what,
                    said=f"the rollback of '{entry.caller.task}' took back '{lost}', which task '{lost.caller.task}' had made",
                    why="a rollback may undo what its own task did, and nothing else",
                    repair="let it name what it undoes exactly: by key, or by a value that only its task uses",
                )


def mutated(trial: Trial) -> Iterator[Finding]:
    for attempt in trial.attempts:
        changed = [name for name, mark in attempt.kept.items() if mark is not None and mark != attempt.given.get(name)]
        for name in changed:
            yield Finding(
                kind="mutated",
                task=attempt.caller.task,
                what=name,
                said=f"{in_words(attempt.caller).partition(' (')[0]} changed its argument '{name}' in place",
                why="tasks of one process share their values: others, and its own rollback, get the changed one, if no crash comes between",
                repair=f"copy '{name}' first",
            )


def changed_fake(trial: Trial, name: str, shown: str, usual: str) -> Finding:
    idle = next((each for each in trial.entries if each.op == "undo" and not each.gone and each.caller.role == "rollback"), None)
    said = f"{name} of a wrapped fake is {shown}; without crashes it is {usual}"
    if idle is None:
        why = "something reached it twice, or not at all, by a call that is no effect (reads=...) or does more than its name says"
        return Finding(kind="state", task="", what=name, said=said, why=why, repair="see what happened in this run")
    return Finding(
        kind="rollback_not_idempotent",
        task=idle.caller.task,
        what=name,
        said=f"the rollback of '{idle.caller.task}' undid '{idle.what}' when there was none: {said}",
        why=_IDLE_ROLLBACK,
        repair="let the rollback (or the outside) look whether there is anything to undo",
    )


def failed_rollback(trial: Trial, failed: Attempt) -> Finding:
    task = failed.caller.task
    stood = any(entry.caller.task == task for entry in standing_at(trial, failed.caller.call))
    when = f"although the effect of '{task}' stood" if stood else "when there was nothing to undo"
    return Finding(
        kind="rollback_failed",
        task=task,
        said=f"the rollback of '{task}' raised {failed.error}, {when}; the workflow is BLOCKED",
        why=_IDLE_ROLLBACK,
        repair="let the rollback accept that there is nothing to undo (any more)",
    )


_INTERNAL = "it says can_rollback=True without rollback=, that is, it has no effect; so it runs again whenever its output is lost"
_COMMIT_INSTEAD = (
    "leave can_rollback out, so that the task commits, and give the outside current_task().idempotency_key; "
    "or say how it is undone: rollback="
)
_ONE_KEY = "use a key that is the same in each attempt and different otherwise: current_task().idempotency_key"
_NO_KEY = (
    "a task that commits runs again when it died half-way, and must then be idempotent for equal inputs; it gave the outside no key",
    (
        "give the outside current_task().idempotency_key; if it knows no keys, on_unknown= a function that looks whether it happened, "
        "on_unknown='fail' to ask a person, or rollback= to undo it"
    ),
)
_OF_ROLLBACK = (
    "a rollback that died is called again, and must then find that there is nothing left to undo",
    "give what the rollback does a key; if it takes something back, say so: effects.undo(...), or effects.wrap(..., undo={...})",
)
_IDLE_ROLLBACK = "a task that died half-way is rolled back whether it had acted or not, and a rollback that died is called again"
REPAIRS = {
    "": "after a crash some tasks run again: the outside must answer them as before, or retries= must be enough",
    "WorkflowIdConflictError": "the same call must build the same DAG again: take what is random, or depends on the time, into a task",
}


# --- what is read off a run --------------------------------------------------------------------------------------------------


def _spec(trial: Trial, task: str) -> TaskSpec | None:
    return next((each.spec for each in trial.attempts if each.caller.task == task and each.spec is not None), None)


def _got_others(trial: Trial, one: Entry, two: Entry) -> bool:
    """Whether the calls that made two effects are known to have got different arguments."""
    inputs = {each.inputs for each in trial.attempts if each.caller in (one.caller, two.caller)}
    return None not in inputs and len(inputs) > 1


def count(trial: Trial, task: str, what: str | None) -> int:
    return sum(entry.caller.task == task and what in (None, entry.what) for entry in trial.standing)


def standing_at(trial: Trial, call: int) -> list[Entry]:
    """The effects that stood when this call began."""
    before = [entry for entry in trial.entries if entry.caller.call < call]
    gone = {number for entry in before for number in entry.gone}
    return [entry for entry in before if entry.op == "apply" and entry.number not in gone]
