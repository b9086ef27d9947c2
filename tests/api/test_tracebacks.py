"""Where a task failed is known wherever its failure is looked at."""

from __future__ import annotations

import traceback

import pytest

import exoflow
from exoflow.errors import TaskFailed


@exoflow.task
def fails_here():
    raise ValueError("told by the task")


def test_the_traceback_of_a_failure_survives_its_process(url):
    """The failed workflow is looked at by another engine: the exception is a copy, but says where the original was raised."""
    for _ in range(2):
        with exoflow.Engine(url) as engine, pytest.raises(TaskFailed) as caught:
            engine.run(fails_here.bind(), name="w")
        cause = caught.value.__cause__
        assert type(cause) is ValueError
        assert "in fails_here" in "".join(traceback.format_exception(cause))
