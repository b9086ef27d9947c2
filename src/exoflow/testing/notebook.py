"""A ledger (see ``ledger.py``) in this process and in memory: for runs in which nothing is killed, or only by pretence."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Self

import msgspec

from exoflow.testing import ledger
from exoflow.testing.ledger import Account, Book, Entry, Question, Reply


class Notebook:
    """Writes down what tasks of this process do to the world. A context manager; while it is open, they find it instead of any other.

    ``entries`` are what was written before. ``on_entry`` is called with each new one before its sender is answered, one at a time.
    """

    def __init__(self, entries: Iterable[Entry] = (), *, on_entry: Callable[[Entry], None] = lambda _entry: None) -> None:
        self.entries = list(entries)
        self._accounts: defaultdict[str, Account] = defaultdict(Account)
        self._on_entry = on_entry
        self._lock = threading.Lock()
        self._last = max((entry.number for entry in self.entries), default=0)
        for entry in self.entries:
            self._accounts[entry.book].take(entry)

    def answer(self, question: Question) -> Reply:
        """Write down an entry, if there is one."""
        if question.entry is None:
            return Reply()
        with self._lock:
            self._last += 1
            account = self._accounts[question.entry.book]
            entry = account.take(msgspec.structs.replace(question.entry, number=self._last))
            self.entries.append(entry)
            self._on_entry(entry)
            return account.reply(entry, question.standing)

    def books(self) -> dict[str, Book]:
        """All books, by the name of the workflow."""
        return {name: Book(entry for entry in self.entries if entry.book == name) for name in list(self._accounts)}

    def __enter__(self) -> Self:
        ledger.answerers.append(self.answer)
        return self

    def __exit__(self, *_: object) -> None:
        ledger.answerers.remove(self.answer)
