"""What the hot operations cost in figures that no machine's mood changes is what is recorded; and the guard bites.

The figures are taken in processes of their own, as ``make counts`` takes them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import counts
from benchmarks.counts import KINDS, Figures
from benchmarks.operations import OPERATIONS, Operation
from exoflow import codec, fingerprints
from exoflow.client import engine as client
from exoflow.core import journal
from exoflow.core.machine import Machine
from exoflow.core.stability import Stability
from exoflow.runtime import commit
from exoflow.store import sqlite

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_refs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that knows no kind of Ref, whatever other tests have made known to this process."""
    for each in list(codec.identities):
        monkeypatch.delitem(codec.identities, each)


@pytest.fixture(scope="module")
def runs() -> list[dict[str, Figures]]:
    """The figures of two processes with different hash seeds, whatever else the environment asks of Python (-O would drop assertions)."""
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.counts", "--json"],
            cwd=ROOT,
            env={**kept, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    answers = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return [json.loads(answer) for answer in answers]


@pytest.mark.slow
def test_each_hot_operation_costs_what_is_recorded(runs: list[dict[str, Figures]]) -> None:
    """Slow: a few hundred thousand instructions, looked at one by one, in two processes."""
    offences = counts.compare(runs[0], counts.read())
    if offences:
        pytest.fail("\n".join([*offences, counts.WHAT_NEXT]), pytrace=False)


@pytest.mark.slow
def test_two_processes_with_different_hash_seeds_count_the_same(runs: list[dict[str, Figures]]) -> None:
    """Else a difference would say nothing. Slow for the same reason."""
    assert runs[0] == runs[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.first])
def test_one_more_costs_as_much_where_there_are_twice_as_many(runs: list[dict[str, Figures]], name: str) -> None:
    """Nothing that is paid for each task, record or write grows with their number. Slow: each instruction is looked at."""
    operation = OPERATIONS[name]
    larger = counts.count(Operation(operation.prepare, operation.last, 2 * operation.last, operation.where))
    for figure, value in larger.items():
        assert value == pytest.approx(runs[0][name].get(figure, 0), rel=counts.TOLERANCE), figure


# --- slow-downs that it must see -----------------------------------------------------------------------------------------------------


