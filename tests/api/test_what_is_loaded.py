"""What a program that uses ExoFlow loads, and so waits for whenever it starts: also after a crash."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import exoflow

HEAVY = {
    "asyncio",
    "ssl",
    "socket",
    "subprocess",
    "multiprocessing",
    "tempfile",
    "importlib.metadata",
    "importlib.resources",
    "difflib",
    "tomllib",
}
OURS = {
    "cloudpickle",
    "apsw",
    "numpy",
    "click",
    "rich",
    "exoflow.functions",
    "exoflow.testing",
    "exoflow.cli",
    "exoflow.executors.process_pool",
}
RUNS = """
import sys, exoflow
report = lambda: print(*sys.modules, file=sys.stderr)
report()
@exoflow.task
def add_one(x): return x + 1
with exoflow.Engine(sys.argv[1]) as engine:
    assert engine.run(add_one, 1) == 2
report()
assert not exoflow.codec.identities  # or else every value would be searched for Refs
"""


@pytest.mark.slow  # starts an interpreter that has loaded nothing
def test_nothing_heavy_is_loaded_before_it_is_needed(url):
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    got = subprocess.run([sys.executable, "-c", RUNS, url], capture_output=True, text=True, check=False, env=clean)
    assert got.returncode == 0, got.stderr
    imported, ran = (set(line.split()) for line in got.stderr.splitlines())
    assert not (HEAVY | OURS) & imported
    unused = {"asyncio", "ssl", "socket", "subprocess", "multiprocessing", "cloudpickle", "numpy", "exoflow.functions"}
    assert not unused & ran


def test_what_is_loaded_late_is_there_by_name():
    assert exoflow.aws_lambda.__module__ == "exoflow.functions.aws"
    assert exoflow.http_function.__module__ == "exoflow.functions.http"
    with pytest.raises(AttributeError, match="has no attribute 'aws_lambada'"):
        exoflow.aws_lambada  # noqa: B018
