"""A workflow that was deleted and begun anew under its name is another workflow: nothing meant for the first reaches the second."""

from __future__ import annotations

import random
import threading

import pytest

import exoflow
from exoflow import task
from exoflow.errors import TaskFailed, WorkflowNotFoundError
from exoflow.runtime.ownership import birth_of, first_epoch, life_of
from exoflow.store.base import Write
from exoflow.store.memory import MemoryStore
from tests.api import plant
from tests.api.scene import PATIENCE_S

keys: list[tuple[str, int, int]] = []


@pytest.fixture(autouse=True)
def _forget():
    keys.clear()


@task
def pays(ledger, amount):
    """Fails until the ledger says otherwise."""
    here = exoflow.current_task()
    keys.append((here.idempotency_key, here.epoch, here.attempt))
    if "go" not in plant.Ledger(ledger).lines():
        raise ConnectionError("no answer")
    return amount


def test_its_idempotency_keys_are_its_own(engine, ledger):
    """Equal over attempts and over resuming; another after delete, so that a payment made for the first is not taken for its own."""
    with pytest.raises(TaskFailed):
        engine.run(pays.options(retries=1, backoff=0.0).bind(ledger.path, 5), name="w")
    ledger.add("go")
    assert engine.resume("w").result(PATIENCE_S) == 5
    assert [(epoch, attempt) for _, epoch, attempt in keys] == [(1, 1), (1, 2), (2, 1)]
    assert len({key for key, _, _ in keys}) == 1
    engine.delete("w")
    assert engine.run(pays.bind(ledger.path, 5), name="w") == 5
    assert keys[-1][0] != keys[0][0]
    assert keys[-1][1:] == (1, 1)


def test_the_key_survives_taking_up_the_workflow_in_another_process(url, ledger):
    with exoflow.Engine(url) as engine, pytest.raises(TaskFailed):
        engine.run(pays.bind(ledger.path, 5), name="w")
    ledger.add("go")
    with exoflow.Engine(url) as engine:
        assert engine.resume("w").result(PATIENCE_S) == 5
        assert engine.get_metadata("w").epoch == 2
    assert len({key for key, _, _ in keys}) == 1


def test_whoever_was_late_for_the_first_cannot_touch_the_second(engine, ledger):
    """Epochs of one name never come again, whatever the program does with Python's chance."""
    ledger.add("go")
    stale = []
    for _ in range(3):
        random.seed(0)
        engine.run(pays.bind(ledger.path, 5), name="w")
        stale.append(engine.store.head("w"))
        engine.delete("w")
    random.seed(0)
    engine.run(pays.bind(ledger.path, 5), name="w")
    before = engine.store.head("w"), engine.store.entries("w")
    for head in stale:
        for epoch in (head.epoch, head.epoch + 1):
            assert engine.store.claim("w", epoch=epoch, owner="late") is None
            assert engine.store.delete("w", epoch=epoch) is False
            assert engine.store.commit([Write(workflow_id="w", epoch=epoch, entries=((b"late", None),))]) == ["fenced"]
    assert (engine.store.head("w"), engine.store.entries("w")) == before


started, leave = threading.Event(), threading.Event()


@task
def waits(answer):
    started.set()
    assert leave.wait(PATIENCE_S)
    return answer


def test_whoever_waited_for_the_first_is_not_given_the_result_of_the_second(clock):
    started.clear()
    leave.clear()
    store = MemoryStore()
    with exoflow.Engine(store) as first, exoflow.Engine(store, clock=clock) as second:
        future = first.run_async(waits.bind("first"), name="w")
        attached = second.run_async(waits.bind("first"), name="w")
        leave.set()
        assert future.result(PATIENCE_S) == "first"
        first.delete("w")
        assert first.run(waits.bind("second"), name="w") == "second"
        clock.fire_next()
        with pytest.raises(WorkflowNotFoundError, match="no workflow 'w'"):
            attached.result(PATIENCE_S)


def test_people_see_small_epochs(engine, ledger):
    ledger.add("go")
    engine.run(pays.bind(ledger.path, 5), name="w")
    assert engine.get_metadata("w").epoch == 1
    assert "output of attempt 1 (epoch 1) is durable" in engine.story("w")


def test_an_epoch_is_a_birth_and_a_life():
    births = {birth_of(first_epoch(str(number))) for number in range(1000)}
    assert len(births) == 1000
    epoch = first_epoch("x")
    assert first_epoch("x") == epoch
    assert life_of(epoch) == 1
    assert (birth_of(epoch + 1), life_of(epoch + 1)) == (birth_of(epoch), 2)
    assert all(0 < first_epoch(str(number)) < 2**62 for number in range(1000))
