"""A pipeline over everything: Ray, Spark, a function of AWS Lambda, worker processes, the event loop, and a database at the end.

``python -m tests.backends.mixed.pipeline FOLDER [DIES]``: with DIES, the process is killed in the middle of that task, once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ray
from pyspark.sql import DataFrame, SparkSession

import exoflow
from exoflow.testing.functions import Function, FunctionServer

COUNT = 200_000
CODE = """
def label(event, context):
    return {"label": f"{event['name']}: {event['total']}"}
"""
label = exoflow.aws_lambda("label", can_rollback=True)


def small() -> SparkSession:
    options = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "512m",
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    return SparkSession.builder.master("local[1]").config(map=options).getOrCreate()


def note(name: str) -> None:
    """Say that a task runs; and end here, if that was asked for, and not done before."""
    folder = Path(os.environ["MIXED_FOLDER"])
    with (folder / "story").open("a") as story:
        story.write(name + "\n")
    if os.environ.get("MIXED_DIES") == name and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(int(os.environ["MIXED_ENGINE"]), signal.SIGKILL)
        signal.pause()


@exoflow.task(executor="ray", can_rollback=True, checkpoint="sync")
def draw(count: int) -> dict[str, Any]:
    """On Ray: data that depends on chance, by reference."""
    note("draw")
    return {"numbers": ray.put(np.random.default_rng().integers(0, 10, count))}


@exoflow.task(executor="ray", can_rollback=True, deterministic=True, checkpoint=False)
def double(given: dict[str, Any]) -> np.ndarray:
    """On Ray: from one object to another."""
    note("double")
    return ray.get(given["numbers"]) * 2


@exoflow.task(can_rollback=True, deterministic=True, checkpoint="sync")
def count_each(numbers: np.ndarray) -> DataFrame:
    """In Spark."""
    note("count_each")
    spark = exoflow.spark_session()
    return spark.createDataFrame([(int(number),) for number in numbers[:2000]], ["number"]).groupBy("number").count()


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def rows_of(frame: DataFrame) -> Any:
    note("rows_of")
    return exoflow.SharedRef(np.array([(row["number"], row["count"]) for row in frame.collect()]))


@exoflow.task(executor="process", can_rollback=True, deterministic=True, checkpoint=False)
def total(rows: Any) -> int:
    """In a worker process."""
    note("total")
    return int((rows.get()[:, 0] * rows.get()[:, 1]).sum())


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
async def waited(number: int) -> int:
    """On the event loop."""
    await asyncio.sleep(0)
    note("waited")
    return number


@exoflow.task
def enter(labelled: dict[str, str], expected: int) -> str:
    """Into the database, under a key that is the same in each attempt."""
    key = exoflow.current_task().idempotency_key
    with sqlite3.connect(Path(os.environ["MIXED_FOLDER"]) / "outside.db") as database:
        database.execute("CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, label TEXT, expected INTEGER)")
        database.execute("INSERT OR IGNORE INTO entries VALUES (?, ?, ?)", (key, labelled["label"], expected))
    note("enter")
    return labelled["label"]


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def expect(numbers: np.ndarray) -> int:
    """The same sum, without Spark."""
    return int(numbers[:2000].sum())


def main(folder: Path, dies: str) -> None:
    os.environ |= {"MIXED_FOLDER": str(folder), "MIXED_DIES": dies, "MIXED_ENGINE": str(os.getpid())}
    (folder / "labels.py").write_text(CODE)
    exoflow.spark_factory(small)  # here: tests of Spark, which may be in the same process, have their own
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False, logging_level="ERROR")
    with FunctionServer({"label": Function("labels.label", folder=str(folder))}) as server:
        os.environ |= server.environment()
        numbers = double.bind(draw.bind(COUNT))
        summed = waited.bind(total.bind(rows_of.bind(count_each.bind(numbers))))
        dag = enter.bind(label.bind(name="sum", total=summed), expect.bind(numbers))
        with exoflow.Engine(f"sqlite:{folder}/store.db", processes=1) as engine:
            print(engine.run(dag, name="mixed"))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
