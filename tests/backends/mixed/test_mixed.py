"""One DAG over Ray, Spark, a function, worker processes, the event loop and a database, killed in the middle."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from exoflow.client.movements import movements
from exoflow.define.plan import plan_of

ROOT = Path(__file__).parents[3]


def run(folder: Path, *dies: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "tests.backends.mixed.pipeline", str(folder), *dies],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("dies", ["total", "enter"])
def test_it_is_entered_once_with_what_agrees(tmp_path: Path, dies: str) -> None:
    """Slow: a Ray, a Java process and a server of functions, twice. The engine is killed while that task runs (``enter``: after it has
    written), and started again."""
    first = run(tmp_path, dies)
    assert first.returncode == -9, first.stderr
    second = run(tmp_path, dies)
    assert second.returncode == 0, second.stderr
    with sqlite3.connect(tmp_path / "outside.db") as database:
        ((label, expected),) = database.execute("SELECT label, expected FROM entries").fetchall()
    assert label == f"sum: {expected}"
    assert second.stdout.strip() == label
    story = (tmp_path / "story").read_text().split()
    assert story.count("draw") == 1, "its data was saved, so nothing was drawn again"
    assert story.count("count_each") == 1, "its rows were saved"


def test_it_says_how_data_moves() -> None:
    from tests.backends.mixed.pipeline import COUNT, count_each, double, draw, rows_of, total

    plan = plan_of(total.bind(rows_of.bind(count_each.bind(double.bind(draw.bind(COUNT))))))
    ways = {(edge["up"], edge["down"]): edge["how"] for edge in movements(plan)}
    assert ways["draw", "double"] == "stays in Ray if it is large; a Ref as itself"
    assert ways["double", "count_each"] == "stays in Ray until it is read, if it is large; a Ref as itself"
    assert ways["count_each", "rows_of"] == "the object itself"
    assert "shared memory" in ways["rows_of", "total"]
