"""The engine behind the Workflows API: one in a cluster, in an actor, so that programs may come and go while their workflows run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from exoflow import codec
from exoflow.client.engine import Engine
from exoflow.core.state import Status
from exoflow.define.task import task
from exoflow.errors import (
    ExoflowError,
    InvalidStateError,
    TaskNotFoundError,
    WorkflowCancelledError,
    WorkflowFailed,
)
from exoflow.errors import WorkflowNotFoundError as NotFound
from exoflow.ray import admission
from exoflow.ray.admission import Admission
from exoflow.ray.parcel import Parcel, encode
from exoflow.ray.steps import CAUGHT, PLAIN, Piece, as_of_ray, nodes
from exoflow.ray.table import Row, Table
from exoflow.ray.workflow.exceptions import (
    WorkflowCancellationError,
    WorkflowExecutionError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
    WorkflowStillActiveError,
)
from exoflow.ray.workflow.status import WorkflowStatus
from exoflow.runtime.run import WorkflowFuture
from exoflow.store.base import Head

T = TypeVar("T")

_LOOK_AGAIN_S = 0.05
_LOOK_AGAIN_MAX_S = 1.0
"""How often the journal of a running workflow is looked at for the output of a task."""
_END_LOOKS = 400
"""How often it is looked whether a cancelled workflow has ended."""
_CANCELED = "ray-canceled:"
"""Begins the name of a workflow that only says: the one named so, which had ended, was cancelled."""
_STATUS = {
    Status.SUCCEEDED: WorkflowStatus.SUCCESSFUL,
    Status.FAILED: WorkflowStatus.FAILED,
    Status.IN_DOUBT: WorkflowStatus.FAILED,
    Status.BLOCKED: WorkflowStatus.FAILED,
    Status.CANCELLED: WorkflowStatus.CANCELED,
}


@task(deterministic=True, can_rollback=True, executor="inline")
def _nothing() -> None: ...


async def _beside(action: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What comes of something that may take a while, without holding up the others."""
    return await asyncio.to_thread(action, *args, **kwargs)


