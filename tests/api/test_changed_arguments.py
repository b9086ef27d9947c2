"""Tasks that change what they were given, which others hold, too: found if one asks for it."""

from __future__ import annotations

import threading

import pytest

import exoflow
from exoflow.errors import InputMutatedError


@pytest.fixture
def strict():
    with exoflow.Engine("memory:", check_inputs=True) as engine:
        yield engine


@exoflow.task(can_rollback=True)
def read():
    return {"rows": [3, 1, 2]}


@exoflow.task(can_rollback=True, retries=3)
def sort(table, *more, unit=""):
    table["rows"].sort()
    return table


@exoflow.task(can_rollback=True)
async def sort_soon(table):
    table["rows"].sort()


@exoflow.task(can_rollback=True, executor="process")
def sort_elsewhere(table):
    table["rows"].sort()
    return table


def test_off_by_default(memory):
    assert memory.run(sort.bind(read.bind())) == {"rows": [1, 2, 3]}


@pytest.mark.parametrize("task", [sort, sort_soon])
def test_the_argument_is_named_and_nothing_is_tried_again(strict, task):
    future = strict.run_async(task.bind(read.bind()))
    cause = future.exception().__cause__
    assert isinstance(cause, InputMutatedError)
    assert "'table'" in str(cause)
    assert strict.get_metadata(future.name).tasks[-1].failures <= 1


def test_any_kind_of_parameter(strict):
    @exoflow.task(can_rollback=True)
    def touch(first, /, *rest, named=None, **others):
        others["deep"]["down"].append(1)

    cause = strict.run_async(touch.bind(1, [2], named={3}, deep={"down": []})).exception().__cause__
    assert "'others'" in str(cause)


def test_what_is_left_alone_passes(strict):
    @exoflow.task(can_rollback=True)
    def look(table, lock):
        return sorted(table["rows"])

    @exoflow.task(can_rollback=True, checkpoint=False)
    def hold():
        return threading.Lock()

    assert strict.run(look.bind(read.bind(), hold.bind())) == [1, 2, 3]


@pytest.mark.slow  # a worker process
def test_worker_processes_get_copies(strict):
    assert strict.run(sort_elsewhere.bind(read.bind())) == {"rows": [1, 2, 3]}
