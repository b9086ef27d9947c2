"""Workflows to be killed: one for each shape, annotation and way of running that a crash might treat differently.

Their tasks do nothing but leave traces: in the ledger what they did to the world, in their values which draws they have seen. Each
:class:`Case` says what must stand at the end, whatever was killed on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import exoflow
from exoflow import InputNode, Node, current_task
from exoflow.testing import ledger
from exoflow.testing.ledger import Traced, find_traced, trace

Effects = dict[str, int]


@dataclass(frozen=True)
class Case:
    """A workflow and what is expected of it. ``effects``: how many of each name stand at the end, if not none. ``options`` are for
    ``run_async``, ``args`` for the workflow. ``ends``: its final status. ``prepare`` is called at the start of each life, ``judge`` at
    the end; both get a folder of the workflow's own. ``cancels``: it is cancelled, and perhaps ``from_elsewhere``, by another engine.
    ``in_processes``: its tasks run in worker processes. ``errands``: other workflows are run and forgotten beside it."""

    name: str
    build: Callable[[], Any]
    effects: Effects | Callable[[Any], Effects] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    args: Callable[[Path], tuple[Any, ...]] = lambda _folder: ()
    ends: str = "SUCCEEDED"
    prepare: Callable[[Path], None] = lambda _folder: None
    judge: Callable[[Path, Any, ledger.Book], list[str]] = lambda _folder, _result, _book: []
    cancels: bool = False
    from_elsewhere: bool = False
    in_processes: bool = False
    errands: bool = False
    lease_s: float = 10.0

    @property
    def by_command(self) -> bool:
        """Whether ``exoflow run`` can start it."""
        return not self.cancels and not self.errands and all(isinstance(arg, str) for arg in self.args(Path()))


CASES: dict[str, Case] = {}


def case(**expected: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(build: Callable[[], Any]) -> Callable[[], Any]:
        CASES[build.__name__] = Case(build.__name__, build, **expected)
        return build

    return register


# --- what tasks do ---------------------------------------------------------------------------------------------------------------


def work(inputs: Any, *, draws: bool = False, cargo: int = 0) -> Traced:
    """The value of the task that calls this."""
    number, _ = ledger.began()
    given = list(find_traced(inputs))
    try:
        value = trace(current_task().task_id, given, number if draws else 0)
    except ValueError as disagreement:
        ledger.torn(str(disagreement))
        raise
    for one in given:
        if one.cargo != expanded(one.digest, len(one.cargo)):
            ledger.torn("the cargo of an input is not what it was")
    return Traced(value.digest, value.seen, expanded(value.digest, cargo)) if cargo else value


def expanded(digest: str, size: int) -> bytes:
    return hashlib.shake_128(digest.encode()).digest(size)


def own_draw(value: Traced) -> int:
    return value.seen[current_task().task_id]


def dice(value: Traced, sides: int) -> int:
    """What chance says, as a function of the draw."""
    return int(value.digest, 16) % sides


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def think(*inputs: Any) -> Traced:
    return work(inputs)


@exoflow.task(can_rollback=True, checkpoint=False)
def draw(*inputs: Any) -> Traced:
    return work(inputs, draws=True)


def cancel_booking(inputs: Any) -> None:
    ledger.undo("book", list(find_traced(inputs)))


@exoflow.task(rollback=cancel_booking)
def book(inputs: Any) -> Traced:
    """Undoable, and another booking each time."""
    value = work(inputs, draws=True)
    ledger.apply("book", list(find_traced(inputs)), draw=own_draw(value))
    return value


def let_go(inputs: Any) -> None:
    ledger.undo("hold", list(find_traced(inputs)))


@exoflow.task(deterministic=True, rollback=let_go)
def hold(inputs: Any) -> Traced:
    """Undoable, and the same each time."""
    value = work(inputs)
    ledger.apply("hold", list(find_traced(inputs)))
    return value


@exoflow.task
def pay(inputs: Any) -> Traced:
    """Committing, idempotent, with a receipt number that differs each time: the default annotations."""
    value = work(inputs, draws=True)
    ledger.apply("pay", list(find_traced(inputs)), once=True)
    return value


@exoflow.task(deterministic=True)
def charge(inputs: Any) -> Traced:
    """Committing, idempotent, deterministic."""
    value = work(inputs)
    ledger.apply("charge", list(find_traced(inputs)), once=True)
    return value


saved, volatile, synced = {"checkpoint": True}, {"checkpoint": False}, {"checkpoint": "sync"}


# --- chains and diamonds -----------------------------------------------------------------------------------------------------------


@case(effects={"pay": 1})
def one_commit() -> Node:
    return pay.bind([])


@case(effects={"pay": 1})
def chain() -> Node:
    return pay.bind(think.bind(draw.options(**saved).bind(think.bind())))


@case(effects={"charge": 1})
def chain_never_saved() -> Node:
    """Deterministic throughout, so nothing need be saved before the commit."""
    return charge.options(**volatile).bind(think.bind(think.bind(think.bind())))


@case(effects={"pay": 2, "charge": 1})
def chain_synchronous() -> Node:
    first = pay.options(**synced).bind(draw.options(**synced).bind())
    return pay.options(**synced).bind(charge.options(**synced).bind(draw.options(**synced).bind(first)))


@case(effects={"pay": 3})
def commits_in_a_row() -> Node:
    """As every other system would see it: all committing, all saved."""
    return pay.bind(pay.bind(pay.bind([])))


@case(effects={"charge": 2, "pay": 1})
def commits_never_saved() -> Node:
    """Committing tasks that leave no trace in the journal: after a crash they run again, under the same keys."""
    one = draw.options(**saved).bind()
    early = charge.options(**volatile).bind(one)
    return pay.bind([think.bind(early), charge.options(**volatile).bind(think.bind(early, one))])


@case()
def diamond() -> Node:
    a = draw.bind()
    return think.bind(think.bind(a), draw.bind(a))


@case(effects={"pay": 1, "hold": 1})
def diamond_saved_on_one_side() -> Node:
    a = draw.options(**synced).bind()
    left, right = hold.bind(draw.options(**saved).bind(a)), think.bind(a)
    return pay.bind([left, right])


@case(effects={"hold": 6, "charge": 1})
def fan_out_and_in() -> Node:
    a = draw.options(**saved).bind()
    return charge.bind([hold.bind(think.bind(a)) for _ in range(6)])


@case(effects={"pay": 40})
def wide() -> Node:
    a = draw.options(**saved).bind()
    return think.bind([pay.bind(a) for _ in range(40)])


@case(effects={"pay": 4})
def commits_side_by_side() -> Node:
    """Each commit waits for its own side only."""
    sides = [pay.bind(think.bind(draw.options(checkpoint=how).bind())) for how in (True, "sync", True, "sync")]
    return think.bind(sides)


# --- shapes known only at run time -------------------------------------------------------------------------------------------------


@exoflow.task(can_rollback=True)
def guests(*inputs: Any) -> list[Traced]:
    """A list whose length is a matter of chance."""
    value = work(inputs, draws=True)
    return [trace(f"{current_task().task_id}.{index}", [value]) for index in range(2 + dice(value, 3))]


@case(effects=lambda result: {"pay": len(result)})
def map_of_commits() -> Node:
    return pay.map(guests.bind())


@case(effects=lambda result: {"book": len(list(find_traced(result[1]))), "pay": 1})
def map_of_bookings() -> Node:
    booked = book.map(guests.bind())
    return both.bind(pay.bind(booked), booked)


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def both(*parts: Any) -> Any:
    work(parts)
    return list(parts)


@case(effects=lambda result: {"charge": len(result)})
def map_never_saved() -> Node:
    """The list is saved, what is made of it is not."""
    return charge.options(**volatile).map(think.map(guests.options(**synced).bind()))


@exoflow.task(can_rollback=True)
def trip(*inputs: Any) -> Node:
    """A sub-workflow of a random shape."""
    mine = work(inputs, draws=True)
    legs = [book.bind([mine]) for _ in range(1 + dice(mine, 2))]
    return receipt.bind(mine, legs, pay.bind(legs))


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def receipt(mine: Traced, legs: list[Traced], paid: Traced) -> tuple[Traced, int]:
    return work([mine, legs, paid]), len(legs)


@case(effects=lambda result: {"book": result[1], "pay": 1})
def sub_workflow() -> Node:
    return trip.bind(draw.options(**saved).bind())


@exoflow.task(can_rollback=True, checkpoint=False)
def trip_of_trips(depth: int, *inputs: Any) -> Node:
    """Not saved by annotation: the engine saves the shape all the same."""
    mine = work(inputs, draws=True)
    if depth == 0:
        return receipt.bind(mine, [book.bind([mine])], pay.bind(mine))
    return sum_up.bind(mine, [trip_of_trips.bind(depth - 1, mine) for _ in range(1 + dice(mine, 2))])


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def sum_up(mine: Traced, parts: list[tuple[Traced, int]]) -> tuple[Traced, int]:
    return work([mine, [traced for traced, _ in parts]]), sum(count for _, count in parts)


@case(effects=lambda result: {"book": result[1], "pay": result[1]}, options={"mode": "auto"})
def nested_sub_workflows() -> Node:
    return trip_of_trips.bind(2)


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def count_down(left: int, so_far: Traced) -> Any:
    """A loop written as recursion; deterministic, so that its shape need not be saved."""
    mine = work([so_far])
    return mine if left == 0 else count_down.bind(left - 1, book.bind([mine]))


@case(effects={"book": 5})
def loop() -> Node:
    return count_down.bind(5, draw.options(**saved).bind())


@exoflow.task(can_rollback=True)
def until_lucky(so_far: Traced) -> Any:
    """A loop that ends by chance."""
    mine = work([so_far], draws=True)
    return (mine, True) if dice(mine, 4) == 0 else until_lucky.bind(pay.bind([mine]))


def _pays(result: tuple[Traced, bool]) -> Effects:
    return {"pay": sum(1 for task in result[0].seen if task.rpartition("/")[2].startswith("pay"))}


@case(effects=_pays)
def loop_by_chance() -> Node:
    return until_lucky.bind(draw.options(**saved).bind())


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def fib(number: int, *inputs: Any) -> Any:
    mine = work(inputs)
    return charge.bind(mine) if number < 2 else think.bind(fib.bind(number - 1, mine), fib.bind(number - 2, mine))


@case(effects={"charge": 5})
def recursion() -> Node:
    return fib.bind(4, draw.options(**saved).bind())


# --- undoing -----------------------------------------------------------------------------------------------------------------------


@case(effects={"book": 3, "pay": 1})
def saga() -> Node:
    return pay.bind(book.bind(book.bind(book.bind([]))))


@case(effects={"book": 3, "pay": 1})
def saga_withdrawn() -> Node:
    """The first draw is never saved and wanted to the end: a crash replaces it, and everything is undone, last booking first."""
    first = draw.bind()
    third = book.bind(book.bind(book.bind(draw.options(**saved).bind(first))))
    return pay.bind(draw.options(**saved).bind(first, third))


@case(effects={"book": 4})
def saga_withdrawn_in_two_arms() -> Node:
    first = draw.bind()
    root = draw.options(**saved).bind(first)
    left, right = book.bind(book.bind([root])), book.bind(hold_nothing.bind(book.bind([root])))
    return think.bind(first, left, right)


@exoflow.task(deterministic=True, can_rollback=True)
def hold_nothing(*inputs: Any) -> Traced:
    return work(inputs)


@case(effects={"book": 1, "hold": 2})
def undoable_never_saved() -> Node:
    """Bookings whose outputs are lost in each crash, so they are undone and made anew."""
    first = hold.options(**volatile).bind(draw.options(**saved).bind())
    return book.options(**volatile).bind(hold.options(**volatile).bind(think.bind(first)))


def cancel_slowly(inputs: Any) -> None:
    for step in range(10):
        ledger.note(f"slow {step}")
    ledger.undo("slow", list(find_traced(inputs)))
    for step in range(10):
        ledger.note(f"after {step}")


@exoflow.task(rollback=cancel_slowly)
def book_slow(inputs: Any) -> Traced:
    value = work(inputs, draws=True)
    ledger.apply("slow", list(find_traced(inputs)), draw=own_draw(value))
    return value


@case(effects={"slow": 2, "book": 1})
def rollback_that_is_slow() -> Node:
    first = draw.bind()
    second = book_slow.bind(book.bind(book_slow.bind(draw.options(**saved).bind(first))))
    return think.bind(first, second)


def cancel_badly(inputs: Any) -> None:
    given = list(find_traced(inputs))
    if ledger.note("first try") % 2:
        raise ConnectionError("the airline does not answer")
    ledger.undo("stubborn", given)
    if ledger.note("second try") == 1:
        raise ConnectionError("it answered, but we did not hear it")


@exoflow.task(rollback=cancel_badly)
def book_stubborn(inputs: Any) -> Traced:
    value = work(inputs, draws=True)
    ledger.apply("stubborn", list(find_traced(inputs)), draw=own_draw(value))
    return value


@case(effects={"stubborn": 1, "book": 1})
def rollback_that_fails() -> Node:
    first = draw.bind()
    return think.bind(first, book.bind(book_stubborn.bind(draw.options(**saved).bind(first))))


@exoflow.task
def refuse(inputs: Any) -> None:
    work(inputs, draws=True)
    raise PermissionError("sold out")


@case(ends="FAILED", options={"on_failure": "rollback"})
def saga_that_fails() -> Node:
    """A task fails for good, and all bookings are undone."""
    return refuse.bind([book.bind(hold.bind(book.bind([]))), book.bind([])])


_go_on, booked = threading.Event(), threading.Event()


@exoflow.task(can_rollback=True)
def wait_for_the_end(*inputs: Any) -> Traced:
    work(inputs, draws=True)
    booked.set()
    _go_on.wait()
    return Traced("never")


def cancelled() -> None:
    """The decision to cancel is durable."""
    _go_on.set()


@case(ends="CANCELLED", cancels=True)
def saga_cancelled() -> Node:
    """Cancelled with a rollback while a task runs."""
    legs = book.bind([book.bind([]), hold.bind([])])
    return pay.bind(wait_for_the_end.bind(legs))


@case(ends="CANCELLED", cancels=True, from_elsewhere=True, lease_s=3.0)
def saga_cancelled_from_elsewhere() -> Node:
    """By somebody who can only leave a wish for whoever drives it, and waits until it has ended."""
    return wait_to_be_stopped.bind(book.bind([]))


@exoflow.task(can_rollback=True)
async def wait_to_be_stopped(*inputs: Any) -> None:
    work(inputs, draws=True)
    booked.set()
    await asyncio.Event().wait()


# --- both counter-examples of semantics.md, section 4 ------------------------------------------------------------------------------


@case(effects={"charge": 1}, options={"mode": "auto"})
def counter_example_other_consumer() -> Node:
    """A cut lies between ``a`` and the commit, but somebody else still needs ``a``. Auto mode repairs it."""
    a = draw.options(name="a").bind()
    b = draw.options(name="b", **saved).bind(a)
    c = charge.options(name="c").bind(b)
    d = think.options(name="d").bind(a)
    return think.options(name="e").bind(c, d)


@case(effects={"charge": 2}, options={"mode": "auto"})
def counter_example_closure() -> Node:
    """None of the commit's own ancestors is wanted any more, and yet one is made anew. Auto mode repairs it."""
    u, u2 = draw.options(name="u").bind(), draw.options(name="u2").bind()
    w = draw.options(name="w", **saved).bind(u, u2)
    a = draw.options(name="a", **saved).bind(u)
    y = charge.options(name="y").bind(a)
    c = charge.options(name="c", **volatile).bind(think.bind(u2, y))
    return think.options(name="z").bind(w, c)


