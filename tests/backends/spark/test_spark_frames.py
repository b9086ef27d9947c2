"""DataFrames as Refs: the suite, what makes a plan data, what is saved, and what is refused."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import functions

import exoflow
from exoflow import Engine, codec
from exoflow.backends.spark import frames, parquet
from exoflow.errors import InvalidOptionError, PayloadUnreadableError, RefLostError, TaskFailed
from exoflow.refs.base import lost_in
from exoflow.testing.ref_suite import RefSuite

pytestmark = pytest.mark.slow  # Spark takes its time for every job


def lose(frame: Any) -> None:
    """As when the executors that keep it die."""
    frames._data_of(frame).blocks.unpersist(True)


class TestDataFrame(RefSuite):
    @pytest.fixture(autouse=True)
    def _spark(self, spark: Any) -> None:
        self.spark = spark

    value = [{"a": 1, "b": "x"}, {"a": 2, "b": None}, {"a": 3, "b": "z"}]
    other = [{"a": 4, "b": "y"}]

    def make(self, value: Any) -> Any:
        return self.spark.createDataFrame(value, "a long, b string")

    def destroy(self, ref: Any) -> None:
        lose(ref)

    def read(self, ref: Any) -> Any:
        return [row.asDict() for row in ref.collect()]


# --- a plan becomes data ---------------------------------------------------------------------------------------------------------


def random_numbers(count: int = 5) -> Any:
    """Each look at it gives other rows."""
    frame = exoflow.spark_session().range(count).withColumn("u", functions.expr("uuid()"))
    return frame.select("*", functions.udf(lambda _: random.random(), "double", useArrow=False).asNondeterministic()("id").alias("r"))


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def rows_of(given: Any, _reader: int) -> list[Any]:
    return [tuple(row) for row in given["frame"].collect()]


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def together(*several: Any) -> Any:
    return several


@exoflow.task(can_rollback=True, checkpoint=False)
def make_random() -> Any:
    frame = random_numbers()
    assert frame.collect() != frame.collect()
    return {"frame": frame, "not to be pickled": threading.Lock()}


def test_all_readers_of_a_plan_that_depends_on_chance_see_the_same_rows():
    made = make_random.bind()
    with Engine("memory:") as engine:
        first, second = engine.run(together.bind(rows_of.bind(made, 1), rows_of.options(name="other").bind(made, 2)))
    assert len(first) == 5
    assert first == second


def test_what_was_made_from_it_before_it_became_data_is_no_part_of_it(spark):
    frame = spark.range(4)
    assert frame.rdd.count() == 4
    columns = frame["id"]
    frames.settle(frame)
    assert frame.filter(columns > 1).count() == 2
    assert frame.rdd.count() == 4
    lose(frame)
    with pytest.raises(Exception, match="CHECKPOINT_RDD_BLOCK_ID_NOT_FOUND"):
        frame.rdd.count()


@exoflow.task(can_rollback=True)
def grow(count: int) -> Any:
    return rows_of.bind({"frame": random_numbers(count)}, 0)


def test_in_the_arguments_of_a_workflow_and_of_a_sub_workflow(spark):
    frame = random_numbers()
    with Engine("memory:") as engine:
        seen = engine.run(rows_of.bind({"frame": frame}, 0))
        assert len(engine.run(grow.bind(3))) == 3
    assert seen == [tuple(row) for row in frame.collect()]


tries: list[int] = []


@exoflow.task(can_rollback=True, retries=1, backoff=0.0)
def make_at_second_try() -> Any:
    tries.append(1)
    frame = exoflow.spark_session().range(3)
    return {"frame": frame if len(tries) > 1 else frame.select(functions.raise_error(functions.lit("not yet")).alias("id"))}


def test_a_plan_that_cannot_be_computed_is_a_failure_of_the_task_that_made_it():
    tries.clear()
    with Engine("memory:") as engine:
        assert engine.run(rows_of.bind(make_at_second_try.bind(), 0)) == [(0,), (1,), (2,)]
        tries.clear()
        with pytest.raises(TaskFailed, match="not yet"):
            engine.run(rows_of.bind(make_at_second_try.options(retries=0).bind(), 0))


def test_a_stream_is_refused(spark):
    stream = spark.readStream.format("rate").load()
    with Engine("memory:") as engine, pytest.raises(InvalidOptionError, match="has no end"):
        engine.run(rows_of.bind({"frame": stream}, 0))


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False, executor="process")
def sum_elsewhere(given: Any) -> tuple[int, Any]:
    return sum(given["frame"].get()["id"].to_pylist()), given


@exoflow.task(can_rollback=True, checkpoint=False)
def make_range(count: int) -> Any:
    return {"frame": exoflow.spark_session().range(count)}


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def count_and_sum(made: Any, summed: tuple[int, Any]) -> tuple[int, int, bool]:
    total, back = summed
    return made["frame"].count(), total, back["frame"] is made["frame"]


def test_another_process_gets_the_rows_and_gives_the_same_frame_back():
    made = make_range.bind(10)
    with Engine("memory:", processes=1) as engine:
        assert engine.run(count_and_sum.bind(made, sum_elsewhere.bind(made))) == (10, 45, True)


def test_a_frame_that_was_made_elsewhere_cannot_come_here(spark):
    """What a worker process says of a task that returns one."""
    with pytest.raises(codec.NotSerializable, match="cannot leave the process"):
        codec.bundle(codec.encode({"frame": spark.range(1)}))


# --- saved and restored ----------------------------------------------------------------------------------------------------------

SCHEMA = (
    "`id` long, `two words; {}` string, `id` decimal(20, 3), `when` timestamp, `bytes` binary, "
    "`many` array<struct<x: int, y: map<string, double>>>"
)
ROWS = [
    (n, None if n % 3 == 0 else f"ü {n}", Decimal(n) / 8, datetime(2026, 1, 1 + n, tzinfo=UTC), bytes([n]), [(n, {"k": n / 7})] * (n % 3))
    for n in range(20)
]


def through_bytes(frame: Any) -> Any:
    kept = b"".join(codec.frame(codec.encode(frames.FRAMES.checkpoint(frame, "v").result(60))))
    lose(frame)
    return frames.FRAMES.restore(codec.decode(codec.parse(bytearray(kept))))


@pytest.mark.parametrize("partitions", [1, 3])
def test_rows_their_order_and_all_columns_come_back(spark, partitions):
    frame = spark.createDataFrame(ROWS, SCHEMA).coalesce(1).repartition(partitions)
    frames.settle(frame)
    before = frame.collect()
    restored = through_bytes(frame)
    assert restored.collect() == before
    assert [(field.name, field.dataType) for field in restored.schema] == [(field.name, field.dataType) for field in frame.schema]


def test_a_frame_without_rows_comes_back(spark):
    restored = through_bytes(spark.createDataFrame([], SCHEMA))
    assert restored.collect() == []
    assert restored.columns[1] == "two words; {}"


def test_nothing_is_left_of_a_checkpoint_that_goes_into_the_store(spark, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert through_bytes(spark.range(3)).count() == 3
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def shared(spark, tmp_path):
    spark.conf.set(parquet.FOLDER, str(tmp_path / "shared"))
    yield tmp_path / "shared"
    spark.conf.unset(parquet.FOLDER)


def test_with_a_shared_folder_the_checkpoint_is_the_address(spark, shared):
    frame = spark.range(1000).repartition(2)
    encoded = codec.encode([frames.FRAMES.checkpoint(frame, "v").result(60) for _ in range(2)])
    assert encoded.size < 2000
    first, second = codec.decode(encoded)
    assert len({Path(file).parent for file in first["files"] + second["files"]}) == 2  # never the same folder again
    before = frame.collect()
    lose(frame)
    assert frames.FRAMES.restore(first).collect() == before


def test_a_file_that_went_missing_is_an_error_and_not_a_smaller_frame(spark, shared):
    saved = frames.FRAMES.checkpoint(spark.range(1000).repartition(2), "v").result(60)
    Path(saved["files"][1]).unlink()
    with pytest.raises(PayloadUnreadableError, match="saved DataFrame"):
        frames.FRAMES.restore(saved)


def test_a_cluster_without_a_shared_folder_is_told_so(spark, monkeypatch):
    frames.settle(frame := spark.range(3))
    monkeypatch.setattr(spark.sparkContext, "master", "spark://somewhere:7077")
    with pytest.raises(InvalidOptionError, match=r"spark\.exoflow\.checkpoints"):
        frames.FRAMES.checkpoint(frame, "v").result(60)


# --- errors that say nothing of a loss -------------------------------------------------------------------------------------------


def test_an_error_of_spark_is_no_loss(spark):
    frames.settle(frame := spark.range(3))
    with pytest.raises(Exception, match="nowhere") as caught:
        frame.select("nowhere")
    assert lost_in(caught.value) == set()
    with pytest.raises(Exception, match="oh") as caught:
        frame.select(functions.raise_error(functions.lit("oh"))).collect()
    assert lost_in(caught.value) == set()


def test_a_frame_in_place_of_a_dead_one_says_which_is_gone():
    with pytest.raises(RefLostError) as caught:
        frames._Lost("x").count()
    assert lost_in(caught.value) == {f"{frames.KIND} x"}
