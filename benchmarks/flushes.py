"""How often a one-task workflow flushes, counted by the system: runs of their own under strace, whose times mean nothing."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.reading import Sizes

FEW, MANY = 4, 24
"""Workflows of the two runs: the difference is free of what starting and closing take."""
NAME = "flushes of a one-task workflow"
NOT_INSTALLED = "strace is not installed, so flushes were not counted"


def installed() -> bool:
    return shutil.which("strace") is not None


def of_a_workflow(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> float:
    """Flushes for each workflow of a contestant, started by ``command``, in group P1. Raises CalledProcessError."""
    few, many = (_count(command, environment, folder / str(calls), calls) for calls in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _count(command: Sequence[str], environment: Mapping[str, str], folder: Path, calls: int) -> int:
    folder.mkdir()
    traced = folder / "strace.txt"
    strace = ["strace", "-f", "-e", "trace=fsync,fdatasync", "-o", str(traced)]
    sizes = dataclasses.replace(Sizes(), calls=calls).text()
    work = [*command, "P1", "--folder", str(folder), "--sizes", sizes]
    quiet = {"EXOFLOW_LEASE_S": "600"}  # else a sign of life may come between, which is a flush too
    subprocess.run([*strace, *work], check=True, env={**environment, **quiet}, capture_output=True)
    return count(traced.read_text("utf-8", "replace"))


def count(trace: str) -> int:
    """Flushes that were begun, in what strace wrote."""
    return len(re.findall(r"^\d+ +f(?:data)?sync\(", trace, re.MULTILINE))
