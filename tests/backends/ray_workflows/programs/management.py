"""Looking at workflows and stopping them."""

import json
import os
import time

import ray
from ray import workflow
from ray.workflow.exceptions import WorkflowNotFoundError, WorkflowNotResumableError, WorkflowStillActiveError


def show(what, value):
    print(json.dumps([what, value]), flush=True)


def error_of(call):
    """Which of the documented errors a call raises, or what it returns."""
    try:
        result = call()
    except Exception as error:
        documented = (
            workflow.WorkflowCancellationError,
            workflow.WorkflowExecutionError,
            WorkflowNotFoundError,
            WorkflowNotResumableError,
            WorkflowStillActiveError,
            TypeError,
            ValueError,
            RuntimeError,
        )
        return ["raises", *(each.__name__ for each in documented if isinstance(error, each))]
    return result


def until(condition, limit_s=60):
    deadline = time.time() + limit_s
    while not condition():
        if time.time() > deadline:
            raise TimeoutError
        time.sleep(0.05)


FOLDER = os.getcwd()


@ray.remote
def quick(value):
    return value


@ray.remote
def fail():
    raise ValueError("no")


@ray.remote
def wait_for(name):
    open(f"{FOLDER}/{name}.began", "w").close()
    until(lambda: os.path.exists(f"{FOLDER}/{name}"))
    return name


@ray.remote
def after(value):
    open(f"{FOLDER}/after", "w").close()
    return value


if __name__ == "__main__":
    workflow.init()
    workflow.run(quick.bind(1), workflow_id="good")
    error_of(lambda: workflow.run(fail.bind(), workflow_id="bad"))
    show("statuses", [workflow.get_status(name) for name in ("good", "bad")])
    show("a status is a str", isinstance(workflow.get_status("good"), str) and workflow.get_status("good") == workflow.SUCCESSFUL)
    show("status of nobody", error_of(lambda: workflow.get_status("nobody")))
    show("status of a number", error_of(lambda: workflow.get_status(3)))

    slow = workflow.run_async(quick.bind(wait_for.options(**workflow.options(task_id="waiting")).bind("go")), workflow_id="slow")
    until(lambda: os.path.exists("go.began"))
    show("running", workflow.get_status("slow"))
    show("run twice", error_of(lambda: workflow.run(quick.bind(2), workflow_id="slow")))
    show("resume a running one", error_of(lambda: workflow.resume("slow")))
    show("delete a running one", error_of(lambda: workflow.delete("slow")))
    show("list running", sorted(workflow.list_all(workflow.RUNNING)))
    show("list by name", sorted(workflow.list_all("RUNNING")))
    show("list two kinds", sorted(workflow.list_all({workflow.RUNNING, workflow.FAILED})))
    show("list two kinds by name", sorted(workflow.list_all({"SUCCESSFUL", "FAILED"})))
    show("list all", sorted(workflow.list_all()))
    show("list an unknown kind", error_of(lambda: workflow.list_all("SLEEPING")))
    show("list a number", error_of(lambda: workflow.list_all(3)))
    waiting = workflow.get_output_async("slow", task_id="waiting")
    whole = workflow.get_output_async("slow")
    open("go", "w").close()
    show("output while it runs", ray.get([waiting, whole, slow]))
    until(lambda: workflow.get_status("slow") == "SUCCESSFUL")
    show("nothing runs", workflow.list_all(workflow.RUNNING))

    stopped = workflow.run_async(after.bind(wait_for.bind("never")), workflow_id="stopped")
    until(lambda: os.path.exists("never.began"))
    show("cancel", workflow.cancel("stopped"))
    show("status when cancelled", workflow.get_status("stopped"))
    show("its reference", error_of(lambda: ray.get(stopped)))
    show("its output", error_of(lambda: workflow.get_output("stopped")))
    show("list cancelled", workflow.list_all("CANCELED"))
    show("cancel again", error_of(lambda: workflow.cancel("stopped")))
    open("never", "w").close()
    time.sleep(0.5)
    show("what came after it ran", os.path.exists("after"))

    show("resume what was cancelled", error_of(lambda: workflow.resume("stopped")))
    show("cancel nobody", error_of(lambda: workflow.cancel("nobody at all")))
    show("status of whom nobody ran", error_of(lambda: workflow.get_status("nobody at all")))

    show("cancel what has ended", error_of(lambda: workflow.cancel("good")))
    show("its status then", workflow.get_status("good"))
    show("its output then", error_of(lambda: workflow.get_output("good")))
    show("cancel a number", error_of(lambda: workflow.cancel(3)))

    show("delete", workflow.delete("bad"))
    show("status of what was deleted", error_of(lambda: workflow.get_status("bad")))
    show("output of what was deleted", error_of(lambda: workflow.get_output("bad")))
    show("resume what was deleted", error_of(lambda: workflow.resume("bad")))
    show("delete twice", error_of(lambda: workflow.delete("bad")))
    show("use its id again", workflow.run(quick.bind("new"), workflow_id="bad"))
    show("delete what was cancelled", error_of(lambda: workflow.delete("stopped")))
    show("resume nobody", error_of(lambda: workflow.resume("nobody")))
    show("resume nobody, asynchronously", error_of(lambda: ray.get(workflow.resume_async("nobody"))))
    show("resume what is done", workflow.resume("bad"))
    show("at the end", sorted(workflow.list_all()))
