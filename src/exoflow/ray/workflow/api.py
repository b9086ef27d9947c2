"""The functions of Ray Workflows, on ExoFlow. What they promise, and where they differ, is in docs/ray-workflows.md."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Set as AbstractSet
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from exoflow import settings
from exoflow.ray.admission import UNLIMITED
from exoflow.ray.dag import executed, translated
from exoflow.ray.options import POLLS, Options
from exoflow.ray.workflow.event_listener import EventListener, TimerListener
from exoflow.ray.workflow.status import WorkflowStatus, validate_user_metadata
from exoflow.runtime.clock import SystemClock
from exoflow.runtime.host import SYSTEM_HOST
from exoflow.worker.context import inside_task

_NAME, _NAMESPACE = "ExoflowWorkflows", "exoflow"
_CALLS_MAX = 10_000
"""How many clients' calls the manager takes at once; one that waits for a workflow counts as long as it waits."""
_OPTIONS = ("task_id", "metadata", "catch_exceptions", "checkpoint")


def init(*, max_running_workflows: int | None = None, max_pending_workflows: int | None = None) -> None:
    """Make sure that there is an engine in this cluster; start Ray if need be. The store is that of EXOFLOW_STORE, or
    ``.exoflow/exoflow.db`` of the working directory of whoever comes first.

    Args:
        max_running_workflows: so many run at once, the others wait for their turn; -1 or None: no limit.
        max_pending_workflows: so many may wait; -1, 0 (as in Ray) or None: no limit.
    Raises TypeError, ValueError (also if there is an engine with other limits).
    """
    _require_limit("max_running_workflows", max_running_workflows, 1)
    _require_limit("max_pending_workflows", max_pending_workflows, 0)
    if not ray.is_initialized():
        ray.init()
    try:
        there = ray.get_actor(_NAME, namespace=_NAMESPACE)
    except ValueError:
        ray.get(_start(max_running_workflows, max_pending_workflows).store.remote())
        return
    limits = ray.get(there.limits.remote())
    for name, wanted, there in zip(_LIMITS, (max_running_workflows, max_pending_workflows), limits, strict=True):
        if wanted is not None and wanted != there:
            raise ValueError(f"{name} is {there} in this cluster already, and cannot become {wanted}")


_LIMITS = ("max_running_workflows", "max_pending_workflows")


def _require_limit(name: str, value: Any, least: int) -> None:
    if value is None:
        return
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int or None, got {value!r:.60}")
    if value != UNLIMITED and value < least:
        raise ValueError(f"{name} must be at least {least}, or -1 for no limit, got {value}")


def _start(running_max: int | None, waiting_max: int | None) -> Any:
    from exoflow.ray.service import WorkflowService

    given = {name: getattr(settings.load(), name) for name in settings.Settings.__struct_fields__}
    scheme, colon, path = given["store"].partition(":")
    given["store"] = f"{scheme}:{os.path.abspath(path)}" if colon and scheme == "sqlite" else given["store"]
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # where the store is
    return (
        ray.remote(WorkflowService)
        .options(
            name=_NAME,
            namespace=_NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_concurrency=_CALLS_MAX,
            scheduling_strategy=here,
        )
        .remote(given, UNLIMITED if running_max is None else running_max, UNLIMITED if waiting_max is None else waiting_max)
    )


def service() -> Any:
    """The actor in which the engine is; made if need be."""
    if ray.is_initialized():
        try:
            return ray.get_actor(_NAME, namespace=_NAMESPACE)
        except ValueError:
            pass
    init()
    return ray.get_actor(_NAME, namespace=_NAMESPACE)


# --- running -----------------------------------------------------------------------------------------------------------------


