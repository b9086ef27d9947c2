"""Defects of the paper's own prototype, by their numbers there, each as a case that has to come out right here.

Others are told elsewhere: D1 also as a real crash (tests/crash/test_recovery_cases.py, R3), D4 (tests/core/test_examples.py, E1),
D5 and D14 (tests/api/test_saving.py), D7 (tests/api/test_failures.py), D11 (the suites of stores and blobs), D12 (tests/store and
tests/power). D3, D4 and D13 on a real Ray, with its actors: tests/backends/ray/test_ray_losses.py.
"""

from __future__ import annotations

import os
import random
import signal
import threading

import pytest

import exoflow
from exoflow import task
from exoflow.errors import TaskFailed
from exoflow.store.memory import MemoryBlobs, MemoryStore
from exoflow.testing import Effects, crash_everywhere
from exoflow.testing.ledger import descendants
from tests.api.scene import PATIENCE_S

LARGE = 300_000
done: list[object] = []
go_on = threading.Event()
outside = Effects()


class SlowBlobs(MemoryBlobs):
    """Blobs whose saving is held back until the test lets it go on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.free = threading.Event(), threading.Event()

    def put(self, pieces):
        self.asked.set()
        assert self.free.wait(PATIENCE_S)
        return super().put(pieces)


@pytest.fixture
def blobs():
    return SlowBlobs()


@pytest.fixture
def store(blobs):
    store = MemoryStore()
    store.blobs = blobs
    done.clear()
    go_on.clear()
    return store


@task(can_rollback=True, executor="process")
def draws():
    """A random number and the process that drew it; too large for the journal."""
    return random.random(), os.getpid(), b"x" * LARGE


@task
def commits(drawn):
    done.append(drawn[0])
    return drawn[0]


@task(can_rollback=True, checkpoint=False)
def length(drawn):
    done.append("length")
    return len(drawn)


@task(can_rollback=True)
def small():
    return 1


@task
def commits_one(one):
    done.append("committed")
    go_on.set()
    return one


@task(can_rollback=True)
def long():
    assert go_on.wait(PATIENCE_S), "the commit waited for a task that has nothing to do with it"
    return 2


@task(can_rollback=True, checkpoint=False, deterministic=True)
def both(*values):
    return values


@pytest.mark.slow
def test_d1_a_checkpoint_does_not_die_with_the_worker_that_made_the_output(store, blobs):
    """It is the engine's to save. Slow: starts a worker process, and kills it."""
    others = descendants(os.getpid())
    with exoflow.Engine(store, processes=1) as engine:
        future = engine.run_async(commits.bind(draws.bind()), name="w")
        assert blobs.asked.wait(PATIENCE_S)
        for worker in set(descendants(os.getpid())).difference(others):
            os.kill(worker, signal.SIGKILL)
        assert done == [], "the commit must not start before the checkpoint is durable"
        blobs.free.set()
        assert future.result(PATIENCE_S) == done[0]
        assert len(done) == 1
        assert engine.get_metadata("w").tasks[0].attempts == 1


@pytest.mark.slow
def test_d2_nothing_is_marked_as_saved_before_its_bytes_are(store, blobs):
    """Slow: starts a worker process."""
    with exoflow.Engine(store, processes=1) as engine:
        drawn = draws.bind()
        future = engine.run_async(both.bind(drawn, length.bind(drawn)), name="w")
        assert blobs.asked.wait(PATIENCE_S)
        assert not any(each.durable for each in engine.get_metadata("w").tasks)
        blobs.free.set()
        future.result(PATIENCE_S)
        assert engine.get_metadata("w").tasks[0].durable


def test_d6_to_wait_for_one_checkpoint_is_not_to_wait_for_other_tasks():
    """The commit runs while the long task, which waits for it, still does."""
    done.clear()
    go_on.clear()
    with exoflow.Engine("memory:") as engine:
        assert engine.run(both.bind(commits_one.bind(small.bind()), long.bind())) == (1, 2)


@task(executor="process", can_rollback=True, checkpoint=False)
def dies():
    os.kill(os.getpid(), signal.SIGKILL)


@task(executor="process", can_rollback=True)
def lives(n):
    return n


@pytest.mark.slow
def test_d8_a_task_that_kills_its_worker_hurts_no_other_workflow():
    """Slow: starts worker processes, and several of them die."""
    with exoflow.Engine("memory:", processes=1) as engine:
        bad = engine.run_async(dies.bind(), name="bad")
        good = [engine.run_async(lives.bind(n), name=f"good-{n}") for n in range(5)]
        assert [future.result(PATIENCE_S) for future in good] == list(range(5))
        with pytest.raises(TaskFailed, match="killed its worker 3 times"):
            bad.result(PATIENCE_S)


@task(retries=5)
def order(room):
    """The prototype's own example: it draws the number of the order, inserts a row, and is retried."""
    number = random.randrange(10**9)
    outside.apply("order", value=(number, room))
    return number


@task(retries=5)
def order_by_key(room):
    key = exoflow.current_task().idempotency_key
    outside.apply("order", value=room, key=key)
    return room


@pytest.mark.slow
def test_e4_an_order_that_draws_its_number_is_not_idempotent_and_that_is_found():
    """A crash after the row was inserted leaves two orders. Slow: dozens of runs."""
    report = crash_everywhere(order.bind("room-1"))
    assert not report.ok
    assert "'order' happened twice" in str(report)
    assert crash_everywhere(order_by_key.bind("room-1")).ok
