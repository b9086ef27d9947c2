"""What is done with a DAG on its way in."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

import exoflow
from exoflow.client import intake


@exoflow.task
def add(*numbers):
    return sum(numbers) + 1


@pytest.fixture
def run(monkeypatch):
    """Run a DAG of so many tasks; which library of C there is."""
    monkeypatch.setattr(intake, "_MANY_TASKS", 5)

    def run(tasks, library):
        monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
        with exoflow.Engine("memory:") as engine:
            return engine.run(add.bind(*(add.bind() for _ in range(tasks - 1))))

    return run


def test_what_a_large_dag_took_on_its_way_in_is_given_back(run):
    trimmed = []
    library = SimpleNamespace(malloc_trim=trimmed.append)
    assert run(4, library) == 4
    assert trimmed == []
    assert run(5, library) == 5
    assert trimmed == [0]


def test_where_the_system_knows_no_such_thing_nothing_is_lost(run):
    assert run(5, SimpleNamespace()) == 5
