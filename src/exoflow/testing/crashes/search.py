"""Where to crash: once everywhere, twice wherever a rollback runs because of the first, and in a sample of all other pairs."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from exoflow.client.intake import Dag
from exoflow.testing.crashes.judge import Judge
from exoflow.testing.crashes.report import Finding, Report
from exoflow.testing.crashes.trial import Subject, Trial
from exoflow.testing.effects import set_aside

_FREE_RUNS = 3


def crash_everywhere(
    workflow: Dag,
    /,
    *args: Any,
    seed: int = 1,
    pairs: int = 100,
    runs_max: int = 5_000,
    prepare: Callable[[], object] = lambda: None,
    only: tuple[int, ...] | None = None,
    on_failure: str = "keep",
    mode: str = "strict",
    **kwargs: Any,
) -> Report:
    """Run ``workflow`` with a crash before, inside and after every task, effect, rollback and write to the store, and judge each run.

    A run is the user's real code on a store in memory, in this thread, on virtual time; when its process dies, a new engine takes the
    store up. The outside is an :class:`~exoflow.testing.Effects`, which tasks use in place of the real thing.

    Args:
        workflow: a DAG, workflow or task, with its arguments, as for ``exoflow.run``.
        seed, pairs: how many runs with two crashes are drawn, and from what. Second crashes inside rollbacks are all tried.
        runs_max: stop after so many runs; a note says so.
        prepare: called before each run, to make fresh what tasks use beside an Effects.
        only: repeat a single run, with the ``crashes`` (and ``seed``) of a finding.
        on_failure, mode: as in ``Engine.run_async``.
    Raises: what ``exoflow.run`` raises for a call that is refused.
    """
    subject = Subject(workflow, args, kwargs, {"on_failure": on_failure, "mode": mode}, prepare)
    with set_aside(), _quietly():
        search = _Search(subject, seed, runs_max)
        if only is not None:
            search.judged(Trial(subject, only, seed).run())
        else:
            single = search.everywhere()
            search.inside_rollbacks(single)
            search.pairs(single, pairs)
    return search.report()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What the engine logs (what ``mode="auto"`` turned on, for example) would be there hundreds of times."""
    log = logging.getLogger("exoflow")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


class _Search:
    def __init__(self, subject: Subject, seed: int, runs_max: int) -> None:
        self._subject, self._seed, self._runs_max = subject, seed, runs_max
        self._found: dict[tuple[str, str, str], Finding] = {}
        self._runs = self._paired = self._single = self._rollbacks = 0
        free = self._without_crashes(_FREE_RUNS)
        if free[0].refusal is not None:
            raise free[0].refusal
        self._points = max(len(trial.lives[0].trace) for trial in free)
        self._judge = Judge(free, self._without_crashes)
        for trial in list(free):
            self.judged(trial)

    def _without_crashes(self, runs: int) -> list[Trial]:
        first = self._runs
        self._runs += runs
        return [Trial(self._subject, seed=first + number).run() for number in range(runs)]

    def judged(self, trial: Trial) -> Trial:
        """Have ``trial`` judged; of each fault, the first run that shows it is kept."""
        found = {(finding.kind, finding.task, finding.what): finding for finding in reversed(self._judge.findings(trial))}
        for here, finding in found.items():
            known = self._found.get(here)
            self._found[here] = finding if known is None else msgspec.structs.replace(known, runs=known.runs + 1)
        return trial

    def _may_run(self) -> bool:
        return self._single + self._paired < self._runs_max

    def everywhere(self) -> list[Trial]:
        """One crash at each place. How many there are, runs may disagree about."""
        trials: list[Trial] = []
        place = 0
        while place < self._points and self._may_run():
            place += 1
            trial = self.judged(Trial(self._subject, (place,)).run())
            self._points = max(self._points, len(trial.lives[0].trace))
            if trial.deaths:
                self._single += 1
                trials.append(trial)
        return trials

    def inside_rollbacks(self, single: list[Trial]) -> None:
        """A second crash wherever the first one leads to a rollback or a question; they run in no other way."""
        for first in single:
            for place, point in enumerate(first.lives[1].trace, 1):
                if self._may_run() and (point.kind in ("rollback", "on_unknown") or point.task.startswith(("the rollback", "on_unknown"))):
                    self._paired += 1
                    self._rollbacks += 1
                    self.judged(Trial(self._subject, (*first.crashes, place)).run())

    def pairs(self, single: list[Trial], count: int) -> None:
        """Two crashes, drawn; in an order of events that is drawn, too."""
        chance = random.Random(self._seed)
        for number in range(count if single else 0):
            if not self._may_run():
                return
            first = chance.choice(single)
            second = chance.randrange(len(first.lives[1].trace)) + 1
            self._paired += 1
            self.judged(Trial(self._subject, (*first.crashes, second), seed=self._seed * 1_000_003 + number).run())

    def report(self) -> Report:
        notes = []
        if not self._may_run():
            notes.append(f"not everything was tried: it stopped after {self._runs_max} runs (runs_max)")
        free = self._judge.free
        failed = next((trial for trial in free if trial.status != "SUCCEEDED"), None)
        if failed is not None:
            notes.append(f"also without a crash the workflow ended {failed.status}: {failed.error}")
        if "process" in free[0].executors:
            notes.append(
                "tasks of worker processes ran in this thread, on copies of their arguments; that a worker alone dies was not tried"
            )
        if not any(entry for trial in free for entry in trial.entries):
            notes.append("no task used an Effects, so only outputs and the result were looked at")
        doubled = {(task, what) for kind, task, what in self._found if kind == "twice"}
        found = [each for each in self._found.values() if each.kind != "internal_effect" or (each.task, each.what) not in doubled]
        return Report(
            findings=tuple(sorted(found, key=lambda each: (len(each.crashes), each.task))),
            failure_free=len(free),
            single=self._single,
            paired=self._paired,
            points=self._points,
            rollbacks=self._rollbacks,
            notes=tuple(notes),
        )
