"""The Spark of these tests: small, and quick to start."""

from __future__ import annotations

from pyspark.sql import SparkSession

from exoflow.backends.spark.sessions import spark_factory, spark_session

__all__ = ["spark_session"]

MASTER = "local[1]"


@spark_factory
def small() -> SparkSession:
    options = {
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # it lives for a minute
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "512m",
        "spark.executor.memory": "512m",
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    return SparkSession.builder.master(MASTER).config(map=options).getOrCreate()