class WorkflowService:
    """What clients call. Its methods raise the errors of Ray Workflows."""

    def __init__(self, given: dict[str, Any], running_max: int, waiting_max: int) -> None:
        self._engine = Engine(**given)
        self._live: dict[str, WorkflowFuture | asyncio.Task[WorkflowFuture]] = {}
        self._arriving: set[str] = set()
        self._admission = Admission(running_max, waiting_max)
        admission.here[:] = [self._admission]

    async def store(self) -> str:
        """The URL of the store; an answer also means that the engine is there."""
        return self._engine.store.url

    async def limits(self) -> tuple[int, int]:
        return self._admission.running_max, self._admission.waiting_max

    # --- running -------------------------------------------------------------------------------------------------------------

    async def submit(self, workflow_id: str, pieces: Sequence[Piece]) -> None:
        """Begin a workflow, or go on with the one of that id. Returns when it is saved."""
        with self._arrival(workflow_id):
            if await _beside(self._head, workflow_id) is None:
                await self._begin(workflow_id, pieces)
            else:
                await self._go_on(workflow_id)

    async def _begin(self, workflow_id: str, pieces: Sequence[Piece]) -> None:
        self._admission.enter(workflow_id)
        try:
            root = nodes(pieces)
            if self._admission.is_limited:
                _begin_with(admission.turn.bind(workflow_id), root)
            future = await _beside(self._engine.run_async, root, name=workflow_id, mode="auto", on_existing="fail")
        except BaseException:
            self._admission.leave(workflow_id)
            raise
        self._follow(workflow_id, future)

    async def resume(self, workflow_id: str) -> None:
        """Go on with a workflow. Returns when it is under way, or in the queue."""
        with self._arrival(workflow_id):
            await self._go_on(workflow_id)

    async def _go_on(self, workflow_id: str) -> None:
        head = await _beside(self._head, workflow_id)
        if head is None or head.status == Status.CANCELLED:
            why = "it does not exist" if head is None else "it was cancelled"
            raise WorkflowNotResumableError(workflow_id) from ValueError(why)
        await _beside(self._unmark, workflow_id)
        if head.status == Status.SUCCEEDED:
            return
        self._admission.enter(workflow_id)
        if self._admission.waits(workflow_id):
            self._live[workflow_id] = asyncio.ensure_future(self._resume_in_turn(workflow_id))
            return
        self._follow(workflow_id, await self._resumed(workflow_id))

    async def _resume_in_turn(self, workflow_id: str) -> WorkflowFuture:
        await self._admission.turn(workflow_id)
        future = await self._resumed(workflow_id)
        self._follow(workflow_id, future)
        return future

    async def _resumed(self, workflow_id: str) -> WorkflowFuture:
        try:
            return await _beside(self._engine.resume, workflow_id, on_code_change="accept")
        except ExoflowError as error:
            self._admission.leave(workflow_id)
            self._live.pop(workflow_id, None)
            raise WorkflowNotResumableError(workflow_id) from error

    def _follow(self, workflow_id: str, future: WorkflowFuture) -> None:
        self._live[workflow_id] = future

        def ended(_future: WorkflowFuture) -> None:
            if self._live.get(workflow_id) is future:
                del self._live[workflow_id]
                self._admission.leave(workflow_id)

        future.add_done_callback(ended)

    @contextlib.contextmanager
    def _arrival(self, workflow_id: str) -> Iterator[None]:
        if self._is_live(workflow_id) or workflow_id in self._arriving:
            raise RuntimeError(f"Workflow '{workflow_id}' runs already, or waits for its turn")
        self._arriving.add(workflow_id)
        try:
            yield
        finally:
            self._arriving.discard(workflow_id)

    def _is_live(self, workflow_id: str) -> bool:
        future = self._live.get(workflow_id)
        return future is not None and (isinstance(future, asyncio.Task) or not future.done())

    async def result(self, workflow_id: str) -> Any:
        """The result, when it is there."""
        try:
            future = self._live.get(workflow_id)
            if isinstance(future, asyncio.Task):
                future = await asyncio.shield(future)
            value = await future if future is not None else await _beside(self._engine.wait, workflow_id)
        except asyncio.CancelledError:  # while it waited for its turn
            raise WorkflowCancellationError(workflow_id) from None
        except WorkflowFailed as error:
            raise _failure(workflow_id, error) from (as_of_ray(error.__cause__) if error.__cause__ is not None else error)
        return await _beside(lambda: _sent(self._handed_out(workflow_id, value)))

    def _handed_out(self, workflow_id: str, value: Any) -> Any:
        """The result as Ray hands it out: exceptions that were caught are of its own kind, too."""
        if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Exception)):
            return value
        table = Table(self._engine.store, self._require_head(workflow_id))
        root = next((row for row in table.rows.values() if row.task == table.root), None)
        return value if root is None else _of_row(root, value)  # it may be a workflow of somebody else

    # --- looking -------------------------------------------------------------------------------------------------------------

    async def output(self, workflow_id: str, task_id: str | None) -> Any:
        """The result, or the output of a task, as soon as there is one."""
        if self._is_live(workflow_id):
            if task_id is None:
                return await self.result(workflow_id)
            pause_s = _LOOK_AGAIN_S
            while self._is_live(workflow_id):
                found = await _beside(self._saved_output, workflow_id, task_id)
                if found:
                    return await _beside(_sent, found[0])
                await asyncio.sleep(pause_s)
                pause_s = min(1.5 * pause_s, _LOOK_AGAIN_MAX_S)
        return await _beside(lambda: _sent(self._output(workflow_id, task_id)))

    def _output(self, workflow_id: str, task_id: str | None) -> Any:
        head = self._head(workflow_id)
        status = WorkflowStatus.NONE if head is None else self._status(head)
        if status in (WorkflowStatus.NONE, WorkflowStatus.CANCELED, WorkflowStatus.RESUMABLE):
            why = {"NONE": "it does not exist", "CANCELED": "it was cancelled", "RESUMABLE": "it must be resumed first"}[status.value]
            raise ValueError(f"workflow '{workflow_id}' has no output: {why}")
        if task_id is None and status is WorkflowStatus.SUCCESSFUL:
            return self._handed_out(workflow_id, self._engine.get_output(workflow_id))
        found = self._saved_output(workflow_id, task_id) if task_id is not None else ()
        if not found:
            what = f"of workflow '{workflow_id}'" if task_id is None else f"of task '{task_id}' of workflow '{workflow_id}'"
            raise ValueError(f"there is no output {what}")
        return found[0]

    def _saved_output(self, workflow_id: str, task_id: str) -> tuple[Any, ...]:
        """The output of a task, in a tuple; nothing if it is not saved."""
        table = Table(self._engine.store, self._require_head(workflow_id))
        row = table.rows.get(task_id)
        if row is None:
            return ()
        try:
            return (_of_row(row, self._engine.get_output(workflow_id, task=table.last(row.task))),)
        except TaskNotFoundError:
            return ()

    async def status(self, workflow_id: str) -> WorkflowStatus:
        return await _beside(lambda: self._status(self._require_head(workflow_id)))

    async def statuses(self) -> list[tuple[str, WorkflowStatus]]:
        """Of all workflows, by id."""
        return await _beside(self._statuses)

    def _statuses(self) -> list[tuple[str, WorkflowStatus]]:
        heads = self._engine.list_all()
        marks = {head.workflow_id for head in heads if head.workflow_id.startswith(_CANCELED)}
        return [(head.workflow_id, self._status(head, marks)) for head in heads if head.workflow_id not in marks]

    def _status(self, head: Head, marks: set[str] | None = None) -> WorkflowStatus:
        name = head.workflow_id
        if Status(head.status).ended:
            mark = _CANCELED + name
            is_marked = mark in marks if marks is not None else self._engine.store.head(mark) is not None
            return WorkflowStatus.CANCELED if is_marked else _STATUS[Status(head.status)]
        if self._is_live(name):
            return WorkflowStatus.PENDING if self._admission.waits(name) else WorkflowStatus.RUNNING
        is_free = self._engine._is_free(head)  # noqa: SLF001 - whether another engine drives it is nobody else's question
        return WorkflowStatus.RESUMABLE if is_free else WorkflowStatus.RUNNING

    async def metadata(self, workflow_id: str, task_id: str | None) -> dict[str, Any]:
        """Of a workflow, or of one of its tasks."""
        return await _beside(self._metadata, workflow_id, task_id)

    def _metadata(self, workflow_id: str, task_id: str | None) -> dict[str, Any]:
        head = self._head(workflow_id)
        if head is None:
            raise ValueError(f"there is no workflow '{workflow_id}'")
        table = Table(self._engine.store, head)
        if task_id is None:
            stats = {"start_time": head.created_ms / 1000}
            if head.status != Status.CANCELLED and Status(head.status).ended:
                stats["end_time"] = head.updated_ms / 1000
            return {"status": self._status(head).value, "user_metadata": table.about.get("metadata", {}), "stats": stats}
        row = table.rows.get(task_id)
        if row is None:
            raise ValueError(f"workflow '{workflow_id}' has no task '{task_id}'")
        return _metadata_of(task_id, row)

    def _head(self, workflow_id: str) -> Head | None:
        return self._engine.store.head(workflow_id)

    def _require_head(self, workflow_id: str) -> Head:
        head = self._head(workflow_id)
        if head is None:
            raise WorkflowNotFoundError(workflow_id)
        return head

    # --- stopping ------------------------------------------------------------------------------------------------------------

    async def cancel(self, workflow_id: str) -> None:
        """Cancel a workflow, and return when it has ended; when that takes long, when its end is decided and saved."""
        head = await _beside(self._require_head, workflow_id)
        try:
            await _beside(self._engine.cancel, workflow_id)
        except InvalidStateError:
            if head.status != Status.CANCELLED:
                await _beside(self._engine.run, _nothing, name=_CANCELED + workflow_id)
        waiting = self._live.get(workflow_id)
        if isinstance(waiting, asyncio.Task):
            waiting.cancel()
            del self._live[workflow_id]
            self._admission.leave(workflow_id)
        for _ in range(_END_LOOKS):
            if Status((await _beside(self._require_head, workflow_id)).status).ended:
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _unmark(self, workflow_id: str) -> None:
        if self._engine.store.head(_CANCELED + workflow_id) is not None:
            self._engine.delete(_CANCELED + workflow_id)

    async def delete(self, workflow_id: str) -> None:
        """Forget a workflow that does not run."""
        if self._is_live(workflow_id):
            raise WorkflowStillActiveError("DELETE", workflow_id)
        try:
            await _beside(self._engine.delete, workflow_id)
        except NotFound:
            raise WorkflowNotFoundError(workflow_id) from None
        except InvalidStateError as error:
            raise WorkflowStillActiveError("DELETE", workflow_id) from error
        await _beside(self._unmark, workflow_id)


