"""The Java process dies, or the session is stopped, in the middle of a workflow."""

from __future__ import annotations

import os
import random
import signal
import threading
from functools import partial
from typing import Any

import psutil
import pytest
from pyspark.sql import functions

import exoflow
from exoflow import Engine
from exoflow.backends.spark import frames, parquet
from exoflow.backends.spark.sessions import is_alive
from exoflow.core import journal
from exoflow.errors import InvalidOptionError, PayloadUnreadableError, RefLostError, TaskFailed, WorkflowNotFoundError
from exoflow.refs.base import lost_in
from tests.backends.spark import small_spark

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # each starts Java processes, which takes long beside other work

STORY: list[str] = []
SEEN: list[Any] = []
FAULTS: list[Any] = []
"""What goes wrong in the next tasks that look for it, first to last."""


@pytest.fixture(autouse=True)
def _empty() -> None:
    for each in (STORY, SEEN, FAULTS):
        each.clear()


def kill() -> None:
    """Kill Spark's Java process with -9."""
    os.kill(exoflow.spark_session()._jvm.java.lang.ProcessHandle.current().pid(), signal.SIGKILL)


def stop() -> None:
    exoflow.spark_session().stop()


def fault() -> None:
    if FAULTS:
        FAULTS.pop(0)()


def rows(frame: Any) -> list[Any]:
    return [tuple(row) for row in frame.collect()]


@exoflow.task(can_rollback=True)
def numbers(kind: str) -> Any:
    STORY.append(f"numbers {kind}")
    frame = exoflow.spark_session().range(5)
    if kind == "chance":
        frame = frame.select(functions.udf(lambda _: random.random(), "double", useArrow=False).asNondeterministic()("id").alias("x"))
    return {"frame": frame}


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def double(given: Any) -> Any:
    STORY.append("double")
    frame = given["frame"]
    return [frame.select((frame[frame.columns[0]] * 2).alias("y"))]


@exoflow.task
def commit(made: Any, doubled: Any) -> Any:
    STORY.append("commit")
    SEEN.append(rows(made["frame"]))
    fault()
    return SEEN[-1], rows(doubled[0])


def consistent(result: Any) -> bool:
    made, doubled = result
    return bool(made) and [2 * row[0] for row in made] == [row[0] for row in doubled]


@pytest.mark.parametrize("lose", [kill, stop])
def test_what_was_saved_is_restored_and_what_was_not_is_made_again(lose):
    """The producer depends on chance and is saved: a task that commits has seen its rows, and sees the same again."""
    FAULTS.append(lose)
    made = numbers.bind("chance")
    with Engine("memory:") as engine:
        result = engine.run(commit.bind(made, double.bind(made)))
    assert consistent(result)
    assert SEEN[0] == SEEN[1] == result[0]
    assert STORY == ["numbers chance", "double", "commit", "double", "commit"]


def test_a_deterministic_producer_that_is_not_saved_runs_again():
    FAULTS.append(kill)
    made = numbers.options(deterministic=True, checkpoint=False).bind("counted")
    with Engine("memory:") as engine:
        result = engine.run(commit.bind(made, double.bind(made)))
    assert consistent(result)
    assert STORY == ["numbers counted", "double", "commit"] * 2


def test_when_chance_draws_again_whoever_saw_the_old_rows_does_so_again():
    """Nothing is saved and nothing commits. Of two readers the first has ended when the second finds the rows gone."""
    FAULTS.extend([lambda: None, kill])
    made = numbers.options(checkpoint=False).bind("chance")
    look = commit.options(can_rollback=True, deterministic=True, checkpoint=False)
    with Engine("memory:") as engine:
        doubled = double.bind(made)
        first = look.options(name="first").bind(made, doubled)
        second = look.options(name="second").bind(made, doubled)
        second.come_after(first)
        result = engine.run(pair.bind(first, second))
    assert result[0] == result[1]
    assert consistent(result[0])
    assert SEEN[-1] != SEEN[0]


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def pair(*both: Any) -> Any:
    return both


def test_the_next_life_restores_what_was_saved(tmp_path):
    stuck = threading.Event()
    FAULTS.extend([lambda: stuck.wait(60)])
    made = numbers.bind("chance")
    with Engine(tmp_path / "store.db", drain_s=0.0) as engine:
        future = engine.run_async(commit.bind(made, double.bind(made)), name="w")
        while not SEEN or not any(isinstance(journal.decode(entry.body), journal.OutputSaved) for entry in engine.store.entries("w")):
            stuck.wait(0.01)
        assert not future.done()
    kill()
    stuck.set()
    STORY.clear()
    with Engine(tmp_path / "store.db") as engine:
        result = engine.resume("w").result(100)
    assert consistent(result)
    assert result[0] == SEEN[0]
    assert STORY == ["double", "commit"]


def test_what_dies_while_it_is_saved_is_drawn_again_before_anybody_commits(monkeypatch):
    real, deaths = parquet.write, [kill]

    def write(frame: Any) -> Any:
        while deaths:
            deaths.pop()()
        return real(frame)

    monkeypatch.setattr(parquet, "write", write)
    made = numbers.bind("chance")
    with Engine("memory:") as engine:
        result = engine.run(commit.bind(made, double.bind(made)))
    assert consistent(result)
    assert [result[0]] == SEEN
    assert STORY.count("numbers chance") == 2
    assert STORY.count("commit") == 1


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def derive_and_die(given: Any) -> Any:
    frame = given["frame"].selectExpr("id + 1 AS id")
    fault()  # before the plan is computed
    return {"frame": frame}


