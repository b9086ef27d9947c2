"""A supervisor for the tests of a module: a process of its own, because it forks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.crash.runs import Outcome

Ask = Callable[..., Outcome]


@pytest.fixture(scope="session")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Has the supervisor run a workflow, and gives what came of it."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.crash.harness", "--serve"]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(workflow: str, **what: Any) -> Outcome:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"workflow": workflow, **what}) + "\n")
            process.stdin.flush()
            return msgspec.json.decode(process.stdout.readline(), type=Outcome)

        yield ask
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)
