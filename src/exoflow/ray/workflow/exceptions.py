"""The errors of Ray Workflows, by their names and with their arguments."""

from __future__ import annotations

from typing import Any


class WorkflowError(Exception):
    """Root of all of them."""

    def __init__(self, message: str, *fields: str) -> None:
        super().__init__(message)
        self.message, self._fields = message, fields

    def __reduce__(self) -> Any:
        return type(self), self._fields


class WorkflowExecutionError(WorkflowError):
    """A task of the workflow failed for good; the task's exception is the cause."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(f"Workflow[id={workflow_id}] failed: one of its tasks did", workflow_id)


class WorkflowCancellationError(WorkflowError):
    """The workflow was cancelled."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(f"Workflow[id={workflow_id}] was cancelled", workflow_id)


class WorkflowNotResumableError(WorkflowError):
    """There is nothing to go on with; the cause says why."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(f"Workflow[id={workflow_id}] cannot be resumed", workflow_id)


class WorkflowTaskNotRecoverableError(WorkflowNotResumableError):
    """What was saved of a task cannot be used."""

    def __init__(self, task_id: str) -> None:
        WorkflowError.__init__(self, f"task[id={task_id}] cannot be recovered", task_id)


class WorkflowNotFoundError(WorkflowError):
    """There is no such workflow."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(f"Workflow[id={workflow_id}] does not exist", workflow_id)


class WorkflowStillActiveError(WorkflowError):
    """``operation`` is not for workflows that run or wait for their turn."""

    def __init__(self, operation: str, workflow_id: str) -> None:
        super().__init__(f"{operation} is impossible while Workflow[id={workflow_id}] runs or waits for its turn", operation, workflow_id)
