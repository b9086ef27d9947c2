"""Tasks that leave marks in a ledger outside the engine, for tests with several processes: each can import them."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import exoflow
from exoflow import task
from tests.api.scene import Ledger


@task
def mark(ledger: str, name: str, *inputs: Any) -> Any:
    """Says that it ran; its output is its inputs, or its name."""
    Ledger(ledger).add(name)
    return inputs or name


@task
def dies_once(ledger: str, name: str, *inputs: Any) -> Any:
    """Takes the whole process with it, the first time."""
    first = Ledger(ledger).count(name) == 0
    Ledger(ledger).add(name)
    if first:
        os._exit(9)
    return inputs or name


@task(executor="process")
def dies_always(ledger: str, name: str) -> None:
    """Takes its worker with it, every time."""
    Ledger(ledger).add(name)
    os._exit(7)


@task(executor="process")
def holds(ledger: str, name: str) -> str:
    """In a worker process: the first time, holds a FIFO open until it is killed."""
    first = Ledger(ledger).count(name) == 0
    Ledger(ledger).add(name)
    if first:
        with open(f"{ledger}-fifo", "w") as fifo:
            fifo.write("runs\n")
            fifo.flush()
            threading.Event().wait()
    return "done"


@task
def waits_for_word(ledger: str, name: str) -> str:
    """Says on stdout that it runs, and goes on when a line comes from stdin."""
    Ledger(ledger).add(name)
    print(f"in {name}\n", end="", flush=True)  # at once: another may say so at the same time
    return sys.stdin.readline().strip()


def unbook(ledger: str, name: str) -> None:
    Ledger(ledger).add(f"undo {name}")


@task(rollback=unbook)
def book(ledger: str, name: str, *_inputs: Any) -> str:
    Ledger(ledger).add(f"book {name}")
    return name


@task(can_rollback=True)
def breaks_unless(ledger: str, word: str, *_inputs: Any) -> str:
    """Fails until the ledger holds ``word``."""
    Ledger(ledger).add("tried")
    if word not in Ledger(ledger).lines():
        raise RuntimeError(f"no {word} yet")
    return "fine"


@task(on_unknown="fail")
def pay_or_ask(ledger: str, name: str = "pay") -> str:
    return dies_once(ledger, name)


@task
def key_of_attempt(ledger: str, name: str, die: bool, *_inputs: Any) -> str:
    """Notes its idempotency key and, the first time, dies or fails."""
    first = not any(line.startswith(name) for line in Ledger(ledger).lines())
    key = exoflow.current_task().idempotency_key
    Ledger(ledger).add(f"{name} {key}")
    if first and die:
        os._exit(9)
    if first:
        raise RuntimeError("the first time")
    return key


RUN = """
import sys, exoflow
from tests.api import plant
url, ledger, what, name = sys.argv[1:5]
with exoflow.Engine(url) as engine:
    print(engine.run(getattr(plant, what)(ledger), name=name))
"""
"""A process that runs the DAG ``what`` of this module: ``run_python(plant.RUN, url, ledger.path, what, name)``."""


def chain(ledger: str) -> exoflow.Node:
    """Three tasks; the process dies in the middle one, once."""
    return mark.options(name="c").bind(ledger, "c", dies_once.options(name="b").bind(ledger, "b", mark.options(name="a").bind(ledger, "a")))


def paying(ledger: str) -> exoflow.Node:
    return mark.options(name="after").bind(ledger, "after", pay_or_ask.bind(ledger))


def keyed(ledger: str) -> exoflow.Node:
    return key_of_attempt.bind(ledger, "k", True)


def booking(ledger: str) -> exoflow.Node:
    """Two bookings, one on the other, then death."""
    second = book.options(name="flight").bind(ledger, "flight", book.options(name="hotel").bind(ledger, "hotel"))
    return dies_once.options(name="die").bind(ledger, "die", second)


def holding(ledger: str) -> exoflow.Node:
    return mark.bind(ledger, "end", holds.bind(ledger, "h"))


def waiting(ledger: str) -> exoflow.Node:
    """Waits for a word in the middle."""
    return mark.bind(ledger, "end", waits_for_word.bind(ledger, "w"))
