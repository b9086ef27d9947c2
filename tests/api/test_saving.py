"""Saving while other tasks run: what waits for it, what does not, and what happens when it cannot be done."""

from __future__ import annotations

import threading

import pytest

import exoflow
from exoflow import task
from exoflow.errors import EngineBug, StorageFullError, StoreUnavailable, TaskFailed
from exoflow.store.memory import MemoryBlobs, MemoryStore
from tests.api.scene import PATIENCE_S

LARGE = 200_000
ran: list[str] = []


@pytest.fixture(autouse=True)
def _forget():
    ran.clear()


class Blobs(MemoryBlobs):
    """Blobs that are saved when the test says so, or fail with ``troubles`` first."""

    def __init__(self):
        super().__init__()
        self.free, self.asked = threading.Event(), threading.Event()
        self.free.set()
        self.troubles = []

    def put(self, pieces):
        self.asked.set()
        assert self.free.wait(PATIENCE_S)
        if self.troubles:
            raise self.troubles.pop(0)
        return super().put(pieces)


@pytest.fixture
def blobs():
    return Blobs()


@pytest.fixture
def store(blobs):
    store = MemoryStore()
    store.blobs = blobs
    return store


@task
def large():
    ran.append("large")
    return b"x" * LARGE


@task(can_rollback=True)
def looks(data):
    ran.append("looks")
    return len(data)


@task
def commits(data):
    ran.append("commits")
    return len(data)


@task
def other(name="other"):
    ran.append(name)
    return name


@task(deterministic=True, can_rollback=True, checkpoint=False)
def together(*values):
    return values


@task
def tells(event, *_):
    events[event].set()
    return event


events: dict[str, threading.Event] = {}


@task
def large_inside():
    return [b"x" * LARGE]


@pytest.mark.parametrize(("made", "length"), [(large, LARGE), (large_inside, 1)])
def test_a_commit_waits_for_the_checkpoint_and_nothing_else_does(store, blobs, made, length):
    """While an output is being saved, its internal consumers run, and so does what is independent; only the commit on it waits."""
    events.update(looked=threading.Event(), beside=threading.Event())
    blobs.free.clear()
    data = made.bind()
    dag = together.bind(
        commits.bind(data), tells.options(can_rollback=True).bind("looked", looks.bind(data)), tells.bind("beside", other.bind())
    )
    with exoflow.Engine(store) as engine:
        future = engine.run_async(dag, name="w")
        assert blobs.asked.wait(PATIENCE_S)
        assert events["looked"].wait(PATIENCE_S)
        assert events["beside"].wait(PATIENCE_S)
        assert "commits" not in ran
        assert "the commit rule holds it back" in engine.story("w", "commits")
        with pytest.raises(exoflow.ExoflowError, match="no saved output of"):
            engine.get_output("w", task=made.__name__)
        blobs.free.set()
        assert future.result(PATIENCE_S) == (length, "looked", "beside")


def test_with_checkpoint_sync_every_consumer_waits(store, blobs):
    blobs.free.clear()
    with exoflow.Engine(store) as engine:
        future = engine.run_async(looks.bind(large.options(checkpoint="sync").bind()), name="w")
        assert blobs.asked.wait(PATIENCE_S)
        assert ran == ["large"]
        blobs.free.set()
        assert future.result(PATIENCE_S) == LARGE


def test_the_result_is_durable_before_anybody_is_told(store, blobs):
    """Also the result of a task that is not saved otherwise."""
    blobs.free.clear()
    with exoflow.Engine(store) as engine:
        future = engine.run_async(large.options(checkpoint=False, can_rollback=True).bind(), name="w")
        assert blobs.asked.wait(PATIENCE_S)
        assert not future.done()
        assert engine.get_status("w") == "RUNNING"
        blobs.free.set()
        assert len(future.result(PATIENCE_S)) == LARGE
        assert len(engine.get_output("w")) == LARGE


@task
def many_with_a_lock():
    ran.append("makes")
    return [*range(20_000), threading.Lock()]


def test_an_output_that_turns_out_unsaveable_beside_its_consumers(store):
    """It is large, so it is pickled while its consumers run. The workflow fails, and says at which place of which output."""
    with exoflow.Engine(store) as engine:
        text = r"ResultNotSerializableError: result of 'many_with_a_lock' .* at \[20000\] \(_thread.lock\)"
        with pytest.raises(TaskFailed, match=text):
            engine.run(commits.bind(many_with_a_lock.options(retries=3).bind()), name="w")
        assert ran == ["makes"]
        assert engine.get_status("w") == "FAILED"


