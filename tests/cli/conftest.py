"""A user's folder, and the command line in it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exoflow.define import registry
from tests.cli.shell import Shell

HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with ``shop.py`` in it."""
    shutil.copy(HERE / "shop.py", tmp_path / "shop.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXOFLOW_DRAIN_S", "0.2")
    for name in ("EXOFLOW_STORE", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before, entries = set(sys.modules), dict(registry._entries)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    for name in set(registry._entries) - set(entries):  # else a task of an earlier test's shop would be found
        if name.partition(":")[0] not in sys.modules:  # what the package itself defines stays known, as its module stays imported
            del registry._entries[name]
    registry._entries.update(entries)


@pytest.fixture
def exo(folder: Path) -> Iterator[Shell]:
    shell = Shell(folder)
    yield shell
    for process in shell.processes:  # those of a test that failed
        if process.poll() is None:
            process.kill()
            process.communicate()