# --- E1: A -> {B, C}; C has run, A is lost, B has not run -----------------------------------------------------------------------------


@case()
def e1_nondeterministic() -> Node:
    """C is dropped, B and C run on the new A."""
    a = draw.options(name="A").bind()
    c = draw.options(name="C", **saved).bind(a)
    return think.bind(c, draw.options(name="B").bind(a, c))


@case()
def e1_deterministic() -> Node:
    """A is made again, C untouched."""
    a = think.options(name="A").bind()
    c = draw.options(name="C", **saved).bind(a)
    return think.bind(c, draw.options(name="B").bind(a, c))


@case(effects={"book": 1})
def e1_undoable() -> Node:
    """B has a rollback, and A is saved before B starts."""
    a = draw.options(name="A", **saved).bind()
    return think.bind(draw.options(name="C").bind(a), book.options(name="B").bind(a))


@case(effects={"charge": 1})
def e1_committing() -> Node:
    """A is deterministic: no checkpoint needed although B commits."""
    a = think.options(name="A").bind()
    return think.bind(think.options(name="C").bind(a), charge.options(name="B").bind(a))


# --- E2: a transaction over a real database -------------------------------------------------------------------------------------------

ROOMS = 5


@contextlib.contextmanager
def _bank(path: str) -> Any:
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        yield db
    finally:
        db.close()


