"""What came of it all, in plain words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import msgspec

from exoflow.testing.crashes.points import Point

_WIDTH = 120


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a crash breaks, or an annotation that does not hold.

    ``kind`` is one of the keys of KINDS. ``said``: what is wrong. ``why``: which annotation let it happen. ``repair``: what to change.
    ``deaths``: where the process died in the simplest run that shows it (nowhere: it needs no crash), ``story`` what happened in that run,
    ``crashes`` and ``seed`` repeat it: ``crash_everywhere(..., only=crashes, seed=seed)``. ``runs``: how many runs showed it.
    """

    kind: str
    task: str
    what: str = ""
    said: str
    why: str
    repair: str
    deaths: tuple[Point, ...] = ()
    crashes: tuple[int, ...] = ()
    seed: int = 0
    story: tuple[str, ...] = ()
    runs: int = 1

    def __str__(self) -> str:
        lines = [self.said, *_field("when", self.when())]
        lines += [*_field("why", self.why), *_field("repair", self.repair)]
        lines += [line for each in self.story for line in _wrapped(each, "    | ")]
        lines.append(f"    shown by {self.runs} run(s); repeat with: only={self.crashes!r}, seed={self.seed}")
        return "\n".join(lines)

    def when(self) -> str:
        """Where the process died."""
        if not self.deaths:
            return "in a run without any crash"
        return "the process died " + "; and the next one, ".join(str(point) for point in self.deaths)


KINDS = {
    "twice": "an effect happened twice",
    "missing": "an effect did not happen, or was taken back",
    "internal_effect": "a task that says it has no effect has one",
    "not_deterministic": "a task that says it is deterministic gave another output for equal inputs",
    "not_idempotent": "a task asked for two different effects under one key",
    "rollback_left": "a rollback left an effect standing",
    "rollback_failed": "a rollback raised",
    "rollback_not_idempotent": "a rollback changed a wrapped fake although there was nothing to undo",
    "on_unknown": "an on_unknown function gave a wrong answer",
    "mutated": "a task changed one of its arguments",
    "ended": "the workflow ended in another way than without crashes, or not at all",
    "result": "the result is one that no run without crashes gave",
    "state": "the attributes of a wrapped fake are such as no run without crashes left",
}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`~exoflow.testing.crash_everywhere` found. ``str()`` of it is for people.

    ``failure_free``, ``single`` and ``paired`` count runs, ``points`` the places to die in a run without crashes, ``rollbacks`` those in
    rollbacks and ``on_unknown`` functions at which a second crash was tried. ``notes`` say what was not, or not quite, tried.
    """

    findings: tuple[Finding, ...] = ()
    failure_free: int = 0
    single: int = 0
    paired: int = 0
    points: int = 0
    rollbacks: int = 0
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def raise_if_unsafe(self) -> None:
        """Raise an AssertionError that holds the whole report, unless :attr:`ok`."""
        if not self.ok:
            raise AssertionError(f"\n{self}")

    def __str__(self) -> str:
        tried = (
            f"{self.points} places to crash, {self.single} runs with one crash, {self.paired} with two, "
            f"{self.failure_free} without; {self.rollbacks} crashes in rollbacks"
        )
        if self.ok:
            head = f"safe: every run ended like one without crashes ({tried})"
        else:
            head = f"{len(self.findings)} finding(s) ({tried})"
        parts = [head, *(f"{number}. {finding}" for number, finding in enumerate(self.findings, 1))]
        return "\n".join([*parts, *(f"note: {note}" for note in self.notes)])


def _field(name: str, text: str) -> Iterator[str]:
    if text:
        yield from _wrapped(text, f"    {name + ':':<8}")


def _wrapped(text: str, first: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False) or [first]
