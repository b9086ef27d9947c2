"""The loop: take an event, ask the machine, perform its commands.

There is no thread of its own. Whoever posts an event (a worker that finished, the committer after a flush, the clock, a caller)
handles it, unless somebody is handling events already, who then takes this one too. So an event waits for no one in the common case, and
the machines are only ever touched by one thread at a time.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from exoflow.core.events import Event
from exoflow.define import registry
from exoflow.define.plan import Plan
from exoflow.define.task import Task
from exoflow.errors import ClosedError, EngineBug, ExoflowError, InvalidOptionError, LeaseLost, StoreUnavailable, UnresumableTaskError
from exoflow.executors.base import Executor, PlacingExecutor
from exoflow.runtime.clock import Clock
from exoflow.runtime.commit import Committer
from exoflow.runtime.run import Run
from exoflow.runtime.threads import Threads
from exoflow.settings import Settings
from exoflow.store.base import Store

_EVENTS_IN_A_ROW = 200
"""So many events does a thread handle before another goes on: it may have a call to run, or an event loop."""


class Lane:
    """The way to one executor: at most ``slots`` calls are there at once, the rest wait here. ``places``: it takes options for each."""

    __slots__ = ("executor", "places", "running", "waiting")

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.places = isinstance(executor, PlacingExecutor)
        self.running = 0
        self.waiting: deque[Job] = deque()


class Job(ABC):
    """A call that waits in its lane or has been given to the executor. ``key`` is unique among the calls of an engine."""

    __slots__ = ("key", "lane", "run")

    def __init__(self, run: Run, lane: Lane, key: str) -> None:
        self.run, self.lane, self.key = run, lane, key

    @abstractmethod
    def begin(self) -> bool:
        """Give the call to the lane's executor; False if it is no longer wanted. What came of it must be posted with this job."""