def _found_bank(folder: Path) -> None:
    with _bank(str(folder / "bank.db")) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE IF NOT EXISTS hotel (id INTEGER PRIMARY KEY, rooms INTEGER)")
        db.execute("CREATE TABLE IF NOT EXISTS locks (hotel INTEGER PRIMARY KEY, txn INTEGER)")
        db.execute("CREATE TABLE IF NOT EXISTS shadows (txn INTEGER PRIMARY KEY, hotel INTEGER)")
        db.execute("CREATE TABLE IF NOT EXISTS orders (txn INTEGER PRIMARY KEY, hotel INTEGER)")
        db.execute("INSERT OR IGNORE INTO hotel VALUES (1, ?)", (ROOMS,))
        db.execute("COMMIT")


@exoflow.task(can_rollback=True)
def begin_txn() -> Traced:
    return work((), draws=True)


def release(bank: str, txn: Traced) -> None:
    ledger.note("releasing")
    with _bank(bank) as db:
        db.execute("DELETE FROM locks WHERE txn = ?", (_number(txn),))
    ledger.note("released")


@exoflow.task(rollback=release)
def acquire(bank: str, txn: Traced) -> tuple[Traced, bool]:
    """No-wait locking: who comes second goes home."""
    value = work(txn, draws=True)
    with _bank(bank) as db:
        db.execute("INSERT OR IGNORE INTO locks VALUES (1, ?)", (_number(txn),))
        ledger.note("locked")
        (holder,) = db.execute("SELECT txn FROM locks WHERE hotel = 1").fetchone()
    return value, holder == _number(txn)


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def reserve(bank: str, txn: Traced, lock: tuple[Traced, bool]) -> Traced:
    """Writes where only this transaction looks."""
    value = work([txn, lock])
    if lock[1]:
        with _bank(bank) as db:
            db.execute("INSERT OR REPLACE INTO shadows VALUES (?, 1)", (_number(txn),))
            ledger.note("shadow written")
    return value


