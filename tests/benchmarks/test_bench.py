"""A run from the command to the page: rounds, ratios, verdicts, charts."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import charts, flushes, page, record, rounds
from benchmarks.goals import GOALS, Goal
from benchmarks.reading import TINY, Durable
from benchmarks.record import ENGINE, LIMITS, Record, Series

RIVAL, FAST = "Rival", "Rival that forgets"


def series(contestant: str, name: str, values: list[float | None], *, group: str = "P1", durable: Durable = "durable") -> Series:
    return Series(contestant=contestant, group=group, name=name, unit="ms", durable=durable, values=values)


@pytest.fixture
def recorded() -> Record:
    """Two rounds, the second on a machine that was twice as slow."""
    return Record(
        began="2026-01-02T03:04:05+00:00",
        seconds=90,
        command="python -m benchmarks",
        commit="abc",
        rounds=2,
        load=0.1,
        machine={"cores": "2"},
        versions={"exoflow": "0"},
        settings={ENGINE: "as it comes"},
        sizes={"calls": 1, "growth": [10]},
        series=[
            series(LIMITS, "SQLite commit", [0.05, 0.1]),
            series(ENGINE, "one-task workflow", [0.1, 0.2]),
            series(RIVAL, "one-task workflow", [1.0, 2.0]),
            series(FAST, "one-task workflow", [0.3, 0.6], durable="not durable"),
            series(ENGINE, flushes.NAME, [3.0, None]),
            series(ENGINE, "one DAG of 1,000", [20.0, None], group="P13"),
            series(ENGINE, "one DAG of 10,000", [21.0, 30.0], group="P13"),
        ],
        failures=["P4, Rival, round 1: it | fell over"],
    )


def goal(name: str) -> Goal:
    return next(each for each in GOALS if each.name == name)


def test_ratios_are_taken_within_a_round(recorded: Record) -> None:
    verdict = record.judge(recorded, goal("one-task workflow"))
    assert verdict is not None
    assert verdict.to_limit == [2.0, 2.0]
    assert verdict.to_rival == [10.0, 10.0]
    assert verdict.missed == []


def test_a_durable_figure_is_only_compared_with_durable_ones(recorded: Record) -> None:
    assert [rival.contestant for rival in recorded.rivals(goal("one-task workflow"))] == [RIVAL]
    recorded.series[1].durable = "result only"
    assert [rival.contestant for rival in recorded.rivals(goal("one-task workflow"))] == [FAST, RIVAL]


def test_what_is_missed_is_named(recorded: Record) -> None:
    recorded.series[1].values = [5.0, 10.0]
    verdict = record.judge(recorded, goal("one-task workflow"))
    assert verdict is not None
    assert verdict.missed == ["figure", "limit", "rival"]
    flushed = record.judge(recorded, goal(flushes.NAME))
    assert flushed is not None
    assert flushed.missed == ["figure"]  # fewer than two would be a miss as well
    recorded.series[4].values = [1.0, None]
    assert flushed.missed == ["figure"]


def test_a_round_that_failed_leaves_a_hole_and_not_a_number(recorded: Record) -> None:
    recorded.series[0].values = [None, 0.1]
    verdict = record.judge(recorded, goal("one-task workflow"))
    assert verdict is not None
    assert verdict.to_limit == [2.0]
    recorded.series[1].values = [None, None]
    assert record.judge(recorded, goal("one-task workflow")) is None


def test_every_figure_of_the_page_says_whether_it_was_durable(recorded: Record) -> None:
    rows = [line for line in page.results(recorded).splitlines() if line.startswith("| P")]
    assert len(rows) == 4 + 3
    assert all(any(f"| {said} |" in row for said in ("durable", "not durable", "result only", "no data")) for row in rows)
    assert (
        "| P1 | one-task workflow | 0.15 ms (0.1 to 0.2); goal ≤ 0.3 | SQLite commit: 0.075 ms (0.05 to 0.1) | 2 x; goal ≤ 3 |" in rows[0]
    )
    assert "**misses** figure" in rows[1]
    assert "it / fell over" in page.results(recorded)


@pytest.mark.slow  # drawing
def test_what_was_written_is_what_is_read(recorded: Record, tmp_path: Path) -> None:
    page.publish(recorded, tmp_path)
    assert record.read(tmp_path / page.RESULTS) == recorded
    assert {path.name for path in tmp_path.iterdir()} == {page.RESULTS, "P1.svg", "P13.svg"}
    assert record.read(tmp_path / "nothing.json") is None


@pytest.mark.slow  # drawing
def test_the_same_results_give_the_same_charts(recorded: Record, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        charts.draw(recorded, tmp_path / name)
    for chart in ("P1.svg", "P13.svg"):
        assert (tmp_path / "a" / chart).read_bytes() == (tmp_path / "b" / chart).read_bytes()


# --- docs/performance.md -------------------------------------------------------------------------------------------------------------


def test_the_performance_page_is_what_the_command_writes() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.text(), "run `make performance`"
    page.main(["--check"])


def test_every_chart_of_the_page_is_there() -> None:
    recorded = record.read(page.FOLDER / page.RESULTS)
    groups = {each.group for each in recorded.series} if recorded else set()
    assert {path.name for path in page.FOLDER.glob("*.svg")} == {charts.file_of(group) for group in groups}


@pytest.mark.slow  # drawing
def test_results_come_between_the_markers(recorded: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page, "FOLDER", tmp_path / "benchmarks")
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    page.PAGE.write_text(f"above\n{page.BEGIN}\nold\n{page.END}\nbelow\n", encoding="utf-8")
    page.main([])
    assert page.PAGE.read_text(encoding="utf-8") == f"above\n{page.BEGIN}\n\n{page.NOTHING}\n\n{page.END}\nbelow\n"
    page.publish(recorded, page.FOLDER)
    with pytest.raises(SystemExit, match="make performance"):
        page.main(["--check"])
    page.main([])
    written = page.PAGE.read_text(encoding="utf-8")
    assert written.startswith("above\n")
    assert written.endswith("below\n")
    assert "![P1: " in written
    page.PAGE.write_text("no markers\n", encoding="utf-8")
    with pytest.raises(ValueError, match="needs the lines"):
        page.text()


# --- the command ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_docs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A run may not touch the real pages."""
    monkeypatch.setattr(page, "FOLDER", tmp_path / "benchmarks")
    yield tmp_path
    assert not (tmp_path / "benchmarks").exists()


