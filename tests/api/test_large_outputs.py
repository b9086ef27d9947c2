"""Outputs too large for the journal: saved as blobs, handed over without copies, found damaged or missing when they are."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref

import pytest

import exoflow
from exoflow import task
from exoflow.errors import CheckpointCorruptError, InvalidOptionError, TaskFailed, WorkflowBlockedError
from exoflow.store.base import Collected
from tests.api import plant
from tests.api.damage import blobs, change_file, change_payload
from tests.api.plant import mark
from tests.api.scene import PATIENCE_S
from tests.patience import until

np = pytest.importorskip("numpy")

SIZE = 300_000
seen: dict[str, object] = {}
calls: list[str] = []


@pytest.fixture(autouse=True)
def _forget():
    seen.clear()
    calls.clear()


@task
def makes(fill=1, size=SIZE):
    calls.append("makes")
    seen["made"] = np.full(size // 8, fill, dtype=np.float64)
    return seen["made"]


@task(deterministic=True)
def makes_again(fill=1):
    calls.append("makes_again")
    return np.full(SIZE // 8, fill, dtype=np.float64)


@task
def takes(array):
    seen["taken"] = array
    return float(array.sum())


@task(can_rollback=True)
def takes_later(ledger, array):
    """Fails until the ledger says otherwise, so that the workflow is resumed and loads the array."""
    if "go" not in plant.Ledger(ledger).lines():
        raise RuntimeError("not yet")
    return float(array.sum())


def test_an_array_is_handed_over_not_copied(engine):
    """Two thread tasks: the second gets the very object that the first returned."""
    assert engine.run(takes.bind(makes.bind())) == SIZE / 8
    assert seen["taken"] is seen["made"]


def test_a_large_output_is_a_blob_and_is_loaded_after_reopening(url, ledger):
    with exoflow.Engine(url) as engine, pytest.raises(TaskFailed):
        engine.run(takes_later.bind(ledger.path, makes.bind(2)), name="w")
    (blob,) = blobs(url)
    assert SIZE <= blob.stat().st_size < SIZE + 2000
    ledger.add("go")
    with exoflow.Engine(url) as engine:
        assert np.array_equal(engine.get_output("w", task="makes"), np.full(SIZE // 8, 2.0))
        assert engine.resume("w").result(PATIENCE_S) == SIZE / 4
        assert calls == ["makes"]


def test_a_loaded_array_may_be_written_to(url, ledger):
    """As the original could be; the blob does not change with it."""
    with exoflow.Engine(url) as engine:
        engine.run(makes.bind(), name="w")
        for _ in range(2):
            array = engine.get_output("w")
            assert array[0] == 1
            array[0] = 99


def test_equal_outputs_are_stored_once(url):
    with exoflow.Engine(url) as engine:
        engine.run(mark.bind("/dev/null", "x", [makes.bind(3)]), name="a")
        engine.run(makes.bind(3), name="b")
    assert len(blobs(url)) == 2  # the array, and the list that holds it


def test_what_may_go_into_the_journal_can_be_set(url):
    with exoflow.Engine(url, inline_bytes=10) as engine:
        engine.run(makes.bind(1, 8), name="w")
    assert len(blobs(url)) >= 1
    with exoflow.Engine(url, inline_bytes=10_000_000) as engine:
        before = len(blobs(url))
        engine.run(makes.bind(5), name="v")
        assert len(blobs(url)) == before


# --- damage ---


@pytest.fixture
def failed(url, ledger, request):
    """A workflow that failed behind a large output of the task given as parameter, and goes on when resumed."""
    with exoflow.Engine(url) as engine, pytest.raises(TaskFailed):
        engine.run(takes_later.bind(ledger.path, request.param.bind()), name="w")
    ledger.add("go")
    (blob,) = blobs(url)
    return blob


def remove(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("failed", [makes, makes_again], indirect=True, ids=["chance", "deterministic"])
@pytest.mark.parametrize("harm", [change_file, remove, cut, empty])
def test_a_damaged_blob_counts_as_lost_and_is_made_again(url, failed, harm):
    """Nothing rests on it that could not be undone: its task runs again. The right answer, never a wrong one."""
    harm(failed)
    calls.clear()
    with exoflow.Engine(url) as engine:
        assert engine.resume("w").result(PATIENCE_S) == SIZE / 8
        assert len(calls) == 1
        assert "its saved output is damaged and counts as lost" in engine.story("w")
        assert engine.get_output("w", task=calls[0])[0] == 1


@task
def commits(array):
    calls.append("commits")
    return float(array[0])


def test_a_damaged_output_on_which_a_commit_rests_is_not_made_again(url, ledger):
    """A nondeterministic output that was used by a committing task: another version would contradict what is done. A person must look,
    and after the repair the workflow goes on."""
    array = makes.bind()
    with exoflow.Engine(url) as engine, pytest.raises(TaskFailed):
        engine.run(both(ledger, array), name="w")
    ledger.add("go")
    (blob,) = blobs(url)
    sound = blob.read_bytes()
    change_file(blob)
    calls.clear()
    with exoflow.Engine(url) as engine:
        text = "'makes' .*fails its digest, and a commit or a rollback may need that very value"
        with pytest.raises(WorkflowBlockedError, match=text) as caught:
            engine.resume("w").result(PATIENCE_S)
        assert isinstance(caught.value.__cause__, CheckpointCorruptError)
        assert calls == []
        blob.write_bytes(sound)
        assert engine.resume("w").result(PATIENCE_S) == SIZE / 8
        assert calls == []


def both(ledger, array):
    later = takes_later.bind(ledger.path, array)
    _ = commits.bind(array) >> later
    return later


@pytest.mark.parametrize("large", [True, False], ids=["blob", "inline"])
def test_a_damaged_result_is_not_given_to_anybody(url, large):
    """The workflow has ended: its result may be known to somebody, so it is not made again."""
    with exoflow.Engine(url) as engine:
        engine.run(makes.bind(1, SIZE if large else 80), name="w")
        seq = next(e.seq for e in engine.store.entries("w") if b"saved" in e.body)
    if large:
        change_file(blobs(url)[0])
    else:
        change_payload(url, "w", seq=seq)
    with exoflow.Engine(url) as engine:
        asks = (
            lambda: engine.get_output("w"),
            lambda: engine.get_output("w", task="makes"),
            lambda: engine.run(makes.bind(1, SIZE if large else 80), name="w"),
            lambda: engine.resume("w"),
            lambda: engine.wait("w"),
        )
        for ask in asks:
            with pytest.raises(CheckpointCorruptError, match="the saved output of task 'makes' of workflow 'w' is damaged"):
                ask()
        assert engine.get_status("w") == "SUCCEEDED"
    assert calls == ["makes"]


@pytest.mark.slow
def test_every_byte_of_a_saved_value_is_guarded(url, ledger):
    """Whatever byte of an inline output changes, nobody gets a wrong one. (Opens the store for each.)"""
    with exoflow.Engine(url) as engine, pytest.raises(TaskFailed):
        engine.run(takes_later.bind(ledger.path, makes.bind(1, 16)), name="w")
    with exoflow.Engine(url) as engine:
        entry = next(e for e in engine.store.entries("w") if b"saved" in e.body)
    for at in range(0, len(entry.payload), 7):
        change_payload(url, "w", seq=entry.seq, at=at)
        with exoflow.Engine(url) as engine, pytest.raises(CheckpointCorruptError):
            engine.get_output("w", task="makes")
        change_payload(url, "w", seq=entry.seq, at=at)
    with exoflow.Engine(url) as engine:
        assert engine.get_output("w", task="makes")[0] == 1


def test_a_sub_workflow_whose_shape_was_damaged(url, ledger):
    """The journal knows its tasks only through the shape. Told as what it is; after the repair the workflow goes on."""
    with exoflow.Engine(url) as engine, pytest.raises(TaskFailed):
        engine.run(grows.bind(ledger.path), name="w")
    ledger.add("go")
    with exoflow.Engine(url) as engine:
        seq = next(e.seq for e in engine.store.entries("w") if b"saved" in e.body)
    change_payload(url, "w", seq=seq)
    with exoflow.Engine(url) as engine:
        text = "the saved output of task 'grows' of workflow 'w' is damaged, and it is a sub-workflow"
        with pytest.raises(CheckpointCorruptError, match=text):
            engine.resume("w")
    change_payload(url, "w", seq=seq)
    with exoflow.Engine(url) as engine:
        assert engine.resume("w").result(PATIENCE_S) == 2.0


@task
def grows(ledger):
    return takes_later.bind(ledger, makes.bind(1, 16))


# --- many at once ---


def test_large_outputs_of_many_tasks_at_once(url):
    """Saved beside the tasks that follow, by several threads."""
    with exoflow.Engine(url) as engine:
        sums = engine.run(same.bind([takes.bind(makes.bind(n)) for n in range(8)]), name="w")
        assert sums == [n * SIZE / 8 for n in range(8)]
    assert len(blobs(url)) == 8
    assert threading.active_count() < 50


@task
def same(value):
    return value


# --- and gone ---


def test_delete_frees_what_no_other_workflow_shares(url):
    with exoflow.Engine(url) as engine:
        engine.run(takes.bind(makes.bind(1)), name="a")
        engine.run(takes.bind(makes.bind(1)), name="b")
        engine.run(takes.bind(makes.bind(2)), name="c")
        assert len(blobs(url)) == 2
        engine.delete("a")
        assert len(blobs(url)) == 2
        assert np.array_equal(engine.get_output("b", task="makes"), np.ones(SIZE // 8))
        engine.delete("b")
        assert len(blobs(url)) == 1
        assert engine.collect_garbage(grace_s=0) == Collected(removed=0, size_bytes=0, spared=0)
        engine.delete("c")
        assert blobs(url) == []


def test_large_arguments_go_with_their_workflow_too(url):
    with exoflow.Engine(url) as engine:
        for _ in range(3):  # each submission writes them
            engine.run(takes.bind(np.ones(SIZE // 8)), name="w")
        assert len(blobs(url)) == 1
        assert engine.collect_garbage(grace_s=0).removed == 0
        engine.delete("w")
        assert blobs(url) == []


def test_what_a_running_workflow_saved_or_is_saving_is_not_collected(url):
    """Two engines: one runs, the other collects all the time."""
    with exoflow.Engine(url) as engine, exoflow.Engine(url) as other:
        running = [engine.run_async(takes.bind(makes.bind(n)), name=f"w{n}") for n in range(8)]
        while not all(each.done() for each in running):
            other.collect_garbage(grace_s=0)
        for n, each in enumerate(running):
            assert each.result() == n * SIZE / 8
            assert np.array_equal(other.get_output(f"w{n}", task="makes"), np.full(SIZE // 8, float(n)))


def test_what_withdrawn_outputs_leave_stays_readable_until_the_workflow_is_deleted(url, ledger):
    """History can be read (``story``), so what it names is kept; with the workflow all of it goes."""
    with exoflow.Engine(url) as engine:
        with pytest.raises(TaskFailed):
            engine.run(takes_later.bind(ledger.path, makes.bind(2)), name="w")
        engine.collect_garbage(grace_s=0)
        ledger.add("go")
        assert engine.resume("w").result(PATIENCE_S) == 2.0 * (SIZE // 8)
        engine.delete("w")
    assert blobs(url) == []


@pytest.mark.parametrize("grace", [-1, float("nan"), float("inf")])
def test_a_grace_period_that_means_nothing_is_refused(engine, grace):
    with pytest.raises(InvalidOptionError, match="grace_s must be"):
        engine.collect_garbage(grace_s=grace)


SAVES_AND_DIES = """
import sys, os, exoflow
from exoflow.store.sqlite import SqliteStore

