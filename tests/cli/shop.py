"""What a user of the command line has written: copied into the working directory of each test, and imported from there.

``gate`` is a file in the working directory: tasks that wait for it run until the test makes it. ``ran`` says which tasks began.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import exoflow

PURE = {"deterministic": True, "can_rollback": True, "checkpoint": False}


def note(what: str) -> None:
    with Path("ran").open("a") as file:
        file.write(f"{what}\n")


def wait_for_gate() -> None:
    while not Path("gate").exists():
        time.sleep(0.005)


@exoflow.task(**PURE)
def add(a, b):
    return a + b


@exoflow.task
def greet(name, greeting="hello"):
    return f"{greeting} {name}"


@exoflow.task
def fetch(what):
    note(f"fetch {what}")
    return what


@exoflow.task
def gated(value):
    note(f"gated {value}")
    wait_for_gate()
    return value


@exoflow.task
def finish(value):
    note(f"finish {value}")
    return {"value": value}


@exoflow.task(checkpoint=False)
def price():
    return random.random()


@exoflow.task
def charge(amount):
    return amount


@exoflow.task
def decline(amount):
    wait = "no\x1b[2J funds\u202e"
    raise ValueError(f"{wait} for {amount}")


@exoflow.task(executor="process")
def decline_elsewhere(amount):
    raise ValueError(f"declined {amount}")


@exoflow.task(retries=20, backoff=0.01, jitter=0.0, backoff_factor=1.0)
def flaky():
    if not Path("gate").exists():
        raise RuntimeError("not yet")
    return "at last"


@exoflow.task(on_unknown="fail")
def pay(amount):
    note(f"pay {amount}")
    wait_for_gate()
    return amount


@exoflow.task
def chatty():
    print("said by a task")
    os.system("echo said by a child")
    return "quiet"


@exoflow.task
def shapeless():
    return object()


def release(seat):
    note(f"release {seat}")


@exoflow.task(rollback=release)
def reserve(seat):
    note(f"reserve {seat}")
    return seat


@exoflow.task
def numbers():
    return [1, 2, 3]


with exoflow.InputNode() as inp:
    params = add.bind(inp[0], inp.b)
with exoflow.InputNode() as inp:
    taken = greet.bind(inp["name"])

order = finish.bind(gated.bind(fetch.bind("book")))
unsafe = charge.bind(price.bind())
declined = decline.bind(5)
declined_elsewhere = decline_elsewhere.bind(5)
retried = flaky.bind()
doubtful = finish.bind(pay.bind(7))
loud = chatty.bind()
strange = shapeless.bind()
trip = gated.bind(reserve.bind("12A"))
mapped = finish.bind(gated.map(numbers.bind()))
not_a_dag = 42


@exoflow.workflow
def total(n, *, first=0):
    value = first
    for i in range(n):
        value = add(value, i)
    return value


@exoflow.workflow
def many(n):
    return finish([gated(i) for i in range(n)])


def plain():
    return order
