"""What is to be said of a run when it is over: violations, and where the kills came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exoflow.testing.ledger import Book, Entry
from tests.crash.lives import Confirmed
from tests.crash.workflows import Case

_VOID = ("TasksWithdrawn", "EffectUndone", "OutputSpoiled")


def violations(case: Case, home: Path, book: Book, ends: list[tuple[str, Any]], confirmed: Confirmed) -> list[str]:
    """``ends``: what each life that came to the end said, as (status, result). ``home``: the folder of the workflow."""
    found = []
    for status, result in [*ends, (confirmed.status, confirmed.result)]:
        if status != case.ends:
            found.append(f"the workflow ended {status}, not {case.ends}: {result!r:.300}")
        if result != ends[0][1]:
            found.append(f"the result changed: {ends[0][1]!r:.300}, then {result!r:.300}")
    if found:
        return found
    result = ends[0][1]
    wanted = case.effects(result) if callable(case.effects) else case.effects
    standing = book.counts()
    found += book.violations(result)
    found += [
        f"{standing.get(what, 0)} effects '{what}' stand, not {wanted.get(what, 0)}"
        for what in sorted(wanted.keys() | standing.keys())
        if standing.get(what, 0) != wanted.get(what, 0)
    ]
    found += case.judge(home, result, book)
    found += _run_again(book, confirmed)
    if confirmed.integrity != "ok":
        found.append(f"PRAGMA integrity_check: {confirmed.integrity}")
    found += [f"blob {name} is damaged" for name in confirmed.damaged_blobs]
    found += [f"blob {name} is gone, although the journal names it" for name in confirmed.lost_blobs]
    if confirmed.owners or confirmed.locks or confirmed.temps:
        found.append(f"the dead left {confirmed.owners} rows, {confirmed.locks} lock files and {confirmed.temps}")
    return found


def _run_again(book: Book, confirmed: Confirmed) -> Iterator[str]:
    """Saved work is kept: whose output is in the journal, and was not withdrawn, undone or spoiled later, has not run after that."""
    saved: dict[str, tuple[int, int]] = {}
    for kind, task, epoch, attempt, tasks in confirmed.journal:
        if kind == "OutputSaved":
            saved[task] = (epoch, attempt)
        elif kind in _VOID:
            for gone in (task, *tasks):
                for name in [name for name in saved if name == gone or name.startswith(f"{gone}/")]:
                    del saved[name]
    for entry in book.entries:
        if entry.op == "began" and (entry.epoch, entry.attempt) > saved.get(entry.task, (entry.epoch, entry.attempt)):
            yield (
                f"{entry.task} ran again at {entry.number} (epoch {entry.epoch}, attempt {entry.attempt}), although its output of epoch "
                f"{saved[entry.task][0]}, attempt {saved[entry.task][1]} is saved"
            )


def phase(book: Book, number: int) -> str:
    """What the life of that ``number`` was doing when it was killed, from the traces it left."""
    entries = [entry for entry in book.entries if entry.life == number and entry.op != "killed"]
    said = [entry.what for entry in entries if entry.op == "note"]
    if "closed" in said or "ended" in said:
        return "closing"
    if "opened" not in said:
        return "opening the store"
    work = [entry for entry in entries if entry.task]
    if "accepted" not in said and not work:
        return "submitting" if number == 1 else "taking over"
    if not work:
        return "about to run the first task" if number == 1 else "recovering"
    return _at(work, entries[-1])


def _at(work: list[Entry], last: Entry) -> str:
    if last.op == "undo" or last.what.startswith(("slow ", "after ", "releas", "first try", "second try")):
        return "rolling back"
    if last.op == "apply":
        return "just after an effect"
    if last.op == "began":
        return "inside a task"
    return "between tasks" if len(work) > 1 else "inside a task"


def situations(book: Book, lives: int, confirmed: Confirmed) -> Counter[str]:
    """What was reached: a harness that never gets somewhere proves nothing about it."""
    counts = Counter[str]()
    undone = [entry for entry in book.entries if entry.op == "undo"]
    counts["rollbacks"] = len(undone)
    counts["rollbacks that found nothing to undo"] = sum(not entry.gone for entry in undone)
    counts["takeovers"] = confirmed.epoch - 1
    counts["commits sent again under their key"] = sum(entry.again for entry in book.entries)
    began = Counter(entry.task for entry in book.entries if entry.op == "began")
    counts["tasks that ran again"] = sum(times - 1 for times in began.values())
    lives_with_undo = {entry.life for entry in undone}
    counts["rollbacks in two or more lives"] = int(len(lives_with_undo) > 1)
    counts["three or more effects undone in one life"] = sum(
        sum(bool(entry.gone) for entry in undone if entry.life == life) >= 3 for life in lives_with_undo
    )
    kinds = Counter(kind for kind, *_ in confirmed.journal)
    counts["tasks withdrawn by record"] = kinds["TasksWithdrawn"]
    counts["deaths of workers on record"] = kinds["WorkerDied"]
    counts["failures of attempts on record"] = kinds["AttemptFailed"]
    counts["doubts settled: it had not happened"] = kinds["EffectSettled"]
    counts["resumed by a person"] = kinds["WorkflowResumed"]
    counts["saved outputs"] = kinds["OutputSaved"]
    counts["ten or more lives"] = int(lives >= 10)
    return counts
