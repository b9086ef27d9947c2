"""Workflows whose tasks pass Refs: what is saved, restored, run again and let go."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import exoflow
from exoflow import Engine, Ref, ValueRef, codec
from exoflow.cli.main import app
from exoflow.core import journal
from exoflow.errors import RefLostError, TaskFailed, UsageError, WorkflowFailed, WorkflowIdConflictError
from exoflow.refs.values import settled

CELLS: dict[str, Any] = {}
"""A backend that holds data, and can lose it."""
STORY: list[str] = []
_numbers = itertools.count()


class Cell(Ref):
    """Names what is in a cell of the backend."""

    def __init__(self, key: str) -> None:
        self.key = key

    @classmethod
    def new(cls, value: Any) -> Cell:
        key = f"c{next(_numbers)}"
        CELLS[key] = value
        return cls(key)

    def id(self) -> str:
        return self.key

    def get(self) -> Any:
        if self.key not in CELLS:
            raise RefLostError(kind=f"{__name__}:{type(self).__name__}", ref=self.key, reason="the cell is empty")
        return CELLS[self.key]

    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002
        STORY.append(f"checkpoint {self.key}")
        return settled(self.get())

    @classmethod
    def restore(cls, value: Any) -> Cell:
        made = cls.new(value)
        STORY.append(f"restore {made.key}")
        return made

    def release(self) -> None:
        STORY.append(f"release {self.key}")
        CELLS.pop(self.key, None)


class Counter(Cell):
    """Names a number that tasks change."""

    mutable = True

    def add(self, amount: int) -> None:
        CELLS[self.key] = self.get() + amount


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    global _numbers
    _numbers = itertools.count()
    CELLS.clear()
    STORY.clear()
    FAULTS.clear()
    yield
    CELLS.clear()


FAULTS: list[Any] = []
"""What goes wrong in the next calls of ``fault``, first to last."""


def fault(*about: Any) -> None:
    if FAULTS:
        FAULTS.pop(0)(*about)


def lose_all(*_: Any) -> None:
    CELLS.clear()


def raise_error(*_: Any) -> None:
    raise ValueError("no")


@exoflow.task(can_rollback=True)
def make(value: Any) -> Any:
    STORY.append("make")
    return {"cell": Cell.new(value)}


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def pass_on(given: Any) -> Any:
    STORY.append("pass on")
    return [given["cell"]]


@exoflow.task
def commit(given: Any) -> Any:
    STORY.append("commit")
    fault(given)
    return given[0].get()


def test_saved_once_restored_once_and_let_go():
    with Engine("memory:") as engine:
        FAULTS.append(lose_all)
        assert engine.run(commit.bind(pass_on.bind(make.bind(41)))) == 41
    ran = [line for line in STORY if not line.startswith("release")]
    assert ran == ["make", "checkpoint c0", "pass on", "commit", "restore c1", "pass on", "commit"]
    assert sorted(line for line in STORY if line.startswith("release")) == ["release c0", "release c1"]
    assert not CELLS


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def read_both(one: Any, other: Any) -> Any:
    fault()
    return one[0].get() + other[0].get(), one[0] == other[0]


def test_a_ref_that_two_tasks_pass_on_is_restored_once():
    FAULTS.append(lose_all)
    with Engine("memory:") as engine:
        made = make.bind(41)
        assert engine.run(read_both.bind(pass_on.bind(made), pass_on.options(name="other").bind(made))) == (82, True)
    assert [line for line in STORY if line.startswith("restore")] == ["restore c1"]
    assert [line for line in STORY if line.startswith("checkpoint")] == ["checkpoint c0"]


def test_the_next_life_restores_what_was_saved(url):
    stuck = threading.Event()
    FAULTS.append(lambda *_: stuck.wait(5) or raise_error())
    with Engine(url, drain_s=0.0) as engine:
        future = engine.run_async(commit.bind(pass_on.bind(make.bind(5))), name="w")
        while not any(isinstance(record, journal.OutputSaved) for record in records(engine, "w")):
            stuck.wait(0.01)
        assert not future.done()
    stuck.set()
    CELLS.clear()
    STORY.clear()
    with Engine(url) as engine:
        assert engine.resume("w").result(10) == 5
    assert [line for line in STORY if not line.startswith("release")] == ["restore c1", "pass on", "commit"]


@exoflow.task(can_rollback=True)
def make_numbers(count: int) -> Any:
    return {"cell": Cell.new(np.arange(count))}


def records(engine: Engine, name: str) -> list[journal.Record]:
    return [journal.decode(entry.body) for entry in engine.store.entries(name)]


def test_large_data_is_a_blob_that_doctor_looks_at(url, tmp_path):
    with Engine(url) as engine:
        engine.run(make_numbers.bind(100_000), name="w")
        saved = next(record for record in records(engine, "w") if isinstance(record, journal.OutputSaved))
        (kept,) = saved.stored.refs
        assert kept.blob is not None
        assert saved.stored.blobs == [kept.blob]
        assert (engine.get_output("w")["cell"].get() == np.arange(100_000)).all()
        engine.collect_garbage(grace_s=0)
        assert list(engine.store.blobs.names()) == saved.stored.blobs
        path = next(path for path in tmp_path.rglob(kept.blob))
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    told = CliRunner().invoke(app, ["--store", url, "doctor"])
    assert "1 of 2 are missing or damaged" in told.output, told.output


# --- arguments -------------------------------------------------------------------------------------------------------------------


@exoflow.task
def read(given: Any) -> Any:
    fault()
    return given["here"][0].get()


def test_a_ref_among_the_arguments_is_saved_with_them_and_stays_the_callers():
    FAULTS.append(lose_all)
    with Engine("memory:") as engine:
        cell = Cell.new(7)
        assert engine.run(read.bind({"here": [cell]}), name="w") == 7
        assert STORY[:2] == ["checkpoint c0", "restore c1"]
        CELLS[cell.key] = 7
        assert engine.run(read.bind({"here": [cell]}), name="w") == 7  # it is the same workflow
        with pytest.raises(WorkflowIdConflictError):
            engine.run(read.bind({"here": [Cell.new(7)]}), name="w")
    assert [line for line in STORY if line.startswith("release")] == ["release c1"]


def test_a_lost_ref_among_the_arguments_is_refused_before_anything_is_written():
    with Engine("memory:") as engine:
        with pytest.raises(RefLostError):
            engine.run(read.bind({"here": [Cell("never")]}), name="w")
        with pytest.raises(UsageError):
            engine.get_status("w")


@exoflow.task(can_rollback=True)
def grow(value: Any) -> Any:
    return read.bind({"here": [Cell.new(value)]})


def test_a_ref_among_the_arguments_of_a_sub_workflow():
    FAULTS.append(lose_all)
    with Engine("memory:") as engine:
        assert engine.run(grow.bind(8)) == 8


# --- what tasks can change -------------------------------------------------------------------------------------------------------


@exoflow.task(can_rollback=True)
def count_from(start: int) -> Any:
    return Counter.new(start)


@exoflow.task(can_rollback=True, retries=2, backoff=0.0)
def add(counter: Any, amount: int) -> Any:
    counter.add(amount)
    fault(counter)
    return counter


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def look(counter: Any) -> Any:
    fault(counter)
    return counter.get()


def chain(times: int, last: Any) -> Any:
    """Five increments, each returning the next version."""
    node = count_from.bind(0)
    for _ in range(times):
        node = add.bind(node, 1)
    return last.bind(node)


@pytest.mark.parametrize("saved", [True, False])
def test_increments_are_not_lost_and_not_applied_twice_when_the_state_is_lost(saved):
    """Case R8 of the paper's failures: five increments, a crash, and five again; neither 0 nor 10."""
    node = count_from.options(deterministic=True).bind(0)
    for _ in range(5):
        node = add.options(checkpoint=saved, deterministic=True).bind(node, 1)
    FAULTS.extend([*[lambda *_: None] * 5, lose_all])
    with Engine("memory:") as engine:
        assert engine.run(look.bind(node)) == 5