def _sent(value: Any) -> Any:
    """``value`` as it goes to a client, parcels open. Pickled by us, so that a class of the client's script is that class again when it
    arrives."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Parcel):
        return value[0].nested(), value[1]
    return value.nested() if isinstance(value, Parcel) else codec.Nested(encode(value))


def _begin_with(first: Any, root: Any) -> None:
    """Have every task that reads nothing come after ``first``."""
    seen: set[Any] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        before = [*node.args[2], *node.after]
        if not before:
            node.come_after(first)
        stack += before


def _failure(workflow_id: str, error: WorkflowFailed) -> Exception:
    if isinstance(error, WorkflowCancelledError):
        return WorkflowCancellationError(workflow_id)
    return WorkflowExecutionError(workflow_id)


def _of_row(row: Row, value: Any) -> Any:
    """The output of a task for whoever asks for it. Raises what it ended with, if that was passed on to its caller."""
    if row.step.gives == PLAIN:
        return value
    output, error = value
    error = None if error is None else as_of_ray(error)
    if row.step.gives == CAUGHT:
        return output, error
    if error is not None:
        raise error
    return output


def _metadata_of(task_id: str, row: Row) -> dict[str, Any]:
    step = row.step
    return {
        "task_id": task_id,
        "task_options": {
            "task_type": "FUNCTION",
            "max_retries": step.shown.get("max_retries", 3),
            "catch_exceptions": step.gives == CAUGHT,
            "retry_exceptions": step.shown.get("retry_exceptions", False),
            "checkpoint": step.options["checkpoint"],
            "ray_options": step.shown,
        },
        "user_metadata": step.metadata,
        "workflow_refs": row.reads,
        "stats": {} if row.times is None else {"start_time": row.times[0], "end_time": row.times[1]},
    }
