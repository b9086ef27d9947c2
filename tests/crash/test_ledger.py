"""The outside world of the crash tests: what it writes down, whom it kills, and what its judge makes of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from exoflow.testing import ledger
from exoflow.testing.ledger import Book, Entry, Ledger, LedgerError, Traced, Trap, find_traced, merged, trace
from exoflow.worker.context import TaskContext, reset_current, set_current


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with Ledger(tmp_path_factory.mktemp("books")) as world:
        yield world


@pytest.fixture
def inside(world: Ledger, request: pytest.FixtureRequest) -> Iterator[TaskContext]:
    """This test is a task in that world, of a workflow of its own."""
    context = TaskContext(workflow_id=request.node.name, task_id="book", attempt=1, epoch=2, basis=3)
    token = set_current(context)
    yield context
    reset_current(token)


# --- writing -------------------------------------------------------------------------------------------------------------------------


def test_what_a_task_tells_is_in_the_book_with_who_it_was(world: Ledger, inside: TaskContext) -> None:
    number, times = ledger.began()
    seen = trace("draw", [], draw=7)
    assert ledger.apply("seat", [seen], draw=number)
    (first, second) = world.book(inside.workflow_id).entries[-2:]
    assert (first.op, first.task, first.attempt, first.epoch, first.number) == ("began", "book", 1, 2, number)
    assert (second.op, second.what, second.seen, second.draw) == ("apply", "seat", {"draw": 7}, number)
    assert times == 1


def test_an_effect_stands_until_it_is_undone(world: Ledger, inside: TaskContext) -> None:
    ledger.apply("room", [])
    found = ledger.standing("room")
    assert found is not None
    ledger.undo("room", [])
    assert ledger.standing("room") is None
    assert world.book(inside.workflow_id).entries[-2].gone == (found.number,)


def test_an_effect_with_a_key_happens_once(inside: TaskContext) -> None:
    assert ledger.apply("money", [], once=True)
    assert not ledger.apply("money", [], once=True)


def test_notes_are_counted(inside: TaskContext) -> None:
    assert [ledger.note("try"), ledger.note("try"), ledger.note("other")] == [1, 2, 1]


def test_a_book_that_was_shut_goes_on_where_it_was(world: Ledger, inside: TaskContext) -> None:
    ledger.apply("car", [], once=True)
    before = world.book(inside.workflow_id).entries[-1].number
    world.shut(inside.workflow_id)
    assert not ledger.apply("car", [], once=True)
    assert world.book(inside.workflow_id).entries[-1].number > before


def test_without_a_ledger_tasks_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ledger.ADDRESS, raising=False)
    with pytest.raises(LedgerError, match="no ledger was started"):
        ledger.note("x", book="w")


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_bytes(b'{"op":"note","book":"w","number":1}\n{"op":"no')
    assert [entry.number for entry in Book.read(path).entries] == [1]


def test_the_process_ends_with_its_owner(tmp_path: Path) -> None:
    one = Ledger(tmp_path, flush=False)
    one.close()
    one.close()
    with pytest.raises(ProcessLookupError):
        os.kill(one.pid, 0)


# --- traps -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("when", "written"), [("before", ["first", "second"]), ("after", ["first", "second", "third"])])
def test_a_trap_kills_at_the_entry_that_it_waits_for(world: Ledger, when: str, written: list[str]) -> None:
    book = f"trap-{when}"
    child = os.fork()
    if child == 0:
        os.environ[ledger.LIFE] = "5"
        ledger.enter(book, (Trap(life=5, pid=os.getpid(), hit=3, op="note", when=when),))  # type: ignore[arg-type]
        for what in ("first", "second", "third", "fourth"):
            ledger.note(what, book=book)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert [entry.what for entry in world.book(book).entries if entry.op == "note"] == ["life", *written]
    assert [entry.op for entry in world.book(book).entries].count("killed") == 1


def test_traps_are_for_one_life_and_one_kind_of_entry() -> None:
    trap = Trap(life=1, pid=10, hit=1, op="apply", what="seat", task="book")
    fitting = Entry(op="apply", book="w", what="seat", task="book", life=1, pid=10)
    assert trap.fits(fitting)
    for field, other in (("op", "undo"), ("what", "room"), ("task", "pay"), ("life", 2)):
        assert not trap.fits(Entry(**{"op": "apply", "book": "w", "what": "seat", "task": "book", "life": 1, "pid": 10, field: other}))
    of_a_worker = Trap(life=1, pid=10, hit=1, victim="worker")
    assert not of_a_worker.fits(fitting)
    assert of_a_worker.fits(Entry(op="began", book="w", task="t", life=1, pid=11))


# --- provenance --------------------------------------------------------------------------------------------------------------------------


def test_a_value_has_seen_what_its_inputs_have_seen() -> None:
    a, b = trace("a", [], draw=1), trace("b", [], draw=2)
    both = trace("c", [a, b])
    assert both.seen == {"a": 1, "b": 2}
    assert both == trace("c", [a, b])
    assert both.digest != trace("c", [b, a]).digest


def test_two_draws_of_one_task_must_not_meet() -> None:
    with pytest.raises(ValueError, match="draws 1 and 2 of 'a' meet"):
        merged([trace("b", [trace("a", [], draw=1)]), trace("a", [], draw=2)])


def test_values_are_found_in_what_a_task_may_get() -> None:
    a, b, c = (Traced(name) for name in "abc")
    assert list(find_traced([a, ({"x": b},), 3, ValueError("no", c)])) == [a, b, c]


# --- the judge ---------------------------------------------------------------------------------------------------------------------------


def book(*entries: dict[str, object]) -> Book:
    return Book(Entry(**{"book": "w", "number": number, **entry}) for number, entry in enumerate(entries, 1))  # type: ignore[arg-type]


def applied(task: str, **fields: object) -> dict[str, object]:
    return {"op": "apply", "task": task, "what": "seat", "attempt": 1, **fields}


def undone(task: str, *gone: int, **fields: object) -> dict[str, object]:
    return {"op": "undo", "task": task, "what": "seat", "attempt": 1, "gone": gone, **fields}


def test_applied_undone_and_applied_again_is_once() -> None:
    story = book(applied("a"), undone("a", 1), applied("a"))
    assert story.violations() == []
    assert story.counts() == {"seat": 1}


def test_applied_twice_is_not() -> None:
    (found,) = book(applied("a"), applied("a")).violations()
    assert "applied at 1 and, not undone, again at 2" in found


def test_the_same_key_twice_is_once() -> None:
    story = book(applied("a", key="k"), applied("a", key="k", again=True))
    assert story.violations() == []
    assert story.counts() == {"seat": 1}


def test_two_keys_are_two_commits() -> None:
    (found,) = book(applied("a", key="k"), applied("a", key="l")).violations()
    assert "under two keys" in found


def test_one_key_must_mean_one_thing() -> None:
    (found,) = book(applied("a", key="k", inputs="x"), applied("a", key="k", inputs="y", again=True)).violations()
    assert "one key and two inputs" in found


def test_survivors_must_agree() -> None:
    story = book(applied("a", seen={"draw": 1}), applied("b", seen={"draw": 2}))
    (found,) = story.violations()
    assert "saw draw 1 of draw" in found
    assert "saw draw 2" in found


def test_so_must_the_result() -> None:
    story = book(applied("a", seen={"draw": 1}))
    assert story.violations(Traced("x", {"draw": 1})) == []
    assert len(story.violations([Traced("x", {"draw": 2})])) == 1


def test_what_was_undone_need_not_agree() -> None:
    assert book(applied("a", seen={"draw": 1}), undone("a", 1), applied("a", seen={"draw": 2})).violations() == []


def test_a_rollback_gets_what_its_task_got() -> None:
    (found,) = book(applied("a", inputs="x"), undone("a", 1, inputs="y")).violations()
    assert "other values" in found


def test_whoever_saw_it_is_undone_first() -> None:
    first, second = applied("a", draw=7), applied("b", seen={"a": 7})
    assert book(first, second, undone("b", 2), undone("a", 1)).violations() == []
    (found,) = book(first, second, undone("a", 1), undone("b", 2)).violations()
    assert "a was undone at 3 while 'seat' of b, which saw it, stood" in found


def test_a_deterministic_one_may_be_made_again_under_its_consumers() -> None:
    assert book(applied("a"), applied("b"), undone("a", 1), applied("a")).violations() == []


def test_torn_inputs_are_a_violation() -> None:
    (found,) = book({"op": "torn", "task": "t", "what": "draws 1 and 2 of 'a' meet"}).violations()
    assert found == "t (entry 1): draws 1 and 2 of 'a' meet"


def test_the_story_tells_all_of_it() -> None:
    text = book(applied("a", key="abcdefghij", inputs="12345678", seen={"d": 1}, draw=5, again=True), undone("a", 1)).story()
    for part in ("a (epoch 0, attempt 1) apply seat", "key=abcdefgh", "draw=5", "saw {'d': 1}", "nothing happened", "took back 1"):
        assert part in text


def test_what_was_committed_stays_when_a_workflow_is_cancelled_with_rollback() -> None:
    story = book(applied("a", draw=1), applied("b", key="k", seen={"a": 1}), undone("a", 1))
    (found,) = story.violations()
    assert "was undone at 3 while" in found
    assert story.violations(cancelled=True) == []