@pytest.mark.parametrize("when", range(3))
def test_an_attempt_that_failed_half_way_leaves_no_trace(when):
    FAULTS.extend([*[lambda *_: None] * when, raise_error])
    with Engine("memory:") as engine:
        assert engine.run(chain(3, look)) == 3


def test_each_version_is_saved_as_it_was_when_its_task_returned():
    with Engine("memory:") as engine:
        assert engine.run(chain(3, look), name="w") == 3
        found = [
            codec.decode(codec.parse(bytearray(record.stored.refs[0].data)))
            for record in records(engine, "w")
            if isinstance(record, journal.OutputSaved) and record.stored.refs
        ]
    assert sorted(found) == [0, 1, 2, 3]


class Slow(Counter):
    """Its snapshots take long, and show the moment when they were asked for."""

    gates: dict[str, Future[Any]] = {}

    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002
        now, future = self.get(), Future[Any]()
        self.gates[id] = future
        threading.Timer(0.1, lambda: future.set_result(now)).start()
        return future


@exoflow.task(can_rollback=True, checkpoint=True)
def slow_count(start: int) -> Any:
    return Slow.new(start)


def test_an_asynchronous_snapshot_does_not_see_what_came_later():
    FAULTS.append(lose_all)
    with Engine("memory:") as engine:
        assert engine.run(look.bind(add.options(checkpoint=False, deterministic=True).bind(slow_count.bind(10), 1))) == 11


