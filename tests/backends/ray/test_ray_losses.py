"""What is lost on a real Ray comes again, and nobody sees two versions of it: nodes, owners, actors and drivers are killed.

R1, R8, D3, D4 and D13 are the numbers of the paper's recovery cases, and of defects of its own prototype (tests/api/test_known_defects.py);
the other cases are in test_ray_cases.py.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

import exoflow
from exoflow.errors import CheckpointFailedError, TaskFailed
from tests.backends.ray.asking import Pause, engine_on, kill_node, pauses, wait_here

pytestmark = pytest.mark.slow  # nodes and processes are killed and made

INTERNAL = {"executor": "ray", "can_rollback": True, "checkpoint": False}
FAR = {"executor_options": {"resources": {"far": 0.1}}}


@pytest.fixture
def far(cluster):
    """A node beside the head; ``lose()`` kills it and makes another."""

    class Far:
        def __init__(self):
            self.node = None
            self.add()

        def add(self):
            self.node = cluster.add_node(num_cpus=1, resources={"far": 1}, object_store_memory=80_000_000)

        def lose(self):
            kill_node(cluster, self.node)
            self.add()

    far = Far()
    yield far
    cluster.remove_node(far.node)


@pytest.fixture
def engine(cluster, tmp_path):
    with engine_on(tmp_path) as engine:
        yield engine


def count(marks, what):
    with Path(marks, what).open("a") as file:
        file.write(".")


def counted(marks, what):
    path = Path(marks, what)
    return len(path.read_text()) if path.exists() else 0


@exoflow.task(**INTERNAL, **FAR)
def draw(marks):
    count(marks, "draws")
    return np.full(40_000, random.SystemRandom().random())


@exoflow.task(**INTERNAL)
def first_of(marks, what, array, *_after):
    count(marks, what)
    return float(array[0])


@exoflow.task(can_rollback=True)
def both(one, other):
    return one, other


@pytest.mark.parametrize(
    ("annotations", "draws", "early"),
    [({}, 2, 2), ({"deterministic": True}, 2, 1), ({"checkpoint": "sync"}, 1, 1)],
    ids=["nondeterministic", "deterministic", "saved"],
)
def test_consumers_of_a_lost_object_agree(engine, far, tmp_path, annotations, draws, early):
    """R1, D4: one has finished before the node goes down, the other comes after it. Either both see the old draw, or both the new one."""
    pause = pauses["early"] = Pause()
    drawn = draw.options(**annotations).bind(tmp_path)
    left = wait_here.bind("early", first_of.options(**FAR).bind(tmp_path, "left", drawn))  # so that no other node gets a copy
    right = first_of.bind(tmp_path, "right", drawn, left)
    future = engine.run_async(both.bind(left, right))
    assert pause.reached.wait(60)
    far.lose()
    pause.over.set()
    one, other = future.result(60)
    assert one == other or "deterministic" in annotations  # that one lied
    assert (counted(tmp_path, "draws"), counted(tmp_path, "left")) == (draws, early)


# --- what a task starts and does not wait for ---------------------------------------------------------------------------------


@ray.remote(resources={"far": 0.1}, num_cpus=0)
def chunk(number):
    return np.full(40_000, number)


@ray.remote(num_cpus=0)
def dies_at_first(marks):
    if not Path(marks, "died").exists():
        Path(marks, "died").touch()
        os.kill(os.getpid(), 9)
    return np.full(40_000, 1)


@exoflow.task(**INTERNAL, deterministic=True)
def scatter(marks, kind):
    count(marks, "scatters")
    return {"chunks": [chunk.remote(number) if kind == "node" else dies_at_first.remote(marks) for number in range(3)]}


@exoflow.task(**INTERNAL, deterministic=True)
def gather(scattered, *_after):
    return [float(chunk[0]) for chunk in ray.get(scattered["chunks"])]


@exoflow.task(executor="thread", can_rollback=True)
def are_references(scattered):
    ray.wait(scattered["chunks"], num_returns=3, fetch_local=False)
    return all(isinstance(each, ray.ObjectRef) for each in scattered["chunks"])


def test_objects_that_a_task_did_not_wait_for_are_made_again_when_their_node_dies(engine, far, tmp_path):
    pause = pauses["scattered"] = Pause()
    scattered = scatter.bind(tmp_path, "node")
    future = engine.run_async(gather.bind(scattered, wait_here.bind("scattered", are_references.bind(scattered))))
    assert pause.reached.wait(60)
    far.lose()
    pause.over.set()
    assert future.result(60) == [0.0, 1.0, 2.0]
    assert counted(tmp_path, "scatters") == 2


def test_a_ray_task_that_a_task_started_dies(engine, cluster, tmp_path):
    assert engine.run(gather.bind(scatter.bind(tmp_path, "crash"))) == [1.0, 1.0, 1.0]
    assert counted(tmp_path, "scatters") == 2


def test_saved_objects_outlive_the_node(engine, far, tmp_path):
    pause = pauses["kept"] = Pause()
    scattered = scatter.options(checkpoint="sync").bind(tmp_path, "node")
    future = engine.run_async(gather.bind(scattered, wait_here.bind("kept", are_references.bind(scattered))))
    assert pause.reached.wait(60)
    far.lose()
    pause.over.set()
    assert future.result(60) == [0.0, 1.0, 2.0]
    assert counted(tmp_path, "scatters") == 1


# --- actors ----------------------------------------------------------------------------------------------------------------------


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self):
        self.count = 0

    def increment(self):
        self.count += 1

    def read(self):
        return self.count

    def checkpoint(self):
        return self.count

    def restore(self, state):
        self.count = state


@exoflow.task(executor="ray", can_rollback=True)
def make_counter(marks):
    count(marks, "made")
    return Counter.remote(), random.SystemRandom().random()


@exoflow.task(executor="ray", deterministic=True, can_rollback=True)
def add(marks, counter, times):
    count(marks, "added")
    ray.get([counter[0].increment.remote() for _ in range(times)])
    return counter


@exoflow.task(executor="ray", can_rollback=True)
def kill_and_read(marks, counter):
    if not counted(marks, "killed"):
        count(marks, "killed")
        ray.kill(counter[0])
    return ray.get(counter[0].read.remote())


@pytest.mark.parametrize(("checkpoint", "added"), [("sync", 1), (False, 2)])
def test_a_killed_actor_comes_back_as_its_newest_version(engine, cluster, tmp_path, checkpoint, added):
    """R8: 5, not 0 and not 10. From the snapshot after the increments, or from the one before, and the increments again."""
    counter = make_counter.options(checkpoint="sync").bind(tmp_path)
    grown = add.options(checkpoint=checkpoint).bind(tmp_path, counter, 5)
    assert engine.run(kill_and_read.bind(tmp_path, grown)) == 5
    assert (counted(tmp_path, "made"), counted(tmp_path, "added")) == (1, added)


def test_an_asynchronous_snapshot_shows_the_moment_of_its_task(engine, cluster, tmp_path):
    """D13: the increments begin at once; what is saved of the task before them must not contain one."""
    for number in range(3):
        marks = Path(tmp_path, str(number))
        marks.mkdir()
        grown = add.options(checkpoint=False).bind(marks, make_counter.bind(marks), 5)
        assert engine.run(kill_and_read.bind(marks, grown)) == 5


@ray.remote(num_cpus=0)
class Unsaved:
    pass


@exoflow.task(executor="ray")
def make_unsaved():
    return Unsaved.remote()


def test_an_actor_that_cannot_be_saved_fails_its_task_by_name(engine, cluster):
    with pytest.raises(TaskFailed, match="actor class Unsaved has no checkpoint") as caught:
        engine.run(make_unsaved.bind())
    assert isinstance(caught.value.__cause__, CheckpointFailedError)


@exoflow.task(executor="ray", can_rollback=True)
def use_an_actor_of_its_own(marks):
    count(marks, "used")
    counter = Counter.remote()
    if counted(marks, "used") < 4:
        ray.kill(counter)
    return ray.get(counter.read.remote())


def test_a_task_whose_own_actor_dies_is_no_poison(engine, cluster, tmp_path):
    """Nobody knows what it did until then; so it runs again. It is not to blame: the actor may have been on a node that had gone, and until
    Ray notices, it puts the next ones there, too (three of them in a schedule of ``chaos``)."""
    assert engine.run(use_an_actor_of_its_own.bind(tmp_path)) == 0
    assert counted(tmp_path, "used") == 4


# --- the driver ------------------------------------------------------------------------------------------------------------------


@exoflow.task(executor="ray")
def commit(marks, counter):
    with Path(marks, "committed").open("a") as file:
        file.write(f"{counter[1]}\n")
    return counter[1]


@exoflow.task(can_rollback=True)
def die_once(marks, value):
    if not counted(marks, "dead"):
        count(marks, "dead")
        os.kill(os.getpid(), 9)
    return value


def survive(folder):
    """A life of the driver."""
    with engine_on(folder) as engine:
        counter = make_counter.options(checkpoint="sync").bind(folder)
        number = die_once.bind(folder, commit.bind(folder, counter))
        grown = add.options(checkpoint=False).bind(folder, counter, 5)
        print(engine.run(both.bind(number, kill_and_read.bind(folder, grown)), name="w"))


def test_an_actor_is_not_made_again_under_a_commit(cluster, tmp_path):
    """D3: killed after the commit; the second life has the same number, and an actor with the state that it had."""
    program = [sys.executable, "-c", f"from test_ray_losses import survive; survive({str(tmp_path)!r})"]
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    first = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == -9, first.stderr
    second = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    committed = set(Path(tmp_path, "committed").read_text().split())
    assert len(committed) == 1
    assert second.stdout.strip() == f"({committed.pop()}, 5)"
    assert counted(tmp_path, "made") == 1
