"""Results as references: waiting for several, and with asyncio."""

import asyncio
import json
import os
import time

import ray
from ray import workflow


def show(what, value):
    print(json.dumps([what, value]), flush=True)


FOLDER = os.getcwd()


@ray.remote
def wait_for(name):
    while not os.path.exists(f"{FOLDER}/{name}"):
        time.sleep(0.02)
    return name


@ray.remote
def quick(value):
    return value


@ray.remote
def fail():
    raise ValueError("no")


@ray.remote
def use(value):
    return f"used {value}"


async def several():
    refs = [workflow.run_async(quick.bind(number), workflow_id=f"async-{number}") for number in range(3)]
    show("gathered", list(await asyncio.gather(*refs)))
    show("awaited", await workflow.run_async(quick.bind("awaited")))
    try:
        await workflow.run_async(fail.bind(), workflow_id="fails")
    except workflow.WorkflowExecutionError:
        show("awaited failure", "WorkflowExecutionError")
    show("output awaited", await asyncio.to_thread(ray.get, workflow.get_output_async("async-1")))
    show("resumed", await asyncio.to_thread(workflow.resume, "async-2"))
    try:
        await asyncio.wait_for(workflow.run_async(wait_for.bind("late"), workflow_id="late"), 0.5)
    except TimeoutError:
        show("not yet", workflow.get_status("late"))


if __name__ == "__main__":
    workflow.init()
    blocked = workflow.run_async(wait_for.bind("gate"), workflow_id="gated")
    free = workflow.run_async(quick.bind("free"), workflow_id="free")
    ready, pending = ray.wait([blocked, free], num_returns=1, timeout=60)
    show("ray.wait", [ready == [free], pending == [blocked]])
    try:
        ray.get(blocked, timeout=0.2)
    except ray.exceptions.GetTimeoutError:
        show("a time limit", "GetTimeoutError")
    second = workflow.get_output_async("gated")
    open("gate", "w").close()
    show("opened", ray.get([blocked, second]))
    show("as an argument of a task", ray.get(use.remote(workflow.run_async(quick.bind("it")))))
    asyncio.run(several())
    open("late", "w").close()
    show("late", workflow.get_output("late"))
    show("a reference can be asked twice", ray.get([free, free]))
