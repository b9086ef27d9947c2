"""What became of an attempt: an output, a failure, a dead worker; and what follows for the task."""

from __future__ import annotations

from exoflow.core import checks, demand, ending, growth, journal, withdrawal
from exoflow.core import events as ev
from exoflow.core.commands import Adopt, Keep, Save
from exoflow.core.journal import Failure, Stored
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.graph import Graph
from exoflow.core.spec.ids import UNEXECUTED, derived_version, drawn_version
from exoflow.core.spec.retry import DEATHS_MAX, STRANDED_MAX, STRANDED_POLICY, delay_s, may_retry
from exoflow.core.state import Phase, Saving, State, Task


def succeeded(state: State, task: Task, event: ev.TaskSucceeded) -> None:
    graph = event.growth
    if graph is not None and task.kids is None:
        checks.save_shape(state, task)
    if graph is not None and task.version == UNEXECUTED:
        graph, findings = checks.check_growth(state, task, graph)
        if findings:
            text = "; ".join(str(finding) for finding in findings)
            give_up(state, task, Failure(kind="unusable", types=("exoflow.errors.UnsafeWorkflowError",), text=text))
            return
    elif graph is not None and task.kids is None and state.auto:  # an earlier life accepted it, with some of these checkpoints turned on
        graph = checks.with_checkpoints(graph, [spec.id for spec in graph.tasks if not spec.deterministic])
    before, now = task.meaning, event.stored.meaning if event.stored else ""
    if (before and now and before != now and task.deterministic) or (task.kids is not None and not checks.are_alike(graph, task.growth)):
        text = f"{before or task.growth} before, {now or graph} now"[:500]
        ending.block(state, task, Failure(kind="final", types=("exoflow.errors.DeterminismViolationError",), text=text))
        state.move(task, Phase.IDLE)
        return
    task.times = (event.started_ms, event.ended_ms)
    state.commands.append(Keep(task=task.id, attempt=task.attempt))
    executed(state, task, event.stored, graph)


def executed(state: State, task: Task, stored: Stored | None, graph: Graph | None = None) -> None:
    """The output of ``task`` exists, in memory: give it a version, save it if it is to be saved, and let its consumers have it."""
    first = task.version == UNEXECUTED
    task.version = derived_version(task.id, task.basis) if task.deterministic else drawn_version(task.id, state.epoch, task.attempt)
    task.present = True
    task.owed = False
    state.move(task, Phase.DONE)
    demand.release_claims(state, task)
    grown = graph is not None and task.kids is None
    if grown and graph is not None:
        growth.grow(state, task, graph, first=first)
    elif task.grew and task.kids is None:  # a DAG that an earlier life drew
        withdrawal.withdraw_record(state, task)
        task.grew = False
    if task.needs_saving or task is state.root:
        if stored is not None:
            append_saved(state, task, stored)
        else:
            if grown:
                task.recorded = True
                state.records.append(journal.GraphReturned(task=task.id, parent=task.parent_id, parent_version=task.parent_version))
            state.set_saving(task, Saving.ENCODING)
            state.commands.append(Save(task=task.id, attempt=task.attempt))
    if grown:
        growth.start(state, task)
    elif not first or task.condemned:
        demand.recount_downstream(state, task)
    elif not task.read_when_saved:
        demand.became_usable(state, task)
    demand.release(state, task)
    if not first or task.deterministic or task.saving is not Saving.APPENDED:  # or else nothing follows before its record is durable
        state.stability.touch(task)
    state.agenda.append(task)


def append_saved(state: State, task: Task, stored: Stored) -> None:
    state.set_saving(task, Saving.APPENDED)
    task.recorded = True
    task.meaning = stored.meaning
    state.records.append(
        journal.OutputSaved(
            task=task.id,
            attempt=task.attempt,
            epoch=state.epoch,
            version=task.version,
            basis=task.basis,
            stored=stored,
            parent=task.parent_id,
            parent_version=task.parent_version,
            growth=task.growth,
            caught=task.caught,
            started_ms=task.times[0],
            ended_ms=task.times[1],
        )
    )


