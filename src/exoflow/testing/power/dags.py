"""Small workflows for recorded runs: every way in which a result becomes durable, or need not.

The name of a workflow says what it is: ``saga-3`` is the third one of the DAG ``saga``, so whoever finds a store can submit it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from exoflow.define.dag import Node
from exoflow.define.task import task
from exoflow.testing import ledger
from exoflow.testing.ledger import Traced, find_traced, trace
from exoflow.worker.context import current_task

SMALL, LARGE = 3_000, 200_000
"""Sizes of outputs: blobs where the limit for inline values is low, and blobs always."""


def _work(inputs: Any, *, draws: bool = False, size: int = 0) -> Traced:
    number, _ = ledger.began()
    given = list(find_traced(inputs))
    for one in given:
        if one.cargo != _expanded(one.digest, len(one.cargo)):
            ledger.torn("the cargo of an input is not what it was")
    try:
        value = trace(current_task().task_id, given, number if draws else 0)
    except ValueError as disagreement:
        ledger.torn(str(disagreement))
        raise
    return Traced(value.digest, value.seen, _expanded(value.digest, size)) if size else value


def _expanded(digest: str, size: int) -> bytes:
    return hashlib.shake_128(digest.encode()).digest(size)


def _effect(what: str, inputs: Any, value: Traced, *, once: bool = False) -> Traced:
    draw = value.seen.get(current_task().task_id, 0)
    ledger.apply(what, list(find_traced(inputs)), draw=0 if once else draw, once=once)
    return value


@task(deterministic=True, can_rollback=True, checkpoint=False)
def think(*inputs: Any, size: int = 0) -> Traced:
    """The same each time, so it need not be saved."""
    return _work(inputs, size=size)


@task(can_rollback=True)
def draw(*inputs: Any, size: int = 0) -> Traced:
    """Another value each time, saved."""
    return _work(inputs, draws=True, size=size)


@task(deterministic=True, can_rollback=True)
def sheet(size: int) -> bytes:
    """The same bytes in every workflow: they share a blob."""
    ledger.began()
    return _expanded("sheet", size)


def cancel_booking(inputs: Any) -> None:
    ledger.undo("book", list(find_traced(inputs)))


@task(rollback=cancel_booking)
def book(inputs: Any) -> Traced:
    """Undoable, and another booking each time."""
    return _effect("book", inputs, _work(inputs, draws=True))


@task
def pay(inputs: Any, *sheets: bytes) -> Traced:
    """Committing and idempotent, the default."""
    value = _work(inputs, draws=True)
    if any(one != _expanded("sheet", len(one)) for one in sheets):
        ledger.torn("a sheet is not what it was")
    return _effect("pay", inputs, value, once=True)


@task(deterministic=True, checkpoint=False)
def charge(inputs: Any) -> Traced:
    """Committing, idempotent, and never saved."""
    return _effect("charge", inputs, _work(inputs), once=True)


DAGS: dict[str, tuple[Callable[[], Node], dict[str, int]]] = {
    "one": (lambda: pay.bind([]), {"pay": 1}),
    "chain": (lambda: pay.bind(think.bind(draw.bind(think.bind()))), {"pay": 1}),
    "synced": (lambda: pay.options(checkpoint="sync").bind(draw.options(checkpoint="sync").bind()), {"pay": 1}),
    "saga": (lambda: pay.bind(book.bind([book.bind(draw.bind())])), {"book": 2, "pay": 1}),
    "unsaved": (lambda: charge.bind(think.bind(charge.bind(draw.bind()))), {"charge": 2}),
    "fan": (lambda: charge.bind([pay.bind(draw.bind()) for _ in range(4)]), {"pay": 4, "charge": 1}),
    "blobs": (lambda: pay.bind([draw.bind(draw.bind(size=SMALL), size=SMALL), think.bind(size=SMALL)]), {"pay": 1}),
    "large": (lambda: pay.bind(draw.bind(book.bind(draw.bind(size=LARGE)), size=LARGE)), {"pay": 1, "book": 1}),
    "report": (lambda: think.options(checkpoint=True).bind(pay.bind(draw.bind()), size=SMALL), {"pay": 1}),
    "shared": (lambda: pay.bind([draw.bind()], sheet.bind(SMALL), sheet.bind(SMALL + 1)), {"pay": 1}),
}
"""How each is built, and which external outputs stand when it has succeeded."""


def digest_of(result: Any) -> str:
    """A result in a few characters."""
    return " ".join(f"{one.digest} {sorted(one.seen.items())} {hashlib.sha256(one.cargo).hexdigest()[:8]}" for one in find_traced(result))
