"""Kills Spark's Java process in the middle of a pipeline, later everything with -9, and shows what was run again and what never moved.

    make demo-spark        # or: python examples/imports/demo.py

The pipeline does not know that it is watched. The demo reads its log, decides when to pull the plug, and starts the same command again. At
the end it computes the ranking itself, in Python, from the random weights that were published. The exit code is 0 only if every proof
holds.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import exoflow

PIPELINE = Path(__file__).with_name("pipeline.py")
LOOK_S = 0.01
PATIENCE_S = 300.0


def start(folder: Path) -> subprocess.Popen[bytes]:
    with open(folder / "output", "ab") as output:
        return subprocess.Popen([sys.executable, str(PIPELINE), str(folder)], stdout=output, stderr=output, start_new_session=True)


def wait_for(folder: Path, process: subprocess.Popen[bytes], line: str) -> None:
    """Until the task ``line`` has begun."""
    log, end = folder / "log", time.monotonic() + PATIENCE_S
    while not log.exists() or line not in log.read_text("utf-8").splitlines():
        if process.poll() is not None or time.monotonic() > end:
            sys.exit(f"'{line}' never began:\n{(folder / 'output').read_text('utf-8')}")
        time.sleep(LOOK_S)


def java_of(process: subprocess.Popen[bytes]) -> int:
    """The Java process that a pipeline has started."""
    children = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True).stdout
    return next(int(line.split()[0]) for line in children.splitlines() if line.split()[1] == "java")


def expected(weights: dict[str, int]) -> dict[str, int]:
    """The ranking, in plain Python."""
    sys.path.insert(0, str(PIPELINE.parent))
    import pipeline

    pairs = pipeline.pairs()
    degree = Counter(source for source, _ in pairs)
    ranks = dict(weights)
    for _ in range(pipeline.STEPS):
        moved = Counter[str]()
        for source, target in pairs:
            moved[target] += ranks[source] // degree[source]
        ranks = {module: 15 * weight // 100 + 85 * moved[module] // 100 for module, weight in weights.items()}
    return ranks


def say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:5.1f} s  {text}", flush=True)


def prove(is_true: bool, text: str) -> bool:
    print(f"  {'yes' if is_true else 'NO '}  {text}")
    return is_true


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="exoflow-demo-") as name:
        folder = Path(name)
        process = start(folder)
        say(began, "started; the import graph of this Python's standard library is read and ranked in Spark")
        wait_for(folder, process, "rank_5")
        os.kill(java_of(process), signal.SIGKILL)
        say(began, "killed Spark's Java process while rank_5 was computed: every DataFrame is gone. The pipeline goes on by itself")
        before = lines(folder)
        wait_for(folder, process, "publish")
        os.killpg(process.pid, signal.SIGKILL)
        say(began, "killed everything, Python and Java, while it was about to publish")
        between = lines(folder)
        process = start(folder)
        say(began, "started the same command again")
        code = process.wait(PATIENCE_S)
        say(began, f"it ended with exit code {code}")
        return report(folder, before, between, code)


def lines(folder: Path) -> Counter[str]:
    return Counter((folder / "log").read_text("utf-8").splitlines())


def report(folder: Path, before: Counter[str], between: Counter[str], code: int) -> int:
    after = lines(folder)
    with exoflow.Engine(folder / "store.db") as engine:
        tasks = {task.task: task for task in engine.get_metadata("imports").tasks}
    print("\n  task       first     after Java died   after all died   its DataFrame")
    for task in after:
        runs = before[task], between[task] - before[task], after[task] - between[task]
        where = "" if task == "publish" else "saved" if tasks[task].durable else "never left Spark"
        print(f"  {task:9}  {runs[0]:5}  {runs[1]:16}  {runs[2]:15}   {where}")
    stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and "store" in str(path.relative_to(folder)))
    print(f"  (how often each ran; everything that ever left Spark is in a store of {stored / 1000:.0f} KB)\n")
    with closing(sqlite3.connect(folder / "registry.db")) as connection:
        keys = connection.execute("SELECT DISTINCT key FROM ranking").fetchall()
        rows = connection.execute("SELECT module, weight, value FROM ranking").fetchall()
    published = {module: value for module, _, value in rows}
    proofs = [
        prove(code == 0, f"it ended well: {(folder / 'output').read_text('utf-8').splitlines()[-1]}"),
        prove(after["weights"] == 1, "the random weights were drawn once"),
        prove(between["rank_5"] > before["rank_5"], "the step that was interrupted ran again"),
        prove(len(keys) == 1 and len(published) == len(rows), f"one ranking was published, of {len(rows)} modules"),
        prove(published == expected({module: weight for module, weight, _ in rows}), "it is what plain Python computes from those weights"),
    ]
    return 0 if all(proofs) else 1


if __name__ == "__main__":
    sys.exit(main())
