"""Objects and actors of Ray as Refs: the common suite, with nodes and actors that are really killed."""

from __future__ import annotations

import pytest
import ray

import exoflow
from exoflow import codec
from exoflow.backends.ray import objects
from exoflow.errors import InvalidOptionError, TaskFailed
from exoflow.refs.base import adapter_of, lost_in
from exoflow.testing.ref_suite import RefSuite
from tests.backends.ray.asking import kill_node

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]  # on a real Ray


@ray.remote(max_retries=0, resources={"far": 1})
def make(value):
    return value


@pytest.fixture(scope="module")
def far_nodes(cluster):
    """The node beside the head, if there is one."""
    nodes = []
    yield nodes
    for node in nodes:
        cluster.remove_node(node)


class TestObjects(RefSuite):
    """The first object of each test is on a node of its own, which is killed to lose it."""

    value = "some data" * 20_000
    other = "other data" * 20_000

    @pytest.fixture(autouse=True)
    def _nodes(self, cluster, far_nodes):
        if not far_nodes:
            far_nodes.append(cluster.add_node(num_cpus=1, resources={"far": 1}, object_store_memory=80_000_000))
        self.cluster, self.nodes, self.made = cluster, far_nodes, 0

    def make(self, value):
        self.made += 1
        if self.made > 1:
            return ray.put(value)
        ref = make.remote(value)
        assert ray.wait([ref], fetch_local=False)[0]
        return ref

    def destroy(self, ref):
        kill_node(self.cluster, self.nodes.pop())


@ray.remote(num_cpus=0)
class Cell:
    def __init__(self, value):
        self.value = value

    def read(self):
        return self.value

    def write(self, value):
        self.value = value

    def checkpoint(self):
        return self.value

    def restore(self, state):
        self.value = state

    def resources(self):
        return ray.get_runtime_context().get_assigned_resources()


class TestActors(RefSuite):
    def make(self, value):
        return Cell.remote(value)

    def destroy(self, ref):
        ray.kill(ref)

    def read(self, ref):
        return ray.get(ref.read.remote())

    def change(self, ref, value):
        ref.write.remote(value)


def test_an_actor_comes_back_with_its_resources_and_its_name():
    first = Cell.options(name="cell", num_cpus=0.5, runtime_env={"env_vars": {"COLOUR": "red"}}).remote(1)
    saved = objects.ACTORS.checkpoint(first, "v1").result(20)
    second = objects.ACTORS.restore(saved)  # while the first has the name
    assert ray.get(second.resources.remote()) == {"CPU": 0.5}
    ray.kill(first)
    with pytest.raises(ValueError, match="cell"):
        while ray.get_actor("cell"):
            pass
    third = objects.ACTORS.restore(objects.ACTORS.checkpoint(second, "v2").result(20) | {"options": saved["options"] | {"name": "cell"}})
    assert ray.get(ray.get_actor("cell").read.remote()) == 1
    assert objects.ACTORS.id(third) == objects.ACTORS.id(ray.get_actor("cell"))


@ray.remote(num_cpus=0)
class Forgetful:
    def checkpoint(self):
        return 1


def test_an_actor_without_restore_is_refused_by_name():
    with pytest.raises(InvalidOptionError, match=r"actor class Forgetful has no restore\(\)"):
        objects.ACTORS.checkpoint(Forgetful.remote(), "v1")


@ray.remote(num_cpus=0)
class Asynchronous:
    async def checkpoint(self):
        return 1

    def restore(self, state):
        pass


@ray.remote(num_cpus=0)
class Broken:
    def checkpoint(self):
        raise OSError("disk on fire")

    def restore(self, state):
        pass


@pytest.mark.parametrize(("cls", "text"), [(Asynchronous, "is async"), (Broken, "disk on fire")])
def test_an_error_in_a_checkpoint_is_an_error(cls, text):
    with pytest.raises(Exception, match=text) as caught:
        objects.ACTORS.checkpoint(cls.remote(), "v1").result(20)
    assert not lost_in(caught.value)


@ray.remote(num_cpus=0)
class NeverBorn:
    def __init__(self):
        raise ValueError("no")

    def read(self):
        pass


def test_an_actor_that_could_not_be_made_is_no_loss():
    with pytest.raises(ray.exceptions.RayActorError) as caught:
        ray.get(NeverBorn.remote().read.remote())
    assert not lost_in(caught.value)


@ray.remote(max_retries=0)
def die():
    import os

    os.kill(os.getpid(), 9)


@ray.remote(max_retries=0)
def fail():
    raise ValueError("wrong")


def test_an_object_that_was_never_made_is_lost_and_one_that_could_not_be_is_not():
    lost, failed, fine = die.remote(), fail.remote(), ray.put(1)
    for ref, gone in ((lost, {f"{objects.OBJECTS.kind} {lost.hex()}"}), (failed, set())):
        with pytest.raises(Exception) as caught:
            objects.OBJECTS.checkpoint(ref, "v").result(20)
        assert lost_in(caught.value) == gone
    with pytest.raises(ray.exceptions.WorkerCrashedError) as caught:
        ray.get(lost)
    found = objects.losses_in(caught.value, (fine, failed, lost))
    assert [each.ref for each in found] == [lost.hex()]
    assert objects.losses_in(caught.value, (fine, failed)) == []
    assert objects.is_failure_of_ray(caught.value)
    assert not objects.is_failure_of_ray(ValueError("other"))


@ray.remote(num_cpus=0)
def increment(value):
    return value + 1


def test_what_was_to_be_made_of_something_lost_is_lost():
    lost = die.remote()
    made = increment.remote(lost)
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(made)
    assert {each.ref for each in objects.losses_in(caught.value, (made,))} == {made.hex()}


@exoflow.task(executor="ray")
def nest():
    return [ray.put([ray.put(1)])]


def test_references_inside_an_object_are_refused_where_it_is_saved():
    with exoflow.Engine("memory:") as engine, pytest.raises(TaskFailed, match="its data holds Refs; return those from the task instead"):
        engine.run(nest.bind())


def test_references_in_anything_are_found_and_equal_ones_are_one():
    ref = ray.put([1, 2])
    other = ray.put([1, 2])
    encoded = codec.encode({"a": [ref, ref], "b": {"c": (other,)}})
    assert encoded.refs == (ref, other)
    assert adapter_of(ref).get(ref) == [1, 2]
