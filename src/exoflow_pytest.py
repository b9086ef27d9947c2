"""The pytest plugin of ExoFlow. Pytest loads it at every start wherever ExoFlow is installed; so it imports nothing of it until a test
asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from exoflow import Engine
    from exoflow.testing import Effects
    from exoflow.testing.virtual_clock import VirtualClock

_OPTION = "--exoflow-crash-everywhere"
_MARKER = "no_crash_everywhere"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one option."""
    text = "let every workflow that a test runs on exoflow_engine crash everywhere, too; the test fails if that breaks something"
    parser.getgroup("exoflow").addoption(_OPTION, action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """The one marker."""
    config.addinivalue_line("markers", f"{_MARKER}: {_OPTION} leaves this test alone")


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Comes after the test itself, if that has passed."""
    engine: Any = getattr(item, "funcargs", {}).get("exoflow_engine")
    if engine is not None and item.config.getoption(_OPTION) and item.get_closest_marker(_MARKER) is None:
        from exoflow.testing.pytest_plugin import crash_all_of

        crash_all_of(engine)


@pytest.fixture
def exoflow_clock() -> VirtualClock:
    """Virtual time, which jumps when nothing else happens: ``advance(seconds)``; in tasks ``sleep(seconds)``."""
    from exoflow.testing.virtual_clock import VirtualClock

    return VirtualClock()


@pytest.fixture
def exoflow_engine(exoflow_clock: VirtualClock) -> Iterator[Engine]:
    """An engine on a store in memory and on virtual time, closed after the test."""
    from exoflow.testing.pytest_plugin import engine_of

    yield from engine_of(exoflow_clock)


@pytest.fixture
def exoflow_effects() -> Effects:
    """An outside world for tasks to act on."""
    from exoflow.testing import Effects

    return Effects()


@pytest.fixture
def crash_everywhere() -> Callable[..., Any]:
    """:func:`exoflow.testing.crash_everywhere`."""
    from exoflow.testing import crash_everywhere

    return crash_everywhere
