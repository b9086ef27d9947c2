"""What cannot be given to a workflow on Ray: refused at submission, by name, before anything is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

import exoflow
from exoflow.errors import CheckpointFailedError, PayloadTooLargeError, RefLostError, WorkflowNotFoundError
from tests.backends.ray.asking import Pause, kill_node, pauses, wait_here

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]  # on a real Ray


@exoflow.task(executor="ray", can_rollback=True)
def use(_given):
    return "used"


@exoflow.task(executor="ray", can_rollback=True, deterministic=True, checkpoint=False)
def first_of(refs, *_after):
    return float(ray.get(refs[0])[0])


def refused(given, error, text, **settings):
    with exoflow.Engine("memory:", **settings) as engine:
        with pytest.raises(error, match=text):
            engine.run(use.bind({"here": [given]}), name="w")
        with pytest.raises(WorkflowNotFoundError):
            engine.get_status("w")


@ray.remote(num_cpus=0)
class Forgetful:
    def ping(self):
        return 1


@ray.remote(num_cpus=0)
class Good:
    def ping(self):
        return 1

    def checkpoint(self):
        return 1

    def restore(self, state):
        pass


@ray.remote(num_cpus=0)
def fail():
    raise ValueError("a fault of its own")


def test_an_actor_that_cannot_be_saved():
    refused(Forgetful.remote(), CheckpointFailedError, r"actor class Forgetful has no checkpoint\(\) and no restore\(\)")


def test_an_actor_that_is_dead():
    actor = Good.remote()
    assert ray.get(actor.ping.remote()) == 1
    ray.kill(actor)
    refused(actor, RefLostError, "ActorDiedError")


def test_references_inside_an_object():
    refused(ray.put([ray.put(1)]), CheckpointFailedError, "its data holds Refs")


def test_an_object_that_could_not_be_made():
    refused(fail.remote(), CheckpointFailedError, "a fault of its own")


def test_an_object_over_the_limit():
    refused(ray.put(np.zeros(10_000)), PayloadTooLargeError, "data of Ref", payload_limit=50_000)


# --- clusters that are gone ------------------------------------------------------------------------------------------------------

TWO_CLUSTERS = """
import ray
import exoflow
from exoflow.errors import RefLostError, WorkflowNotFoundError
from test_ray_bad_input import Good, use

def connect():
    ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)

def refused(given):
    try:
        engine.run(use.bind({"here": [given]}), name="w")
    except RefLostError as error:
        print(str(error).partition(" is gone: ")[2])
    try:
        engine.get_status("w")
    except WorkflowNotFoundError:
        print("not written")

connect()
ref, actor = ray.put(1), Good.remote()
assert ray.get(actor.ping.remote()) == 1
ray.shutdown()
with exoflow.Engine("memory:") as engine:
    refused(ref)
    refused(actor)
    print("connected:", ray.is_initialized())
    connect()
    refused(ref)
    refused(actor)
    print(engine.run(use.bind({"here": [ray.put(1), Good.remote()]})))
"""


def test_references_of_another_cluster():
    """The cluster in which they were made has ended; first there is none, then there is another."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
    done = subprocess.run([sys.executable, "-c", TWO_CLUSTERS], env=environment, capture_output=True, text=True, check=False)
    alone = ["this process is not connected to Ray any more", "not written"] * 2
    another = ["this cluster of Ray does not know it: it is of another one, or of one that has ended", "not written"] * 2
    assert done.stdout.splitlines() == [*alone, "connected: False", *another, "used"], done.stderr


# --- what Ray would repeat -------------------------------------------------------------------------------------------------------


@ray.remote(num_cpus=0, resources={"far": 0.1}, max_retries=3)
def random_numbers(mark):
    with Path(mark).open("a") as file:
        file.write(".")
        if file.tell() == 1:
            os.kill(os.getpid(), 9)
    return np.random.default_rng().random(40_000)


@exoflow.task(can_rollback=True)
def both(one, other):
    return one, other


def test_an_object_that_ray_repeats_is_waited_for_and_then_stays_what_it_is(cluster, tmp_path):
    """The Ray task that makes an argument dies, and Ray runs it again. Then the node with the object dies, between two readers."""
    node = cluster.add_node(num_cpus=0, resources={"far": 1}, object_store_memory=80_000_000)
    ref = random_numbers.remote(tmp_path / "ran")
    pause = pauses["repeated"] = Pause()
    with exoflow.Engine("memory:") as engine:
        first = wait_here.bind("repeated", first_of.bind([ref]))
        future = engine.run_async(both.bind(first, first_of.options(name="second").bind([ref], first)))
        assert pause.reached.wait(60)
        kill_node(cluster, node)
        pause.over.set()
        one, other = future.result(60)
    assert one == other
    assert (tmp_path / "ran").read_text() == ".."
