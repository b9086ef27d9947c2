"""Several processes run and delete workflows with the same few large outputs, one collects all the time, and any of them is killed with
-9 at any time: no output that a workflow still has is ever gone, and in the end nothing else is left."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

import exoflow
from exoflow.core import journal
from tests.api.scene import environment

SIZE = 100_000
KINDS = 4
ROUNDS = 12
PATIENCE_S = 120.0

PROGRAM = """
import random, sys
import exoflow
from exoflow.errors import InvalidStateError, WorkflowNotFoundError
from tests.crash.test_collection import content, make

what, seed = sys.argv[1], int(sys.argv[2])
chance = random.Random(seed)
print("begun", flush=True)
with exoflow.Engine("sqlite:x.db") as engine:
    while what == "collect":
        engine.collect_garbage(grace_s=0)
    while True:
        name = f"w{chance.randrange(12)}"
        try:
            if chance.random() < 0.4:
                engine.delete(name)
            else:
                number = int(name[1:]) % 4  # a name has one content, so that the same command again is the same workflow
                assert engine.run(make, number, name=name) == content(number)
        except (InvalidStateError, WorkflowNotFoundError):
            pass  # somebody runs it, or has just deleted it
"""


def content(kind: int) -> bytes:
    return bytes([kind]) * SIZE


@exoflow.task
def make(kind: int) -> bytes:
    return content(kind)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_collecting_beside_processes_that_are_killed(tmp_path: Path, seed: int) -> None:
    """Slow: it starts and kills processes."""
    chance = random.Random(seed)
    exoflow.Engine(tmp_path / "x.db").close()
    started = 0

    def start(what: str) -> subprocess.Popen[str]:
        nonlocal started
        started += 1
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, what, str(1000 * seed + started)],
            cwd=tmp_path,
            env=environment(None),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    processes = [start("run"), start("run"), start("collect")]
    try:
        for _ in range(ROUNDS):
            at = chance.randrange(len(processes))
            victim = processes[at]
            done = False
            try:
                victim.wait(chance.uniform(0.0, 1.0))
                done = True
            except subprocess.TimeoutExpired:
                victim.kill()
            _, said = victim.communicate(timeout=PATIENCE_S)
            assert not done, said
            processes[at] = start("collect" if at == 2 else "run")
    finally:
        for process in processes:
            process.kill()
        errors = [process.communicate(timeout=PATIENCE_S)[1] for process in processes]
    assert errors == ["", "", ""]
    with exoflow.Engine(tmp_path / "x.db") as engine:
        for future in engine.resume_all().values():
            future.result(PATIENCE_S)
        named = set()
        for head in engine.list_all():
            assert engine.get_output(head.workflow_id) == content(int(head.workflow_id[1:]) % KINDS)
            records = [journal.decode(entry.body) for entry in engine.store.entries(head.workflow_id, retired=True)]
            named |= {record.stored.blob for record in records if isinstance(record, journal.OutputSaved)}
        engine.collect_garbage(grace_s=0)
        assert set(engine.store.blobs.names()) == named
        for head in engine.list_all():
            assert engine.get_output(head.workflow_id) == content(int(head.workflow_id[1:]) % KINDS)
