"""Several processes on one SQLite file: one drives a workflow, the others wait, take over when it dies, or ask it to stop."""

from __future__ import annotations

import os
import select
import signal
import threading

import pytest

import exoflow
from exoflow import task
from exoflow.errors import Fenced, InvalidStateError, LeaseLost, StoreUnavailable, WorkflowCancelledError
from exoflow.store.sqlite import SqliteStore
from tests.api import plant
from tests.api.scene import PATIENCE_S

pytestmark = pytest.mark.slow  # each test starts one process or more

LEASE_S = 60
"""So long that no test would see it run out: whatever happens at once does not wait for it."""

OWNER = f"""
import sys, exoflow
from tests.api import plant
url, ledger, what, *names = sys.argv[1:]
with exoflow.Engine(url, lease_s={LEASE_S}) as engine:
    futures = [engine.run_async(getattr(plant, what)(ledger), name=name) for name in names]
    for future in futures:
        print("result", future.result(), flush=True)
"""


@pytest.fixture
def owner(start, url, ledger):
    """Start a process that runs DAGs of plant.py and is in the middle of each."""

    def begin(what="waiting", *names):
        names = names or ("w",)
        child = start(OWNER, url, ledger.path, what, *names)
        for _ in names:
            assert child.line() == "in w"
        return child

    return begin


@pytest.fixture
def here(url):
    with exoflow.Engine(url, lease_s=LEASE_S) as engine:
        yield engine


@task
def answers(_ledger, _name):
    return "here"


def test_the_second_process_gets_the_result_and_runs_nothing(owner, here, ledger):
    child = owner()
    future = here.run_async(plant.waiting(ledger.path), name="w")
    assert not future.done()
    assert here.get_status("w") == "RUNNING"
    with pytest.raises(TimeoutError):
        here.wait("w", 0.001)
    child.say("hello")
    assert future.result(PATIENCE_S) == ("hello",)
    assert child.line() == "result ('hello',)"
    assert child.end() == 0
    assert ledger.lines() == ["w", "end"]
    assert here.resume("w").result(PATIENCE_S) == ("hello",)


def test_another_definition_is_a_conflict_also_over_processes(owner, here, ledger):
    child = owner()
    with pytest.raises(exoflow.ExoflowError, match="workflow 'w' exists with another definition"):
        here.run(plant.chain(ledger.path), name="w")
    child.say("x")
    assert child.end() == 0


def test_when_the_owner_is_killed_who_waits_takes_over_at_once(owner, here, ledger, monkeypatch):
    """kill -9. The lease would last a minute; the kernel lets go of the owner's lock at once."""
    child = owner()
    future = here.run_async(plant.waiting(ledger.path), name="w")
    monkeypatch.setattr("sys.stdin", Words(["again"]))
    child.kill()
    assert future.result(LEASE_S / 4) == ("again",)
    assert ledger.lines() == ["w", "w", "end"]
    assert here.get_metadata("w").epoch == 2


def test_worker_processes_of_a_killed_owner_are_gone_when_another_takes_over(start, url, here, ledger):
    """Nobody runs a task while the same task still runs for the dead owner."""
    os.mkfifo(f"{ledger.path}-fifo")
    child = start(OWNER, url, ledger.path, "holding", "w")
    with open(f"{ledger.path}-fifo") as reader:
        assert reader.readline() == "runs\n"
        future = here.run_async(plant.holding(ledger.path), name="w")
        child.kill()
        assert future.result(LEASE_S / 4) == ("done",)
        assert select.select([reader], [], [], 0)[0]
        assert reader.read() == "", "the worker that held it open is gone"
    assert ledger.lines() == ["h", "h", "end"]


class Words:
    """Stands in for stdin."""

    def __init__(self, words):
        self._words = list(words)

    def readline(self):
        return self._words.pop(0) + "\n"