# --- errors ----------------------------------------------------------------------------------------------------------------------


class Broken(Cell):
    """Cannot be saved."""

    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002
        raise OSError("the disk of the backend is gone")


class Hollow(Cell):
    """What its checkpoint gives cannot be stored."""

    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002
        return settled(self.get())


@exoflow.task(can_rollback=True)
def make_of(kind: str) -> Any:
    if kind == "broken":
        return Broken.new(1)
    return Hollow.new(threading.Lock() if kind == "locked" else ValueRef(1))


@pytest.mark.parametrize(
    ("kind", "text"), [("broken", "disk of the backend is gone"), ("locked", "cannot be pickled"), ("nested", "its data holds Refs")]
)
def test_an_error_in_a_checkpoint_is_an_error(kind, text):
    with Engine("memory:") as engine, pytest.raises(WorkflowFailed, match=text):
        engine.run(look.bind(make_of.bind(kind)), name="w")


def test_what_is_lost_again_and_again_ends_the_workflow():
    FAULTS.extend([lose_all] * 100)
    with Engine("memory:") as engine, pytest.raises(TaskFailed, match="lost 20 times"):
        engine.run(look.bind(count_from.bind(1)))


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def look_inside(given: Any, _name: str) -> Any:
    fault()
    return given["cell"].get()


@pytest.mark.parametrize("saved", [True, False])
def test_two_that_find_the_same_loss_at_once_both_run_again(saved):
    both = threading.Barrier(2)

    def lose_together(*_: Any) -> None:
        both.wait(10)
        CELLS.clear()
        both.wait(10)

    FAULTS.extend([lose_together] * 2)
    made = make.options(checkpoint=saved, deterministic=True).bind(4)
    with Engine("memory:") as engine:
        readers = [look_inside.options(name=name).bind(made, name) for name in "ab"]
        assert engine.run(sum_up.bind(readers)) == 8


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def sum_up(numbers: list[int]) -> int:
    return sum(numbers)


def test_the_error_of_another_workflows_ref_is_an_ordinary_error():
    def other(*_: Any) -> None:
        Cell("of another").get()

    FAULTS.append(other)
    with Engine("memory:") as engine, pytest.raises(TaskFailed, match="the cell is empty"):
        engine.run(look.bind(count_from.bind(1)))


# --- effects ---------------------------------------------------------------------------------------------------------------------

STANDING: list[str] = []


def unbook(name: str) -> None:
    STANDING.remove(name)


@exoflow.task(can_rollback=True, rollback=unbook)
def book(name: str, given: Any) -> Any:
    STANDING.append(name)
    fault()
    return given[0].get()


def test_an_undoable_task_that_acted_before_the_loss_is_undone_first():
    STANDING.clear()
    FAULTS.append(lose_all)
    with Engine("memory:") as engine:
        assert engine.run(book.bind("seat", pass_on.bind(make.bind(3)))) == 3
    assert STANDING == ["seat"]


# --- other processes -------------------------------------------------------------------------------------------------------------


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False, executor="process")
def sum_there(given: Any) -> Any:
    return float(given["big"].get().sum()), given


@exoflow.task(can_rollback=True, executor="process")
def make_there(size: int) -> Any:
    return {"big": ValueRef(np.ones(size))}


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def is_same(total: Any, made: Any) -> Any:
    return total[0], total[1]["big"] == made["big"], made["big"].get().shape


@pytest.mark.slow  # starts worker processes
def test_between_processes():
    with Engine("memory:", processes=2) as engine:
        made = make_there.bind(200_000)
        assert engine.run(is_same.bind(sum_there.bind(made), made)) == (200_000.0, True, (200_000,))


@exoflow.task(can_rollback=True)
def make_here(value: Any) -> Any:
    return {"big": Cell.new(np.full(1000, value))}


@exoflow.task(can_rollback=True)
def count_here() -> Any:
    return {"big": Counter.new(1)}


@pytest.mark.slow  # starts worker processes
def test_where_a_ref_means_nothing_its_data_goes_and_it_comes_back_as_itself():
    with Engine("memory:", processes=1) as engine:
        made = make_here.bind(2.0)
        assert engine.run(is_same.bind(sum_there.bind(made), made)) == (2000.0, True, (1000,))
        with pytest.raises(TaskFailed, match="only be used in the process that has it"):
            engine.run(sum_there.bind(count_here.bind()))
