"""A simulated backend that holds data behind Refs, and loses it: what never changes, and what tasks change, like an actor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from exoflow.errors import RefLostError
from exoflow.refs.base import Ref
from exoflow.testing.simulation.scheduler import Scheduler

SNAPSHOT_S = 0.005


class Cells:
    """The data, by key. It outlives engines, as a cluster does. ``point`` lets faults happen."""

    def __init__(self, scheduler: Scheduler, point: Callable[[str], str]) -> None:
        self.scheduler, self.point = scheduler, point
        self.data: dict[str, Any] = {}
        self._keys = 0

    def new(self, value: Any, *, mutable: bool) -> Cell:
        """A Ref to ``value``."""
        self._keys += 1
        cell = (Changing if mutable else Cell)(f"c{self._keys}")
        self.data[cell.key] = value
        return cell

    def read(self, cell: Cell, at: str) -> Any:
        """What it holds. Faults happen before."""
        match self.point(at):
            case "lose":
                self.data.pop(cell.key, None)
            case "lose_all":
                self.data.clear()
        return self.held(cell)

    def held(self, cell: Cell) -> Any:
        """What it holds. Raises RefLostError."""
        if cell.key not in self.data:
            raise RefLostError(kind=f"{__name__}:{type(cell).__name__}", ref=cell.key, reason="lost")
        return self.data[cell.key]

    def snapshot(self, cell: Cell) -> Future[Any]:
        """What it holds now, some time later."""
        future: Future[Any] = Future()
        try:
            now = self.read(cell, "ref.checkpoint")
        except RefLostError as error:
            future.set_exception(error)
            return future
        strand = self.scheduler.current
        if strand is None or self.scheduler.rng.random() < 0.5:
            future.set_result(now)
            return future

        def later() -> None:
            self.scheduler.park(SNAPSHOT_S * self.scheduler.rng.random())
            future.set_result(now)

        self.scheduler.start("snapshot", later, strand.process)
        return future


class Here:
    """The backend of the running simulation: Refs are restored by the name of their class, so this cannot be an argument."""

    cells: Cells


HERE = Here()


class Cell(Ref):
    """A Ref to what is in a cell."""

    def __init__(self, key: str) -> None:
        self.key = key

    def id(self) -> str:
        return self.key

    def get(self) -> Any:
        """See Ref."""
        return HERE.cells.read(self, "ref.get")

    def peek(self) -> Any:
        """What it holds, for the judge: nothing happens meanwhile. Raises RefLostError."""
        return HERE.cells.held(self)

    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002 - the paper's name
        return HERE.cells.snapshot(self)

    @classmethod
    def restore(cls, value: Any) -> Cell:
        return HERE.cells.new(value, mutable=cls.mutable)

    def release(self) -> None:
        HERE.cells.data.pop(self.key, None)


class Changing(Cell):
    """A Ref to what tasks change."""

    mutable = True

    def put(self, value: Any) -> None:
        """Let it hold ``value``."""
        HERE.cells.data[self.key] = value


def cells_in(given: Any) -> Iterator[Cell]:
    """Every Ref in an output."""
    if isinstance(given, Cell):
        yield given
    elif isinstance(given, (list, tuple)):
        for each in given:
            yield from cells_in(each)
