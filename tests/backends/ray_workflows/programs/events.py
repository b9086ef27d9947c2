"""Waiting: for events and for time."""

import asyncio
import json
import os
import time

import ray
from ray import workflow
from ray.workflow.event_listener import EventListener, TimerListener


def show(what, value):
    print(json.dumps([what, value]), flush=True)


FOLDER = os.getcwd()


def note(text):
    with open(f"{FOLDER}/notes", "a", encoding="utf-8") as file:
        file.write(text + "\n")


def notes():
    with open("notes", encoding="utf-8") as file:
        return file.read().split()


class Letterbox(workflow.EventListener):
    """An event is a file that appears."""

    def __init__(self):
        self.folder = FOLDER

    async def poll_for_event(self, name, *, suffix=""):
        note("polling")
        path = os.path.join(self.folder, name + suffix)
        while not os.path.exists(path):
            await asyncio.sleep(0.05)
        with open(path, encoding="utf-8") as file:
            return {"text": file.read()}

    async def event_checkpointed(self, event):
        note("acknowledged:" + event["text"])


class Silent(EventListener):
    async def poll_for_event(self):
        return "at once"


class Broken(EventListener):
    async def poll_for_event(self):
        raise ValueError("no such topic")


@ray.remote
def handle(event, more=None):
    note("handled")
    return [event, more]


@ray.remote
def now(_):
    return time.time()


def put(name, text):
    with open(name + ".part", "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(name + ".part", name)


if __name__ == "__main__":
    workflow.init()
    event = workflow.wait_for_event(Letterbox, "letter", suffix=".txt")
    waiting = workflow.run_async(handle.bind(event), workflow_id="letters")
    while not os.path.exists("notes"):
        time.sleep(0.05)
    show("while it waits", workflow.get_status("letters"))
    put("letter.txt", "hello")
    show("an event", ray.get(waiting))
    show("what happened, in order", notes())
    show("again", workflow.run(handle.bind(event), workflow_id="letters"))
    show("nothing was polled again", notes().count("polling"))

    both = [workflow.wait_for_event(Letterbox, "one"), workflow.wait_for_event(Letterbox, "two")]
    waiting = workflow.run_async(handle.bind(*both), workflow_id="both")
    put("two", "2")
    put("one", "1")
    show("two events", ray.get(waiting))
    show("a listener that does not acknowledge", workflow.run(workflow.wait_for_event(Silent)))
    try:
        workflow.run(workflow.wait_for_event(Broken))
    except workflow.WorkflowExecutionError:
        show("a listener that fails", "WorkflowExecutionError")
    try:
        workflow.wait_for_event(dict)
    except TypeError:
        show("not a listener", "TypeError")

    started = time.time()
    show("what sleep gives", workflow.run(handle.bind(workflow.sleep(1.0))))
    show("it slept", 1.0 <= time.time() - started < 30)
    slept = workflow.run(now.bind(workflow.sleep(0.5)), workflow_id="slept")
    started = time.time()
    show("a sleep that is over", workflow.run(now.bind(workflow.sleep(0.5)), workflow_id="slept") == slept)
    show("a timer", workflow.run(workflow.wait_for_event(TimerListener, time.time() + 0.2)))
