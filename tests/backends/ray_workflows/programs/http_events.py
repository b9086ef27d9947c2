"""Events that come over HTTP."""

import json
import threading
import time
import urllib.error
import urllib.request

import ray
from ray import workflow
from ray.workflow.http_event_provider import HTTPListener

URL = "http://127.0.0.1:8000/event/send_event/"


def show(what, value):
    print(json.dumps([what, value]), flush=True)


def post(workflow_id, body):
    """Status and answer."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(URL + workflow_id, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None


def send(workflow_id, body):
    """Until somebody listens for it."""
    deadline = time.time() + 90
    while True:
        try:
            status, answer = post(workflow_id, body)
        except urllib.error.URLError:
            status, answer = 0, None
        if status == 200 or time.time() > deadline:
            return [status, answer]
        time.sleep(0.2)


@ray.remote
def handle(event):
    return ["handled", list(event)]


@ray.remote
def slow(event):
    time.sleep(1)
    return list(event)


@ray.remote
def pair(*events):
    return sorted(list(event) for event in events)


if __name__ == "__main__":
    workflow.init()
    waiting = workflow.run_async(handle.bind(workflow.wait_for_event(HTTPListener, event_key="approved")), workflow_id="order")
    show("sent", send("order", {"event_key": "approved", "event_payload": "by ada"}))
    show("handled", ray.get(waiting))

    waiting = workflow.run_async(slow.bind(workflow.wait_for_event(HTTPListener, event_key="go")), workflow_id="slow")
    started = time.time()
    show("sent to a slow one", send("slow", {"event_key": "go", "event_payload": {"deep": [1, 2]}}))
    show("its result", ray.get(waiting))

    keys = ("left", "right")
    nodes = [workflow.wait_for_event(HTTPListener, event_key=key) for key in keys]
    waiting = workflow.run_async(pair.bind(*nodes), workflow_id="both")
    answers = {}
    threads = [
        threading.Thread(target=lambda key=key: answers.update({key: send("both", {"event_key": key, "event_payload": key})}))
        for key in keys
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    show("two", answers)
    show("both", ray.get(waiting))

    waiting = workflow.run_async(handle.bind(workflow.wait_for_event(HTTPListener, event_key="one")), workflow_id="errors")
    time.sleep(3)
    show("no key", post("errors", {"event_payload": 1})[0])
    show("no payload", post("errors", {"event_key": "one"})[0])
    show("another key", post("errors", {"event_key": "two", "event_payload": 1})[0])
    show("another workflow", post("nobody", {"event_key": "one", "event_payload": 1})[0])
    show("the right one", send("errors", {"event_key": "one", "event_payload": 1}))
    show("it came", ray.get(waiting))
    waiting = workflow.run_async(handle.bind(workflow.wait_for_event(HTTPListener)), workflow_id="unnamed")
    key = "ray.workflow.api.wait_for_event.locals.get_message"
    show("by the task's own id", send("unnamed", {"event_key": key, "event_payload": 2})[0])
    show("who waited for it", ray.get(waiting)[1][1])
