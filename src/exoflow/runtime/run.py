"""One workflow while this process drives it: its machine, the calls of its tasks, its outputs, and whoever waits for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from exoflow.core.commands import Grow
from exoflow.core.journal import Record
from exoflow.core.machine import Machine
from exoflow.define import registry
from exoflow.define.plan import Plan
from exoflow.errors import EngineBug, ExoflowError, InvalidStateError
from exoflow.executors.base import Executor
from exoflow.runtime.ownership import birth_of, life_of
from exoflow.runtime.refs import PLAN
from exoflow.runtime.threads import Threads
from exoflow.runtime.values import Values
from exoflow.worker.context import TaskContext

if TYPE_CHECKING:
    import asyncio

_log = logging.getLogger("exoflow")


class WorkflowFuture(Future[Any]):
    """The result of a workflow that runs: usable from threads (``result()``) and with ``await``. ``name`` is the workflow's id.

    It ends with the result, or with WorkflowFailed (TaskFailed, WorkflowCancelledError, WorkflowInDoubtError, WorkflowBlockedError).
    It cannot be cancelled; ``exoflow.cancel(name)`` cancels the workflow. ``turned_on`` names the tasks whose checkpoint ``mode="auto"``
    turned on.
    """

    def __init__(self, name: str, threads: Threads) -> None:
        super().__init__()
        self.name = name
        self._threads = threads
        self.turned_on: tuple[str, ...] = ()
        self.set_running_or_notify_cancel()

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio  # not at the top: 30 ms, and whoever gets here has it

        loop = asyncio.get_running_loop()
        there = loop.create_future()

        def tell(_done: Future[Any]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._settle, there)

        super().add_done_callback(tell)
        return there.__await__()

    def _settle(self, there: asyncio.Future[Any]) -> None:
        if there.done():  # whoever awaited was cancelled
            return
        error = self.exception()
        if error is not None:
            there.set_exception(error)
        else:
            there.set_result(self.result())

    def add_done_callback(self, function: Callable[[Any], object]) -> None:
        """Call ``function(self)`` when the workflow has ended, on a thread of its own: it may do anything, also run workflows."""

        def hand_over(_done: Future[Any]) -> None:
            self._threads.start("callback", call)

        def call() -> None:
            try:
                function(self)
            except Exception:  # nobody else would learn of it
                _log.exception("a callback of workflow %s failed", self.name)

        super().add_done_callback(hand_over)

    def __reduce__(self) -> Any:
        raise InvalidStateError(workflow_id=self.name, status="a running workflow", reason="its future cannot be saved; pass its name")


class Milestone:
    """What is reached once, or never will be, and somebody may wait for. Hardly anybody has to, and a Future costs more."""

    __slots__ = ("_error", "_future", "_is_over", "_lock", "_threads")

    def __init__(self, threads: Threads) -> None:
        self._threads, self._lock = threads, threads.lock()
        self._is_over = False
        self._error: ExoflowError | None = None
        self._future: Future[None] | None = None

    def reach(self) -> None:
        self._end(None)

    def fail(self, error: ExoflowError) -> None:
        self._end(error)

    def _end(self, error: ExoflowError | None) -> None:
        if self._is_over:
            return
        with self._lock:
            self._error, self._is_over = error, True
            future = self._future
        if future is not None:
            _resolve(future, error)

    def wait(self, timeout: float | None = None) -> None:
        """Until it is reached. Raises the error with which it failed, or TimeoutError."""
        if self._is_over and self._error is None:
            return
        with self._lock:
            future = self._future
            if future is None:
                future = self._future = Future()
                if self._is_over:
                    _resolve(future, self._error)
        self._threads.wait(future, timeout)


def _resolve(future: Future[None], error: ExoflowError | None) -> None:
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(None)


class Run:
    """A workflow that this engine owns. Fields are touched only under the loop's lock, except where ``Values`` says otherwise."""

    __slots__ = (
        "accepted",
        "calls",
        "cancelled",
        "closed",
        "code",
        "created_ms",
        "digest",
        "epoch",
        "errors",
        "future",
        "homes",
        "live",
        "machine",
        "main",
        "next_seq",
        "payloads",
        "seqs",
        "values",
        "workflow_id",
    )

    def __init__(
        self,
        workflow_id: str,
        epoch: int,
        machine: Machine,
        plan: Plan,
        values: Values,
        threads: Threads,
        *,
        digest: str,
        created_ms: int,
    ) -> None:
        self.workflow_id, self.epoch, self.machine, self.values = workflow_id, epoch, machine, values
        self.digest, self.created_ms = digest, created_ms
        self.main = plan.main
        self.calls, self.code, self.homes = plan.calls, plan.code, plan.homes  # this run's own from here on: those of sub-workflows come in
        self.next_seq = 1
        self.seqs: dict[str, list[int]] = {}  # journal entries of tasks of sub-workflows
        self.payloads: dict[tuple[str, int], bytes | None] = {}  # of outputs whose record is not written yet
        self.errors: dict[str, BaseException] = {}  # the last exception of a task, as an object of this process
        self.live: dict[str, Executor] = {}  # calls under way, and where
        self.future = WorkflowFuture(workflow_id, threads)
        self.accepted = Milestone(threads)  # the submission is durable
        self.cancelled = Milestone(threads)  # the decision to cancel is durable
        self.closed = False

    def key(self, task: str, attempt: int, what: str = "") -> str:
        """Unique among the calls of an engine."""
        return f"{self.workflow_id}/{self.epoch}/{task}#{attempt}{what}"

    def context(self, task: str, attempt: int, basis: int) -> TaskContext:
        """What an attempt may know of itself."""
        return TaskContext(
            workflow_id=self.workflow_id,
            task_id=task,
            attempt=attempt,
            epoch=life_of(self.epoch),
            basis=basis,
            birth=birth_of(self.epoch),
        )

    def is_wanted(self, task: str) -> bool:
        """Whether somebody needs the output of a task."""
        state = self.machine.state.tasks.get(task)
        return task == PLAN or (state is not None and state.claims > 0)

    def inputs(self, task: str) -> tuple[str, ...]:
        """Whose outputs fill the slots of a task's arguments."""
        here = self.machine.state.tasks[task]
        reads = here.reads if here.parent is None else here.reads[1:]
        return tuple(up.id for up in reads)

    def grow(self, command: Grow, plan: object) -> None:
        """The calls of a sub-workflow's tasks."""
        if not isinstance(plan, Plan):
            raise EngineBug(message=f"the output of '{command.task}' should be a plan, is {type(plan).__name__}", story="")
        self.calls.update((f"{command.scope}/{name}", plan.calls[name]) for name in command.names)
        self.code.update(plan.code)
        self.homes.update(plan.homes)

    def note_entry(self, record: Record, seq: int) -> None:
        """The journal's entry ``seq`` is ``record``."""
        if getattr(record, "parent", ""):
            self.seqs.setdefault(record.task, []).append(seq)  # type: ignore[union-attr]

    def pop_entries(self, tasks: Iterable[str]) -> list[int]:
        """Which entries are about these tasks of sub-workflows."""
        return [seq for task in tasks for seq in self.seqs.pop(task, ())]

    def find(self, key: str) -> Any | None:
        """What the registry knows under the name of a task, or of a function that goes with one."""
        return registry.find(key, self.main, self.homes.get(key, ""))
