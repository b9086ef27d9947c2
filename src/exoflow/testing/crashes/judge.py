"""What is wrong with a run, and which annotation is to blame. A run is compared with what its tasks say of themselves, with earlier runs
of the same tasks, and with runs without crashes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from exoflow.testing.crashes import rules
from exoflow.testing.crashes.report import Finding
from exoflow.testing.crashes.rules import REPAIRS, changed_fake, count, failed_rollback, standing_at
from exoflow.testing.crashes.seams import Attempt
from exoflow.testing.crashes.trial import Trial, in_words
from exoflow.testing.effects import Entry

MORE_RUNS = 30
"""So many further runs without crashes are asked before something counts as never seen in one."""
_STORY_MAX = 14


class Judge:
    """``more(n)`` makes ``n`` further runs without crashes; ``free`` holds those that there are."""

    def __init__(self, free: list[Trial], more: Callable[[int], list[Trial]]) -> None:
        self.free, self._more = free, more
        self._asked = False
        self._outputs: dict[tuple[str, str], Attempt] = {}

    def findings(self, trial: Trial) -> list[Finding]:
        """Everything that is wrong with ``trial``. What only follows from something else that is said is left out."""
        found = [*rules.internal_effects(trial), *rules.twice(trial), *rules.not_idempotent(trial), *self._not_deterministic(trial)]
        found += [*rules.left_by_rollbacks(trial), *rules.taken_from_others(trial), *rules.mutated(trial)]
        found += self._wrong_answers(trial)
        if trial.crashes:
            found += self._ended(trial, found)
            found += [] if found else self._missing(trial)
            found += [] if found or trial.doubts else self._results(trial)
        return [_placed(finding, trial) for finding in _without_consequences(found)]

    # --- against earlier runs --------------------------------------------------------------------------------------------------

    def _not_deterministic(self, trial: Trial) -> Iterator[Finding]:
        for attempt in trial.attempts:
            task, inputs = attempt.caller.task, attempt.inputs
            if attempt.caller.role != "task" or attempt.spec is None or inputs is None or attempt.output is None:
                continue
            first = self._outputs.setdefault((task, inputs), attempt)
            if attempt.spec.deterministic and first.output != attempt.output:
                yield Finding(
                    kind="not_deterministic",
                    task=task,
                    said=f"task '{task}' gave {first.shown} and, for equal inputs, {attempt.shown}",
                    why="it says deterministic=True, so whatever was built on the first output is kept when it has to run again",
                    repair=f"deterministic=False on '{task}' (and save its output, which is the default, if the workflow is refused then)",
                )

    # --- against runs without crashes ------------------------------------------------------------------------------------------

    def _seen(self, trial: Trial, aspect: Callable[[Trial], Any], *, by_chance: bool) -> bool:
        """Whether a run without crashes came out like ``trial``. With ``by_chance``, also if they differ so much that nothing follows."""
        wanted = aspect(trial)
        if any(aspect(each) == wanted for each in self.free):
            return True
        if not self._asked:
            self._asked = True
            self.free += self._more(MORE_RUNS)
        counts = Counter(aspect(each) for each in self.free)
        return wanted in counts or (by_chance and 1 in counts.values())

    def _ended(self, trial: Trial, found: list[Finding]) -> Iterator[Finding]:
        if self._seen(trial, lambda each: (each.status, each.result if each.status != "SUCCEEDED" else ""), by_chance=False):
            return
        failed = [each for each in trial.attempts if each.caller.role == "rollback" and each.error]
        if trial.status == "BLOCKED" and failed:
            yield failed_rollback(trial, failed[-1])
        elif not any(finding.kind == "not_deterministic" for finding in found):
            how = f"{trial.status}: {trial.error or trial.shown}"
            yield Finding(
                kind="ended",
                task="",
                said=f"after a crash the workflow ended {how}",
                why=f"without a crash it ends {', '.join(sorted({each.status for each in self.free}))}",
                repair=REPAIRS.get(trial.error.partition(":")[0], REPAIRS[""]),
            )

    def _missing(self, trial: Trial) -> Iterator[Finding]:
        for task, what in dict.fromkeys((entry.caller.task, entry.what) for entry in self.free[0].standing):

            def enough(each: Trial, task: str = task, what: str = what) -> int:
                return min(count(each, task, what), count(self.free[0], task, what))

            if not self._seen(trial, enough, by_chance=False):
                yield Finding(
                    kind="missing",
                    task=task,
                    what=what,
                    said=f"'{what}' of task '{task}' stands {count(trial, task, what)} times; without crashes, more often",
                    why="it was lost on the way: what it rests on is known to the store, but not to the outside",
                    repair=f"let '{task}' do it before it returns, or in a task of its own",
                )

    def _results(self, trial: Trial) -> Iterator[Finding]:
        if trial.result is not None and not self._seen(trial, lambda each: each.result, by_chance=True):
            answered = next((each for each in trial.attempts if each.caller.role == "on_unknown" and each.answer is True), None)
            task = answered.caller.task if answered is not None else ""
            yield Finding(
                kind="result",
                task=task,
                said=f"the result is {trial.shown}; without crashes it is {self.free[0].shown}",
                why=f"on_unknown of '{task}' answered True, and that makes its output None"
                if answered
                else "something differs in each run",
                repair="let on_unknown return the output" if answered else "look for what tasks read beside their arguments",
            )
        for name, (_, shown) in trial.state.items():
            if not self._seen(trial, lambda each, name=name: each.state.get(name, ("",))[0], by_chance=True):  # type: ignore[misc]
                yield changed_fake(trial, name, shown, self.free[0].state.get(name, ("", "not there"))[1])

    def _wrong_answers(self, trial: Trial) -> Iterator[Finding]:
        for asked in trial.attempts:
            if asked.caller.role != "on_unknown" or not asked.ended or asked.error:
                continue
            task = asked.caller.task
            stood = [entry for entry in standing_at(trial, asked.caller.call) if entry.caller.task == task]
            if asked.answer is False and stood:
                said = f"on_unknown of '{task}' said that it had not happened, but '{stood[0]}' stood"
            elif asked.answer is not False and not stood and all(count(each, task, None) for each in self.free):
                said = f"on_unknown of '{task}' said that it had happened ({asked.shown}), but nothing of it stood"
            else:
                continue
            why = "its answer is believed: False runs the task again, anything else does not"
            yield Finding(kind="on_unknown", task=task, said=said, why=why, repair="ask the outside, by the key that the task used")


def _without_consequences(found: list[Finding]) -> list[Finding]:
    """Two rules may see one fault: what says more stays."""
    left = {(each.task, each.what) for each in found if each.kind == "rollback_left"}
    doubled = {(each.task, each.what) for each in found if each.kind == "twice"}
    answered = {each.task for each in found if each.kind == "on_unknown"}

    def says_more(each: Finding) -> bool:
        here = (each.task, each.what)
        if each.kind == "twice":
            return here not in left and each.task not in answered
        return each.kind != "internal_effect" or here not in doubled

    return [each for each in found if says_more(each)]


def _placed(finding: Finding, trial: Trial) -> Finding:
    return msgspec.structs.replace(
        finding, deaths=tuple(trial.deaths), crashes=trial.crashes, seed=trial.seed, story=tuple(_story(trial, finding.task))
    )


def _story(trial: Trial, task: str) -> list[str]:
    """What ``task`` did, and whatever had effects, from one death to the next."""
    lines = []
    for life in trial.lives:
        for attempt in trial.attempts:
            caller = attempt.caller
            if caller.life != life.number:
                continue
            did = [entry for entry in trial.entries if entry.caller == caller]
            if did or caller.task == task:
                end = f"returned {attempt.shown}" if attempt.ended and not attempt.error else attempt.error or "did not return"
                lines.append(f"{in_words(caller)}: {', '.join([*map(_in_words, did), end])}")
        if len(trial.deaths) >= life.number:
            lines.append(f"CRASH {trial.deaths[life.number - 1]}")
    lines.append(f"the workflow ended {trial.status}")
    return lines if len(lines) <= _STORY_MAX else ["...", *lines[-_STORY_MAX:]]


def _in_words(entry: Entry) -> str:
    key = f" (key {entry.key:.12})" if entry.key else ""
    words = {"apply": f"'{entry}' happened", "again": f"'{entry}' was known", "undo": f"'{entry.what}' taken back {len(entry.gone)} times"}
    return words[entry.op] + key
