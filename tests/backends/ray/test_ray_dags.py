"""DAGs made with Ray's own ``.bind`` on our engine: annotations, order, rollback, names."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import ray
from ray.dag import InputNode

import exoflow
from exoflow import ray as onray
from exoflow.errors import InvalidOptionError, TaskFailed, UnsafeWorkflowError, WorkflowIdConflictError
from exoflow.ray import workflow
from exoflow.ray.dag import translated

pytestmark = pytest.mark.slow  # tasks are processes of Ray


@pytest.fixture
def engine(tmp_path, local_ray):
    with exoflow.Engine(f"sqlite:{tmp_path}/store.db") as engine:
        yield engine


def note(folder, text):
    with open(f"{folder}/notes", "a", encoding="utf-8") as file:
        file.write(text + "\n")


def notes(folder):
    with open(f"{folder}/notes", encoding="utf-8") as file:
        return file.read().split()


@ray.remote
def add(left, right):
    return left + right


@ray.remote
def write(folder, text):
    note(folder, text)
    return text


def erase(folder, text):
    note(folder, f"undo-{text}")


@ray.remote
def fail(*_):
    raise ValueError("no")


PURE = exoflow.options(deterministic=True, can_rollback=True, checkpoint=False)


def test_a_dag_of_ray_runs_with_its_inputs(engine):
    with InputNode() as numbers:
        dag = add.options(**PURE).bind(add.bind(numbers[0], numbers.more), 1)
    assert onray.run(dag, 2, more=3, engine=engine) == 6


def test_the_same_name_again_gives_the_result_and_runs_nothing(engine, tmp_path):
    assert onray.run(write.bind(str(tmp_path), "a"), name="once", engine=engine) == "a"
    assert onray.run(write.bind(str(tmp_path), "a"), name="once", engine=engine) == "a"
    assert notes(tmp_path) == ["a"]
    with pytest.raises(WorkflowIdConflictError):
        onray.run(write.bind(str(tmp_path), "b"), name="once", engine=engine)


def test_another_function_under_the_same_name_is_another_dag(engine):
    def made(constant):
        return ray.remote(lambda: constant) if constant else ray.remote(lambda: -1)

    assert onray.run(made(1).bind(), name="lambda", engine=engine) == 1
    with pytest.raises(WorkflowIdConflictError):
        onray.run(made(0).bind(), name="lambda", engine=engine)


def test_annotations_reach_the_engine(local_ray):
    step, *_ = translated(add.options(**exoflow.options(checkpoint="sync", deterministic=True, can_rollback=True)).bind(1, 2))[-1]
    assert step.options["checkpoint"] == "sync"
    draw = add.options(**exoflow.options(checkpoint=False, can_rollback=True))
    findings = exoflow.check(onray.as_node(add.bind(draw.bind(1, 2), 1)))
    assert findings
    assert "add" in findings[0].task


def test_an_unsafe_dag_is_refused_as_always(engine):
    draw = add.options(**exoflow.options(checkpoint=False, can_rollback=True))
    with pytest.raises(UnsafeWorkflowError):
        onray.run(add.bind(draw.bind(1, 2), 1), engine=engine)
    assert onray.run_async(add.bind(draw.bind(1, 2), 1), engine=engine, how={"mode": "auto"}).result() == 4


def test_what_was_done_is_undone_in_reverse_order(engine, tmp_path):
    undoable = write.options(**exoflow.options(rollback=erase))
    first = undoable.bind(str(tmp_path), "one")
    second = undoable.bind(str(tmp_path), "two")
    dag = fail.bind(first, write.options(**exoflow.options(rollback=erase, after=[first])).bind(str(tmp_path), "three"), second)
    with pytest.raises(TaskFailed):
        onray.run_async(dag, engine=engine, how={"on_failure": "rollback"}).result()
    found = notes(tmp_path)
    assert sorted(found) == sorted(["one", "two", "three", "undo-one", "undo-two", "undo-three"])
    assert found.index("one") < found.index("three")
    assert found.index("undo-three") < found.index("undo-one")


def test_retries_are_those_of_the_engine(engine, tmp_path):
    folder = str(tmp_path)

    @ray.remote
    def flaky():
        note(folder, "try")
        if len(notes(folder)) < 3:
            raise ConnectionError
        return len(notes(folder))

    options = exoflow.options(retries=5, retry_on=ConnectionError, backoff=0.0)
    assert onray.run(flaky.options(**options).bind(), engine=engine) == 3


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(InvalidOptionError, match="determinstic"):
        exoflow.options(determinstic=True)
    with pytest.raises(InvalidOptionError, match="executor"):
        exoflow.options(executor="thread")
    with pytest.raises(InvalidOptionError, match="rollback"):
        exoflow.options(rollback=erase, can_rollback=False)


def test_options_of_workflows_and_ours_go_together(engine):
    fails = fail.options(**workflow.options(catch_exceptions=True, task_id="caught"))
    output, error = onray.run(fails.bind(), engine=engine)
    assert output is None
    assert isinstance(error, ValueError)


def test_without_ray_the_extra_is_named():
    code = "import sys; sys.modules['ray'] = None\nimport exoflow\nexoflow.options()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'exoflow-engine[ray]'" in done.stderr


KILLED = """
import os, signal, sys, time
import ray
import exoflow
from exoflow import ray as onray

folder = sys.argv[1]

class Ticket:
    def __init__(self, seat):
        self.seat = seat

def reserving(first):
    @ray.remote
    def reserve(seat):
        open(f"{folder}/reserved", "a").write("x")
        return Ticket(first + seat)
    return reserve

@ray.remote
def pay(ticket):
    if not os.path.exists(f"{folder}/open"):
        open(f"{folder}/paying", "w").close()
        time.sleep(60)
    return f"paid for seat {ticket.seat}"

ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000)
engine = exoflow.Engine(f"sqlite:{folder}/store.db")
onray.run_async(pay.bind(reserving(10).bind(2)), name="order", engine=engine)
while not os.path.exists(f"{folder}/paying"):
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_closures_of_a_script_that_was_killed_go_on_without_it(tmp_path, engine):
    """They, and the classes that they use, are in the store; another process finishes the order, and reserves nothing again."""
    (tmp_path / "killed.py").write_text(KILLED, "utf-8")
    done = subprocess.run([sys.executable, "killed.py", str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (tmp_path / "open").touch()
    assert engine.resume("order").result(60) == "paid for seat 12"
    assert (tmp_path / "reserved").read_text() == "x"