def twice(monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> None:
    """Let a function do its work two times."""
    original = getattr(where, name)

    def doubled(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(where, name, doubled)


def before(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, extra: Callable[..., object]) -> None:
    """Let a function do something else first."""
    original = getattr(where, name)

    def longer(*args: Any, **kwargs: Any) -> Any:
        extra(*args, **kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(where, name, longer)


PLANTS: list[tuple[str, str, Callable[[pytest.MonkeyPatch], None]]] = [
    # operation, the figure that must show it, the slow-down
    ("one-task workflow", "instructions", lambda m: twice(m, client, "make_plan")),
    ("one-task workflow", "transactions", lambda m: before(m, sqlite.SqliteStore, "commit", lambda store, _: store.beat(None))),
    ("chain of committing tasks, per task", "instructions", lambda m: before(m, Machine, "handle", lambda machine, _: machine.story())),
    (
        "chain of committing tasks, per task",
        "statements",
        lambda m: before(m, sqlite.SqliteStore, "commit", lambda store, _: store.owners()),
    ),
    (
        "chain of committing tasks, per task",
        "wakes",
        lambda m: before(m, commit.GroupCommitter, "flush", lambda it, **_: it._threads.start("", int)),
    ),
    ("fan-out of saved tasks, per task", "transactions", lambda m: m.setattr(commit, "_GROUP_MAX", 1)),
    ("core alone, per task", "instructions", lambda m: before(m, Machine, "handle", lambda machine, _: machine.story("t0"))),
    ("commit rule, per task", "instructions", lambda m: before(m, Stability, "touch", Stability.rewire)),
    ("folding a journal, per record", "calls", lambda m: twice(m, journal, "decode")),
    ("record to bytes and back", "calls", lambda m: twice(m, journal, "encode")),
    ("commit of 50 writes", "statements", lambda m: before(m, sqlite._Group, "store", lambda group: group._db.execute("SELECT 1"))),
    ("commit, per write", "calls", lambda m: twice(m, sqlite, "_entry_seal")),
    ("value to bytes and back", "instructions", lambda m: twice(m, codec, "frame")),
    ("fingerprint of a value", "instructions", lambda m: twice(m, fingerprints, "_feed")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "figure", "plant"), PLANTS, ids=[f"{name}: {figure}" for name, figure, _ in PLANTS])
def test_a_planted_slow_down_is_seen(
    runs: list[dict[str, Figures]], monkeypatch: pytest.MonkeyPatch, name: str, figure: str, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """And nothing but the plant: in this process, which has done other things before, all is as in those. Slow as above."""
    baseline = counts.recorded(runs[0], {})
    assert counts.compare({name: counts.count(OPERATIONS[name])}, baseline) == []
    plant(monkeypatch)
    offences = counts.compare({name: counts.count(OPERATIONS[name])}, baseline)
    assert any(offence.startswith(f"{name}: {figure} ") and "worse" in offence for offence in offences), offences


def test_every_operation_has_a_plant() -> None:
    assert {name for name, _, _ in PLANTS} == set(OPERATIONS)


# --- comparing -----------------------------------------------------------------------------------------------------------------------


def after(figure: str, change: float, version: str = "") -> list[str]:
    """What is found when one figure of an operation has changed by that share; with ``version``, against a record of another one."""
    kind, (_, own) = next((kind, names) for kind, names in KINDS.items() if figure in names[0])
    baseline = counts.recorded({"it": {"instructions": 1000, "calls": 100, "steps": 1000, "statements": 5}}, {})
    if version:
        baseline[kind] = {version: baseline[kind][own]}
    figures = {"instructions": 1000, "calls": 100, "steps": 1000, "statements": 5}
    figures[figure] = round(figures[figure] * (1 + change))
    return counts.compare({"it": figures}, baseline)


def test_what_is_within_the_tolerance_is_as_recorded() -> None:
    assert after("instructions", 0.019) == after("instructions", -0.019) == []


def test_a_loss_and_a_gain_are_found_with_both_figures() -> None:
    """A gain that is not recorded could be lost again unnoticed."""
    assert after("instructions", 0.021) == ["it: instructions 1,000 -> 1,021 (+2.1%), worse than in counts.json"]
    assert after("calls", -0.1) == ["it: calls 100 -> 90 (-10.0%), better than in counts.json"]


def test_of_small_numbers_every_change_is_found() -> None:
    assert after("statements", 0.2) == ["it: statements 5 -> 6 (+20.0%), worse than in counts.json"]


def test_what_has_no_record_is_worse_than_nothing() -> None:
    assert counts.compare({"new": {"steps": 7}}, counts.recorded({}, {})) == ["new: steps 0 -> 7, worse than in counts.json"]


def test_a_version_without_a_record_is_compared_roughly_with_another_and_told_so() -> None:
    """So the guard is not off where nobody has recorded anything yet."""
    assert after("instructions", 0.25, "3.1") == after("instructions", -0.5, "3.1") == []
    assert len(after("instructions", -1.0, "3.1")) == 1, "nothing was counted"
    (offence,) = after("instructions", 0.26, "3.1")
    assert offence.endswith(f"worse than in counts.json for python 3.1; there is no record for {KINDS['python'][1]}")
    assert len(after("steps", 0.26, "3.1.4")) == 1


def test_records_of_other_versions_of_python_stay_and_those_of_another_sqlite_go() -> None:
    old: counts.Baseline = {"python": {"3.1": {"it": {"calls": 1}}}, "sqlite": {"3.1.4": {"it": {"steps": 1}}}, "engine": {}}
    new = counts.recorded({"it": {"calls": 2, "steps": 2}}, old)
    assert new["python"] == {"3.1": {"it": {"calls": 1}}, KINDS["python"][1]: {"it": {"calls": 2}}}
    assert new["sqlite"] == {KINDS["sqlite"][1]: {"it": {"steps": 2}}}


def test_everything_that_is_recorded_is_still_counted() -> None:
    for versions in counts.read().values():
        for operations in versions.values():
            assert set(operations) <= set(OPERATIONS)
