"""Ray Workflows on ExoFlow: write ``from exoflow.ray import workflow`` instead of ``from ray import workflow``."""

from exoflow.ray.workflow import http_event_provider
from exoflow.ray.workflow import status as common
from exoflow.ray.workflow.api import (
    cancel,
    continuation,
    delete,
    get_metadata,
    get_output,
    get_output_async,
    get_status,
    init,
    list_all,
    options,
    resume,
    resume_all,
    resume_async,
    run,
    run_async,
    sleep,
    wait_for_event,
)
from exoflow.ray.workflow.event_listener import EventListener
from exoflow.ray.workflow.exceptions import WorkflowCancellationError, WorkflowError, WorkflowExecutionError
from exoflow.ray.workflow.status import WorkflowStatus

NONE = WorkflowStatus.NONE
RUNNING = WorkflowStatus.RUNNING
CANCELED = WorkflowStatus.CANCELED
SUCCESSFUL = WorkflowStatus.SUCCESSFUL
FAILED = WorkflowStatus.FAILED
RESUMABLE = WorkflowStatus.RESUMABLE
PENDING = WorkflowStatus.PENDING

__all__ = [
    "CANCELED",
    "FAILED",
    "NONE",
    "PENDING",
    "RESUMABLE",
    "RUNNING",
    "SUCCESSFUL",
    "EventListener",
    "WorkflowCancellationError",
    "WorkflowError",
    "WorkflowExecutionError",
    "WorkflowStatus",
    "cancel",
    "common",
    "continuation",
    "delete",
    "get_metadata",
    "get_output",
    "get_output_async",
    "get_status",
    "http_event_provider",
    "init",
    "list_all",
    "options",
    "resume",
    "resume_all",
    "resume_async",
    "run",
    "run_async",
    "sleep",
    "wait_for_event",
]
