"""What Ray Workflows did not do, or what a program for it cannot show: the engine's actor dies, workflows wait and are cancelled."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest
import ray

from exoflow.ray import workflow
from exoflow.ray.workflow import api
from exoflow.ray.workflow.event_listener import TimerListener
from exoflow.ray.workflow.exceptions import WorkflowNotResumableError, WorkflowStillActiveError

pytestmark = pytest.mark.slow  # tasks are processes of Ray

LIMIT_S = 60


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """One engine in a cluster, where two workflows may run at once; the cluster of other tests, if there is one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXOFLOW_STORE", f"sqlite:{tmp_path_factory.mktemp('service')}/store.db")
        patch.setenv("PYTHONPATH", os.pathsep.join(os.path.abspath(entry) for entry in sys.path))
        is_ours = not ray.is_initialized()
        if is_ours:
            ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
        workflow.init(max_running_workflows=2)
        yield
        kill_the_service()
        if is_ours:
            ray.shutdown()


def until(condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def let_go(folder, name):
    open(f"{folder}/{name}", "w", encoding="utf-8").close()


@pytest.fixture
def hold(tmp_path):
    """A task that notes that it began, and ends when a file is there."""
    folder = str(tmp_path)

    @ray.remote(num_cpus=0.5)
    def hold(name):
        with open(f"{folder}/began-{name}", "a", encoding="utf-8") as file:
            file.write("x")
        deadline = time.monotonic() + LIMIT_S
        while not os.path.exists(f"{folder}/{name}"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return name

    return hold


@ray.remote
def same(value):
    return value


def kill_the_service():
    ray.kill(ray.get_actor(api._NAME, namespace=api._NAMESPACE))
    until(gone)


def gone():
    try:
        ray.get_actor(api._NAME, namespace=api._NAMESPACE)
    except ValueError:
        return True
    return False


def test_a_workflow_that_waits_for_its_turn_can_be_cancelled(cluster, hold, tmp_path):
    refs = [workflow.run_async(hold.bind(name), workflow_id=f"cancel-{name}") for name in "abc"]
    until(lambda: os.path.exists(tmp_path / "began-b"))
    assert workflow.get_status("cancel-c") == "PENDING"
    workflow.cancel("cancel-c")
    assert workflow.get_status("cancel-c") == "CANCELED"
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(refs[2], timeout=LIMIT_S)
    for name in "ab":
        let_go(tmp_path, name)
    assert ray.get(refs[:2], timeout=LIMIT_S) == ["a", "b"]
    assert not (tmp_path / "began-c").exists()


def test_whoever_resumes_too_many_has_them_wait(cluster, hold, tmp_path):
    """The engine's actor is killed under three workflows, one of which had not begun; the next one goes on with two at a time."""
    refs = [workflow.run_async(same.bind(hold.bind(name)), workflow_id=f"killed-{name}") for name in "abc"]
    until(lambda: os.path.exists(tmp_path / "began-b"))
    kill_the_service()
    for ref in refs:
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(ref, timeout=LIMIT_S)
    workflow.init(max_running_workflows=2)
    names = [f"killed-{name}" for name in "abc"]
    assert [(name, status) for name, status in workflow.list_all() if name in names] == [(name, "RESUMABLE") for name in names]
    resumed = dict(workflow.resume_all())
    assert sorted(resumed) == names
    assert workflow.get_status("killed-c") == "PENDING"
    with pytest.raises(RuntimeError, match="runs already"):
        workflow.resume("killed-c")
    with pytest.raises(WorkflowStillActiveError):
        workflow.delete("killed-c")
    for name in "abc":
        let_go(tmp_path, name)
    assert [ray.get(resumed[name], timeout=LIMIT_S) for name in names] == ["a", "b", "c"]


def test_a_resumed_workflow_that_waits_can_be_cancelled(cluster, hold, tmp_path):
    for name in "abc":
        workflow.run_async(hold.bind(name), workflow_id=f"again-{name}")
    until(lambda: os.path.exists(tmp_path / "began-b"))
    kill_the_service()
    workflow.init(max_running_workflows=2)
    resumed = dict(workflow.resume_all())
    workflow.cancel("again-c")
    assert workflow.get_status("again-c") == "CANCELED"
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(resumed["again-c"], timeout=LIMIT_S)
    with pytest.raises(WorkflowNotResumableError):
        workflow.resume("again-c")
    for name in "ab":
        let_go(tmp_path, name)
    assert [ray.get(resumed[f"again-{name}"], timeout=LIMIT_S) for name in "ab"] == ["a", "b"]


def test_sleeping_needs_no_worker(cluster):
    """Ten workflows sleep at once on two CPUs; each of Ray's would hold a worker."""
    started = time.monotonic()
    tasks = [same.bind(workflow.wait_for_event(TimerListener, time.time() + 2)) for _ in range(10)]

    @ray.remote
    def last(*values):
        return len(values)

    assert workflow.run(last.bind(*tasks)) == 10
    assert time.monotonic() - started < 15


def test_a_task_may_start_a_workflow(cluster):
    @ray.remote(num_cpus=0.5)
    def outer(value):
        return workflow.run(same.bind(value), workflow_id="inner")

    assert workflow.run(outer.bind(5), workflow_id="outer") == 5
    assert workflow.get_output("inner") == 5


def test_exceptions_that_count_can_be_named(cluster, tmp_path):
    """Ray 2.40 could not save such options."""
    folder = str(tmp_path)

    @ray.remote
    def flaky(error):
        with open(f"{folder}/tries", "a", encoding="utf-8") as file:
            file.write("x")
        if os.path.getsize(f"{folder}/tries") % 3:
            raise error("not yet")
        return os.path.getsize(f"{folder}/tries")

    chosen = flaky.options(retry_exceptions=[ConnectionError], max_retries=5)
    assert workflow.run(chosen.bind(ConnectionResetError), workflow_id="named") == 3
    options = workflow.get_metadata("named", f"{__name__}.test_exceptions_that_count_can_be_named.locals.flaky")["task_options"]
    assert options["retry_exceptions"] == [repr(ConnectionError)]
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(chosen.bind(ValueError))
    assert os.path.getsize(f"{folder}/tries") == 4


def test_two_who_run_one_id_at_once(cluster):
    """One of them runs it; the other is refused, or gets its result."""
    results = []
    for _ in range(2):
        try:
            results.append(workflow.run_async(same.bind("x"), workflow_id="twice"))
        except RuntimeError:
            results.append(workflow.get_output_async("twice"))
    assert ray.get(results, timeout=LIMIT_S) == ["x", "x"]


def test_the_engine_needs_none_of_the_users_modules(cluster, tmp_path):
    """Outputs are of a class that only the tasks can import. Ray's engine did not need it either."""
    (tmp_path / "only_here.py").write_text("class Thing:\n    def __init__(self, size):\n        self.size = size\n", "utf-8")
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ["PYTHONPATH"]))}}

    @ray.remote(runtime_env=environment)
    def make():
        import only_here

        return [only_here.Thing(3)]

    @ray.remote(runtime_env=environment)
    def measure(things):
        return things[0].size

    assert workflow.run(measure.bind(make.bind()), workflow_id="modules") == 3
    assert workflow.get_metadata("modules")["status"] == "SUCCESSFUL"


