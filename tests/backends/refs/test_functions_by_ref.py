"""What is too large for a function's request goes by Ref through a bucket, there and back."""

from __future__ import annotations

from pathlib import Path

import pytest

import exoflow
from exoflow import BucketRef
from exoflow.errors import ArgumentNotJsonError, ArgumentsTooLargeError
from exoflow.testing.functions import Function, FunctionServer

CODE = """
import pathlib

def shout(event, context):
    source = event["text"]["exoflow:ref"]
    folder = pathlib.Path(source["url"].removeprefix("file://"))
    (folder / "loud").write_bytes((folder / source["path"]).read_bytes().upper())
    return {"made": {"exoflow:ref": {"url": source["url"], "path": "loud"}}, "exoflow:ref": "no address"}
"""


@exoflow.task(can_rollback=True, deterministic=True, checkpoint=False)
def size_of(given):
    return len(given["made"].get()), given["made"].get()[:3]


@exoflow.task(can_rollback=True)
def write(folder: str) -> BucketRef:
    return BucketRef.put(f"file://{folder}", b"abc" * 3_000_000)


@pytest.mark.slow  # starts a server and workers of functions
def test_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shouting.py").write_text(CODE)
    (tmp_path / "bucket").mkdir()
    with FunctionServer({"shout": Function("shouting.shout", folder=str(tmp_path))}) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        shout = exoflow.aws_lambda("shout", can_rollback=True)
        with exoflow.Engine("memory:") as engine:
            made = size_of.bind(shout.bind(text=write.bind(str(tmp_path / "bucket"))))
            assert engine.run(made) == (9_000_000, b"ABC")
            with pytest.raises(ArgumentsTooLargeError):
                engine.run(shout.bind(text="abc" * 3_000_000))
            with pytest.raises(ArgumentNotJsonError, match="BucketRef"):
                engine.run(shout.bind(text=exoflow.ValueRef(1)))
