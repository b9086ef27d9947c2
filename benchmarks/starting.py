"""How long things take to start, and what they hold then. Standard library only: rivals use it in their environments."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reading import elapsed_s, require

MB = 1e6


def python_s(code: str, times: int) -> float:
    """Median of so many runs of an interpreter."""
    return statistics.median(elapsed_s(lambda: subprocess.run([sys.executable, "-c", code], check=True)) for _ in range(times))


def import_s(module: str, times: int) -> float:
    """What an import adds to the start of an interpreter, taken in turns with a bare start."""
    return statistics.median(python_s(f"import {module}", 1) - python_s("pass", 1) for _ in range(times))


def first_result(command: Sequence[str]) -> tuple[float, float]:
    """Seconds from the start of a program to the first line that it prints, which must be ``2``; and the memory in MB that it holds while
    it then waits for a line. It and the processes that it started."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        require(process.stdout.readline(), "2\n", "result")
        taken = time.perf_counter() - start
        resident = sum(resident_mb(pid) for pid in family(process.pid))
        process.communicate("\n")
    require(process.returncode, 0, "exit code")
    return taken, resident


def resident_mb(pid: int) -> float:
    """Memory of a process; 0 if it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / MB for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


def family(pid: int) -> list[int]:
    """The process and all that it started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text("utf-8").rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for known in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == known]
    return found