@exoflow.task(deterministic=True, checkpoint=False)
def commit_or_abort(bank: str, txn: Traced, lock: tuple[Traced, bool], shadow: Traced) -> tuple[int, bool, Traced]:
    value = work([txn, lock, shadow])
    number = _number(txn)
    with _bank(bank) as db:
        if lock[1]:
            db.execute("BEGIN IMMEDIATE")
            if db.execute("INSERT OR IGNORE INTO orders VALUES (?, 1)", (number,)).rowcount:
                db.execute("UPDATE hotel SET rooms = rooms - 1 WHERE id = 1")
            ledger.note("before the commit")
            db.execute("COMMIT")
            ledger.note("between the two writes")
        db.execute("DELETE FROM locks WHERE txn = ?", (number,))
        db.execute("DELETE FROM shadows WHERE txn = ?", (number,))
        ledger.note("committed")
    return number, lock[1], value


def _number(txn: Traced) -> int:
    (number,) = txn.seen.values()
    return number


def _audit(folder: Path, result: Any, _book: ledger.Book) -> list[str]:
    with _bank(str(folder / "bank.db")) as db:
        orders = {txn for (txn,) in db.execute("SELECT txn FROM orders")}
        (rooms,) = db.execute("SELECT rooms FROM hotel").fetchone()
        left = db.execute("SELECT count(*) FROM locks").fetchone() + db.execute("SELECT count(*) FROM shadows").fetchone()
    ends = [result] if isinstance(result, tuple) else result
    wanted = {number for number, won, _ in ends if won}
    found = []
    if orders != wanted:
        found.append(f"the hotel has orders {orders}, the workflow made {wanted}")
    if rooms != ROOMS - len(wanted):
        found.append(f"the hotel has {rooms} rooms left of {ROOMS}, for {len(wanted)} orders")
    if left != (0, 0):
        found.append(f"{left[0]} locks and {left[1]} shadows are left behind")
    if len(ends) == 1 and not wanted:
        found.append("the only transaction did not get its lock: an earlier attempt left one behind")
    return found