def failed(state: State, task: Task, event: ev.TaskFailed) -> None:
    failure = event.failure
    task.failure = failure
    if failure.kind in ("died", "stranded"):
        _died(state, task, event)
        return
    if failure.kind == "blocked":
        state.move(task, Phase.IDLE)
        ending.block(state, task, failure)
        return
    unknown = failure.kind == "timeout" and task.kind is Kind.COMMITTING  # what the function had done by then
    task.failures += 1
    if failure.kind not in ("final", "unusable") and may_retry(task.spec.retry, task.failures, failure.types):
        pause_s = delay_s(task.spec.retry, task.failures, event.chance)
        state.records.append(
            journal.AttemptFailed(
                task=task.id,
                attempt=task.attempt,
                failures=task.failures,
                failure=failure,
                parent=task.parent_id,
                parent_version=task.parent_version,
            )
        )
        if task.kind is Kind.COMMITTING and not unknown:
            task.effect = False  # an exception is an outcome: the function itself says that it did not do its work
        state.move(task, Phase.PAUSED)
        state.pauses[task.id] = pause_s
    elif unknown and task.effect:
        demand.wait_again(state, task)  # and be asked about
    else:
        give_up(state, task, failure)


def _died(state: State, task: Task, event: ev.TaskFailed) -> None:
    failure = event.failure
    pause_s = 0.0
    if failure.kind == "died":
        task.deaths += 1
        is_enough = task.deaths >= DEATHS_MAX
        error, text = "PoisonTaskError", f"it killed its worker {task.deaths} times, last: {failure.text}"
    else:
        times = state.strandings[task.id] = state.strandings.get(task.id, 0) + 1
        pause_s = delay_s(STRANDED_POLICY, times, event.chance)
        is_enough = times >= STRANDED_MAX
        error, text = "WorkerDiedError", f"what it ran on, or had called, was gone or silent {times} times, last: {failure.text}"
    state.records.append(
        journal.WorkerDied(
            task=task.id,
            attempt=task.attempt,
            deaths=task.deaths,
            reason=failure.text,
            stranded=failure.kind == "stranded",
            parent=task.parent_id,
            parent_version=task.parent_version,
        )
    )
    if is_enough and not (task.effect and task.kind is Kind.COMMITTING):
        give_up(state, task, Failure(kind="final", types=(f"exoflow.errors.{error}", "exoflow.errors.TaskError"), text=text))
    else:
        state.move(task, Phase.PAUSED)
        state.pauses[task.id] = pause_s


def give_up(state: State, task: Task, failure: Failure) -> None:
    """No further attempt. What an undoable task may have done is undone first."""
    task.failure = failure
    if task.effect and task.kind is Kind.UNDOABLE:
        task.giving_up = True
        demand.want(state, task, Phase.UNDO_WAITING)
    else:
        if task.effect and failure.kind != "unusable":  # the function itself says that it did not do its work
            task.effect = False
            state.records.append(journal.EffectSettled(task=task.id))
        outcome_of_failure(state, task, failure)


def outcome_of_failure(state: State, task: Task, failure: Failure) -> None:
    task.giving_up = False
    if not task.spec.catch:
        ending.fail(state, task, failure)
        return
    task.caught = True
    state.commands.append(Adopt(task=task.id, attempt=task.attempt, failure=failure))
    executed(state, task, None)


def stopped(state: State, task: Task, _event: object) -> None:
    """An attempt that may have had effects, and was told to stop, has ended, one way or another."""
    timeout = task.failure
    if timeout is None or not demand.still_needed(task) or not state.may_start(task):
        demand.release_claims(state, task)
        state.move(task, Phase.IDLE)
        state.agenda.append(task)
        if task.condemned and demand.still_needed(task):
            demand.want(state, task)
    else:
        failed(state, task, ev.TaskFailed(task=task.id, attempt=task.attempt, failure=timeout))
