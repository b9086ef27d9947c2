"""Undoing external outputs: which values a rollback gets, and when it runs; and asking what nobody knows."""

from __future__ import annotations

import threading

import pytest

import exoflow
from exoflow import task
from exoflow.errors import TaskFailed, WorkflowInDoubtError
from tests.api.plant import breaks_unless
from tests.api.scene import PATIENCE_S, Ledger


def log(ledger, *what):
    Ledger(ledger).add(" ".join(map(str, what)))


def undo_some(ledger, room, price=0):
    log(ledger, "undo", room, price)


def undo_all(**everything):
    log(everything.pop("ledger"), "undo", sorted(everything.items()))


def undo_rest(ledger, *rest):
    log(ledger, "undo", rest)


def undo_extra(ledger, room, extra="none"):
    log(ledger, "undo", room, extra)


@task(rollback=undo_some)
def some(ledger, room, price=7, *, nights=1):
    return room


@task(rollback=undo_all)
def everything(ledger, room, price=7, **more):
    return room


@task(rollback=undo_extra)
def extra_default(ledger, room):
    return room


@task(rollback=undo_some, executor="process")
def in_process(ledger, room, price=7):
    return room


@task(rollback=undo_some)
async def in_loop(ledger, room, price=7):
    return room


@task
def room_number():
    return 12


def undone(engine, ledger, node):
    """Run it and a failure behind it, with rollback; what its rollback noted."""
    with pytest.raises(TaskFailed):
        engine.run_async(breaks_unless.bind(ledger.path, "never", node), on_failure="rollback").result(PATIENCE_S)
    return [line for line in ledger.lines() if line.startswith("undo")]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: some.bind(path, 5), "undo 5 7"),
        (lambda path: some.bind(path, price=9, room=5, nights=3), "undo 5 9"),
        (lambda path: some.bind(path, room_number.bind()), "undo 12 7"),
        (lambda path: some.bind(path, [room_number.bind(), {"k": room_number.bind()}]), "undo [12, {'k': 12}] 7"),
        (lambda path: everything.bind(path, 5, colour="red"), "undo [('colour', 'red'), ('price', 7), ('room', 5)]"),
        (lambda path: extra_default.bind(path, 5), "undo 5 none"),
        (lambda path: in_loop.bind(path, room_number.bind(), 3), "undo 12 3"),
        pytest.param(lambda path: in_process.bind(path, room_number.bind()), "undo 12 7", marks=pytest.mark.slow),
    ],
)
def test_a_rollback_gets_the_very_values_that_its_task_got(engine, ledger, make, line):
    """Those that it names: given, by default, or made by other tasks."""
    assert undone(engine, ledger, make(ledger.path)) == [line]


def test_a_rollback_may_be_a_task(engine, ledger):
    assert undone(engine, ledger, with_task.bind(ledger.path, 3)) == ["undo 3 0"]


def test_a_task_that_is_a_rollback_can_run_by_itself(engine, ledger):
    assert undone(engine, ledger, with_task.bind(ledger.path, undo_task.bind(ledger.path, 8))) == ["undo 8 0", "undo None 0"]


undo_task = task(undo_some)


@task(rollback=undo_task)
def with_task(ledger, room):
    return room


def undo_book(ledger):
    log(ledger, "undo")


@task(rollback=undo_book, retries=2, backoff=0)
def books_badly(ledger, bad):
    log(ledger, "book")
    if Ledger(ledger).count("book") <= bad:
        raise RuntimeError("after the booking")
    return "booked"


def test_a_booking_that_failed_half_way_is_undone_before_it_is_tried_again(engine, ledger):
    assert engine.run(books_badly.bind(ledger.path, 2)) == "booked"
    assert ledger.lines() == ["book", "undo", "book", "undo", "book"]


def test_a_booking_that_fails_for_good_is_undone(engine, ledger):
    with pytest.raises(TaskFailed, match="after the booking"):
        engine.run(books_badly.bind(ledger.path, 9), name="w")
    assert ledger.lines() == ["book", "undo"] * 3
    assert not engine.get_metadata("w").tasks[0].effect_stands


