"""Exceptions: failing, catching, trying again; what is kept when a workflow failed."""

import json
import os

import ray
from ray import workflow
from ray.exceptions import RayTaskError


def show(what, value):
    print(json.dumps([what, value]), flush=True)


FOLDER = os.getcwd()


def note(name):
    with open(f"{FOLDER}/{name}", "a", encoding="utf-8") as file:
        file.write("x")
    return os.path.getsize(f"{FOLDER}/{name}")


def count(name):
    return os.path.getsize(name) if os.path.exists(name) else 0


class Spoiled(Exception):
    pass


@ray.remote
def fail(what="boom"):
    note("fail")
    raise Spoiled(what)


@ray.remote
def fine(*values):
    note("fine")
    return len(values)


@ray.remote
def flaky(name, good_at):
    if note(name) < good_at:
        raise ValueError(f"not yet {name}")
    return count(f"{FOLDER}/{name}")


@ray.remote
def describe(pair):
    value, error = pair
    return [value, None if error is None else [isinstance(error, Spoiled), isinstance(error, RayTaskError), type(error).__name__]]


@ray.remote
def cause_of(pair):
    return [type(pair[1].cause).__name__, str(pair[1].cause)]


@ray.remote
def deep(depth):
    if depth == 0:
        return fail.bind("from below")
    return workflow.continuation(deep.bind(depth - 1))


@ray.remote
def side_failure():
    return workflow.continuation(fine.bind(fail.bind("beside"), fine.bind()))


@ray.remote
def fine_below():
    return workflow.continuation(fine.bind(1, 2, 3))


@ray.remote
def die(name):
    if note(name) < 2:
        os._exit(1)
    return "alive"


CATCH = workflow.options(catch_exceptions=True)

if __name__ == "__main__":
    workflow.init()
    try:
        workflow.run(fail.bind(), workflow_id="failed")
    except workflow.WorkflowExecutionError as error:
        show("raised", [isinstance(error, workflow.WorkflowError), isinstance(error, RayTaskError), type(error).__name__])
        show("its message names the workflow", "failed" in str(error))
        show("what failed is in the text", "Spoiled" in str(error))
        show("its cause", type(getattr(error, "cause", None)).__name__)
        show("its own cause", isinstance(error.__cause__, Spoiled))
    show("status", workflow.get_status("failed"))
    try:
        workflow.get_output("failed")
    except Exception as error:
        show("output of a failed workflow", [isinstance(error, ValueError), isinstance(error, workflow.WorkflowError)])

    show("caught", workflow.run(describe.bind(fail.options(**CATCH).bind())))
    show("its cause when caught", workflow.run(cause_of.bind(fail.options(**CATCH).bind("why"))))
    show("nothing to catch", workflow.run(describe.bind(fine.options(**CATCH).bind(1))))
    value, error = workflow.run(fail.options(**CATCH).bind())
    show("caught at the end", [value, isinstance(error, Spoiled), isinstance(error, RayTaskError)])
    show("from a sub-workflow", workflow.run(describe.bind(deep.options(**CATCH).bind(2))))
    show("from beside the last task of one", workflow.run(describe.bind(side_failure.options(**CATCH).bind())))
    show("a sub-workflow that does not fail", workflow.run(fine_below.options(**CATCH).bind()))

    show("tried again", workflow.run(flaky.options(max_retries=4, retry_exceptions=True).bind("again", 3)))
    for title, options in {"too seldom": {"max_retries": 2, "retry_exceptions": True}, "not asked for": {"max_retries": 5}}.items():
        name = title.replace(" ", "-")
        try:
            workflow.run(flaky.options(**options).bind(name, 9))
        except workflow.WorkflowExecutionError:
            show(title, count(name))
    try:
        workflow.run(flaky.options(max_retries=0, retry_exceptions=True).bind("never", 9))
    except workflow.WorkflowExecutionError:
        show("no retries", count("never"))
    show("caught after retries", workflow.run(describe.bind(fail.options(max_retries=1, retry_exceptions=True, **CATCH).bind())))
    show("a worker that dies", workflow.run(die.bind("die")))

    before = count("fine")
    try:
        workflow.run(fine.options(**workflow.options(task_id="end")).bind(fine.bind(), flaky.bind("resumed", 2)), workflow_id="resumed")
    except workflow.WorkflowExecutionError:
        show("status before", workflow.get_status("resumed"))
    show("resumed", workflow.resume("resumed"))
    show("status after", workflow.get_status("resumed"))
    show("what was done was kept", count("fine") - before)
    show("resumed again", workflow.resume("resumed"))
    show("run again", workflow.run(fine.bind(), workflow_id="resumed"))

    try:
        workflow.run(flaky.bind("all", 2), workflow_id="for-all")
    except workflow.WorkflowExecutionError:
        show("resume_all leaves failed ones", [name for name, _ in workflow.resume_all()])
    resumed = dict(workflow.resume_all(include_failed=True))
    show("with failed ones", "for-all" in resumed)
    show("its result", ray.get(resumed["for-all"]))
