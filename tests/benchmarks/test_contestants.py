"""Every figure can be measured, by programs that find out if the work was not done. How long anything takes is not looked at here."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

import exoflow
from benchmarks import flushes, killing, rounds
from benchmarks.engine import commit_rule, proof
from benchmarks.engine.tasks import commit
from benchmarks.goals import GOALS, TITLES
from benchmarks.peers import environments, installed
from benchmarks.reading import TINY, Reading, Sizes, parse, require
from benchmarks.record import ENGINE, LIMITS

LIMITS_OF_THE_MACHINE, THIS_ENGINE = rounds.home()


ON_RAY = {"P7"}
"""Groups that need Ray: tests/backends measures them."""


@pytest.mark.slow  # a process, and more that it starts
@pytest.mark.parametrize("group", [group for group in TITLES if group not in ON_RAY])
def test_the_engine_is_measured(group: str, tmp_path: Path) -> None:
    require_measured(group, tmp_path)


def require_measured(group: str, tmp_path: Path) -> None:
    """In each group every figure that there is a goal for, but for those of other sizes and the flushes, which are counted elsewhere."""
    readings = THIS_ENGINE.ask(group, TINY, tmp_path)
    elsewhere = {f"{count:,}" for count in Sizes().growth} | {flushes.NAME}
    wanted = {goal.name for goal in GOALS if goal.group == group and not any(part in goal.name for part in elsewhere)}
    assert wanted <= readings.keys()
    assert all(reading.durable for reading in readings.values())
    assert {f"one DAG of {count:,}" for count in TINY.growth} <= readings.keys() or group != "P13"


@pytest.mark.slow  # a process, and more that it starts
@pytest.mark.parametrize("group", sorted(LIMITS_OF_THE_MACHINE.groups))
def test_the_machine_is_measured(group: str, tmp_path: Path) -> None:
    readings = LIMITS_OF_THE_MACHINE.ask(group, TINY, tmp_path)
    assert {goal.limit for goal in GOALS if goal.group == group and goal.limit} <= readings.keys()
    assert all(reading.value > 0 for reading in readings.values())


def test_the_two_at_home_know_all_groups() -> None:
    assert (LIMITS_OF_THE_MACHINE.name, THIS_ENGINE.name) == (LIMITS, ENGINE)
    assert set(TITLES) - ON_RAY == THIS_ENGINE.groups - ON_RAY
    assert {goal.group for goal in GOALS if goal.limit} <= LIMITS_OF_THE_MACHINE.groups


# --- whether the work was done -------------------------------------------------------------------------------------------------------


def test_a_store_that_lacks_what_was_reported_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    with exoflow.Engine(path) as engine:
        engine.run(commit.bind(1))
    proof.require_stored(path, workflows=1, records=3)
    for lie in ({"workflows": 2, "records": 3}, {"workflows": 1, "records": 4}, {"workflows": 1, "records": 3, "payload_bytes": 1 << 30}):
        with pytest.raises(RuntimeError, match="on disk"):
            proof.require_stored(path, **lie)


class _Steps:
    """A chain that keeps what it has done, or forgets it."""

    def __init__(self, folder: Path, *, forgetful: bool) -> None:
        done = len(killing.marks(folder))
        if done == 0:
            for number in range(1, TINY.killed_at + 1):
                killing.mark(folder, number)
        self.rest = range(1 if forgetful else done, TINY.steps + 1)
        self.folder = folder

    def kill(self) -> None:
        pass

    def finish(self) -> None:
        for number in self.rest:
            killing.mark(self.folder, number)

    def close(self) -> None:
        pass


def test_a_rival_that_does_finished_steps_again_is_found_out(tmp_path: Path) -> None:
    for name, forgetful in (("good", False), ("bad", True)):
        (tmp_path / name).mkdir()
        if forgetful:
            with pytest.raises(RuntimeError, match="steps after the kill"):
                killing.after_kill(tmp_path / name, TINY, lambda: _Steps(tmp_path / "bad", forgetful=True))
        else:
            readings = killing.after_kill(tmp_path / name, TINY, lambda: _Steps(tmp_path / "good", forgetful=False))
            assert readings["restart to finish"].durable == "durable"


def test_looks_of_the_commit_rule_do_not_depend_on_the_machine() -> None:
    graph = commit_rule.layers(300)
    assert len(graph.tasks) == 300
    assert commit_rule.looks(graph) == commit_rule.looks(graph) > 300


# --- what contestants say ------------------------------------------------------------------------------------------------------------


def test_sizes_travel_as_text() -> None:
    assert Sizes.of(TINY.text()) == TINY
    assert Sizes.of('{"calls": 7}') == Sizes(calls=7)
    with pytest.raises(ValueError, match="no size called call"):
        Sizes.of('{"call": 7}')


def test_readings_are_the_last_line() -> None:
    assert parse('noise\n\n{"a": [1.5, "ms", "durable"]}\n') == {"a": Reading(1.5, "ms", "durable")}


def test_what_was_not_done_stops_a_contestant() -> None:
    with pytest.raises(RuntimeError, match="calls: 3, not 4"):
        require(3, 4, "calls")


def test_a_flush_is_counted_where_it_begins() -> None:
    trace = """10  fdatasync(4)                      = 0
