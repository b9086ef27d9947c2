"""Runs each call in the thread that submits it, before ``submit`` returns: the smallest Executor there is, and the one to read first.

For tiny pure tasks, where handing over to another thread would cost more than the task, and for tests.
"""

from __future__ import annotations

from exoflow.errors import ClosedError
from exoflow.worker import task_runner
from exoflow.worker.attempt import Done, TaskCall


class InlineExecutor:
    """See the top of this module. It keeps nothing, so there is nothing to release."""

    name = "inline"
    can_kill = False
    is_elsewhere = False
    slots = 1

    def __init__(self) -> None:
        self._closed = False

    def submit(self, call: TaskCall, done: Done) -> None:
        """Run ``call`` and answer, both before this returns: the one executor whose ``submit`` takes as long as the function."""
        if self._closed:
            raise ClosedError(what="executor 'inline'")
        done(task_runner.run(call))

    def stop(self, key: str) -> None:
        """Nothing to do: a call that runs cannot be ended, and no call waits."""

    def close(self) -> None:
        """Refuse further calls."""
        self._closed = True
