"""What get_metadata says."""

import json
import time

import ray
from ray import workflow


def show(what, value):
    print(json.dumps([what, value]), flush=True)


def error_of(call):
    try:
        return call()
    except Exception as error:
        return ["raises", *(each.__name__ for each in (TypeError, ValueError, RuntimeError) if isinstance(error, each))]


@ray.remote
def double(value):
    time.sleep(0.1)
    return 2 * value


@ray.remote
def fail():
    raise ValueError("no")


def without_times(data):
    return {**data, "stats": sorted(data["stats"])}


if __name__ == "__main__":
    workflow.init()
    first = double.options(**workflow.options(task_id="first", metadata={"owner": "ada", "tags": [1, 2]}), num_cpus=0.5).bind(1)
    second = double.options(**workflow.options(task_id="second", checkpoint=True), max_retries=5).bind(first)
    started = time.time()
    workflow.run(second, workflow_id="told", metadata={"run": 7})
    whole = workflow.get_metadata("told")
    show("workflow", without_times(whole))
    stats = whole["stats"]
    show("its times", started - 1 <= stats["start_time"] <= stats["end_time"] <= time.time() + 1)
    show("first", without_times(workflow.get_metadata("told", "first")))
    show("second", without_times(workflow.get_metadata("told", task_id="second")))
    times = workflow.get_metadata("told", "second")["stats"]
    show("a task's times", 0.05 <= times["end_time"] - times["start_time"] <= 20)
    show("in order", workflow.get_metadata("told", "first")["stats"]["end_time"] <= times["start_time"])

    plain = double.bind(double.bind(1))
    workflow.run(plain, workflow_id="untold")
    show("without any", without_times(workflow.get_metadata("untold")))
    show("a task without any", without_times(workflow.get_metadata("untold", "__main__.double")))
    show("the one after it", without_times(workflow.get_metadata("untold", "__main__.double_1")))

    try:
        workflow.run(fail.options(**workflow.options(task_id="end", catch_exceptions=False)).bind(), workflow_id="failed")
    except workflow.WorkflowExecutionError:
        show("of a failed one", without_times(workflow.get_metadata("failed")))
        show("of a failed task", without_times(workflow.get_metadata("failed", "end")))
    show("no such workflow", error_of(lambda: workflow.get_metadata("nobody")))
    show("no such task", error_of(lambda: workflow.get_metadata("told", "third")))
