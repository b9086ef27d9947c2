"""Kills the actor that holds a model while it is trained, later everything with -9, and shows what was run again and what never moved.

    make demo-ray        # or: python examples/training/demo.py

The pipeline does not know that it is watched. The demo reads its log, decides when to kill, and starts the same command again. At the
end it trains the same model itself, in plain Python. The exit code is 0 only if every proof holds.
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
from contextlib import closing, suppress
from pathlib import Path

import exoflow

PIPELINE = Path(__file__).with_name("pipeline.py")
LOOK_S = 0.01
PATIENCE_S = 300.0


def start(folder: Path) -> subprocess.Popen[bytes]:
    with open(folder / "output", "ab") as output:
        return subprocess.Popen([sys.executable, str(PIPELINE), str(folder)], stdout=output, stderr=output, start_new_session=True)


def wait_for(folder: Path, process: subprocess.Popen[bytes], line: str) -> None:
    """Until the task ``line`` is under way."""
    log, end = folder / "log", time.monotonic() + PATIENCE_S
    while not log.exists() or line not in log.read_text("utf-8").splitlines():
        if process.poll() is not None or time.monotonic() > end:
            sys.exit(f"'{line}' never began:\n{(folder / 'output').read_text('utf-8')}")
        time.sleep(LOOK_S)


def last_actor(folder: Path) -> int:
    """The process of the actor that was trained last."""
    return int((folder / "log.actors").read_text("utf-8").split()[-1])


def say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:5.1f} s  {text}", flush=True)


def prove(is_true: bool, text: str) -> bool:
    print(f"  {'yes' if is_true else 'NO '}  {text}")
    return is_true


def lines(folder: Path) -> Counter[str]:
    return Counter((folder / "log").read_text("utf-8").splitlines())


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="exoflow-demo-") as name:
        folder = Path(name)
        process = start(folder)
        say(began, "started; a model is trained on Ray, on an actor, on scans that Ray tasks shift")
        wait_for(folder, process, "train_5")
        with suppress(ProcessLookupError):
            os.kill(last_actor(folder), signal.SIGKILL)
        say(began, "killed the actor in the middle of train_5: its weights are gone. The pipeline goes on by itself")
        before = lines(folder)
        wait_for(folder, process, "publish")
        os.killpg(process.pid, signal.SIGKILL)
        say(began, "killed everything, Ray with it, while it was about to publish")
        between = lines(folder)
        process = start(folder)
        say(began, "started the same command again")
        code = process.wait(PATIENCE_S)
        say(began, f"it ended with exit code {code}")
        return report(folder, before, between, code)


def report(folder: Path, before: Counter[str], between: Counter[str], code: int) -> int:
    after = lines(folder)
    with exoflow.Engine(folder / "store.db") as engine:
        tasks = {task.task: task for task in engine.get_metadata("training").tasks}
    print("\n  task        first   after the actor died   after all died   its output")
    for task in after:
        runs = before[task], between[task] - before[task], after[task] - between[task]
        where = "" if task == "publish" else "saved" if tasks[task].durable else "never left Ray"
        print(f"  {task:10}  {runs[0]:5}  {runs[1]:20}  {runs[2]:15}   {where}")
    stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and "store" in str(path.relative_to(folder)))
    sys.path.insert(0, str(PIPELINE.parent))
    import pipeline

    images, _ = pipeline.scans()
    made = pipeline.EPOCHS * pipeline.PARTS * pipeline.COPIES * (images.nbytes - images[-pipeline.HELD_BACK :].nbytes)
    print(f"  (how often each ran; of shifted scans {made / 1e6:.0f} MB were made; all that was saved is in {stored / 1e6:.1f} MB)\n")
    with closing(sqlite3.connect(folder / "registry.db")) as connection:
        published = connection.execute("SELECT digest, correct FROM models").fetchall()
    proofs = [
        prove(code == 0, f"it ended well: {(folder / 'output').read_text('utf-8').splitlines()[-1]}"),
        prove(after["ingest"] == 1, "the scans were read once"),
        prove(before["train_3"] == after["train_3"] == 1, "train_3 was saved, so it did not run again"),
        prove(between["train_5"] > before["train_5"], "the epoch that was interrupted ran again"),
        prove(len(published) == 1, "one model was published"),
        prove(published == [pipeline.expected()], "its weights are those that plain Python gets: no step was lost, none was made twice"),
    ]
    return 0 if all(proofs) else 1


if __name__ == "__main__":
    sys.exit(main())
