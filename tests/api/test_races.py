"""What happens when two do something to one workflow at the same moment. Each race is held open by a store that waits for the test."""

from __future__ import annotations

import threading

import msgspec
import pytest

import exoflow
from exoflow import task
from exoflow.core import journal
from exoflow.errors import InvalidStateError, TaskFailed, WorkflowNotFoundError
from exoflow.runtime.ownership import first_epoch
from exoflow.store.base import Write
from exoflow.store.memory import MemoryStore
from exoflow.store.sqlite import SqliteStore
from tests.api.plant import breaks_unless, mark
from tests.api.scene import PATIENCE_S


class Gate:
    """Between the test and one call of a store."""

    def __init__(self):
        self.arrived, self.leave = threading.Event(), threading.Event()

    def wait(self):
        self.arrived.set()
        assert self.leave.wait(PATIENCE_S)


class Slow(SqliteStore):
    """Waits before it writes that a workflow is resumed."""

    gate: Gate | None = None

    def commit(self, writes):
        if self.gate is not None and any(b"resumed" in body for write in writes for body, _ in write.entries):
            self.gate.wait()
        return super().commit(writes)


@task
def identity(value):
    return value


def test_two_engines_resume_at_once(tmp_path, ledger):
    """The second comes when the first has taken the workflow but not yet written so: it waits for the first, and does not take it away."""
    first_store = Slow(tmp_path / "x.db")
    with exoflow.Engine(first_store) as first, exoflow.Engine(tmp_path / "x.db") as second:
        with pytest.raises(TaskFailed):
            first.run(breaks_unless.bind(ledger.path, "repaired"), name="w")
        ledger.add("repaired")
        first_store.gate = gate = Gate()
        resumed = []
        thread = threading.Thread(target=lambda: resumed.append(first.resume("w")))
        thread.start()
        assert gate.arrived.wait(PATIENCE_S)
        attached = second.resume("w")
        assert not attached.done()
        with pytest.raises(InvalidStateError, match="cancel it first"):
            second.delete("w")
        gate.leave.set()
        thread.join(PATIENCE_S)
        assert attached.result(PATIENCE_S) == resumed[0].result(PATIENCE_S) == "fine"
        assert second.get_metadata("w").epoch == 2
    assert ledger.count("tried") == 2


started, leave = threading.Event(), threading.Event()


@task
def waits():
    started.set()
    assert leave.wait(PATIENCE_S)
    return "waited"


def test_two_engines_on_one_store_in_memory():
    """The second does not take the first for dead because it leaves no signs of life in a store that cannot outlive it."""
    store = MemoryStore()
    with exoflow.Engine(store) as first, exoflow.Engine(store) as second:
        future = first.run_async(waits.bind(), name="w")
        assert started.wait(PATIENCE_S)
        attached = second.run_async(waits.bind(), name="w")
        assert second.resume_all() == {}
        leave.set()
        assert future.result(PATIENCE_S) == attached.result(PATIENCE_S) == "waited"
        assert first.get_metadata("w").epoch == 1


class Vanishing(MemoryStore):
    """A workflow is deleted just before its journal is read."""

    def entries(self, workflow_id, **options):
        head = self.head(workflow_id)
        if head is not None:
            self.delete(workflow_id, epoch=head.epoch)
        return super().entries(workflow_id, **options)


def test_a_workflow_that_is_deleted_while_somebody_looks():
    """It is not found; nobody is told that the store is damaged."""
    for look in ("get_metadata", "get_output", "story", "resume", "wait"):
        with exoflow.Engine(Vanishing()) as engine:
            engine.run(identity.bind(1), name="gone")
            with pytest.raises(WorkflowNotFoundError, match="no workflow 'gone'"):
                getattr(engine, look)("gone")


def test_a_workflow_that_is_deleted_while_somebody_runs_it_again(ledger):
    """run() finds it, and then finds it gone: it is simply run."""
    with exoflow.Engine(Vanishing()) as engine:
        for _ in range(2):
            assert engine.run(mark.bind(ledger.path, "a"), name="gone") == "a"
    assert ledger.lines() == ["a", "a"]


def test_records_are_what_the_slow_store_takes_them_for():
    assert b"resumed" in journal.encode(journal.WorkflowResumed())


def test_many_threads_and_all_operations_at_once(tmp_path):
    """Run, resume, wait, look, cancel, delete: whatever the order, each ends, with an answer that has a name."""
    known = (exoflow.WorkflowFailed, WorkflowNotFoundError, InvalidStateError, exoflow.errors.TaskNotFoundError)
    surprises = []
    with exoflow.Engine(tmp_path / "x.db") as engine:
        operations = [
            lambda name: engine.run(identity.bind(1), name=name),
            lambda name: engine.run(identity.bind(1), name=name),
            lambda name: engine.resume(name).result(PATIENCE_S),
            lambda name: engine.wait(name, PATIENCE_S),
            engine.cancel,
            engine.delete,
            engine.get_metadata,
            lambda name: engine.get_output(name, task="identity"),
            lambda name: engine.resume_all(),
        ]

        def work(number):
            for turn in range(40):
                try:
                    operations[(number + turn * (number + 2)) % len(operations)](f"w{(number * turn) % 3}")
                except known:
                    continue
                except BaseException as error:
                    surprises.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in threads)
        assert surprises == []


class Overtaken(MemoryStore):
    """Another engine takes or deletes a workflow just before we delete it."""

    def __init__(self, faster):
        super().__init__()
        self._faster = faster

    def delete(self, workflow_id, *, epoch):
        self._faster(self, workflow_id, epoch)
        return super().delete(workflow_id, epoch=epoch)


def delete_it(store, name, epoch):
    assert MemoryStore.delete(store, name, epoch=epoch)


def begin_another(store, name, epoch):
    before = store.head(name)
    delete_it(store, name, epoch)
    write = Write(workflow_id=name, epoch=before.epoch, head=msgspec.structs.replace(before, epoch=first_epoch("another")), create=True)
    assert store.commit([write]) == ["applied"]


def take_it(store, name, epoch):
    assert store.claim(name, epoch=epoch, owner="other") == epoch + 1


def test_two_delete_one_workflow_at_once():
    """The slower one hears that it is gone, also if another has the name by now; only of one that was taken up, that it is in use."""
    for faster, error, word in (
        (delete_it, WorkflowNotFoundError, "no workflow 'w'"),
        (begin_another, WorkflowNotFoundError, "no workflow 'w'"),
        (take_it, InvalidStateError, "taken up again"),
    ):
        store = Overtaken(faster)
        with exoflow.Engine(store) as engine:
            engine.run(identity.bind(1), name="w")
            with pytest.raises(error, match=word):
                engine.delete("w")
            assert (store.head("w") is None) == (faster is delete_it)