def test_a_caught_failure_is_undone_too(engine, ledger):
    value, error = engine.run(books_badly.options(catch_exceptions=True, retries=0).bind(ledger.path, 9))
    assert value is None
    assert str(error) == "after the booking"
    assert ledger.lines() == ["book", "undo"]


@task(rollback=undo_book)
def books(ledger, *_):
    log(ledger, "book")
    return "booked"


def test_what_has_succeeded_is_not_undone(engine, ledger):
    assert engine.run(books.bind(ledger.path)) == "booked"
    assert ledger.lines() == ["book"]


@task
def grows_bookings(ledger):
    return breaks_unless.bind(ledger, "never", books.bind(ledger), books.bind(ledger))


def test_bookings_of_a_sub_workflow_are_undone(engine, ledger):
    with pytest.raises(TaskFailed):
        engine.run_async(grows_bookings.bind(ledger.path), on_failure="rollback").result(PATIENCE_S)
    assert ledger.lines() == ["book", "book", "tried", "undo", "undo"]


# --- asking ---


def ask(ledger, answer):
    log(ledger, "asked")
    if answer == "raise":
        raise OSError("nobody answers")
    return {"yes": True, "no": False}[answer] if answer in ("yes", "no") else answer


began = threading.Semaphore(0)


@task(on_unknown=ask, timeout=3)
async def pays(ledger, answer):
    import asyncio

    log(ledger, "pay")
    began.release()
    if Ledger(ledger).count("pay") == 1:
        await asyncio.Event().wait()
    return "paid"


@pytest.mark.parametrize(
    ("answer", "result", "lines"),
    [
        ("yes", None, ["pay", "asked"]),
        ("no", "paid", ["pay", "asked", "pay"]),
        ("receipt 5", "receipt 5", ["pay", "asked"]),
        (0, 0, ["pay", "asked"]),
        ([], [], ["pay", "asked"]),
    ],
)
def test_what_nobody_knows_is_asked(any_url, clock, ledger, answer, result, lines):
    """The attempt was stopped in the middle. True: it happened; False: it did not, it runs again; anything else is the output."""
    with exoflow.Engine(any_url, clock=clock) as engine:
        future = engine.run_async(pays.bind(ledger.path, answer), name="w")
        assert began.acquire(timeout=PATIENCE_S)
        clock.fire_next(3)
        assert future.result(PATIENCE_S) == result
        assert type(future.result()) is type(result)
        assert ledger.lines() == lines
        assert engine.get_output("w") == result
        began.acquire(blocking=False)


def test_if_the_question_fails_a_person_is_asked(any_url, clock, ledger):
    with exoflow.Engine(any_url, clock=clock) as engine:
        future = engine.run_async(pays.bind(ledger.path, "raise"), name="w")
        assert began.acquire(timeout=PATIENCE_S)
        clock.fire_next(3)
        with pytest.raises(WorkflowInDoubtError, match="task 'pays'"):
            future.result(PATIENCE_S)
        assert engine.get_status("w") == "IN_DOUBT"
        with pytest.raises(exoflow.ExoflowError, match="workflow 'w' has no task 'nope'"):
            engine.resume("w", outcomes={"nope": 1})
        assert engine.resume("w", outcomes={"pays": "found it"}).result(PATIENCE_S) == "found it"
        assert ledger.lines() == ["pay", "asked"]
        with pytest.raises(exoflow.ExoflowError, match="SUCCEEDED"):
            engine.cancel("w")


def test_an_answer_for_a_task_that_is_not_in_doubt(engine, ledger):
    with pytest.raises(TaskFailed):
        engine.run(breaks_unless.bind(ledger.path, "never", books.bind(ledger.path)), name="w")
    for name in ("books", "breaks_unless"):
        with pytest.raises(exoflow.errors.InvalidOptionError, match=f"task '{name}' of workflow 'w' is not in doubt"):
            engine.resume("w", outcomes={name: True})
    assert engine.get_status("w") == "FAILED"