@exoflow.task
def large():
    return b"x" * 300_000

class Dies(SqliteStore):
    def commit(self, writes):
        if any(write.blobs for write in writes):
            os._exit(9)
        return super().commit(writes)

if __name__ == "__main__":
    with exoflow.Engine(Dies(sys.argv[1].removeprefix("sqlite:"))) as engine:
        engine.run(large, name="w")
"""


@pytest.mark.slow
def test_what_a_crash_between_saving_and_recording_leaves_is_collected(url, tmp_path):
    """Slow: it starts a process."""
    (tmp_path / "dies.py").write_text(SAVES_AND_DIES)
    assert subprocess.run([sys.executable, "dies.py", url], cwd=tmp_path, check=False, timeout=PATIENCE_S).returncode == 9
    assert len(blobs(url)) == 1
    with exoflow.Engine(url) as engine:
        assert engine.collect_garbage() == Collected(removed=0, size_bytes=0, spared=1)
        found = engine.collect_garbage(grace_s=0)
        assert (found.removed, found.size_bytes > 300_000, found.spared) == (1, True, 0)
    assert blobs(url) == []


# --- held once, and no longer than needed ---


@task(checkpoint="sync")
def makes_and_lets_go():
    array = np.ones(SIZE // 8)
    seen["freed"] = weakref.ref(array)
    return array


@task
def adds_and_lets_go(array):
    return float(array.sum())


def test_a_saved_output_is_freed_with_its_last_reader_and_not_by_the_collector_of_garbage(engine):
    """Which looks at objects, not at gigabytes, and so may be late."""
    gc.disable()
    try:
        assert engine.run(adds_and_lets_go.bind(makes_and_lets_go.bind())) == SIZE / 8
        until(lambda: seen["freed"]() is None)
    finally:
        gc.enable()


WEIGHS = """
import os, resource, sys
from pathlib import Path
import numpy as np
import exoflow