def test_a_session_that_dies_before_a_plan_is_computed():
    FAULTS.append(kill)
    with Engine("memory:") as engine:
        assert engine.run(commit.bind(derive_and_die.bind(numbers.bind("counted")), [exoflow.spark_session().range(1)]))[0][-1] == (5,)


def test_frames_of_a_dead_session_never_stand_for_others():
    """In the next Java process, other objects have the names of the old ones."""
    old, plan = exoflow.spark_session().range(3), exoflow.spark_session().range(4)
    frames.settle(old)
    ref = f"{frames.KIND} {frames.FRAMES.id(old)}"
    kill()
    session = exoflow.spark_session()
    new = session.range(10)
    for use in (partial(new.join, old, "id"), old.count, lambda: old.rdd, partial(frames.FRAMES.get, old)):
        with pytest.raises(RefLostError) as caught:
            use()
        assert ref in lost_in(caught.value)
    with pytest.raises(InvalidOptionError, match="session that is gone") as refused, Engine("memory:") as engine:
        engine.run(pair.bind(plan))
    assert ref in lost_in(refused.value)
    with pytest.raises(RefLostError, match="session is gone"), Engine("memory:") as engine:
        engine.run(pair.bind(old))
    frames.FRAMES.release(old)


def test_a_session_that_dies_while_it_loads_what_was_saved(spark, monkeypatch):
    frames.settle(frame := spark.range(3))
    saved = frames.FRAMES.checkpoint(frame, "v").result(60)
    real, deaths = frames.settle, [kill]

    def settle(what: Any) -> None:
        while deaths:
            deaths.pop()()
        real(what)

    monkeypatch.setattr(frames, "settle", settle)
    assert rows(frames.FRAMES.restore(saved)) == [(0,), (1,), (2,)]
    monkeypatch.setattr(frames, "settle", lambda _: kill())
    with pytest.raises(PayloadUnreadableError, match="none"):
        frames.FRAMES.restore({**saved, "files": ["file:///none"]})  # it lives, so there is no second try


@exoflow.task(can_rollback=True)
def count_without_frames() -> Any:
    """Returns no DataFrame, and holds none."""
    session = exoflow.spark_session()
    STORY.append("counted")
    fault()
    return session.range(7).count()


@pytest.mark.parametrize("lose", [kill, stop])
def test_a_session_that_dies_under_a_task_without_frames_leaves_nobody_knowing_what_it_did(lose):
    FAULTS.append(lose)
    with Engine("memory:") as engine:
        assert engine.run(count_without_frames.bind()) == 7
    assert STORY == ["counted"] * 2


def test_what_spark_itself_refuses_is_an_ordinary_error():
    FAULTS.extend([lambda: exoflow.spark_session().sql("SELECT nothing FROM nowhere")] * 2)
    with Engine("memory:") as engine, pytest.raises(TaskFailed, match="nowhere"):
        engine.run(count_without_frames.bind())
    assert STORY == ["counted"]


def test_a_frame_of_a_session_that_was_stopped_is_refused_before_anything_is_written():
    settled, plan = exoflow.spark_session().range(3), exoflow.spark_session().range(4)
    frames.settle(settled)
    stop()
    for frame, error in ((settled, RefLostError), (plan, InvalidOptionError)):
        refused(frame, error, "session .*is gone")


def test_a_frame_that_was_put_aside_and_used_after_its_workflow_is_refused():
    """It was let go when no task could want it any more."""
    with Engine("memory:") as engine:
        assert engine.run(put_aside.bind(), name="w") == 5
        engine.delete("w")
    refused(SEEN[0], RefLostError, "CHECKPOINT_RDD_BLOCK_ID_NOT_FOUND")


@exoflow.task(can_rollback=True)
def put_aside() -> Any:
    SEEN.append(exoflow.spark_session().range(5))
    return count_rows.bind(make_frame.bind())


@exoflow.task(can_rollback=True, checkpoint=False)
def make_frame() -> Any:
    return SEEN[0]


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def count_rows(frame: Any) -> int:
    return int(frame.count())


def refused(frame: Any, error: type[Exception], text: str) -> None:
    with Engine("memory:") as engine:
        with pytest.raises(error, match=text):
            engine.run(count_rows.bind(frame), name="w")
        with pytest.raises(WorkflowNotFoundError):
            engine.get_status("w")


def kill_executors() -> None:
    java = psutil.Process(exoflow.spark_session()._jvm.java.lang.ProcessHandle.current().pid())
    executors = java.children(recursive=True)
    assert executors
    for each in executors:
        each.kill()


def test_an_executor_dies_and_takes_its_part_of_a_frame_along(monkeypatch):
    """On a cluster of Spark, with one executor in a Java process of its own, after which Spark starts another."""
    exoflow.spark_session().stop()
    monkeypatch.setattr(small_spark, "MASTER", "local-cluster[1,1,512]")
    FAULTS.append(kill_executors)
    made = numbers.bind("chance")
    try:
        with Engine("memory:") as engine:
            result = engine.run(commit.bind(made, double.bind(made)))
            assert exoflow.spark_session().sparkContext.master.startswith("local-cluster")
    finally:
        exoflow.spark_session().stop()
    assert consistent(result)
    assert SEEN[0] == SEEN[-1] == result[0]
    assert STORY.count("numbers chance") == 1


def test_a_session_that_is_alive_is_the_same_for_all():
    found: list[Any] = []
    exoflow.spark_session().stop()
    threads = [threading.Thread(target=lambda: found.append(exoflow.spark_session())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert is_alive(found[0].sparkContext)
