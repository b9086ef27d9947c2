"""One Java process for all tests that do not kill it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession

import exoflow


@exoflow.spark_factory
def small() -> SparkSession:
    options = {
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # it lives for a minute
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "512m",
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    return SparkSession.builder.master("local[1]").config(map=options).getOrCreate()


def pytest_itemcollected(item: pytest.Item) -> None:
    """pyspark leaves sockets to the garbage collector, most of all those to a Java process that has died."""
    if item.path.parent == Path(__file__).parent:
        for what in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
            item.add_marker(pytest.mark.filterwarnings(f"ignore::{what}"))


@pytest.fixture
def spark() -> SparkSession:
    return exoflow.spark_session()


@pytest.fixture(autouse=True, scope="session")
def _end() -> Iterator[None]:
    yield
    exoflow.spark_session().stop()
    gateway = SparkContext._gateway
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(30)
    SparkContext._gateway = SparkContext._jvm = None
