"""One Java process for all tests that do not kill it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession

from tests.backends.spark import small_spark


def pytest_itemcollected(item: pytest.Item) -> None:
    """pyspark leaves sockets to the garbage collector, most of all those to a Java process that has died."""
    if item.path.parent == Path(__file__).parent:
        for what in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
            item.add_marker(pytest.mark.filterwarnings(f"ignore::{what}"))


@pytest.fixture
def spark() -> SparkSession:
    return small_spark.spark_session()


@pytest.fixture(autouse=True, scope="session")
def _end() -> Iterator[None]:
    yield
    small_spark.spark_session().stop()
    gateway = SparkContext._gateway
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(30)
    SparkContext._gateway = SparkContext._jvm = None
