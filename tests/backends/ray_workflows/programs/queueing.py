"""Limits on how many workflows run and wait."""

import json
import os
import queue
import time

import ray
from ray import workflow


def show(what, value):
    print(json.dumps([what, value]), flush=True)


def kind_of(call):
    try:
        return call()
    except Exception as error:
        return ["raises", *(each.__name__ for each in (TypeError, ValueError, queue.Full) if isinstance(error, each))]


FOLDER = os.getcwd()


@ray.remote
def wait_for(name):
    with open(f"{FOLDER}/began", "a", encoding="utf-8") as file:
        file.write(name)
    while not os.path.exists(f"{FOLDER}/{name}"):
        time.sleep(0.02)
    return name


def began():
    with open("began", encoding="utf-8") as file:
        return file.read()


def until(condition, limit_s=60):
    deadline = time.time() + limit_s
    while not condition():
        if time.time() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def let_go(name):
    open(name, "w").close()


if __name__ == "__main__":
    show("no number", kind_of(lambda: workflow.init(max_running_workflows="2")))
    show("none at all", kind_of(lambda: workflow.init(max_running_workflows=0)))
    show("less than none", kind_of(lambda: workflow.init(max_pending_workflows=-2)))
    workflow.init(max_running_workflows=1, max_pending_workflows=2)
    show("the same again", kind_of(lambda: workflow.init(max_running_workflows=1)))
    show("another limit", kind_of(lambda: workflow.init(max_running_workflows=3)))

    refs = {name: workflow.run_async(wait_for.bind(name), workflow_id=name) for name in "abc"}
    until(lambda: os.path.exists("began"))
    show("statuses", [workflow.get_status(name) for name in "abc"])
    show("a fourth", kind_of(lambda: workflow.run(wait_for.bind("d"), workflow_id="d")))
    show("pending", sorted(workflow.list_all("PENDING")))
    show("running", workflow.list_all("RUNNING"))
    time.sleep(0.5)
    show("only one began", began())
    let_go("a")
    show("the first", ray.get(refs["a"]))
    until(lambda: began() == "ab")
    show("the second runs", [workflow.get_status(name) for name in "abc"])
    waiting = workflow.get_output_async("c")
    let_go("b")
    let_go("c")
    show("all", ray.get([refs["b"], refs["c"], waiting]))
    until(lambda: workflow.list_all("RUNNING") == [])
    show("in order", began())
