"""Count what the hot operations do, and compare it with what is recorded: ``python -m benchmarks.counts``.

The figures say how much work there is, not how long it takes, so they are the same on a busy machine and an idle one, and whatever the hash
seed; docs/adr/0018-counts.md says why these, and what they cannot see.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import apsw

import exoflow
from benchmarks.operations import OPERATIONS, Operation, Work

BASELINE = Path(__file__).parents[1] / "tests/benchmarks/counts.json"
WHAT_NEXT = "What is worse must be repaired, or be worth it; what is better must not be lost again. Then record it: make counts ARGS=--save"

TOLERANCE = 0.02
"""So far may a figure be from the recorded one, either way. Against the same record always, so that small losses cannot add up."""
FOREIGN_RANGE = (-0.5, 0.25)
"""So far may it be from the one that another version of Python or SQLite was recorded with, if there is none of this version. Less than
half would mean that something is not counted at all."""

KINDS = {
    "python": (("instructions", "calls"), f"{sys.version_info.major}.{sys.version_info.minor}"),
    "sqlite": (("steps",), apsw.sqlite_lib_version()),
    "engine": (("statements", "transactions", "wakes"), "any"),
}
"""Figures, and the version of what they depend on.

``instructions`` are those of Python's byte code, ``calls`` its calls of functions written in C, ``steps`` SQLite's own instructions,
``statements`` those in SQL, ``transactions`` those of them that end with a flush, ``wakes`` the threads that would have to be woken.
"""

Figures = dict[str, float]
Baseline = dict[str, dict[str, dict[str, Figures]]]
"""Kind, version, operation. A figure that is not there is 0."""

_PACKAGE = f"{Path(exoflow.__file__).parent}/"
_STAND_INS = (f"{_PACKAGE}testing/", f"{Path(__file__).parent}/")
"""What plays the world around the engine is not counted."""


class Counter:
    """Counts what runs during :meth:`take`, in this thread: the engine and the libraries below it."""

    def __init__(self, where: str = "") -> None:
        self._where = _PACKAGE + where if where else ""
        self._known: dict[CodeType, bool] = {}
        self._is_on = False
        self.figures: dict[str, int] = {}

    def connected(self, db: apsw.Connection) -> None:
        """See Observer."""
        db.trace_v2(apsw.SQLITE_TRACE_PROFILE, self._statement)

    def woken(self) -> None:
        """See Observer."""
        if self._is_on:
            self._add("wakes", 1)

    def _statement(self, event: dict[str, Any]) -> None:
        if self._is_on:
            self._add("statements", 1)
            self._add("transactions", int(event["sql"] == "COMMIT"))
            self._add("steps", event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])

    def _add(self, name: str, count: int) -> None:
        self.figures[name] = self.figures.get(name, 0) + count

    def _counts(self, code: CodeType) -> bool:
        known = self._known.get(code)
        if known is None:
            name = code.co_filename
            known = self._known[code] = name.startswith(self._where) and not name.startswith(_STAND_INS)
        return known

    def take(self, work: Work) -> None:
        """Do ``work`` and count. The collector of garbage is off meanwhile: when it runs is chance, and it may call functions."""
        instructions = calls = 0

        def enter(frame: FrameType, _event: str, _argument: object) -> Any:
            if not self._counts(frame.f_code):
                return None
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
            return inside

        def inside(_frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal instructions
            if event == "opcode":
                instructions += 1
            return inside

        def call(frame: FrameType, event: str, _argument: object) -> None:
            nonlocal calls
            if event == "c_call" and self._counts(frame.f_code):
                calls += 1

        before = sys.gettrace(), sys.getprofile()
        gc.disable()
        self._is_on = True
        sys._getframe().f_trace_opcodes = True  # of no use here; Python 3.12 passes on no instructions unless some frame asked before
        sys.setprofile(call)
        sys.settrace(enter)
        try:
            work()
        finally:
            sys.settrace(before[0])
            sys.setprofile(before[1])
            self._is_on = False
            gc.enable()
        self._add("instructions", instructions)
        self._add("calls", calls)


def count(operation: Operation) -> Figures:
    """The figures of one operation; those that are 0 are left out."""
    sums: Figures = {}
    for size, sign in ((operation.first, -1), (operation.last, 1)):
        if size:
            counter = Counter(operation.where)
            with operation.prepared(size, counter) as work:
                counter.take(work)
            for name, value in counter.figures.items():
                sums[name] = sums.get(name, 0) + sign * value
    share = operation.last - operation.first if operation.first else 1
    return {name: value // share if value % share == 0 else round(value / share, 2) for name, value in sorted(sums.items()) if value}


def count_all() -> dict[str, Figures]:
    """The figures of all operations."""
    return {name: count(operation) for name, operation in OPERATIONS.items()}


def compare(measured: dict[str, Figures], baseline: Baseline) -> list[str]:
    """What is not as recorded, a line each; of operations that were not measured nothing is said.

    A gain is an offence like a loss: left unrecorded, it could be lost again without anybody noticing. Where a version has no record, its
    figures are compared with those of the newest version that has one, roughly, because each version of Python translates to other
    instructions. So the guard is never off, only duller, and says so in what it finds.
    """
    found = []
    for kind, (names, version) in KINDS.items():
        records = baseline[kind]
        used, lowest, highest, source = version, -TOLERANCE, TOLERANCE, BASELINE.name
        if version not in records:
            used = max(records, key=lambda text: [int(part) for part in text.split(".")])
            (lowest, highest), source = FOREIGN_RANGE, f"{BASELINE.name} for {kind} {used}; there is no record for {version}"
        for operation, figures in measured.items():
            for name in names:
                now, then = figures.get(name, 0), records[used].get(operation, {}).get(name, 0)
                change = now / then - 1 if then else math.inf if now else 0
                if not lowest <= change <= highest:
                    what = f"{operation}: {name} {_shown(then)} -> {_shown(now)}" + (f" ({change:+.1%})" if then else "")
                    found.append(f"{what}, {'worse' if change > 0 else 'better'} than in {source}")
    return found


def _shown(figure: float) -> str:
    return f"{figure:,.2f}".removesuffix(".00")


def recorded(measured: dict[str, Figures], baseline: Baseline) -> Baseline:
    """``baseline`` with these figures of all operations in place of what it had for the versions at hand. Records of other versions of
    Python stay: if they no longer fit, whoever runs that version is told."""
    new: Baseline = {}
    for kind, (names, version) in KINDS.items():
        kept = baseline.get(kind, {}) if kind == "python" else {}
        own = {
            operation: {name: figures[name] for name in names if name in figures}
            for operation, figures in measured.items()
            if any(name in figures for name in names)
        }
        new[kind] = {**kept, version: own}
    return new


def read() -> Baseline:
    """What is recorded."""
    return json.loads(BASELINE.read_text("utf-8")) if BASELINE.exists() else {}


def main() -> int:
    """Print the figures and what is not as recorded. Exit code 1 if anything is not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counts", description=__doc__)
    parser.add_argument("--save", action="store_true", help=f"record the figures in {BASELINE.name}, to be compared with from now on")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, and compare nothing")
    options = parser.parse_args()
    measured = count_all()
    if options.json:
        print(json.dumps(measured))
        return 0
    if options.save:
        BASELINE.write_text(json.dumps(recorded(measured, read()), indent=1) + "\n", "utf-8")
    names = [name for kind, _ in KINDS.values() for name in kind]
    print(f"{'':36}", *(f"{name:>12}" for name in names))
    for operation, figures in measured.items():
        print(f"{operation:36}", *(f"{_shown(figures.get(name, 0)):>12}" for name in names))
    offences = compare(measured, read())
    for offence in offences:
        print(offence)
    if offences:
        print(WHAT_NEXT)
    return bool(offences)


if __name__ == "__main__":
    sys.exit(main())
