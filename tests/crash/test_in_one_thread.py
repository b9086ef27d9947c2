"""The workflows that are killed elsewhere as real processes, with the lives of ``crash_everywhere``: engine after engine in one thread,
each dying at a place that a seed draws, among them places that no kill hits (a write is lost while everything else goes on). The judge is
the book of the ledger, which knows nothing of either."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exoflow.testing.crashes.trial import NAME, Subject, Trial
from exoflow.testing.ledger import Book, Question, Reply
from exoflow.testing.notebook import Notebook
from tests.crash.workflows import CASES, Case

RUNS = 10
OTHERS = {"doubt_for_a_person", "failed_and_resumed", "async_timeout", "process_timeout"}
"""Need a person, or have tasks that only a timeout ends, which one thread cannot do."""
CHOSEN = [name for name, case in CASES.items() if not case.cancels and name not in OTHERS]


class Outside(Notebook):
    """Whoever is dead writes nothing more; and one may die right before or after an entry."""

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self.trial = trial

    def answer(self, question: Question) -> Reply:
        life, entry = self.trial.lives[-1], question.entry
        if entry is None:
            return super().answer(question)
        question = msgspec.structs.replace(question, entry=msgspec.structs.replace(entry, life=life.number))
        fields: dict[str, Any] = {"task": entry.task, "what": f"{entry.op} {entry.what}"}
        reply: Reply = life.around("effect", lambda: Notebook.answer(self, question), **fields)
        return reply


class Judged(Trial):
    """A run whose result is kept as it is."""

    value: Any = None

    def _succeeded(self, value: Any) -> None:
        self.value = value
        super()._succeeded(value)


def run(case: Case, folder: Path, crashes: tuple[int, ...], seed: int) -> tuple[Judged, list[str]]:
    folder.mkdir()
    case.prepare(folder)
    trial = Judged(Subject(case.build(), case.args(folder), {}, dict(case.options)), crashes, seed)
    with Outside(trial) as outside:
        trial.run()
    if trial.status != case.ends:
        return trial, [f"it ended {trial.status}, not {case.ends}: {trial.error}"]
    book = outside.books().get(NAME, Book([]))
    wanted = case.effects(trial.value) if callable(case.effects) else case.effects
    found = [*book.violations(trial.value), *case.judge(folder, trial.value, book)]
    return trial, found if book.counts() == wanted else [*found, f"{book.counts()} stands, not {wanted}"]


@pytest.mark.slow  # many runs
@pytest.mark.parametrize("name", CHOSEN)
def test_wherever_its_engines_die_a_workflow_ends_as_one_run(name: str, tmp_path: Path) -> None:
    case, chance = CASES[name], random.Random(name)
    free, found = run(case, tmp_path / "free", (), 0)
    places = len(free.lives[0].trace)
    assert found == []
    died = 0
    for number in range(RUNS):
        crashes = tuple(chance.randrange(places) + 1 for _ in range(chance.choice((1, 1, 2, 3, 5))))
        trial, found = run(case, tmp_path / str(number), crashes, seed=chance.randrange(10**6))
        died += len(trial.deaths)
        assert found == [], f"{crashes}, seed {trial.seed}: died {'; '.join(map(str, trial.deaths))}"
    assert died >= RUNS // 2
