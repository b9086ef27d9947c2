"""Engines for API tests."""

from __future__ import annotations

import pytest

import exoflow
from tests.api.scene import Child, Ledger, ManualClock


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """No test sees settings of this machine, or leaves a store behind."""
    monkeypatch.chdir(tmp_path)
    for name in ("EXOFLOW_STORE", "EXOFLOW_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:{tmp_path}/store/x.db"


@pytest.fixture(params=["memory", "sqlite"])
def any_url(request, url):
    """Of a store in memory, and of one in a file."""
    return "memory:" if request.param == "memory" else url


@pytest.fixture
def engine(any_url):
    with exoflow.Engine(any_url) as engine:
        yield engine


@pytest.fixture
def memory():
    with exoflow.Engine("memory:") as engine:
        yield engine


@pytest.fixture
def sqlite(url):
    with exoflow.Engine(url) as engine:
        yield engine


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def start():
    """Start a :class:`Child`; it does not outlive the test."""
    children = []

    def start(*args, **options):
        children.append(Child(*args, **options))
        return children[-1]

    yield start
    for child in children:
        child.close()
