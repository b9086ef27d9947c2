"""``Engine``: submit workflows, wait for them, look at them, stop them. One per process is enough; several on one store are safe."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from exoflow import wiring
from exoflow.client import intake
from exoflow.client.intake import Dag, Mode, OnExisting, OnFailure
from exoflow.client.report import WorkflowReport, report, require_task, story
from exoflow.client.watching import LOOK_AGAIN_S, Watching
from exoflow.core import events as ev
from exoflow.core import journal, replay
from exoflow.core.checks import Finding
from exoflow.core.machine import Machine
from exoflow.core.spec.ids import check_id
from exoflow.core.state import Status
from exoflow.define.plan import Plan, encode_plan, make_plan
from exoflow.errors import (
    ClosedError,
    EnvironmentFault,
    ExoflowError,
    ForkedHandleError,
    InvalidOptionError,
    InvalidStateError,
    LeaseLost,
    SelfWaitError,
    StoreUnavailable,
    TaskNotFoundError,
    WorkflowAlreadyExistsError,
    WorkflowIdConflictError,
    WorkflowNotFoundError,
    WrongContextError,
)
from exoflow.runtime.clock import Clock
from exoflow.runtime.commit import GroupCommitter
from exoflow.runtime.loop import Loop
from exoflow.runtime.ownership import Owner, birth_of, first_epoch, life_of
from exoflow.runtime.perform import failure_of, result_of
from exoflow.runtime.recover import OnCodeChange, check_code, decide_cancel, decide_doubt, load, read_end, read_plan, read_records
from exoflow.runtime.run import Run, WorkflowFuture
from exoflow.runtime.values import Saved, Values, decode
from exoflow.store.base import Collected, Head, Store
from exoflow.wiring import Parts
from exoflow.worker.context import inside_task

_log = logging.getLogger("exoflow")
_CODE_CHANGES = ("fail", "accept")


class Engine:
    """Runs workflows on one store. A context manager (``with`` or ``async with``); closing it leaves unfinished workflows resumable.

    Args:
        store: URL (``sqlite:PATH``, ``memory:``), path, or an open Store; default from EXOFLOW_STORE or ``sqlite:.exoflow/exoflow.db``.
        clock, parts: for tests. options: any other field of :class:`~exoflow.settings.Settings`.
    Raises: StoreConfigError, StoreOpenError, InvalidOptionError.
    """

    def __init__(
        self, store: str | Path | Store | None = None, *, clock: Clock | None = None, parts: Parts | None = None, **options: Any
    ) -> None:
        parts = parts or Parts()
        given = str(store) if isinstance(store, (str, Path)) else None
        if store is not None and given is None and not hasattr(store, "commit"):
            raise InvalidOptionError(message=f"store must be a URL, a path or an open store, got {store!r:.60}")
        self.settings = parts.settings(store=given, **options)
        self.store: Store = wiring.store_for(self.settings) if store is None or given is not None else store  # type: ignore[assignment]
        self._pid = os.getpid()
        self._clock, self._threads, self._host = clock or parts.clock(), parts.threads, parts.host
        self._owner = Owner(
            self.store,
            self._clock,
            self._threads,
            self._host,
            self.settings.lease_s,
            on_wish=self._on_wish,
            on_late=self._on_late,
            on_beat=self._release_dropped,
        )
        fd = self._owner.lock.fd
        self._loop = Loop(
            self.store,
            GroupCommitter(self.store, self._threads),
            self._clock,
            self._threads,
            self.settings,
            lambda name: parts.executor_for(name, self.settings, () if fd is None else (fd,)),
            self._owner.id,
        )
        self._watching = Watching(self._clock, self._threads)
        self._taking = self._threads.lock()
        self._unsure: set[str] = set()  # workflows that may be ours although we do not drive them: a claim that went wrong

    # --- running -------------------------------------------------------------------------------------------------------------

    def run(self, dag: Dag, /, *args: Any, name: str | None = None, **kwargs: Any) -> Any:
        """Run a DAG to its end and return the result.

        Args and keyword arguments fill the DAG's InputNode (or are those of an ``@exoflow.workflow`` or task); see :meth:`run_async` for
        the options. The same ``name``, DAG and arguments again: waits for it, goes on after a crash, or returns the result at once.
        Raises: UsageError, UnsafeWorkflowError (nothing was written then), WorkflowFailed, EnvironmentFault.
        """
        return self._threads.wait(self.run_async(dag, *args, name=name, **kwargs))

    def run_async(
        self,
        dag: Dag,
        /,
        *args: Any,
        name: str | None = None,
        workflow_id: str | None = None,
        mode: Mode = "strict",
        on_existing: OnExisting = "attach",
        on_failure: OnFailure = "keep",
        on_code_change: OnCodeChange = "fail",
        wait_accepted: bool = True,
        **kwargs: Any,
    ) -> WorkflowFuture:
        """Start a DAG and return a future, once the submission is durable.

        Args:
            name: the id of the workflow, and the idempotency key of its submission (``workflow_id`` means the same); generated if omitted.
            mode: ``"strict"`` refuses an unsafe DAG; ``"auto"`` turns the missing checkpoints on (:meth:`check` says which).
            on_existing: ``"fail"`` refuses a name that is taken, even by the same workflow.
            on_failure: ``"rollback"`` undoes the external outputs of undoable tasks, in reverse order, if a task fails for good.
            on_code_change: ``"accept"`` resumes although the code of unfinished tasks changed.
            wait_accepted: False returns before the submission is durable, so that many share one flush; only for generated names, since
                nobody could ask for the outcome again.
        """
        self._guard()
        inside = inside_task()
        if inside is not None:
            raise WrongContextError(
                message=f"run() was called inside task '{inside.task_id}' of workflow '{inside.workflow_id}', where nothing would record "
                "that it was; return the DAG from the task instead: it becomes a sub-workflow"
            )
        intake.one_of("mode", mode, ("strict", "auto"))
        intake.one_of("on_existing", on_existing, ("attach", "fail"))
        intake.one_of("on_failure", on_failure, ("keep", "rollback"))
        intake.one_of("on_code_change", on_code_change, _CODE_CHANGES)
        if name is not None and workflow_id is not None:
            raise InvalidOptionError(message="name and workflow_id mean the same; give one of them")
        given = name if name is not None else workflow_id
        workflow = check_id(given) if given is not None else f"wf-{self._host.new_id()}"
        plan = self._plan(dag, args, kwargs)
        plan, turned_on = intake.made_safe(plan, mode)
        if turned_on:
            _log.warning("workflow %s: mode='auto' turned checkpoint on for %s", workflow, ", ".join(turned_on))
        while True:
            try:
                wait_accepted = wait_accepted or given is not None
                began = {"auto": mode == "auto", "undo_on_failure": on_failure == "rollback"}
                run = self._submit(workflow, plan, began, will_wait=wait_accepted)
                run.future.turned_on = turned_on
                if wait_accepted:
                    run.accepted.wait()
                return run.future
            except WorkflowAlreadyExistsError:
                with contextlib.suppress(WorkflowNotFoundError):  # somebody has just deleted it
                    return self._attach(workflow, plan, on_existing, on_code_change)

    def _plan(self, dag: Dag, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
        root, inputs, named = intake.root_of(dag, args, kwargs)
        plan = make_plan(root, inputs, named, durable=self.store.durable)
        self._loop.require_runnable(plan, durable=False)  # make_plan has seen to that
        return plan

    def _submit(self, name: str, plan: Plan, began: dict[str, bool], *, will_wait: bool) -> Run:
        if name in self._loop.runs:
            raise WorkflowAlreadyExistsError(workflow_id=name, status="RUNNING")
        self._owner.start()
        values = Values(self.store, name, self._threads)
        stored, payload, digest = intake.saved(plan, values, self.settings, self._threads)
        epoch = first_epoch(self._host.new_id())
        machine = Machine(replay.new_state(name, life_of(epoch)), plan.graph, checked=self.settings.check_invariants)
        run = Run(name, epoch, machine, plan, values, self._threads, digest=digest, created_ms=self._clock.now_ms())
        run.payloads["", 0] = payload
        if not self._loop.enter(run):
            raise WorkflowAlreadyExistsError(workflow_id=name, status="RUNNING")
        self._loop.post(run, ev.Began(plan=stored, **began), will_wait=will_wait)
        intake.give_back(plan)
        return run

    # --- attaching and resuming ----------------------------------------------------------------------------------------------

    def _attach(self, name: str, plan: Plan, on_existing: OnExisting, on_code_change: OnCodeChange) -> WorkflowFuture:
        """The name is taken: by the same workflow, which is waited for or gone on with; or by another, which is a conflict."""
        self._running(name)
        head = self._head(name)
        if on_existing == "fail":
            begun = dt.datetime.fromtimestamp(head.created_ms / 1000, dt.UTC).isoformat(sep=" ", timespec="seconds")
            raise WorkflowAlreadyExistsError(workflow_id=name, status=f"{head.status}, begun {begun}")
        encoded = encode_plan(plan)
        if intake.digest_of(encoded) != head.digest:
            entries = self.store.entries(name)
            before = read_plan(self.store, name, read_records(self.store, name, entries), entries)
            now: Plan = decode(encoded, name)  # pickling may change what a value is made of, and ``before`` has been pickled
            if before.meaning() != now.meaning():
                raise WorkflowIdConflictError(workflow_id=name, changed=intake.what_changed(before, now))
        return self._follow(head, on_code_change)

    def _follow(self, head: Head, on_code_change: OnCodeChange) -> WorkflowFuture:
        """The future of an existing workflow, driving it if nobody else does."""
        name = head.workflow_id
        while True:
            run = self._running(name)
            if run is not None and birth_of(run.epoch) == birth_of(head.epoch):
                return run.future
            with self._taking:  # a takeover by another thread is over, or has not begun
                head = self._again(head)
                if name in self._loop.runs:
                    continue
            if Status(head.status).ended and self._is_free(head):  # nobody is resuming it
                return self._finished(head)
            if head.owner == self._owner.id and not self._is_free(head):
                if self._head(name) != head:  # it ended just now
                    continue
                reason = "this engine gave it up after an error; close it, and go on with it in another"
                raise InvalidStateError(workflow_id=name, status=head.status, reason=reason)
            taken = self._take_over(head, on_code_change)
            if taken is not None:
                return taken.future
            if not self._is_free(head):
                return self._watch(head, on_code_change)

    def _running(self, name: str) -> Run | None:
        """The run of a workflow that this engine drives, once its submission is durable."""
        while (run := self._loop.runs.get(name)) is not None:
            try:
                run.accepted.wait()
            except WorkflowAlreadyExistsError:  # it was not the first after all
                continue
            return run
        return None

    def _take_over(
        self,
        head: Head,
        on_code_change: OnCodeChange,
        *,
        resumed: bool = False,
        outcomes: Mapping[str, Any] | None = None,
        cancel: journal.CancelDecided | None = None,
    ) -> Run | None:
        """Drive a workflow whose owner is dead, or that has ended and is resumed (``outcomes`` for tasks in doubt), only to end it if
        ``cancel`` is given. None if another was quicker."""
        name = head.workflow_id
        with self._taking:
            head = self._again(head)
            if name in self._loop.runs or Status(head.status).ended != resumed or not self._is_free(head):
                return None
            if self._loop.committer.broken is not None:  # it would be dropped at once
                raise self._loop.committer.broken
            self._owner.start()
            try:
                run = load(self.store, head, head.epoch + 1, self._threads, checked=self.settings.check_invariants)
                if run.machine.state.status.ended != resumed:  # what its owner wrote last has arrived just now
                    return None
                answers = tuple(decide_doubt(run, task, verdict) for task, verdict in (outcomes or {}).items())
                if cancel is not None:
                    decide_cancel(run, cancel)
                commands = run.machine.handle(ev.Recovered(resumed=resumed, answers=answers))
                check_code(run, on_code_change)
                self._unsure.add(name)
                if not self._claim(head):
                    return None
                if self.store.entries(name, seqs=(run.next_seq,)):  # its owner was not dead, and wrote after we had looked
                    self._release(head)
                    return None
            except ExoflowError:
                self._release(head)
                self._again(head)  # was it deleted while we read?
                raise
            self._loop.enter(run, taken=True)
            self._unsure.discard(name)
            run.accepted.reach()
        self._loop.post(run, lambda: self._loop.perform(run, commands))
        self._bury(head.owner)
        return run

    def _is_free(self, head: Head) -> bool:
        """Whether nobody drives it."""
        return (head.owner == self._owner.id and head.workflow_id in self._unsure) or self._owner.is_dead(head.owner)

    def _release(self, head: Head) -> None:
        """Let go of what we own and do not drive: others would wait for us. If the store refuses, the next one who asks us tries again.
        Another workflow that was begun under the name meanwhile, perhaps by ourselves, is not meant."""
        name = head.workflow_id
        with contextlib.suppress(EnvironmentFault):
            now = self.store.head(name)
            if now is not None and now.owner == self._owner.id and birth_of(now.epoch) == birth_of(head.epoch):
                self.store.claim(name, epoch=now.epoch, owner=None)
            self._unsure.discard(name)

    def _claim(self, head: Head) -> bool:
        """Whether it is ours now, under the next epoch. If the answer gets lost, the head tells, since nobody else has our id."""
        name, epoch = head.workflow_id, head.epoch + 1
        try:
            return self.store.claim(name, epoch=head.epoch, owner=self._owner.id) == epoch
        except StoreUnavailable:
            now = self.store.head(name)
            if now is None or now.owner != self._owner.id:
                raise
            return now.epoch == epoch

    def _bury(self, owner: str | None) -> None:
        if owner is not None and not any(head.owner == owner for head in self._unfinished()):
            self._owner.bury(owner)

    def _watch(self, head: Head, on_code_change: OnCodeChange) -> WorkflowFuture:
        """Wait for a workflow that another living engine drives; take it over should that engine die."""

        def look() -> WorkflowFuture | None:
            now = self._again(head)
            return self._follow(now, on_code_change) if self._owner.is_dead(now.owner) else None  # one that has ended has nobody

        return self._watching.watch(head.workflow_id, look)

    def _finished(self, head: Head) -> WorkflowFuture:
        """The future of a workflow that has ended. Raises CheckpointCorruptError, PayloadUnreadableError."""
        name = head.workflow_id
        future = WorkflowFuture(name, self._threads)
        outcome, saved = read_end(self.store, head)
        if outcome.status == Status.SUCCEEDED:
            values = Values(self.store, name, self._threads)
            if saved is not None:
                values.saved[outcome.task] = saved
            future.set_result(result_of(values, outcome.task, head))
        else:
            future.set_exception(failure_of(name, outcome))
        return future

    def resume(
        self,
        name: str,
        *,
        outcomes: Mapping[str, Any] | None = None,
        on_code_change: OnCodeChange = "fail",
    ) -> WorkflowFuture:
        """Go on with a workflow that stopped: after a crash, or FAILED, BLOCKED, or IN_DOUBT. Finished work is kept.

        Args:
            outcomes: for tasks in doubt, what a person found out: ``{"charge": True}`` (it happened), ``False`` (it did not: it runs
                again), or its output as any other value.
            on_code_change: ``"accept"`` goes on although the code of unfinished tasks changed.
        A workflow that SUCCEEDED gives its result. Raises WorkflowNotFoundError, InvalidStateError, CodeChangedError.
        """
        self._guard()
        intake.one_of("on_code_change", on_code_change, _CODE_CHANGES)
        if outcomes is not None and not isinstance(outcomes, Mapping):
            raise InvalidOptionError(message=f'outcomes must be a dict such as {{"charge": True}}, got {outcomes!r:.60}')
        head = self._head(check_id(name))
        if outcomes and (head.status == Status.SUCCEEDED or not Status(head.status).ended):
            raise InvalidStateError(workflow_id=name, status=head.status, reason="nothing of it is in doubt; leave out outcomes")
        if head.status == Status.SUCCEEDED or not Status(head.status).ended:
            return self._follow(head, on_code_change)
        if head.status == Status.CANCELLED:
            raise InvalidStateError(workflow_id=name, status=head.status, reason="start a new workflow")
        if head.status != Status.BLOCKED and report(self.store, head).rolled_back:
            raise InvalidStateError(
                workflow_id=name, status=head.status, reason="its external outputs were rolled back; start a new workflow"
            )
        run = self._take_over(head, on_code_change, resumed=True, outcomes=outcomes)
        return run.future if run is not None else self._follow(self._head(name), on_code_change)

    def resume_all(self, *, on_code_change: OnCodeChange = "fail") -> dict[str, WorkflowFuture]:
        """Go on with every unfinished workflow whose owner is dead. Those that living engines drive are left alone. Of a workflow that
        cannot go on (its code changed, its journal is damaged), the future holds the error."""
        self._guard()
        intake.one_of("on_code_change", on_code_change, _CODE_CHANGES)
        futures = {}
        for head in self._unfinished():
            if head.workflow_id not in self._loop.runs and self._is_free(head):
                try:
                    futures[head.workflow_id] = self._follow(head, on_code_change)
                except ExoflowError as error:  # of this workflow; the others are not concerned
                    futures[head.workflow_id] = WorkflowFuture(head.workflow_id, self._threads)
                    futures[head.workflow_id].set_exception(error)
        return futures

    # --- looking -------------------------------------------------------------------------------------------------------------

    def check(self, dag: Dag, /, *args: Any, **kwargs: Any) -> list[Finding]:
        """What could break exactly-once in a crash, each with the cheapest repair; empty for a safe DAG. Writes nothing."""
        return intake.check(dag, *args, **kwargs)

    def wait(self, name: str, timeout: float | None = None) -> Any:
        """The result of a workflow, whoever drives it. Raises WorkflowFailed, TimeoutError, WorkflowNotFoundError."""
        self._guard()
        intake.seconds("timeout", timeout, none=True)
        inside = inside_task()
        if inside is not None and inside.workflow_id == name:
            raise SelfWaitError(workflow_id=name)
        return self._threads.wait(self._follow(self._head(check_id(name)), "fail"), timeout)

    def get_status(self, name: str) -> Status:
        """Its status. Raises WorkflowNotFoundError."""
        return Status(self._head(check_id(name)).status)

    def get_output(self, name: str, *, task: str | None = None) -> Any:
        """The result of a workflow that SUCCEEDED, or the saved output of one task of any workflow.

        Raises WorkflowNotFoundError, TaskNotFoundError, InvalidStateError, WorkflowFailed."""
        head = self._head(check_id(name))
        if task is None:
            if not Status(head.status).ended:
                raise InvalidStateError(workflow_id=name, status=head.status, reason="it has no result yet; wait() for it")
            return self._finished(head).result()
        for entry in reversed(self.store.entries(name, retired=True)):
            record = journal.decode(entry.body)
            if isinstance(record, journal.TasksWithdrawn) and task in record.tasks:
                break  # what was saved before is void
            if isinstance(record, journal.OutputSaved) and record.task == task and record.growth is None:
                values = Values(self.store, name, self._threads)
                values.saved[task] = Saved(record.stored, entry.seq, entry.payload)
                return result_of(values, task, head)
        raise TaskNotFoundError(workflow_id=name, what="saved output of", task=task, hint="; see exoflow show")

    def get_metadata(self, name: str) -> WorkflowReport:
        """The workflow and its tasks: state, durability, attempts, times."""
        return report(self.store, self._head(check_id(name)))

    def story(self, name: str, task: str | None = None) -> str:
        """How a task (or the workflow) got where it is: from the journal, and from memory if this engine drives it.

        Raises WorkflowNotFoundError, TaskNotFoundError."""
        head = self._head(check_id(name))
        text = story(self.store, name, task)
        run = self._loop.runs.get(name)
        if task is not None and f"  {task}: " not in text and not (run is not None and task in run.machine.state.tasks):
            require_task(self.store, head, task)  # tasks of a loop that went on are in the journal only
        return text if run is None else f"{text}\n{run.machine.story(task)}"

    def list_all(self, *statuses: str) -> list[Head]:
        """Heads of all workflows (with one of these statuses), by id. ``epoch`` says how often each has been taken up."""
        for status in statuses:
            intake.one_of("status", status, tuple(map(str, Status)))
        return [msgspec.structs.replace(head, epoch=life_of(head.epoch)) for head in self._all(*statuses)]

    def _all(self, *statuses: str) -> list[Head]:
        wanted = [Status(status) for status in statuses]
        heads, after = list[Head](), ""
        while page := self.store.heads(status=wanted, after=after):
            heads += page
            after = page[-1].workflow_id
        return heads

    def _unfinished(self) -> list[Head]:
        return self._all(Status.PENDING, Status.RUNNING)

    def _head(self, name: str) -> Head:
        head = self.store.head(name)
        if head is None:
            raise WorkflowNotFoundError(workflow_id=name, store=self.store.url)
        return head

    def _again(self, head: Head) -> Head:
        """The head of that very workflow as it is now. Raises WorkflowNotFoundError if it was deleted, even if another has its name."""
        now = self._head(head.workflow_id)
        if birth_of(now.epoch) != birth_of(head.epoch):
            raise WorkflowNotFoundError(workflow_id=head.workflow_id, store=self.store.url)
        return now

    # --- stopping ------------------------------------------------------------------------------------------------------------

    def cancel(self, name: str, *, rollback: bool = False, timeout: float | None = 60.0) -> None:
        """Cancel a workflow, whoever drives it. When this returns the decision is durable: no new task of it starts, and results of
        those that run are refused. With ``rollback``, external outputs of undoable tasks are undone in reverse order.

        Raises WorkflowNotFoundError, InvalidStateError (it has ended), TimeoutError.
        """
        self._guard()
        intake.seconds("timeout", timeout, none=True)
        head = self._head(check_id(name))
        if Status(head.status).ended:
            raise InvalidStateError(workflow_id=name, status=head.status, reason="nothing to cancel")
        run = self._running(name)
        if run is not None:
            self._loop.post(run, ev.CancelAsked(undo=rollback))
        else:
            run = self._take_over(head, "accept", cancel=journal.CancelDecided(undo=rollback))
        if run is None:
            self._wish(name, "cancel+rollback" if rollback else "cancel", timeout)
            return
        run.cancelled.wait(timeout)

    def _wish(self, name: str, wish: str, timeout: float | None) -> None:
        """Ask the engine that drives it, and wait until it has ended (or nobody drives it any more, and we do)."""
        self.store.wish(name, wish)
        deadline = None if timeout is None else self._clock.monotonic_s() + timeout
        while not Status((head := self._head(name)).status).ended:
            if deadline is not None and self._clock.monotonic_s() > deadline:
                raise TimeoutError(f"workflow '{name}' has not acknowledged '{wish}' within {timeout} s")
            if self._owner.is_dead(head.owner):
                self.cancel(name, rollback="rollback" in wish, timeout=timeout)
                return
            self._threads.sleep(LOOK_AGAIN_S)
        if head.status != Status.CANCELLED:
            self.store.wish(name, "")
            raise InvalidStateError(workflow_id=name, status=head.status, reason="it had ended before it could be cancelled")

    def _on_wish(self, name: str, wish: str) -> None:
        run = self._loop.runs.get(name)
        if run is not None and wish.startswith("cancel"):
            self._loop.post(run, ev.CancelAsked(undo="rollback" in wish))

    def _on_late(self) -> None:
        """We may no longer be the owner: stop before somebody else starts."""
        for run in list(self._loop.runs.values()):
            lost = LeaseLost(workflow_id=run.workflow_id, epoch=life_of(run.epoch))
            self._loop.post(run, lambda run=run, lost=lost: self._loop.abandon(run, lost))  # type: ignore[misc]

    def _release_dropped(self) -> None:
        """Let others have what we own and no longer drive, once no code of it runs here."""
        for name, run in list(self._loop.dropped.items()):
            if run.live:
                continue
            try:
                self.store.claim(name, epoch=run.epoch, owner=None)
            except EnvironmentFault:
                return  # the next sign of life is the next chance
            self._loop.dropped.pop(name, None)

    def delete(self, name: str) -> None:
        """Forget a workflow that is not running, and its outputs unless another workflow shares them.

        Raises WorkflowNotFoundError, InvalidStateError."""
        self._guard()
        check_id(name)
        with self._taking:
            head = self._head(name)
            if name in self._loop.runs or not self._owner.is_dead(head.owner):
                raise InvalidStateError(workflow_id=name, status=head.status, reason="cancel it first")
            if not self.store.delete(name, epoch=head.epoch):
                now = self._again(head)  # or somebody else has deleted it just now
                raise InvalidStateError(workflow_id=name, status=now.status, reason="it was just taken up again; cancel it first")

    def collect_garbage(self, *, grace_s: float = 3600.0, dry_run: bool = False) -> Collected:
        """Remove large outputs that no workflow names: crashes between saving and recording leave them, and deletes that met a busy store.
        Safe at any time, also while workflows run here or elsewhere.

        Args:
            grace_s: spare what was written within so many seconds.
            dry_run: only count.
        Returns how many blobs were removed, their bytes, and how many were spared because they are young or about to be named.
        Raises InvalidOptionError, EnvironmentFault.
        """
        self._guard()
        intake.seconds("grace_s", grace_s)
        return self.store.blobs.collect(grace_s=grace_s, dry_run=dry_run)

    def _guard(self) -> None:
        if self._loop.closed:
            raise ClosedError(what="the engine")
        if self._loop.committer.broken is not None:
            raise self._loop.committer.broken
        if os.getpid() != self._pid:
            raise ForkedHandleError(what="the engine", opened_in=self._pid, used_in=os.getpid())
        intake.refuse_import()

    def close(self) -> None:
        """Stop: running tasks get ``drain_s`` to finish, executors end. Unfinished workflows can be resumed. Twice is no error.

        A task that nobody can stop (in a thread) may run on. Until it ends, the store stays open, and nobody else goes on with what this
        engine drove."""
        if self._loop.closed or os.getpid() != self._pid:
            return
        self._loop.close()
        self._watching.close()
        self._owner.stop()
        self._loop.once_idle(self._leave)

    def _leave(self) -> None:
        self._owner.leave()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import asyncio  # not at the top: whoever gets here has it

        await asyncio.to_thread(self.close)
