"""Which modules of Python's standard library does a reader meet most often, who begins at random and follows imports? A ranking, in Spark.

    edges      reads every module of this Python: who imports whom                               made again when needed, never saved
    weights    draws where readers begin                                                         depends on chance, so it is saved
    rank_1 …   one step each: a share of each rank goes to the modules that are imported         every third one is saved
    publish    writes weights and ranks to the registry, an SQLite file                          commits

All but ``publish`` return DataFrames, which stay in Spark. Ranks are whole numbers, so that their sum does not depend on its order: what is
called deterministic must be. Start it again with the same options after any crash, and it goes on.
"""

from __future__ import annotations

import argparse
import ast
import os
import secrets
import sqlite3
import sysconfig
from contextlib import closing
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession, functions

import exoflow

STEPS = 6
TOTAL = 10**12
"""The sum of all weights, and about that of all ranks."""
LEFT_OUT = {"ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tests"}


@exoflow.spark_factory
def session() -> SparkSession:
    options = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "512m",
        "spark.log.level": "OFF",
        "spark.sql.codegen.wholeStage": "false",  # compiling would take longer than the work
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    return SparkSession.builder.master("local[1]").config(map=options).getOrCreate()


def note(log: str, task: str) -> None:
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{task}\n")


def imported_by(path: Path) -> set[str]:
    """Top-level modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def pairs() -> list[tuple[str, str]]:
    """Who imports whom."""
    root, found = Path(sysconfig.get_path("stdlib")), set()
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if not LEFT_OUT.intersection(parts):
            name = parts[0].removesuffix(".py")
            found |= {(name, target) for target in imported_by(path) if target != name}
    return sorted(found)


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def edges(log: str) -> Any:
    """``source`` imports ``target``, one of ``degree`` modules."""
    note(log, "edges")
    frame = exoflow.spark_session().createDataFrame(pairs(), "source string, target string")
    degrees = frame.groupBy("source").agg(functions.count("*").alias("degree"))
    return frame.join(degrees, "source")


@exoflow.task(can_rollback=True)
def weights(log: str, imports: Any) -> Any:
    """``weight`` of each ``module``: which part of the readers begins there. A secret draw: no other one would be the same."""
    note(log, "weights")
    modules = sorted({row[0] for row in imports.select("source").union(imports.select("target")).distinct().collect()})
    drawn = [secrets.randbelow(1000) + 1 for _ in modules]
    rows = [(module, number * TOTAL // sum(drawn)) for module, number in zip(modules, drawn, strict=True)]
    return exoflow.spark_session().createDataFrame(rows, "module string, weight long")


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def rank(log: str, step: int, imports: Any, start: Any, ranks: Any) -> Any:
    """``value`` of each ``module`` after one more step: of the readers 85 % follow an import and 15 % begin anew."""
    note(log, f"rank_{step}")
    shares = imports.join(ranks, imports["source"] == ranks["module"]).selectExpr("target", "value div degree AS share")
    moved = shares.groupBy("target").agg(functions.sum("share").alias("moved"))
    joined = start.join(moved, start["module"] == moved["target"], "left")
    return joined.selectExpr("module", "15 * weight div 100 + 85 * coalesce(moved, 0) div 100 AS value")


@exoflow.task
def publish(log: str, registry: str, start: Any, ranks: Any) -> str:
    """Write down the ranking, under the key of this task: however often it is asked, it is there once."""
    note(log, "publish")
    rows = start.join(ranks, "module").select("module", "weight", "value").orderBy(functions.desc("value"), "module").collect()
    key = exoflow.current_task().idempotency_key
    with closing(sqlite3.connect(registry)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS requests (key TEXT)")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS ranking (key TEXT, module TEXT, weight INTEGER, value INTEGER, UNIQUE (key, module))"
        )
        connection.execute("INSERT INTO requests VALUES (?)", (key,))
        connection.executemany("INSERT OR IGNORE INTO ranking VALUES (?, ?, ?, ?)", [(key, *row) for row in rows])
    return ", ".join(row["module"] for row in rows[:5])


def pipeline(log: str, registry: str) -> exoflow.Node:
    imports = edges.bind(log)
    start = weights.bind(log, imports)
    ranks = begin.bind(start)
    for step in range(1, STEPS + 1):
        is_saved = step % 3 == 0
        ranks = rank.options(name=f"rank_{step}", checkpoint=is_saved).bind(log, step, imports, start, ranks)
    return publish.bind(log, registry, start, ranks)


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def begin(start: Any) -> Any:
    return start.withColumnRenamed("weight", "value")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    os.makedirs(folder, exist_ok=True)
    with exoflow.Engine(folder / "store.db") as engine:
        print(engine.run(pipeline(str(folder / "log"), str(folder / "registry.db")), name="imports"))
