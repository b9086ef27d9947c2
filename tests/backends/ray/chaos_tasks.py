"""Random workflows on Ray, of tasks that leave traces: what they did in the ledger, which draws they saw in their values.

Values take four ways: inside the message, through Ray's object store, as a reference to what a Ray task that was not waited for makes, and
as an actor that one task after the other changes.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

import ray

import exoflow
from exoflow.testing import ledger
from exoflow.testing.ledger import Traced, find_traced
from tests.crash.workflows import expanded, own_draw, work

LARGE = 150_000
FORMS = ("plain", "large", "scattered", "actor")
KINDS = ("think", "draw", "hold", "book", "charge", "pay")


@ray.remote(num_cpus=0.1)
def pass_on(value: Traced) -> Traced:
    return value


@ray.remote(num_cpus=0)
class Log:
    """Remembers what tasks added."""

    def __init__(self) -> None:
        self.values: list[Traced] = []

    def add(self, value: Traced) -> None:
        self.values.append(value)

    def read(self) -> list[Traced]:
        return self.values

    def checkpoint(self) -> list[Traced]:
        return list(self.values)

    def restore(self, state: list[Traced]) -> None:
        self.values = list(state)


def values_of(inputs: list[Any]) -> list[Traced]:
    """What inputs hold, on whatever way they came."""
    time.sleep(0.1 * random.random())
    found: list[Traced] = []
    for each in inputs:
        if isinstance(each, dict):
            found += ray.get(each["refs"])
        elif isinstance(each, ray.actor.ActorHandle):
            found += ray.get(each.read.remote())
        else:
            found += find_traced(each)
    return found


def formed(value: Traced, form: str, inputs: list[Any]) -> Any:
    """``value`` on its way."""
    time.sleep(0.1 * random.random())  # so that a random moment is in the middle of something
    if form == "plain":
        return value
    if form == "actor":
        handles = [each for each in inputs if isinstance(each, ray.actor.ActorHandle)]
        log = handles[0] if handles else Log.remote()
        ray.get(log.add.remote(value))
        return log
    large = Traced(value.digest, value.seen, expanded(value.digest, LARGE))
    return large if form == "large" else {"refs": [pass_on.remote(large)]}


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def think(form: str, *inputs: Any) -> Any:
    return formed(work(values_of(list(inputs))), form, list(inputs))


@exoflow.task(can_rollback=True, checkpoint=False)
def draw(form: str, *inputs: Any) -> Any:
    return formed(work(values_of(list(inputs)), draws=True), form, list(inputs))


def let_go(form: str, *inputs: Any) -> None:
    ledger.undo("hold", values_of(list(inputs)))


@exoflow.task(deterministic=True, rollback=let_go)
def hold(form: str, *inputs: Any) -> Any:
    given = values_of(list(inputs))
    value = work(given)
    ledger.apply("hold", given)
    return formed(value, form, list(inputs))


def cancel_booking(form: str, *inputs: Any) -> None:
    ledger.undo("book", values_of(list(inputs)))


@exoflow.task(rollback=cancel_booking)
def book(form: str, *inputs: Any) -> Any:
    given = values_of(list(inputs))
    value = work(given, draws=True)
    ledger.apply("book", given, draw=own_draw(value))
    return formed(value, form, list(inputs))


@exoflow.task(deterministic=True)
def charge(form: str, *inputs: Any) -> Any:
    given = values_of(list(inputs))
    value = work(given)
    ledger.apply("charge", given, once=True)
    return formed(value, form, list(inputs))


@exoflow.task
def pay(form: str, *inputs: Any) -> Any:
    given = values_of(list(inputs))
    value = work(given, draws=True)
    ledger.apply("pay", given, once=True)
    return formed(value, form, list(inputs))


@exoflow.task(executor="ray", deterministic=True, can_rollback=True)
def everything(*inputs: Any) -> list[Traced]:
    return [Traced(each.digest, each.seen) for each in values_of(list(inputs))]


TASKS = {"think": think, "draw": draw, "hold": hold, "book": book, "charge": charge, "pay": pay}


@dataclass(frozen=True)
class Drawn:
    """A DAG, and how many effects of each name stand at its end."""

    dag: exoflow.Node
    effects: dict[str, int]
    story: str


def drawn(seed: int) -> Drawn:
    """The workflow of this seed."""
    chance = random.Random(f"workflow {seed}")
    nodes: list[tuple[exoflow.Node, str]] = []
    logs: list[exoflow.Node] = []  # actors that nobody has taken yet: what can change has one reader
    effects: dict[str, int] = {}
    lines = []
    for number in range(chance.randint(4, 7)):
        kind, form = chance.choice(KINDS), chance.choice(FORMS)
        taken = [node for node, _ in chance.sample(nodes, min(len(nodes), chance.randint(0, 2)))]
        is_internal = kind in ("think", "draw")
        if form == "actor" and not is_internal:
            form = "scattered"
        if logs and is_internal and chance.random() < 0.6:
            taken.append(logs.pop())
        options: dict[str, Any] = {"executor": "ray", "executor_options": {"num_cpus": 0.5}, "name": f"{kind}{number}"}
        options["checkpoint"] = chance.choice((False, True, "sync"))
        node = TASKS[kind].options(**options).bind(form, *taken)
        (logs.append(node) if form == "actor" else nodes.append((node, form)))
        if not is_internal:
            effects[kind] = effects.get(kind, 0) + 1
        lines.append(f"{kind}{number} {form} checkpoint={options['checkpoint']} after {[each.label for each in taken]}")
    return Drawn(everything.bind(*(node for node, _ in nodes), *logs), effects, "\n".join(lines))