def _bank_path(folder: Path) -> tuple[str]:
    return (str(folder / "bank.db"),)


@exoflow.workflow
def transaction(bank: str) -> Any:
    txn = begin_txn()
    lock = acquire(bank, txn)
    return commit_or_abort(bank, txn, lock, reserve(bank, txn, lock))


@exoflow.workflow
def transactions(bank: str) -> Any:
    return [transaction(bank), transaction(bank), transaction(bank)]


@case(args=_bank_path, prepare=_found_bank, judge=_audit)
def e2_transaction() -> Any:
    return transaction


@case(args=_bank_path, prepare=_found_bank, judge=_audit)
def e2_three_transactions() -> Any:
    """They compete for one lock; who loses aborts."""
    return transactions


# --- failing -------------------------------------------------------------------------------------------------------------------------


def _fail_first(times: int) -> None:
    if ledger.note("try") <= times:
        raise TimeoutError("try again")


@exoflow.task(retries=4, backoff=0.002, can_rollback=True)
def flaky(*inputs: Any) -> Traced:
    value = work(inputs, draws=True)
    _fail_first(2)
    return value


@exoflow.task(retries=4, backoff=0.002, rollback=cancel_booking)
def flaky_book(inputs: Any) -> Traced:
    """Books, then fails: the booking is undone before the next attempt."""
    value = work(inputs, draws=True)
    ledger.apply("book", list(find_traced(inputs)), draw=own_draw(value))
    _fail_first(2)
    return value


