"""A function on this machine, called with boto3 alone and as a durable workflow of one task, in turn (F1)."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import exoflow
from benchmarks.engine.proof import require_stored
from benchmarks.reading import Reading, Readings, Sizes, elapsed_s, require
from exoflow.testing.functions import Function, FunctionServer

_HANDLER = "def double(event, context):\n    return 2 * event['number']\n"
_double = exoflow.aws_lambda("double", parameters=("number",))


def call(folder: Path, sizes: Sizes) -> Readings:
    """Each client of boto3 keeps its connection, and the function its process."""
    import boto3

    (folder / "handlers.py").write_text(_HANDLER, "utf-8")
    with FunctionServer({"double": Function("handlers.double", str(folder))}) as server:
        os.environ.update(server.environment())
        client = boto3.client("lambda")

        def bare() -> None:
            require(client.invoke(FunctionName="double", Payload=b'{"number":21}')["Payload"].read(), b"42", "result")

        with exoflow.Engine(folder / "engine.db") as engine:

            def as_task() -> None:
                require(engine.run(_double.bind(21)), 42, "result")

            bare()
            as_task()
            taken = [(elapsed_s(bare) * 1e3, elapsed_s(as_task) * 1e3) for _ in range(sizes.calls)]
        client.close()
    require_stored(folder / "engine.db", workflows=sizes.calls + 1, records=3 * (sizes.calls + 1))
    return {
        "call of a function": Reading(statistics.median(task for _, task in taken), "ms", "durable"),
        "added to a bare call": Reading(statistics.median(task - bare for bare, task in taken), "ms", "durable"),
    }
