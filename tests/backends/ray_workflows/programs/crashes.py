"""The cluster goes away while a workflow runs, and comes back."""

import json
import os
import time

import ray
from ray import workflow


def show(what, value):
    print(json.dumps([what, value]), flush=True)


FOLDER = os.getcwd()


def note(name):
    with open(f"{FOLDER}/{name}", "a", encoding="utf-8") as file:
        file.write("x")


def count(name):
    return os.path.getsize(name) if os.path.exists(name) else 0


def until(condition, limit_s=60):
    deadline = time.time() + limit_s
    while not condition():
        if time.time() > deadline:
            raise TimeoutError
        time.sleep(0.05)


@ray.remote
def fetch(value):
    note("fetch")
    return value


@ray.remote
def spread(value):
    note("spread")
    return workflow.continuation(combine.bind(fetch.bind(value), hold.bind(value)))


@ray.remote
def hold(value):
    note("hold")
    until(lambda: os.path.exists(f"{FOLDER}/open"))
    return value


@ray.remote
def combine(*values):
    note("combine")
    return sum(values)


if __name__ == "__main__":
    workflow.init()
    dag = combine.options(**workflow.options(task_id="end")).bind(fetch.bind(1), spread.bind(10), 5)
    workflow.run_async(dag, workflow_id="crashed", metadata={"why": "test"})
    workflow.run_async(hold.options(**workflow.options(task_id="alone")).bind(7), workflow_id="other")
    until(lambda: count("hold") == 2 and count("fetch") == 2)
    time.sleep(1)  # what they returned is saved
    ray.shutdown()

    workflow.init()
    show("statuses", [workflow.get_status(name) for name in ("crashed", "other")])
    show("listed", sorted(workflow.list_all(workflow.RESUMABLE)))
    show("none runs", workflow.list_all(workflow.RUNNING))
    show("metadata", workflow.get_metadata("crashed")["user_metadata"])
    try:
        show("output", workflow.get_output("crashed"))
    except ValueError:
        show("output", "ValueError")
    open("open", "w").close()
    resumed = dict(workflow.resume_all())
    show("resumed", sorted(resumed))
    show("results", [ray.get(resumed[name]) for name in ("crashed", "other")])
    show("how often each ran", {name: count(name) for name in ("fetch", "spread", "hold", "combine")})
    show("by id", workflow.get_output("crashed", task_id="end"))
    show("nothing is left to resume", workflow.resume_all())
    ray.shutdown()
    workflow.init()
    show("after another crash", workflow.get_output("crashed"))
    show("run again", workflow.run(dag, workflow_id="crashed"))
