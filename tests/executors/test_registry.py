"""From a name to an executor."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

import exoflow
from exoflow.errors import InvalidOptionError, MissingExtraError
from exoflow.executors import registry
from exoflow.executors.inline import InlineExecutor
from exoflow.testing.executor_suite import same
from tests.executors.asking import submit


@pytest.mark.parametrize("name", ["inline", "loop", "process", "thread"])
def test_each_name_opens_an_executor_of_that_name(name):
    executor = registry.open_executor(name)
    assert executor.name == name
    executor.close()


def test_options_are_handed_on():
    executor = registry.open_executor("thread", workers=3)
    assert executor.slots == 6
    executor.close()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InvalidOptionError, match=r"no executor 'tread'; known are 'inline', 'loop', 'process', 'ray', 'thread'"):
        registry.open_executor("tread")


def test_without_ray_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("exoflow.backends.ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"executor 'ray' needs the extra 'ray': pip install 'exoflow-engine\[ray\]'"):
        registry.open_executor("ray")


def test_executors_take_no_options_for_single_tasks_unless_they_say_so():
    @exoflow.task(executor="thread", executor_options={"num_cpus": 1})
    def quick():
        return 1

    with exoflow.Engine("memory:") as engine, pytest.raises(InvalidOptionError, match="executor 'thread' takes none"):
        engine.run(quick.bind())


def test_an_unknown_option_is_refused():
    with pytest.raises(InvalidOptionError, match=r"executor 'inline' cannot be made with .*threads"):
        registry.open_executor("inline", threads=3)


def test_another_package_can_offer_an_executor(monkeypatch):
    offered = importlib.metadata.EntryPoint("mine", f"{InlineExecutor.__module__}:InlineExecutor", registry.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: importlib.metadata.EntryPoints([offered]))
    assert submit(registry.open_executor("mine"), same, 1).value() == 1
    with pytest.raises(InvalidOptionError, match="'mine'"):
        registry.open_executor("yours")
