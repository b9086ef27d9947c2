"""What get_metadata says of the task at which a workflow stopped."""

from __future__ import annotations

import pytest

import exoflow
from exoflow.errors import WorkflowFailed


@exoflow.task(retries=2, backoff=0.0)
def always_fails():
    raise ValueError("no")


def test_a_task_that_failed_for_good_has_its_attempts(engine):
    with pytest.raises(WorkflowFailed):
        engine.run(always_fails.bind(), name="w")
    [task] = engine.get_metadata("w").tasks
    assert (task.state, task.attempts, task.error) == ("FAILED", 3, "no")