11  fsync(3 <unfinished ...>
10  fdatasync(4 <unfinished ...>
11  <... fsync resumed>)              = 0
10  <... fdatasync resumed>)          = 0
10  +++ exited with 0 +++
"""
    assert flushes.count(trace) == 3


# --- rivals --------------------------------------------------------------------------------------------------------------------------


def _pretend(command: list[str]) -> None:
    """What pip and npm would leave."""
    if command[1:3] == ["-m", "venv"]:
        (Path(command[3]) / "lib/python3.11/site-packages").mkdir(parents=True)
    elif command[0] == "npm":
        package = Path(command[command.index("--prefix") + 1]) / "node_modules" / command[-1]
        package.mkdir(parents=True)
        (package / "package.json").write_text(json.dumps({"name": command[-1], "version": "3.0"}), "utf-8")
    else:
        site = next(Path(command[0]).parent.parent.glob("lib/*/site-packages"))
        for name in command[command.index("--disable-pip-version-check") + 1 :]:
            folder = site / f"{name.replace('-', '_')}-1.0.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text("x" * 100, "utf-8")


def test_environments_of_rivals_are_made_once_and_hold_what_is_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXOFLOW_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(environments, "_run", _pretend)
    said: list[str] = []
    made = environments.contestants(said.append)
    assert len(said) == len(environments.PEERS)
    assert environments.contestants(said.append) == made
    assert len(said) == len(environments.PEERS)
    note = json.loads((tmp_path / "restate" / environments.NOTE).read_text("utf-8"))
    assert note["packages"] == 3  # two by pip, one by npm, and not what is put beside them
    assert note["room_bytes"] > 200
    assert environments.versions()["@restatedev/restate-server"] == "3.0"
    assert environments.versions()["dbos"] == "1.0"


@pytest.mark.slow  # starts interpreters
def test_the_footprint_of_a_rival_is_that_of_its_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / installed.NOTE).write_text('{"packages": 3, "room_bytes": 5000000}', "utf-8")
    command = [sys.executable, "-c", "print(2, flush=True); input()"]
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    readings = installed.footprint("json", [command], "not durable")
    assert {goal.name for goal in GOALS if goal.group == "P12"} == readings.keys()
    assert (readings["packages"].value, readings["room on disk"].value) == (3, 5)
    assert 1 < readings["idle memory"].value < 100


def test_the_programs_of_rivals_measure_what_is_asked_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They run where the rivals are installed; here it is only compared what they say they measure."""
    monkeypatch.setenv("EXOFLOW_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(environments, "_run", _pretend)
    for contestant in environments.contestants(lambda _text: None):
        module = next(part for part in contestant.command if part.startswith("benchmarks."))
        tree = ast.parse((rounds.ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"))
        tables = [node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "GROUPS"]
        assert [set(map(ast.literal_eval, table.keys)) for table in tables] == [contestant.groups]