def test_a_stopped_owner_is_not_taken_for_dead(owner, here, ledger):
    """SIGSTOP: it holds its lock, so nobody takes over, and it goes on where it was when it wakes."""
    child = owner()
    child.signal(signal.SIGSTOP)
    future = here.run_async(plant.waiting(ledger.path), name="w")
    assert here.resume_all() == {}
    looked = threading.Event()
    for _ in range(5):  # several looks of whoever waits
        here._clock.call_later(0.06, looked.set)
        assert looked.wait(PATIENCE_S)
        looked.clear()
    assert not future.done()
    with pytest.raises(InvalidStateError, match="cancel it first"):
        here.delete("w")
    child.signal(signal.SIGCONT)
    child.say("awake")
    assert future.result(PATIENCE_S) == ("awake",)
    assert ledger.lines() == ["w", "end"]
    assert here.get_metadata("w").epoch == 1


def test_cancel_from_another_process(owner, here, ledger):
    """It is the owner that cancels; the other only asks, and waits until it is done."""
    child = owner()
    future = here.run_async(plant.waiting(ledger.path), name="w")
    here.cancel("w")
    with pytest.raises(WorkflowCancelledError):
        future.result(PATIENCE_S)
    assert here.get_status("w") == "CANCELLED"
    assert here.get_metadata("w").epoch == 1
    child.say("late")
    with pytest.raises(AssertionError, match="WorkflowCancelledError"):
        child.line()
    assert ledger.lines() == ["w"], "no new task started"


def test_cancel_of_a_workflow_whose_owner_is_dead(owner, here, ledger):
    child = owner()
    child.kill()
    here.cancel("w")
    with pytest.raises(WorkflowCancelledError):
        here.wait("w", PATIENCE_S)
    assert ledger.lines() == ["w"], "nothing ran for it"


def test_delete_of_a_workflow_whose_owner_is_dead(owner, here):
    child = owner()
    child.kill()
    here.delete("w")
    assert here.list_all() == []


def test_resume_all_after_several_owners_died(owner, here, ledger, monkeypatch):
    first, second = owner("waiting", "a", "b"), owner("waiting", "c")
    first.kill()
    second.kill()
    monkeypatch.setattr("sys.stdin", Words(["x"] * 3))
    futures = here.resume_all()
    assert sorted(futures) == ["a", "b", "c"]
    assert [future.result(PATIENCE_S) for future in futures.values()] == [("x",)] * 3
    assert ledger.count("end") == 3
    assert len(here.store.owners()) == 1, "nothing is left of the dead"
    assert here.resume_all() == {}


RACER = """
import sys, exoflow
from tests.api import plant
url, ledger, count = sys.argv[1:]
with exoflow.Engine(url) as engine:
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(int(count)):
        print(engine.run(plant.mark.bind(ledger, f"m{n}", plant.mark.bind(ledger, f"n{n}")), name=f"w{n}"), flush=True)
"""


def test_four_processes_run_the_same_at_once(start, url, ledger):
    """Each workflow is executed exactly once, counted outside, and all four get its result."""
    count = 5
    children = [start(RACER, url, ledger.path, count) for _ in range(4)]
    for child in children:
        assert child.line() == "ready"
    for child in children:
        child.say("go")
    for child in children:
        assert [child.line() for _ in range(count)] == [f"('n{n}',)" for n in range(count)]
        assert child.end() == 0
    assert sorted(ledger.lines()) == sorted([f"m{n}" for n in range(count)] + [f"n{n}" for n in range(count)])


def test_a_clean_end_gives_the_workflow_back_at_once(start, url, here, ledger, monkeypatch):
    """The owner closes its engine in the middle: who waits goes on at once, not when a lease has run out."""
    child = start(CLOSER, url, ledger.path)
    assert child.line() == "in w"
    future = here.run_async(plant.waiting(ledger.path), name="w")
    monkeypatch.setattr("sys.stdin", Words(["mine"]))
    child.say("close")
    assert future.result(LEASE_S / 4) == ("mine",)
    assert child.end() == 0


