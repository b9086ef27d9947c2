"""A user's folder, and the command line in it: in this process for what can be seen from there, in a real one for the rest."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from exoflow.cli.main import app
from exoflow.define import registry

HERE = Path(__file__).parent
DEADLINE_S = 20.0


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait for a condition; fail with ``what`` if it never holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what or condition}"
        time.sleep(0.01)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with ``shop.py`` in it."""
    shutil.copy(HERE / "shop.py", tmp_path / "shop.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXOFLOW_DRAIN_S", "0.2")
    for name in ("EXOFLOW_STORE", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))  # else a task of an earlier test's shop would be found
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


class Shell:
    """``exoflow WORDS`` in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[Any]] = []

    def __call__(self, *words: str, code: int = 0, input: str | None = None) -> SimpleNamespace:  # noqa: A002 - as the runner calls it
        """In this process; ``code`` is the exit code that it must have."""
        got = CliRunner().invoke(app, list(words), input=input, catch_exceptions=False)
        assert got.exit_code == code, f"exoflow {' '.join(words)} ended with {got.exit_code}, not {code}:\n{got.output}"
        return SimpleNamespace(out=got.stdout, err=got.stderr, code=got.exit_code)

    def json(self, *words: str, code: int = 0) -> Any:
        """Its one document."""
        return json.loads(self(*words, "--json", code=code).out)

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """In a process of its own."""
        pipe = subprocess.PIPE
        given = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, "text": True, "cwd": self.folder, **options}
        process = subprocess.Popen([sys.executable, "-m", "exoflow", *words], **given)
        self.processes.append(process)
        return process

    def finished(self, process: subprocess.Popen[str], *, code: int = 0) -> SimpleNamespace:
        """What a process printed, once it has ended with ``code``."""
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == code, f"ended with {process.returncode}, not {code}:\n{out}\n{err}"
        return SimpleNamespace(out=out, err=err, code=process.returncode)

    def began(self, what: str, times: int = 1) -> None:
        """Wait until a task has begun so often."""
        until(lambda: self.ran().count(what) >= times, f"{what} begins")

    def ran(self) -> list[str]:
        """Which tasks began, in order."""
        path = self.folder / "ran"
        return path.read_text().splitlines() if path.exists() else []

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    def killed(self, *words: str, when: str) -> None:
        """Start it, and kill it with -9 when that task has begun."""
        process = self.start(*words)
        self.began(when)
        process.kill()
        process.communicate(timeout=DEADLINE_S)


@pytest.fixture
def exo(folder: Path) -> Iterator[Shell]:
    shell = Shell(folder)
    yield shell
    for process in shell.processes:  # those of a test that failed
        if process.poll() is None:
            process.kill()
            process.communicate()
