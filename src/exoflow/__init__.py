"""ExoFlow: exactly-once DAGs, where recovery is a property of each task.

Where things are: ``define`` how a user writes a workflow · ``core`` what must happen (pure) · ``runtime`` making it happen ·
``executors`` and ``worker`` where task code runs · ``store`` where truth is kept · ``client`` how code talks to an engine · ``cli`` the
command line · ``testing`` the kit · ``errors``, ``codec``, ``fingerprints``, ``settings``, ``wiring`` what all of them
share.
"""

from typing import TYPE_CHECKING, Any

from exoflow.client.default import (
    cancel,
    collect_garbage,
    delete,
    get_metadata,
    get_output,
    get_status,
    list_all,
    resume,
    resume_all,
    run,
    run_async,
    story,
    wait,
)
from exoflow.client.engine import Engine
from exoflow.client.intake import check
from exoflow.core.checks import Finding
from exoflow.core.state import Status
from exoflow.define.dag import InputNode, Node
from exoflow.define.task import Task, task
from exoflow.define.workflow import Workflow, workflow
from exoflow.errors import ExoflowError, UnsafeWorkflowError, WorkflowFailed
from exoflow.runtime.run import WorkflowFuture
from exoflow.worker.context import TaskContext, current_task

if TYPE_CHECKING:
    from exoflow.backends.spark.sessions import spark_factory, spark_session
    from exoflow.functions.aws import aws_lambda
    from exoflow.functions.http import http_function
    from exoflow.ray.options import options
    from exoflow.refs.base import Ref
    from exoflow.refs.buckets import BucketRef
    from exoflow.refs.files import FileRef
    from exoflow.refs.keys import KeyRef
    from exoflow.refs.values import SharedRef, ValueRef

__version__ = "0.1.0"

__all__ = [
    "BucketRef",
    "Engine",
    "ExoflowError",
    "FileRef",
    "Finding",
    "InputNode",
    "KeyRef",
    "Node",
    "Ref",
    "SharedRef",
    "Status",
    "Task",
    "TaskContext",
    "UnsafeWorkflowError",
    "ValueRef",
    "Workflow",
    "WorkflowFailed",
    "WorkflowFuture",
    "aws_lambda",
    "cancel",
    "check",
    "collect_garbage",
    "current_task",
    "delete",
    "get_metadata",
    "get_output",
    "get_status",
    "http_function",
    "list_all",
    "options",
    "resume",
    "resume_all",
    "run",
    "run_async",
    "spark_factory",
    "spark_session",
    "story",
    "task",
    "wait",
    "workflow",
]


_LATE = {
    "aws_lambda": "exoflow.functions.aws",
    "http_function": "exoflow.functions.http",
    "options": "exoflow.ray.options",
    "BucketRef": "exoflow.refs.buckets",
    "FileRef": "exoflow.refs.files",
    "KeyRef": "exoflow.refs.keys",
    "Ref": "exoflow.refs.base",
    "SharedRef": "exoflow.refs.values",
    "ValueRef": "exoflow.refs.values",
    "spark_factory": "exoflow.backends.spark.sessions",
    "spark_session": "exoflow.backends.spark.sessions",
}


def __getattr__(name: str) -> Any:
    """Functions elsewhere and Refs are imported when first asked for: they would take a tenth of the import, and few programs have any."""
    if name not in _LATE:
        raise AttributeError(f"module 'exoflow' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_LATE[name]), name)
