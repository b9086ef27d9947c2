"""``exoflow WORDS`` as a test types it, in this process or in one of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from click.testing import CliRunner

from exoflow.cli.main import app
from tests.patience import DEADLINE_S, until


def _heed_signals() -> None:
    """Whoever runs the tests in the background of a shell ignores some, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
        given = {
            "stdin": subprocess.DEVNULL,
            "stdout": pipe,
            "stderr": pipe,
            "text": True,
            "cwd": self.folder,
            "preexec_fn": _heed_signals,
            **options,
        }
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
