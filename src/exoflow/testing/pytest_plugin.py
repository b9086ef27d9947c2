"""What the pytest plugin does once a test asks for it. ``exoflow_pytest`` is what pytest loads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from exoflow.client.engine import Engine
from exoflow.client.intake import Dag
from exoflow.runtime.run import WorkflowFuture
from exoflow.testing.crashes.search import crash_everywhere
from exoflow.testing.virtual_clock import VirtualClock

_OF_THE_SUBMISSION = ("name", "workflow_id", "on_existing", "on_code_change", "wait_accepted")
_PAIRS = 20


class RecordingEngine(Engine):
    """An engine on a store in memory and on virtual time, that remembers what it was asked to run."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__("memory:", parts=clock.parts())
        self.asked: list[tuple[Dag, tuple[Any, ...], dict[str, Any]]] = []

    def run_async(self, dag: Dag, /, *args: Any, **kwargs: Any) -> WorkflowFuture:
        """As that of any engine."""
        future = super().run_async(dag, *args, **kwargs)
        self.asked.append((dag, args, kwargs))
        return future


def engine_of(clock: VirtualClock) -> Iterator[RecordingEngine]:
    """For the fixture."""
    with RecordingEngine(clock) as engine:
        yield engine


def crash_all_of(engine: RecordingEngine) -> None:
    """Let everything that ``engine`` was asked to run crash everywhere. Fails the test if something is found."""
    for dag, args, kwargs in engine.asked:
        options = {name: value for name, value in kwargs.items() if name not in _OF_THE_SUBMISSION}
        report = crash_everywhere(dag, *args, pairs=_PAIRS, **options)
        if not report.ok:
            name = kwargs.get("name") or kwargs.get("workflow_id") or getattr(dag, "label", getattr(dag, "__name__", "a workflow"))
            pytest.fail(f"crash_everywhere of '{name}': {report}", pytrace=False)