BYTES = 200_000_000

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

@exoflow.task(can_rollback=True)
def makes(_how):
    return np.ones(BYTES // 8)

@exoflow.task(can_rollback=True)
def adds(array):
    if not Path("go").exists():
        raise RuntimeError("not yet")
    total = float(array[:: 1 << 9].sum())
    return total, peak()

if __name__ == "__main__":
    how = sys.argv[1]
    if how == "loaded":
        try:
            with exoflow.Engine("sqlite:x.db") as engine:
                engine.run(adds.bind(makes.bind(how)), name="w")
        except exoflow.WorkflowFailed:
            Path("go").touch()
            os.execv(sys.executable, [sys.executable, __file__, "again"])
    Path("go").touch()
    before = peak()
    with exoflow.Engine("sqlite:x.db", processes=1) as engine:
        if how == "again":
            _, there = engine.resume("w").result()
        else:
            executor = "process" if how == "process" else "thread"
            _, there = engine.run(adds.options(executor=executor).bind(makes.options(executor=executor).bind(how)), name="w")
    print(*((rss - before) / BYTES for rss in (peak(), there)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["thread", "process", "loaded"])
def test_a_large_array_is_held_once_in_each_process(tmp_path, how):
    """200 MB, from its making over the save to the next task, or from the disk: each process needs that and little more. (Slow: it starts
    processes, which write and read it.)"""
    (tmp_path / "weighs.py").write_text(WEIGHS)
    said = subprocess.run([sys.executable, "weighs.py", how], cwd=tmp_path, check=True, timeout=60, capture_output=True, text=True).stdout
    here, there = map(float, said.split())
    assert here < 1.15
    assert there < 1.15