@exoflow.task(retries=4, backoff=0.002, retry_on=TimeoutError)
def flaky_pay(inputs: Any) -> Traced:
    value = work(inputs, draws=True)
    _fail_first(2)
    ledger.apply("pay", list(find_traced(inputs)), once=True)
    return value


@case(effects={"book": 2, "pay": 1})
def retries() -> Node:
    return flaky_pay.bind([flaky_book.bind(flaky.bind()), flaky_book.bind([])])


class Refused(Exception):
    """Carries what was seen when it was raised."""


@exoflow.task(can_rollback=True, catch_exceptions=True)
def luck(*inputs: Any) -> Traced:
    value = work(inputs, draws=True)
    if dice(value, 2):
        raise Refused(value)
    return value


@exoflow.task(rollback=cancel_booking, catch_exceptions=True)
def book_in_vain(inputs: Any) -> Traced:
    value = work(inputs, draws=True)
    ledger.apply("book", list(find_traced(inputs)), draw=own_draw(value))
    raise Refused(value)


@case(effects={"pay": 1, "hold": 1})
def caught_failures() -> Node:
    """A failure is a version like an output: who saw it is withdrawn if it is replaced. And what failed is undone first."""
    tried = luck.bind(draw.options(**saved).bind())
    return pay.bind([tried, book_in_vain.bind(hold.bind(tried))])


