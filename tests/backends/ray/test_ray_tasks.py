"""Workflows whose tasks run on Ray."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import psutil
import pytest
import ray

import exoflow
from exoflow.backends.ray.far_end import actor
from exoflow.errors import ArgumentNotSerializableError, InvalidOptionError, TaskFailed, WorkflowCancelledError, WrongContextError
from tests.backends.ray.asking import engine_on
from tests.patience import until

pytestmark = pytest.mark.slow  # on a real Ray


@pytest.fixture
def engine(local_ray, tmp_path):
    with engine_on(tmp_path) as engine:
        yield engine


@exoflow.task(executor="ray")
def add(one, two):
    return one + two


@exoflow.task(executor="ray")
def divide(one, two):
    return one / two


@exoflow.task(executor="ray", deterministic=True, can_rollback=True, checkpoint=False)
def big(size):
    return np.arange(size, dtype=np.float64)


@exoflow.task(executor="ray", deterministic=True, can_rollback=True, checkpoint=False)
def total(array):
    return float(array.sum())


@exoflow.task
def here(value):
    return value, os.getpid()


@exoflow.task(executor="ray")
def count_down(number):
    return count_down.bind(number - 1) if number else "lift-off"


def test_a_dag_on_ray_gives_its_result(engine):
    assert engine.run(add.bind(add.bind(1, 2), add.bind(3, 4))) == 10


def test_values_go_between_ray_and_threads(engine):
    assert engine.run(here.bind(total.bind(big.bind(300_000)))) == (float(sum(range(300_000))), os.getpid())


def test_an_exception_is_the_cause_of_the_failure(engine):
    with pytest.raises(TaskFailed) as caught:
        engine.run(divide.bind(1, 0))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_task_on_ray_may_return_a_dag(engine):
    assert engine.run(count_down.bind(3)) == "lift-off"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_cpu": 1}, "Invalid option keyword num_cpu"),
        ({"num_cpus": -1}, "cannot be negative"),
        ({"num_cpus": "two"}, "num_cpus"),
        ({"max_retries": 3}, "use retries"),
        ({"retry_exceptions": True}, "use retries and retry_on"),
        ({"num_returns": 2}, "one output"),
        ({"actor": 17}, "the name of an actor is a str"),
        ({"actor": "a", "num_cpus": 1}, "num_cpus: the actor has its resources already"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_runs(engine, options, text):
    with pytest.raises(InvalidOptionError, match=text):
        engine.run(add.options(executor_options=options).bind(1, 2))


def test_a_function_that_ray_cannot_have_is_refused_before_anything_runs(engine):
    lock = __import__("threading").Lock()

    @exoflow.task(executor="ray")
    def locked():
        return lock

    with exoflow.Engine("memory:") as volatile, pytest.raises(ArgumentNotSerializableError, match="cannot pickle"):
        volatile.run(locked.bind())


@exoflow.task(executor="ray", executor_options={"num_cpus": 0, "resources": {}, "runtime_env": {"env_vars": {"COLOUR": "blue"}}})
def colour():
    return os.environ.get("COLOUR")


def test_options_reach_ray(engine):
    assert engine.run(colour.bind()) == "blue"


@ray.remote
class Counter:
    def __init__(self):
        self.count = 0


@exoflow.task(executor="ray")
def count(by):
    actor().count += by
    return actor().count


def test_a_task_may_run_on_an_actor(engine):
    counter = Counter.options(name="counter", num_cpus=0).remote()
    on_it = count.options(executor_options={"actor": "counter"})
    first = on_it.bind(2)
    assert engine.run(on_it.bind(first)) == 4
    ray.kill(counter)


def test_a_task_that_runs_on_no_actor_is_told_so(engine):
    with pytest.raises(TaskFailed) as caught:
        engine.run(count.bind(1))
    assert isinstance(caught.value.__cause__, WrongContextError)


@exoflow.task(executor="ray")
def retries_of_a_child():
    @ray.remote
    def child():
        return ray.get_runtime_context().get_task_id()

    return os.environ["RAY_TASK_MAX_RETRIES"]


def test_ray_may_not_repeat_what_a_task_starts_in_it(engine):
    assert engine.run(retries_of_a_child.bind()) == "0"


SCRIPT = """
import exoflow

class Point:
    def __init__(self, x):
        self.x = x

@exoflow.task(executor="ray")
def move(point, by):
    return Point(point.x + by)

@exoflow.task(executor="ray")
def twice(point):
    return move.bind(point, point.x)

if __name__ == "__main__":
    with exoflow.Engine("memory:") as engine:
        moved = engine.run(twice.bind(move.bind(Point(1), 2)))
        print(type(moved) is Point, moved.x)
"""


def test_what_a_script_defines_needs_no_import_on_the_workers(local_ray, tmp_path):
    """Slow: a process of its own that connects to Ray."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run([sys.executable, script], env=os.environ | {"RAY_ADDRESS": address}, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("True 6"), done.stderr


@exoflow.task(executor="ray", can_rollback=True)
def never_ends(mark):
    mark.write_text(f"{os.getpid()}")
    while True:
        pass


def test_a_task_of_a_cancelled_workflow_is_killed(engine, tmp_path):
    mark = tmp_path / "mark"
    future = engine.run_async(never_ends.bind(mark), name="endless")
    pid = int(until(lambda: mark.exists() and mark.read_text()))
    engine.cancel("endless")
    with pytest.raises(WorkflowCancelledError):
        future.result(20)
    until(lambda: not psutil.pid_exists(pid))


OWN = """
import numpy, ray
import exoflow

@exoflow.task(executor="ray", can_rollback=True, deterministic=True, checkpoint=False)
def make(size):
    return numpy.arange(size)

@exoflow.task(executor="ray", can_rollback=True)
def double(array):
    return array * 2

if __name__ == "__main__":
    first, second = exoflow.Engine("memory:"), exoflow.Engine("memory:")
    one = first.run(double.bind(make.bind(100_000)))
    first.close()
    two = second.run(double.bind(make.bind(100_000)))
    print(ray.is_initialized(), int(one.sum()))
    second.close()
    print(ray.is_initialized(), int(two.sum()), two.flags.writeable)
"""


def test_a_ray_of_our_own_ends_with_the_last_engine_and_results_stay(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(OWN)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["True 9999900000", "False 9999900000 False"], done.stderr


def test_the_engine_does_not_hold_what_goes_from_task_to_task_on_ray(engine):
    """Its memory does not grow by what is handed on, and nothing of it is in what the engine keeps."""
    before = psutil.Process().memory_info().rss
    assert engine.run(total.bind(big.bind(3_000_000))) == float(sum(range(3_000_000)))
    assert psutil.Process().memory_info().rss - before < 20_000_000