CLOSER = f"""
import os, sys, threading, exoflow
from tests.api import plant
url, ledger = sys.argv[1:]
line = sys.stdin
sys.stdin = open(os.pipe()[0])
engine = exoflow.Engine(url, lease_s={LEASE_S}, drain_s=0.01)
engine.run_async(plant.waiting(ledger), name="w")
line.readline()
engine.close()
os._exit(0)
"""


@task
def waits_here(ledger, name):
    plant.Ledger(ledger).add(name)
    arrived.set()
    assert leave.wait(PATIENCE_S)
    return "late"


arrived, leave = threading.Event(), threading.Event()


def test_a_stale_owner_is_fenced(here, ledger):
    """Somebody else took the workflow (as another host does after a lease): what the old owner writes is refused, whoever waited on it
    is told, and nothing more of the workflow starts there."""
    arrived.clear()
    leave.clear()
    future = here.run_async(plant.mark.bind(ledger.path, "end", waits_here.bind(ledger.path, "w")), name="w")
    assert arrived.wait(PATIENCE_S)
    assert here.store.claim("w", epoch=here.store.head("w").epoch, owner="somebody on another host")
    before = here.store.entries("w")
    leave.set()
    with pytest.raises(Fenced, match="workflow 'w' belongs to another owner now"):
        future.result(PATIENCE_S)
    assert here.store.entries("w") == before
    assert ledger.lines() == ["w"]
    assert here.run(plant.mark.bind(ledger.path, "other")) == "other", "the engine itself goes on"


def test_a_stale_owner_stops_its_processes(here, ledger, tmp_path):
    """The attempts of a workflow that was lost are killed: their effects would be somebody else's."""
    arrived.clear()
    leave.clear()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    future = here.run_async(beside.bind(forever.bind(str(fifo)), waits_here.bind(ledger.path, "w")), name="w")
    with open(fifo) as reader:
        assert reader.readline() == "runs\n"
        assert arrived.wait(PATIENCE_S)
        assert here.store.claim("w", epoch=here.store.head("w").epoch, owner="somebody on another host")
        leave.set()
        with pytest.raises(Fenced):
            future.result(PATIENCE_S)
        assert select.select([reader], [], [], PATIENCE_S)[0]
        assert reader.read() == "", "the process that held it open is gone"


@task(executor="process", can_rollback=True)
def forever(fifo):
    with open(fifo, "w") as writer:
        writer.write("runs\n")
        writer.flush()
        threading.Event().wait()


@task
def beside(*_):
    return None


class Mute(SqliteStore):
    """Cannot be reached by the heartbeat while ``mute``."""

    mute = False

    def __init__(self, path):
        super().__init__(path)
        self.beats = threading.Semaphore(0)

    def beat(self, row, *, owner=""):
        if self.mute and row is not None:
            raise StoreUnavailable(store=self.url, reason="made up")
        self.beats.release()
        return super().beat(row, owner=owner)


def test_an_owner_that_cannot_show_life_stops_by_itself(tmp_path, ledger):
    """Before another host may take over. When the store is back, the same engine goes on, and shows life again."""
    arrived.clear()
    leave.clear()
    store = Mute(tmp_path / "x.db")
    with exoflow.Engine(store, lease_s=0.1) as engine:
        future = engine.run_async(waits_here.bind(ledger.path, "w"), name="w")
        assert arrived.wait(PATIENCE_S)
        store.mute = True
        with pytest.raises(LeaseLost, match="could not renew its lease on workflow 'w'"):
            future.result(PATIENCE_S)
        store.mute = False
        leave.set()
        assert engine.run(plant.mark.bind(ledger.path, "next")) == "next"
        while store.beats.acquire(blocking=False):
            pass  # those of before
        (before,) = store.owners()
        for _ in range(3):
            assert store.beats.acquire(timeout=PATIENCE_S)
        (after,) = store.owners()
        assert after.beat > before.beat