@case(effects={"charge": 1})
def caught_failures_of_deterministic_tasks() -> Node:
    return charge.bind([stumble.bind(draw.options(**saved).bind()), stumble.bind()])


@exoflow.task(deterministic=True, can_rollback=True, catch_exceptions=True)
def stumble(*inputs: Any) -> Traced:
    raise Refused(work(inputs))


@exoflow.task(can_rollback=True)
def fail_once(*inputs: Any) -> Traced:
    value = work(inputs, draws=True)
    _fail_first(1)
    return value


@case(effects={"pay": 2, "book": 1})
def failed_and_resumed() -> Node:
    """It fails, and a person resumes it: finished work is kept."""
    return pay.bind([fail_once.bind(book.bind(pay.bind([])))])


# --- in doubt -------------------------------------------------------------------------------------------------------------------------


def ask_the_bank(inputs: Any) -> Any:
    found = ledger.standing("wire")
    return trace(current_task().task_id, find_traced(inputs), found.draw) if found is not None else False


def _wire(inputs: Any) -> Traced:
    """Neither idempotent nor undoable."""
    value = work(inputs, draws=True)
    ledger.apply("wire", list(find_traced(inputs)), draw=own_draw(value))
    return value


wire_and_ask = exoflow.task(name="wire-and-ask", on_unknown=ask_the_bank)(_wire)
wire_or_stop = exoflow.task(name="wire-or-stop", on_unknown="fail")(_wire)


@case(effects={"wire": 2, "pay": 1})
def doubt_asked() -> Node:
    return pay.bind(wire_and_ask.bind(wire_and_ask.bind(draw.options(**saved).bind())))


@case(effects={"wire": 2, "pay": 1})
def doubt_for_a_person() -> Node:
    return pay.bind(wire_or_stop.bind(wire_or_stop.bind(draw.options(**saved).bind())))


# --- other ways -----------------------------------------------------------------------------------------------------------------------


def _in_order(_folder: Path, _result: Any, book: ledger.Book) -> list[str]:
    booked = [entry.number for entry in book.effects() if entry.what == "book"]
    paid = [entry.number for entry in book.entries if entry.op == "apply" and entry.what == "pay"]
    return [] if max(booked) < min(paid) else [f"paid at {min(paid)}, before the booking that stands, at {max(booked)}"]


@case(effects={"book": 2, "pay": 1}, judge=_in_order)
def order_without_data() -> Node:
    a = draw.options(**saved).bind()
    first, second, last = book.bind([a]), book.bind([]), pay.bind([])
    _ = [first, second] >> last
    return think.bind(last, a)


@case(effects={"hold": 1, "pay": 1}, args=lambda _folder: (Traced("x"), {"rows": [bytes(1000)] * 200}))
def parameters() -> Node:
    """Arguments given to run(); one of them is large."""
    return pay.bind(hold.bind([InputNode()[0], take_apart.bind(InputNode()[1])]))


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def take_apart(table: dict[str, list[bytes]]) -> Traced:
    value = work(())
    if [len(row) for row in table["rows"]] != [1000] * 200:
        ledger.torn("an argument is not what it was")
    return value


@exoflow.task(can_rollback=True)
def heavy(*inputs: Any) -> Traced:
    return work(inputs, draws=True, cargo=300_000)


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def heavy_thought(*inputs: Any) -> Traced:
    return work(inputs, cargo=150_000)


@case(effects={"pay": 1}, errands=True)
def errands() -> Node:
    return pay.bind([])


@case(effects={"pay": 1, "book": 1})
def large_outputs() -> Node:
    """They are saved as blobs, beside the journal."""
    a = heavy.bind()
    b = heavy.bind(heavy_thought.bind(a))
    return heavy_thought.options(**saved).bind(pay.bind(book.bind([a, b])), b)


