"""One server for all tests of functions: starting processes of awslambdaric is most of what they cost."""

from __future__ import annotations

from pathlib import Path

import pytest

import exoflow
from exoflow.testing.functions import Function, FunctionServer
from tests.functions.far import Far

FOLDER = str(Path(__file__).parent / "handlers")
NAMES = ("told", "charge", "transfer", "book", "cancel", "take", "give_back", "fail", "large", "process")


class Marks:
    """What a test wants to happen where a function passes a mark."""

    def __init__(self):
        self.action = None

    def __call__(self, function, mark):
        if self.action is not None:
            self.action(function, mark)


@pytest.fixture(scope="session")
def marks():
    return Marks()


@pytest.fixture(scope="session")
def whole_server(marks):
    functions = {name: Function(f"shop.{name}", FOLDER, qualifiers=("live",)) for name in NAMES}
    functions["hang"] = Function("shop.hang", FOLDER, timeout_s=0.3)
    functions["broken"] = Function("broken.handle", FOLDER)
    functions["narrow"] = Function("shop.process", FOLDER, concurrency=1)
    with FunctionServer(functions, on_mark=marks) as server:
        yield server


@pytest.fixture
def server(whole_server, marks, monkeypatch):
    for name, value in whole_server.environment().items():
        monkeypatch.setenv(name, value)
    yield whole_server
    marks.action = None
    assert not any(whole_server._faults.values()), "a fault was never met"


@pytest.fixture
def engine():
    with exoflow.Engine("memory:") as engine:
        yield engine


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "ledger"


@pytest.fixture
def far():
    far = Far()
    yield far
    far.close()
