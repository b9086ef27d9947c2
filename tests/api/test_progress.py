"""What a running workflow is doing, as displays are told."""

from __future__ import annotations

import threading

import pytest

import exoflow
from exoflow.client.progress import progress

_gate = threading.Event()
_begun = threading.Semaphore(0)


@pytest.fixture
def gate():
    _gate.clear()
    yield _gate
    _gate.set()


@exoflow.task
def gated(value):
    _begun.release()
    _gate.wait(20)
    return value


@exoflow.task
def total(values):
    return sum(values)


def until_begun(count):
    for _ in range(count):
        assert _begun.acquire(timeout=20)


def test_a_workflow_with_few_tasks_shows_all_of_them(engine, gate):
    future = engine.run_async(total.bind([gated.bind(1), gated.bind(2)]), name="w")
    until_begun(2)
    now = progress(engine, "w")
    assert (now.workflow_id, now.status, now.ending, now.total, now.saved) == ("w", "RUNNING", "", 3, 0)
    assert now.counts == {"RUNNING": 2, "WAITING": 1}
    assert [(task.task, task.state, task.attempt) for task in now.tasks] == [
        ("gated", "RUNNING", 1),
        ("gated_2", "RUNNING", 1),
        ("total", "WAITING", 0),
    ]
    gate.set()
    assert future.result(20) == 3
    assert progress(engine, "w") is None, "it has ended"
    assert progress(engine, "nothing") is None


def test_of_many_tasks_those_that_matter_are_shown(any_url, gate):
    with exoflow.Engine(any_url, threads=2) as engine:
        future = engine.run_async(total.bind([gated.bind(n) for n in range(30)]), name="w")
        until_begun(2)
        now = progress(engine, "w", tasks_max=10)
        assert now.total == 31
        assert now.counts == {"RUNNING": 4, "QUEUED": 26, "WAITING": 1}, "two run, two wait at the executor"
        assert len(now.tasks) == 10
        assert now.tasks[-1].why == "for a free worker of 'thread'"
        gate.set()
        assert future.result(20) == sum(range(30))


def test_a_workflow_that_winds_down_says_so(engine, gate):
    future = engine.run_async(total.bind([gated.bind(1)]), name="w")
    until_begun(1)
    threading.Thread(target=engine.cancel, args=("w",), daemon=True).start()
    while (now := progress(engine, "w")) is not None and not now.ending:
        pass
    assert now is None or now.ending == "CANCELLED"
    gate.set()
    assert isinstance(future.exception(20), exoflow.errors.WorkflowCancelledError)