@exoflow.task(can_rollback=True)
async def draw_async(*inputs: Any) -> Traced:
    await asyncio.sleep(0)
    return work(inputs, draws=True)


async def cancel_async(inputs: Any) -> None:
    await asyncio.sleep(0)
    ledger.undo("async", list(find_traced(inputs)))


@exoflow.task(rollback=cancel_async)
async def book_async(inputs: Any) -> Traced:
    value = work(inputs, draws=True)
    await asyncio.sleep(0)
    ledger.apply("async", list(find_traced(inputs)), draw=own_draw(value))
    await asyncio.sleep(0)
    return value


@exoflow.task(retries=3, backoff=0.002, timeout=0.05, can_rollback=True)
async def hang_async(*inputs: Any) -> Traced:
    value = work(inputs, draws=True)
    if ledger.note("try") == 1:
        await asyncio.Event().wait()
    return value


@case(effects={"async": 6})
def async_tasks() -> Node:
    volatile_one = draw_async.options(**volatile).bind()
    legs = [book_async.bind(book_async.bind(draw_async.bind(volatile_one))) for _ in range(3)]
    return think.bind(volatile_one, *legs)


@exoflow.task
async def pay_async(inputs: Any) -> Traced:
    value = work(inputs, draws=True)
    ledger.apply("pay", list(find_traced(inputs)), once=True)
    await asyncio.sleep(0)
    return value


@case(effects={"pay": 4})
def async_commits() -> Node:
    """Commits that may start while what they rest on is being saved, unless somebody holds them back."""
    sides = [pay_async.bind(think.options(executor="inline").bind(draw_async.bind())) for _ in range(3)]
    return pay_async.bind(draw_async.bind(*sides))


@case(effects={"async": 1, "pay": 1})
def async_timeout() -> Node:
    return pay.bind(book_async.bind(hang_async.bind(draw_async.bind())))


# --- in worker processes ----------------------------------------------------------------------------------------------------------------

apart = {"executor": "process"}


@case(effects={"book": 1, "pay": 1}, in_processes=True)
def process_chain() -> Node:
    return pay.options(**apart).bind(book.options(**apart).bind(draw.options(**saved, **apart).bind()))


@case(effects={"book": 3, "pay": 1}, in_processes=True)
def process_saga_withdrawn() -> Node:
    first = draw.options(**apart).bind()
    root = draw.options(**saved, **apart).bind(first)
    booked = [book.options(**apart).bind(book.bind([root])), book.options(**apart).bind([root])]
    return pay.options(**apart).bind(draw.options(**saved).bind(first, booked))


@case(effects=lambda result: {"pay": len(result)}, in_processes=True)
def process_map() -> Node:
    return pay.options(**apart).map(guests.options(**apart).bind())


@case(effects=lambda result: {"book": result[1], "pay": 1}, in_processes=True)
def process_sub_workflow() -> Node:
    return trip.options(**apart).bind()


@case(effects={"book": 1, "charge": 1}, in_processes=True)
def process_large() -> Node:
    """Large values cross to the workers and back, and are saved as they came."""
    a = heavy.options(**apart).bind()
    b = heavy.options(**apart).bind(heavy_thought.options(**apart).bind(a))
    return charge.options(**apart).bind([book.options(**apart).bind(b), a])


@exoflow.task(retries=20, backoff=0.002, timeout=1.5, rollback=cancel_booking, executor="process")
def hang_with_a_booking(inputs: Any) -> Traced:
    value = work(inputs, draws=True)
    ledger.apply("book", list(find_traced(inputs)), draw=own_draw(value))
    if ledger.note("try") == 1:
        threading.Event().wait()
    return value


@case(effects={"book": 1, "wire": 1}, in_processes=True)
def process_timeout() -> Node:
    """A worker that hangs is killed with its booking made; another, asked about a transfer, may be killed by the harness."""
    return think.bind(hang_with_a_booking.bind([]), wire_and_ask.options(**apart).bind([]))