@pytest.mark.parametrize("size", [LARGE, 1000], ids=["beside", "at once"])
def test_a_full_disk_is_waited_for(store, blobs, clock, size):
    """No task fails for it, and the workflow goes on by itself when there is room."""
    full = StorageFullError(store="here", reason="no space left on device")
    with exoflow.Engine(store, clock=clock, inline_bytes=10) as engine:
        future = engine.run_async(sized.bind(size), name="w")
        blobs.troubles += [full] * 3
        gate["go"].set()
        for _ in range(2):
            clock.fire_next(0.5)
        if size == LARGE:
            clock.fire_next(0.5)
        assert len(future.result(PATIENCE_S)) == size
        assert ran == ["sized"]
    gate["go"].clear()


gate = {"go": threading.Event()}


@task
def sized(size):
    assert gate["go"].wait(PATIENCE_S)
    ran.append("sized")
    return b"x" * size


def test_a_submission_on_a_full_disk_is_refused(store, blobs):
    blobs.troubles.append(StorageFullError(store="here", reason="no space left on device"))
    with exoflow.Engine(store) as engine:
        with pytest.raises(StorageFullError, match="store here is full: no space left on device"):
            engine.run(looks.bind(b"x" * LARGE), name="w")
        assert engine.list_all() == []
        assert engine.run(looks.bind(b"x" * LARGE), name="w") == LARGE


def test_a_store_that_is_gone_ends_the_waiting(store, blobs):
    """Nothing is made up: the workflow stays as it is, and whoever waits is told."""
    with exoflow.Engine(store) as engine:
        blobs.free.clear()
        future = engine.run_async(looks.bind(large.bind()), name="w")
        assert blobs.asked.wait(PATIENCE_S)
        blobs.troubles.append(StoreUnavailable(store="here", reason="the disk is gone"))
        blobs.free.set()
        with pytest.raises(StoreUnavailable, match="the disk is gone"):
            future.result(PATIENCE_S)
        assert engine.store.head("w").status == "RUNNING"


def test_a_fault_of_a_store_is_told_and_does_not_hang(store, blobs):
    """A store that raises what no store may raise."""
    with exoflow.Engine(store) as engine:
        blobs.free.clear()
        future = engine.run_async(looks.bind(large.bind()), name="w")
        assert blobs.asked.wait(PATIENCE_S)
        blobs.troubles.append(ZeroDivisionError("bug"))
        blobs.free.set()
        with pytest.raises(EngineBug, match="ZeroDivisionError: bug"):
            future.result(PATIENCE_S)


def test_a_fault_while_an_outcome_is_taken_in_does_not_hang(memory, monkeypatch):
    from exoflow.runtime import attempts

    def broken(*_):
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(attempts._Attempt, "_returned", broken)
    with pytest.raises(EngineBug, match="ZeroDivisionError: bug"):
        memory.run(other.bind(), name="w")


class SlowStore(MemoryStore):
    """Lets nothing be committed that came after the submission, until ``go`` is set."""

    durable = False

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def commit(self, writes):
        if not any(write.create for write in writes):
            assert self.go.wait(PATIENCE_S)
        return super().commit(writes)


def test_the_only_thread_goes_on_while_another_commits():
    store = SlowStore()

    @task(can_rollback=True)
    def step(x):
        if x == 5:
            store.go.set()
        return x + 1

    node = step.bind(0)
    for _ in range(5):
        node = step.bind(node)
    with exoflow.Engine(store, threads=1) as engine:
        assert engine.run(node) == 6


def test_nobody_has_to_handle_the_events_of_others_for_long(memory, monkeypatch):
    from exoflow.runtime import loop

    monkeypatch.setattr(loop, "_EVENTS_IN_A_ROW", 1)
    threads = set()
    handle = loop.Loop._handle

    def note(self, *given):
        threads.add(threading.current_thread().name)
        handle(self, *given)

    monkeypatch.setattr(loop.Loop, "_handle", note)

    @task
    async def one():
        return 1

    assert memory.run(exoflow.workflow(lambda: [one.bind() for _ in range(50)])) == [1] * 50
    assert any(name.startswith("exoflow-saver") for name in threads)


def test_a_caller_that_waits_commits_its_own_submission():
    store, committed = MemoryStore(), []
    commit = store.commit

    def note(writes):
        committed.extend((write.workflow_id, threading.current_thread()) for write in writes if write.create)
        return commit(writes)

    store.commit = note
    let_go = threading.Event()

    @task
    def hold():
        let_go.wait(PATIENCE_S)

    with exoflow.Engine(store) as engine:
        holding = engine.run_async(hold.bind(), name="holding")  # so that a function runs
        engine.run_async(hold.bind(), name="next")
        let_go.set()
        holding.result()
    assert committed == [(name, threading.main_thread()) for name in ("holding", "next")]