def run(dag: Any, *args: Any, workflow_id: str | None = None, metadata: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """:func:`run_async`, and wait for the result."""
    return ray.get(run_async(dag, *args, workflow_id=workflow_id, metadata=metadata, **kwargs))


def run_async(dag: Any, *args: Any, workflow_id: str | None = None, metadata: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """Run a DAG, or go on with the workflow of that id, and return an ObjectRef of its result. Saved when this returns.

    Args:
        dag: made of remote functions with ``.bind``. args, kwargs: for its InputNode.
        workflow_id: of the workflow; generated if omitted. metadata: what :func:`get_metadata` shall say; must be JSON.
    Raises TypeError, ValueError, IndexError, KeyError for what is wrong with the DAG or its inputs, RuntimeError if that workflow runs
    already, queue.Full. The reference ends with the result, WorkflowExecutionError or WorkflowCancellationError.
    """
    validate_user_metadata(metadata)
    there = service()
    workflow_id = workflow_id or f"wf-{SYSTEM_HOST.new_id()}"
    pieces = translated(dag, args, kwargs, sealed=True, about={"metadata": metadata or {}})
    ray.get(there.submit.remote(workflow_id, pieces))
    return there.result.remote(workflow_id)


def resume(workflow_id: str) -> Any:
    """:func:`resume_async`, and wait for the result."""
    return ray.get(resume_async(workflow_id))


def resume_async(workflow_id: str) -> Any:
    """Go on with a workflow that is RESUMABLE or FAILED, and return an ObjectRef of its result; of one that is SUCCESSFUL, that is there.

    Raises RuntimeError if it runs, WorkflowNotResumableError."""
    there = service()
    ray.get(there.resume.remote(workflow_id))
    return there.result.remote(workflow_id)


def resume_all(include_failed: bool = False) -> list[tuple[str, Any]]:  # noqa: FBT001, FBT002 - as in Ray
    """:func:`resume_async` of all workflows that are RESUMABLE (or FAILED), by id, with their ids."""
    there = service()
    wanted = {WorkflowStatus.RESUMABLE, *([WorkflowStatus.FAILED] if include_failed else [])}
    names = [name for name, _ in list_all(wanted)]
    for name in names:  # one after the other, for that is their order in the queue
        ray.get(there.resume.remote(name))
    return [(name, there.result.remote(name)) for name in names]


# --- looking -----------------------------------------------------------------------------------------------------------------


def get_output(workflow_id: str, *, task_id: str | None = None) -> Any:
    """:func:`get_output_async`, and wait for it."""
    return ray.get(get_output_async(workflow_id, task_id=task_id))


def get_output_async(workflow_id: str, *, task_id: str | None = None) -> Any:
    """An ObjectRef of the result of a workflow, or of the output of one of its tasks as soon as that is saved. It ends with ValueError if
    there is none and will be none."""
    return service().output.remote(workflow_id, task_id)


def list_all(status_filter: WorkflowStatus | str | AbstractSet[Any] | None = None) -> list[tuple[str, WorkflowStatus]]:
    """Ids and statuses of all workflows, or of those with one of the given statuses, by id. Raises TypeError, ValueError."""
    if status_filter is None:
        wanted = set(WorkflowStatus)
    elif isinstance(status_filter, str):
        wanted = {WorkflowStatus(status_filter)}
    elif isinstance(status_filter, (set, frozenset)) and all(isinstance(each, str) for each in status_filter):
        wanted = {WorkflowStatus(each) for each in status_filter}
    else:
        raise TypeError(f"status_filter must be a WorkflowStatus or a set of those, got {status_filter!r:.60}")
    return [(name, status) for name, status in ray.get(service().statuses.remote()) if status in wanted]


def get_status(workflow_id: str) -> WorkflowStatus:
    """How a workflow stands. Raises WorkflowNotFoundError, TypeError."""
    return ray.get(service().status.remote(_text(workflow_id)))  # type: ignore[no-any-return]


def get_metadata(workflow_id: str, task_id: str | None = None) -> dict[str, Any]:
    """``status``, ``user_metadata`` and ``stats`` of a workflow; of a task, its ``task_id``, ``task_options``, ``user_metadata``,
    ``workflow_refs`` (which tasks it reads) and ``stats``. Times are in seconds since 1970. Raises ValueError."""
    return ray.get(service().metadata.remote(workflow_id, task_id))  # type: ignore[no-any-return]


# --- stopping ----------------------------------------------------------------------------------------------------------------


def cancel(workflow_id: str) -> None:
    """Cancel a workflow. When this returns, that is saved, and nothing more of it will start. Raises WorkflowNotFoundError, TypeError."""
    ray.get(service().cancel.remote(_text(workflow_id)))


def delete(workflow_id: str) -> None:
    """Forget a workflow and its outputs. Raises WorkflowStillActiveError, WorkflowNotFoundError."""
    ray.get(service().delete.remote(workflow_id))


def _text(workflow_id: Any) -> str:
    if not isinstance(workflow_id, str):
        raise TypeError(f"workflow_id must be a str, got {workflow_id!r:.60}")
    return workflow_id


# --- parts of DAGs -----------------------------------------------------------------------------------------------------------


def continuation(dag_node: Any) -> Any:
    """In a task: what it returns to have that DAG take its place. Elsewhere: the DAG's result. Raises TypeError."""
    if not isinstance(dag_node, ray.dag.DAGNode):
        raise TypeError(f"a DAG made with .bind() was expected, not {type(dag_node).__name__}")
    return dag_node if inside_task() is not None else ray.get(executed(dag_node))


def sleep(duration: float) -> Any:
    """A node that waits for ``duration`` seconds from when its turn comes; a crash does not begin them anew. Its output is None."""
    return wait_for_event(TimerListener, ray.remote(num_cpus=0)(end_time).bind(duration))


def end_time(duration: float) -> float:
    return SystemClock().now_ms() / 1000 + duration


def wait_for_event(event_listener_type: Any, *args: Any, **kwargs: Any) -> Any:
    """A node whose output is the event for which a listener of that class polls, given ``args``. When it is saved, the listener is told:
    ``event_checkpointed``. Raises TypeError."""
    if not (isinstance(event_listener_type, type) and issubclass(event_listener_type, EventListener)):
        raise TypeError(f"a subclass of EventListener was expected, not {event_listener_type!r:.60}")
    if event_listener_type is TimerListener:  # it needs nothing of the user's
        return _TIMER.bind(*args, **kwargs)
    return _MESSAGE_COMMITTED.bind(event_listener_type, _GET_MESSAGE.bind(event_listener_type, *args, **kwargs))


def get_message(event_listener_type: Any, *args: Any, **kwargs: Any) -> Any:
    return asyncio.run(event_listener_type().poll_for_event(*args, **kwargs))


def message_committed(event_listener_type: Any, event: Any) -> Any:
    asyncio.run(event_listener_type().event_checkpointed(event))
    return event


def timer(timestamp: float) -> Any:
    return TimerListener().poll_for_event(timestamp)


_GET_MESSAGE, _MESSAGE_COMMITTED = ray.remote(get_message), ray.remote(message_committed)
_TIMER = ray.remote(timer).options(**Options({POLLS: True}))


class options(Options):  # noqa: N801 - as in Ray
    """Options of a task: ``f.options(**workflow.options(...))``, ``@ray.remote(**workflow.options(...))``, or ``@workflow.options(...)``
    above ``@ray.remote``.

    Args:
        task_id: for :func:`get_output` and :func:`get_metadata`; made of the function's name if omitted, and numbered where it repeats.
        metadata: what :func:`get_metadata` shall say; must be JSON.
        catch_exceptions: the output becomes ``(output, None)`` or ``(None, error)``, also if what it returned as a DAG fails.
        checkpoint: False: do not save the output, unless exactly-once needs it. A task of a returned DAG does as its caller does.
    Raises ValueError.
    """

    def __init__(self, **given: Any) -> None:
        unknown = sorted(given.keys() - set(_OPTIONS))
        if unknown:
            raise ValueError(f"unknown options {', '.join(unknown)}; known are {', '.join(_OPTIONS)}")
        validate_user_metadata(given.get("metadata"))
        super().__init__(given)
