"""The single place where anything becomes durable.

Writes queue up while a transaction is being flushed and go together into the next one (group commit). A write's answer is called only
when the store has acknowledged all of it. Nothing else calls ``Store.commit``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from exoflow.errors import ClosedError, ExoflowError, StorageFullError
from exoflow.runtime.threads import Thread, Threads
from exoflow.store.base import Store, Verdict, Write

Answer = Callable[[Verdict | ExoflowError], None]

_FULL_PAUSE_S = 0.5
_GROUP_MAX = 20_000
_TOLD_AT_ONCE = 200
"""So many writes at most have one answer. What comes of it holds up whoever else has events for the loop."""


class Committer(Protocol):
    """Makes writes durable, in the order in which they were given."""

    broken: ExoflowError | None
    """After what nothing can be made durable any more."""

    def put(self, write: Write, answer: Answer) -> None:
        """Queue ``write``; ``answer`` is called with the store's verdict, or with the error after which this store is of no more use. Of
        writes of one workflow that were applied together, only the last may be answered. The caller sees to it that ``flush`` is called
        soon."""

    def flush(self, *, may_block: bool) -> None:
        """Have what is queued made durable: by this thread, if it may block, or by another."""

    def close(self) -> None:
        """Flush what is queued, then stop."""


class GroupCommitter:
    """One transaction at a time, by whichever thread comes first: a caller or worker that would otherwise only wait saves the hand-over to
    another thread and back (measured on 2 cores: a chain of 10 committing tasks takes 0.64 of the time). A thread of its own takes over
    while functions run or whoever has work runs an event loop, when the queue does not run dry, and while the disk is full: it waits and
    tries again then, and new workflows are refused.
    """

    def __init__(self, store: Store, threads: Threads) -> None:
        self._store, self._threads = store, threads
        self._queue: list[tuple[Write, Answer]] = []
        self._mutex = threads.lock()  # guards the queue, broken and _closing
        self._committing = threads.lock()  # held by the one that commits
        self._wake = threads.signal()
        self._closing = False
        self.broken: ExoflowError | None = None
        self._thread: Thread | None = None

    def put(self, write: Write, answer: Answer) -> None:
        with self._mutex:
            refusal = self.broken or (ClosedError(what="the engine") if self._closing else None)
            if refusal is None:
                self._queue.append((write, answer))
                return
        answer(refusal)

    def flush(self, *, may_block: bool) -> None:
        if not self._queue:
            return
        if may_block and self._committing.acquire(blocking=False):
            try:
                self._commit(self._take(), patient=False)
            finally:
                self._committing.release()
        if self._queue and not self._committing.locked():
            self._hand_over()

    def _hand_over(self) -> None:
        with self._mutex:
            if self._thread is None and not self._closing:
                self._thread = self._threads.start("commit", self._run)
        self._wake.set()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait()
            self._wake.clear()  # before looking: whoever queues after this look sets it again
            goes_on = True
            while self._queue and goes_on:  # looked at again after letting go: whoever found it taken has left its write to us
                with self._committing:
                    while goes_on and (group := self._take()):
                        goes_on = self._commit(group, patient=True)

    def _take(self) -> list[tuple[Write, Answer]]:
        with self._mutex:
            group, self._queue = self._queue[:_GROUP_MAX], self._queue[_GROUP_MAX:]
        return group

    def _commit(self, group: list[tuple[Write, Answer]], *, patient: bool) -> bool:
        """Make ``group`` durable. False if there is no use in trying to do so with what is queued."""
        while group:
            try:
                verdicts = self._store.commit([write for write, _ in group])
            except StorageFullError as error:
                group = self._refuse_new(group, error)
                if not patient or self._closing:
                    with self._mutex:
                        self._queue = group + self._queue
                    return False
                self._threads.sleep(_FULL_PAUSE_S)
                continue
            except ExoflowError as error:
                self._break(group, error)
                return False
            for start in range(0, len(group), _TOLD_AT_ONCE):
                _tell(group[start : start + _TOLD_AT_ONCE], verdicts[start : start + _TOLD_AT_ONCE])
            break
        return True

    def _refuse_new(self, group: list[tuple[Write, Answer]], error: StorageFullError) -> list[tuple[Write, Answer]]:
        """While the disk is full: refuse new workflows, keep what belongs to running ones."""
        for write, answer in group:
            if write.create:
                answer(error)
        return [(write, answer) for write, answer in group if not write.create]

    def _break(self, group: list[tuple[Write, Answer]], error: ExoflowError) -> None:
        """It is unknown what was applied: only folding the journal anew can tell. Every workflow of this engine stops here."""
        with self._mutex:
            self.broken = error
            group = group + self._queue
            self._queue = []
        for _, answer in group:
            answer(error)

    def close(self) -> None:
        with self._mutex:
            self._closing = True
        if self._thread is not None:
            self._wake.set()
            self._thread.join()
        with self._committing:
            self._commit(self._take(), patient=False)
        for _, answer in self._take():
            answer(ClosedError(what="the engine"))


def _tell(group: list[tuple[Write, Answer]], verdicts: list[Verdict]) -> None:
    """Call the answers, in order. A workflow takes "applied" for all that it gave before (a DAG of 30,000 saved tasks: 0.97 of the
    time)."""
    if len(group) == 1:  # as most are where workflows are small
        group[0][1](verdicts[0])
        return
    last = {write.workflow_id: index for index, (write, _) in enumerate(group) if verdicts[index] == "applied"}
    for index, (write, answer) in enumerate(group):
        if verdicts[index] != "applied" or last[write.workflow_id] == index:
            answer(verdicts[index])