@pytest.mark.slow  # a dozen processes, some of them traced
def test_a_run_of_one_group(no_docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two rounds, and the flushes: a one-task workflow makes exactly two."""
    out = no_docs / "out"
    code = command.main(["--only", "P1", "--rounds", "2", "--tiny", "--scratch", str(no_docs), "--output", str(out)])
    recorded = record.read(out / page.RESULTS)
    assert recorded is not None
    ours, limit = recorded.find(ENGINE, "P1", "one-task workflow"), recorded.find(LIMITS, "P1", "SQLite commit")
    assert ours is not None
    assert limit is not None
    assert len(ours.measured) == len(limit.measured) == 2
    flushed = recorded.find(ENGINE, "P1", flushes.NAME)
    if flushes.installed():
        assert flushed is not None
        assert (flushed.values, code, recorded.failures) == ([2.0, None], 0, [])
    else:
        assert (flushed, code, recorded.failures) == (None, 1, [flushes.NOT_INSTALLED])
    assert "| P1 | one-task workflow |" in capsys.readouterr().out
    assert [path.name for path in no_docs.iterdir()] == ["out"]  # no scratch is left


def test_only_a_whole_run_is_for_the_documents() -> None:
    wholes = {
        arguments: command.is_whole(command.parsed(arguments.split())) for arguments in ("", "--peers --rounds 3", "--only P4", "--tiny")
    }
    assert wholes == {"": True, "--peers --rounds 3": True, "--only P4": False, "--tiny": False}


def test_a_contestant_that_fails_is_noted_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = """import json, sys; print(json.dumps({"a": [1, "ms", "durable"]}))"""
    bad = """import sys; sys.exit("out of luck")"""
    contestants = [
        rounds.Contestant(name, (sys.executable, "-c", code), frozenset({"P2"}), "")
        for name, code in (("good", good), ("bad", bad), ("mute", "pass"))
    ]
    table = rounds.run(contestants, ["P2", "P3"], 2, TINY, tmp_path, lambda _text: None)
    assert [(each.contestant, each.values) for each in table.series(2)] == [("good", [1, 1])]
    assert len(table.failures) == 4
    assert "P2, bad, round 1: exit code 1: out of luck" in table.failures


def test_what_is_recorded_names_no_folder_of_the_machine() -> None:
    said = "File \"/a/b.c/d.py\", line 3 / '/x/y-z/bin/python' gave 3/4 at http://here/it --scratch /a/b/c"
    assert rounds.without_folders(said) == "File \"d.py\", line 3 / 'python' gave 3/4 at http://here/it --scratch c"


def test_minutes_of_growth_are_for_the_first_round(tmp_path: Path) -> None:
    told = (
        """import json, sys; growth = json.loads(sys.argv[-1])["growth"]; print(json.dumps({f"{n}": [1, "", "durable"] for n in growth}))"""
    )
    contestants = [rounds.Contestant("one", (sys.executable, "-c", told), frozenset({"P13"}), "")]
    sizes = dataclasses.replace(TINY, growth=(10, 1_000_000))
    table = rounds.run(contestants, ["P13"], 2, sizes, tmp_path, lambda _text: None)
    assert {each.name: each.values for each in table.series(2)} == {"10": [1, 1], "1000000": [1, None]}