def test_each_round_of_a_long_loop_has_its_id(cluster):
    @ray.remote
    def down(n):
        return "end" if n == 0 else workflow.continuation(down.bind(n - 1))

    assert workflow.run(down.options(**workflow.options(task_id="top")).bind(150), workflow_id="loop") == "end"
    name = f"{__name__}.test_each_round_of_a_long_loop_has_its_id.locals.down"
    assert [workflow.get_output("loop", task_id=task) for task in ("top", name, f"{name}_149")] == ["end"] * 3
    with pytest.raises(ValueError, match="no output"):
        workflow.get_output("loop", task_id=f"{name}_150")


def test_what_a_function_holds_is_as_it_was_at_submission(cluster, tmp_path):
    folder, factor = str(tmp_path), [2]

    @ray.remote
    def scale(value):
        if not os.path.exists(f"{folder}/repaired"):
            raise ValueError("not yet")
        return value * factor[0]

    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(scale.bind(21), workflow_id="closure")
    factor[0] = 100
    let_go(tmp_path, "repaired")
    assert workflow.resume("closure") == 42


def test_an_output_that_cannot_be_saved_is_no_reason_to_run_again(cluster, tmp_path):
    """The function has done its work by then."""
    folder = str(tmp_path)

    @ray.remote(max_retries=3, retry_exceptions=True)
    def lock():
        with open(f"{folder}/ran", "a", encoding="utf-8") as file:
            file.write("x")
        return {"a": [threading.Lock()]}

    with pytest.raises(workflow.WorkflowExecutionError, match=r"\['a'\]\[0\]"):
        workflow.run(lock.bind())
    assert os.path.getsize(f"{folder}/ran") == 1
