"""The single place where anything becomes durable.

Writes queue up while a transaction is being flushed and go together into the next one (group commit). A write's answer is called only
when the store has acknowledged all of it. Nothing else calls ``Store.commit``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from exoflow.errors import ClosedError, ExoflowError, StorageFullError
from exoflow.store.base import Store, Verdict, Write

Answer = Callable[[Verdict | ExoflowError], None]

_FULL_PAUSE_S = 0.5
_GROUP_MAX = 20_000


class Committer(Protocol):
    """Makes writes durable, in the order in which they were given."""

    def put(self, write: Write, answer: Answer) -> None:
        """Queue ``write``; ``answer`` is called with the store's verdict, or with the error after which this store is of no more use."""

    def close(self) -> None:
        """Flush what is queued, then stop."""


class GroupCommitter:
    """One thread, one transaction at a time. While the disk is full, it waits and tries again; new workflows are refused meanwhile."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: list[tuple[Write, Answer]] = []
        self._ready = threading.Condition()
        self._closing = False
        self._broken: ExoflowError | None = None
        self._thread: threading.Thread | None = None

    def put(self, write: Write, answer: Answer) -> None:
        with self._ready:
            broken = self._broken or (ClosedError(what="the engine") if self._closing else None)
            if broken is None:
                self._queue.append((write, answer))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="exoflow-commit", daemon=True)
                    self._thread.start()
                elif len(self._queue) == 1:
                    self._ready.notify()
                return
        answer(broken)

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._queue and not self._closing:
                    self._ready.wait()
                if not self._queue:
                    return
                group, self._queue = self._queue[:_GROUP_MAX], self._queue[_GROUP_MAX:]
            self._commit(group)

    def _commit(self, group: list[tuple[Write, Answer]]) -> None:
        while group:
            try:
                verdicts = self._store.commit([write for write, _ in group])
            except StorageFullError as error:
                group = self._wait_for_room(group, error)
                continue
            except ExoflowError as error:
                self._break(group, error)
                return
            for (_, answer), verdict in zip(group, verdicts, strict=True):
                answer(verdict)
            return

    def _wait_for_room(self, group: list[tuple[Write, Answer]], error: StorageFullError) -> list[tuple[Write, Answer]]:
        """Refuse what is new, keep what belongs to running workflows."""
        for write, answer in group:
            if write.create:
                answer(error)
        kept = [(write, answer) for write, answer in group if not write.create]
        with self._ready:
            if self._closing:
                for _, answer in kept:
                    answer(error)
                return []
            self._ready.wait(_FULL_PAUSE_S)
        return kept

    def _break(self, group: list[tuple[Write, Answer]], error: ExoflowError) -> None:
        """It is unknown what was applied: only folding the journal anew can tell. Every workflow of this engine stops here."""
        with self._ready:
            self._broken = error
            group += self._queue
            self._queue = []
        for _, answer in group:
            answer(error)

    def close(self) -> None:
        with self._ready:
            self._closing = True
            self._ready.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