class Loop:
    """Drives the workflows of one engine. Everything that it does to a workflow happens in ``_handle``."""

    def __init__(
        self,
        store: Store,
        committer: Committer,
        clock: Clock,
        threads: Threads,
        settings: Settings,
        open_executor: Callable[[str], Executor],
        owner: str,
    ) -> None:
        self.store, self.committer, self.clock, self.threads, self.settings, self.owner = store, committer, clock, threads, settings, owner
        from exoflow.runtime.perform import PERFORM  # it is written in terms of this class

        self._perform = PERFORM
        self._open_executor = open_executor
        self._lanes: dict[str, Lane] = {}
        self.runs: dict[str, Run] = {}
        self.dropped: dict[str, Run] = {}  # workflows that are still ours by the store, and that we have stopped driving
        self._queue: deque[tuple[Run, Event | Callable[[], None], Job | None]] = deque()
        self._turn = threads.lock()
        self._saver = threads.pool("saver", 2)
        self._opening = threads.lock()
        self._draining = self._shut = False
        self._begun = 0  # calls that executors have
        self._quiet = threads.signal()
        self._once_idle: Callable[[], None] | None = None
        self.closed = False

    def enter(self, run: Run, *, taken: bool = False) -> bool:
        """Drive ``run`` from now on; False if another of that name is being driven, unless ``run`` was ``taken`` over: then the other is a
        submission that will learn that it is too late. Raises ClosedError."""
        run.values.beside = self.beside
        if taken:
            self.runs[run.workflow_id] = run
        elif self.runs.setdefault(run.workflow_id, run) is not run:
            return False
        if self.closed:  # and close() may have seen the last of its workflows already
            error = ClosedError(what="the engine")
            self.abandon(run, error)
            raise error
        return True

    def post(self, run: Run, event: Event | Callable[[], None], ended: Job | None = None, *, will_wait: bool = False) -> None:
        """Something happened to ``run``: an event for its machine, or an action that needs the loop's lock. With ``will_wait``, this thread
        has nothing to do before what comes of it is durable."""
        self._queue.append((run, event, ended))
        self.drain(will_wait=will_wait)

    def drain(self, *, will_wait: bool = False) -> None:
        """Handle what is queued, unless another thread is at it (it will see what we added: it looks again after letting go)."""
        left = _EVENTS_IN_A_ROW
        while self._queue:
            if not self._turn.acquire(blocking=False):
                return
            try:
                while self._queue and left:
                    left -= 1
                    self._handle(*self._queue.popleft())
            finally:
                self._turn.release()
            if not left and self._queue and self.beside(self.drain):
                return
            left = left or _EVENTS_IN_A_ROW
        # While functions run, this thread has better things to do than to wait for the disk (chain of 10 internal tasks: half the time).
        self.committer.flush(may_block=(will_wait or not self._begun) and not _on_an_event_loop())

    def _handle(self, run: Run, event: Event | Callable[[], None], ended: Job | None) -> None:
        if ended is not None:
            ended.lane.running -= 1
            self._begun -= 1
            run.live.pop(ended.key, None)
        try:
            if not run.closed:
                if callable(event):
                    event()
                else:
                    self.perform(run, run.machine.handle(event))
        except ExoflowError as error:
            self.abandon(run, error)
        except Exception as error:  # a fault of ours: stop this workflow before it does harm; its journal is sound
            bug = EngineBug(message=f"{type(error).__name__}: {error}", story=run.machine.story())
            bug.__cause__ = error
            self.abandon(run, bug)
        if ended is not None and ended.lane.waiting:
            self._advance(ended.lane)
        if self._draining:
            self._quiet.set()
            self._tell_if_idle()

    def perform(self, run: Run, commands: list[Any]) -> None:
        """Carry out commands, in order."""
        for command in commands:
            self._perform[type(command)](self, run, command)

    # --- executors -----------------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Let a call begin as soon as its executor has a slot."""
        job.lane.waiting.append(job)
        self._advance(job.lane)

    def lane(self, executor: str) -> Lane:
        """The way to an executor, which is opened if need be; from any thread. Raises InvalidOptionError, MissingExtraError."""
        lane = self._lanes.get(executor)
        if lane is None:
            with self._opening:
                lane = self._lanes.get(executor)
                if lane is None:
                    lane = self._lanes[executor] = Lane(self._open_executor(executor))
                    if self._shut:  # too late for it to be of use, but whoever asks may go on to its end
                        lane.executor.close()
        return lane

    def require_runnable(self, plan: Plan, *, durable: bool) -> None:
        """Refuse a DAG that this engine could not run: from any thread, before it is accepted. With ``durable``, functions must have names
        under which another process finds them. Raises InvalidOptionError, MissingExtraError, UnresumableTaskError."""
        if len(plan.calls) > self.settings.tasks_max:
            raise InvalidOptionError(message=f"the DAG has {len(plan.calls)} tasks; the limit is {self.settings.tasks_max} (tasks_max)")
        lanes: dict[str, Lane] = {}
        for call in plan.calls.values():
            if call.executor not in lanes:
                lanes[call.executor] = self.lane(call.executor)
            if call.options or lanes[call.executor].places:
                self._require_places(plan)
                break
        if durable:
            for name in {name for call in plan.calls.values() for name in (call.task, call.rollback, call.on_unknown)}:
                if not registry.importable(name):
                    raise UnresumableTaskError(task=name.partition("#")[0].partition(":")[2], location="its definition")

    def _require_places(self, plan: Plan) -> None:
        """Refuse what executors could not run, and options for those that take none."""
        checked: set[tuple[str, int]] = set()
        for call in plan.calls.values():
            executor = self.lane(call.executor).executor
            if not isinstance(executor, PlacingExecutor):
                if call.options:
                    raise InvalidOptionError(message=f"executor_options of task '{call.task}': executor '{call.executor}' takes none")
            elif (call.task, id(call.options)) not in checked:
                checked.add((call.task, id(call.options)))
                found = registry.find(call.task, home=plan.homes.get(call.task, ""))
                if isinstance(found, Task):  # or else running it will say so
                    executor.check(call.task, found.function, call.options)

    def _advance(self, lane: Lane) -> None:
        while lane.waiting and lane.running < lane.executor.slots and not self._draining:
            job = lane.waiting.popleft()
            if job.run.closed:
                continue
            lane.running += 1
            self._begun += 1
            has_begun = False
            try:
                has_begun = job.begin()
            except ExoflowError as error:
                self.abandon(job.run, error)
            if not has_begun:
                lane.running -= 1
                self._begun -= 1

    def beside(self, work: Callable[[], None]) -> bool:
        """Do ``work`` (encoding, writing blobs) on a thread of the saver, beside the tasks. It must post what came of it. False if it is
        closed, and so is this engine: somebody else will do it."""
        try:
            self._saver.submit(work)
        except RuntimeError:
            return False
        return True

    # --- letting go ----------------------------------------------------------------------------------------------------------

    def abandon(self, run: Run, error: ExoflowError) -> None:
        """Stop driving a workflow: it belongs to someone else now, the store is gone, or something is wrong with us. Nothing more of it is
        written; whoever waits gets the error."""
        if run.closed:
            return
        self.retire(run)
        if isinstance(error, (LeaseLost, StoreUnavailable)):
            self.dropped[run.workflow_id] = run
        for key, executor in list(run.live.items()):
            executor.stop(key)
        run.accepted.fail(error)
        run.cancelled.fail(error)
        if not run.future.done():
            run.future.set_exception(error)

    def _is_quiet(self) -> bool:
        return not any(run.live or run.machine.state.encoding for run in list(self.runs.values()))

    def retire(self, run: Run) -> None:
        """This engine no longer drives it."""
        run.closed = True
        if self.runs.get(run.workflow_id) is run:
            del self.runs[run.workflow_id]

    def close(self) -> None:
        """Start nothing more, let what runs finish (for ``drain_s``), so that its work is not lost; then stop driving everything, close
        executors and the committer. Workflows stay resumable."""
        self._draining = self.closed = True
        deadline = self.clock.monotonic_s() + self.settings.drain_s
        while not self._is_quiet() and self._quiet.wait(max(0.0, deadline - self.clock.monotonic_s())):
            self._quiet.clear()
        for run in list(self.runs.values()):
            self.post(run, lambda run=run: self.abandon(run, ClosedError(what="the engine")))  # type: ignore[misc]
        with self._opening:
            self._shut = True
        for lane in list(self._lanes.values()):
            lane.executor.close()
        self._saver.shutdown()
        self.committer.close()
        self.clock.close()

    def once_idle(self, then: Callable[[], None]) -> None:
        """Call ``then`` when no call runs here any more: now, or when the last of those has ended that ``close`` could not stop."""
        with self._turn:
            self._once_idle = then
            self._tell_if_idle()
        self.drain()

    def _tell_if_idle(self) -> None:
        then = self._once_idle
        if then is not None and not any(lane.running for lane in list(self._lanes.values())):
            self._once_idle = None
            then()


def _on_an_event_loop() -> bool:
    """Whether this thread runs coroutines. Without asyncio nobody does, and importing it takes a fifth of the import of this package."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None  # noqa: SLF001 - the one that does not raise
