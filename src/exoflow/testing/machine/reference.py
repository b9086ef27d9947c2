"""The commit rule by brute force: no rule at all, but every schedule and every loss of a small workflow, one state after the other.

Written from docs/semantics.md alone, for comparison with ``core.stability`` and ``core.checks``, of which nothing is used here.

A state says of each task: it has not run (or was withdrawn); it ``ACTED`` (it started, and died after it may have acted); it ran, and its
output is in memory (``PRESENT``), nowhere (``LOST``), or saved (``DURABLE``). A state is bad for a task

- that commits, if it has started and a version that it rests on is replaced;
- that has a rollback, if it has to be rolled back and one of the values that it got can no longer be had.

What is wanted is run (again), as after a crash: the root, and whatever that needs and is not at hand.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from exoflow.testing.machine.scenario import Lines

UNEXECUTED, ACTED, PRESENT, LOST, DURABLE = range(5)

State = tuple[int, ...]
"""One of the five for each task."""


class Node(NamedTuple):
    """A task by its number; ``ups`` are its inputs and what it comes after."""

    reads: tuple[int, ...]
    after: tuple[int, ...]
    kind: str
    sure: bool
    saved: bool
    sync: bool

    @property
    def ups(self) -> tuple[int, ...]:
        return self.reads + self.after


class Move(NamedTuple):
    """What may happen next: the state that follows, or the task for which that is bad. ``starts`` is the task that begins, or -1;
    ``calm`` says that nothing went wrong."""

    to: State
    bad_for: int = -1
    starts: int = -1
    calm: bool = False


class Reference:
    """All states of one workflow."""

    def __init__(self, lines: Lines) -> None:
        number = {line.id: at for at, line in enumerate(lines)}
        root = len(lines) - 1
        self.nodes = [
            Node(
                reads=tuple(number[up] for up in line.reads),
                after=tuple(number[up] for up in line.after),
                kind=line.kind,
                sure=line.deterministic and not line.catch,
                saved=line.save != "no" or at == root,
                sync=line.save == "sync",
            )
            for at, line in enumerate(lines)
        ]
        self.downs = [[at for at, node in enumerate(self.nodes) if up in node.ups] for up in range(len(lines))]
        self.beginning: State = (UNEXECUTED,) * len(lines)
        self.moves: dict[State, list[Move]] = {}
        self._explore()
        self.doomed = [self._doomed(at) if node.kind != "internal" else set() for at, node in enumerate(self.nodes)]

    def _explore(self) -> None:
        left = [self.beginning]
        while left:
            state = left.pop()
            if state not in self.moves:
                self.moves[state] = found = list(self._next(state))
                left += [move.to for move in found if move.bad_for < 0]

    def _doomed(self, task: int) -> set[State]:
        """States from which one that is bad for ``task`` can be reached."""
        before: dict[State, list[State]] = {}
        doomed: set[State] = set()
        for state, moves in self.moves.items():
            for move in moves:
                if move.bad_for == task:
                    doomed.add(state)
                elif move.bad_for < 0 and move.starts != task:  # once it is withdrawn, to start it again is another question
                    before.setdefault(move.to, []).append(state)
        left = list(doomed)
        while left:
            for state in before.get(left.pop(), ()):
                if state not in doomed:
                    doomed.add(state)
                    left.append(state)
        return doomed

    # --- what may happen -----------------------------------------------------------------------------------------------------

    def _next(self, state: State) -> Iterator[Move]:
        present = [at for at, status in enumerate(state) if status == PRESENT]
        if present:
            yield Move(tuple(LOST if status == PRESENT else status for status in state))  # a crash
        if len(present) > 1:
            for at in present:
                yield Move(_with(state, at, LOST))
        for at in present:
            if self.nodes[at].saved:
                yield Move(_with(state, at, DURABLE), calm=True)
        for at in self.wanted(state):
            if self.ready(state, at):
                yield from self._run(state, at)

    def wanted(self, state: State) -> list[int]:
        """Tasks that have to run (again)."""
        root = len(state) - 1
        found = [root] if state[root] < PRESENT or state[root] == LOST else []
        for at in found:  # grows while it is walked
            node = self.nodes[at]
            for up in node.ups:
                if (state[up] < PRESENT or state[up] == LOST) and up not in found:  # that it ran at all may be forgotten in a crash
                    found.append(up)
        return found

    def ready(self, state: State, at: int) -> bool:
        """Whether all that it reads is at hand, and what it comes after has run."""
        for up in self.nodes[at].ups:
            sync = self.nodes[up].sync
            if sync and state[up] != DURABLE and (up in self.nodes[at].reads or state[up] != LOST):
                return False
            if state[up] < PRESENT or (state[up] == LOST and up in self.nodes[at].reads):
                return False
        return True

    def _run(self, state: State, at: int) -> Iterator[Move]:
        node = self.nodes[at]
        calm = state[at] == UNEXECUTED
        after = state
        if state[at] == LOST and not node.sure:  # it makes a new version
            for down in self._descendants(at):
                if state[down] == UNEXECUTED:
                    continue
                kind = self.nodes[down].kind
                if kind == "committing" or (kind == "undoable" and not self._can_be_undone(state, down)):
                    yield Move(state, bad_for=down)
                    return
                after = _with(after, down, UNEXECUTED)
        starts = at if state[at] == UNEXECUTED and node.kind != "internal" else -1
        yield Move(_with(after, at, PRESENT), starts=starts, calm=calm)
        if node.kind != "internal" and not (state[at] == LOST and node.sure and node.kind == "committing"):
            yield Move(_with(after, at, ACTED), starts=starts)

    def _descendants(self, at: int) -> set[int]:
        found: set[int] = set()
        left = [at]
        while left:
            for down in self.downs[left.pop()]:
                if down not in found:
                    found.add(down)
                    left.append(down)
        return found

    def _can_be_undone(self, state: State, at: int) -> bool:
        return all(self._can_be_had(state, up) for up in self.nodes[at].reads)

    def _can_be_had(self, state: State, at: int) -> bool:
        """Whether this version can be had (again)."""
        if state[at] in (PRESENT, DURABLE):
            return True
        return state[at] != UNEXECUTED and self.nodes[at].sure and all(self._can_be_had(state, up) for up in self.nodes[at].reads)

    # --- what follows --------------------------------------------------------------------------------------------------------

    def safe(self, state: State, at: int) -> bool:
        """Whether task ``at``, which is ready in ``state``, may start there: whatever happens then, nothing is bad for it."""
        return not any(move.bad_for == at or move.to in self.doomed[at] for move in self.moves[state] if move.starts == at)

    @functools.cached_property
    def lawful(self) -> set[State]:
        """States that can be reached if every task starts only where that is safe."""
        return self._reached(calm=False)

    def _reached(self, *, calm: bool) -> set[State]:
        seen = {self.beginning}
        left = [self.beginning]
        while left:
            for move in self.moves[(state := left.pop())]:
                if (
                    move.bad_for < 0
                    and move.to not in seen
                    and (move.calm or not calm)
                    and (move.starts < 0 or self.safe(state, move.starts))
                ):
                    seen.add(move.to)
                    left.append(move.to)
        return seen

    def can_finish(self) -> bool:
        """Whether there is a way without faults on which every task starts where that is safe."""
        return any(min(state) >= PRESENT for state in self._reached(calm=True))


def _with(state: State, at: int, status: int) -> State:
    return (*state[:at], status, *state[at + 1 :])
