"""The ledger without a process answers as the one with a process does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from exoflow.testing import ledger
from exoflow.testing.ledger import Book, Ledger, Trap, trace
from exoflow.testing.notebook import Notebook
from exoflow.worker.context import TaskContext, reset_current, set_current


@pytest.fixture(autouse=True)
def _inside() -> Iterator[None]:
    token = set_current(TaskContext(workflow_id="w", task_id="book", attempt=1, epoch=2, basis=3))
    yield
    reset_current(token)


def one_of_each() -> list[object]:
    """The answer to every kind of question."""
    seen = trace("draw", [], draw=7)
    return [
        ledger.began(),
        ledger.note("try"),
        ledger.note("try"),
        ledger.standing("seat"),
        ledger.apply("seat", [seen], draw=3),
        ledger.standing("seat"),
        ledger.apply("money", [seen], once=True),
        ledger.apply("money", [seen], once=True),
        ledger.undo("seat", [seen]),
        ledger.standing("seat"),
        ledger.torn("they disagree"),
        ledger.enter("other", (Trap(life=99, pid=0, hit=1),)),
        ledger.note("life", book="other"),
    ]


def lines(book: Book) -> list[bytes]:
    return [msgspec.json.encode(entry) for entry in book.entries]


def test_the_same_questions_have_the_same_answers(tmp_path: Path) -> None:
    with Ledger(tmp_path) as real:
        told = one_of_each()
        books = {name: real.book(name) for name in ("w", "other")}
    with Notebook() as notebook:
        assert one_of_each() == told
    assert {name: lines(book) for name, book in notebook.books().items()} == {name: lines(book) for name, book in books.items()}
    assert notebook.books()["w"].violations() == ["book (entry 11): they disagree"]


def test_it_goes_on_where_another_stopped() -> None:
    heard: list[int] = []
    on_entry: Callable[[ledger.Entry], None] = lambda entry: heard.append(entry.number)
    with Notebook() as first:
        ledger.apply("money", [], once=True)
        ledger.note("try")
    with Notebook(first.entries, on_entry=on_entry):
        assert ledger.note("try") == 2
        assert not ledger.apply("money", [], once=True)
    assert heard == [3, 4]
    with pytest.raises(ledger.LedgerError, match="no ledger"):
        ledger.note("nobody is there")
