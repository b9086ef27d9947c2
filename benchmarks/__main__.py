"""Measure, interleaved over several rounds, and print medians, spread, and the ratio to the machine's limit."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
from rich.console import Console
from rich.table import Table

import exoflow
from benchmarks import cases, limits

CASES: dict[str, tuple[Callable[[exoflow.Engine], float], str, float, str]] = {
    # name: (measure, unit, goal, which way is good)
    "one_task": (cases.one_task_ms, "ms", 1.0, "<="),
    "chain_commit": (cases.chain_commit_ms, "ms/task", 1.0, "<="),
    "chain_internal": (cases.chain_internal_ms, "ms/task", 1.0, "<="),
    "workflows": (cases.workflows_per_s, "/s", 2000, ">="),
    "accepted_workflows": (cases.accepted_workflows_per_s, "/s", 1022, ">="),
    "fan_out_saved": (cases.fan_out_saved_per_s, "/s", 4000, ">="),
    "fan_out_pure": (cases.fan_out_pure_per_s, "/s", 4000, ">="),
    "fan_out_async": (cases.fan_out_async_per_s, "/s", 4000, ">="),
}


def measure(rounds: int, only: str | None) -> dict[str, list[float]]:
    """Every case once a round, so that a change of the machine's mood touches all of them alike."""
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="exoflow-bench-") as name:
            folder = Path(name)
            note("limit: append 4 KB + flush, ms", limits.flush_ms(folder))
            note("limit: SQLite commit of one row, ms", limits.commit_ms(folder))
            note("limit: thread and back, ms", limits.handover_ms())
            with exoflow.Engine(folder / "engine.db") as engine:
                engine.run(cases.commit.bind(1))
                for case, (action, *_) in CASES.items():
                    if only in (None, case):
                        note(case, action(engine))
        if only in (None, "import"):
            note("import", _child("import exoflow")[0] * 1e3 - _child("pass")[0] * 1e3)
        if only in (None, "large_dag"):
            note("large_dag", _child("from benchmarks import cases; cases.large_dag()")[1])
    return figures


def _child(code: str) -> tuple[float, float]:
    """Wall seconds and peak memory in MB of a fresh interpreter that runs ``code``."""
    probe = f"import resource; exec({code!r}); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    start = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, float(out.stdout)


def main() -> int:
    """Run, print a table, write JSON. Exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help=f"one of: {', '.join([*CASES, 'import', 'large_dag'])}")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    figures = measure(options.rounds, options.only)
    goals = {name: (goal, way, unit) for name, (_, unit, goal, way) in CASES.items()}
    goals |= {"import": (150, "<=", "ms"), "large_dag": (500, "<=", "MB")}
    table = Table(title="durable: SQLite, WAL, synchronous=FULL (fan_out_pure and fan_out_async save only the result)")
    for column in ("case", "median", "min", "max", "goal", "met"):
        table.add_column(column)
    missed = False
    for name, values in figures.items():
        goal, way, unit = goals.get(name, (None, "", ""))
        middle = statistics.median(values)
        met = goal is None or (middle <= goal if way == "<=" else middle >= goal)
        missed |= not met
        wanted = "" if goal is None else f"{way} {goal:g} {unit}"
        table.add_row(
            name, *(f"{x:,.3g}" if x < 100 else f"{x:,.0f}" for x in (middle, min(values), max(values))), wanted, "yes" if met else "NO"
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(_document(figures), indent=1) + "\n", "utf-8")
    return int(missed)


def _document(figures: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "exoflow": exoflow.__version__,
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "peak_mb_of_this_process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "figures": figures,
    }


if __name__ == "__main__":
    sys.exit(main())
