"""``exoflow resume``: go on with a workflow that stopped, or with all whose owner died."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import click

from exoflow.cli.commands.run import code_option, print_result
from exoflow.cli.session import Session, with_session

if TYPE_CHECKING:
    from exoflow.client.engine import Engine
    from exoflow.runtime.recover import OnCodeChange

Words = tuple[str, ...]


@click.command("resume")
@click.argument("name", required=False, help="Id of the workflow.")
@click.option("--all", "all_", is_flag=True, help="Every unfinished workflow whose owner is dead.")
@click.option("--happened", metavar="TASK", multiple=True, help="Of a task in doubt: its effect happened. Repeatable.")
@click.option(
    "--not-happened",
    metavar="TASK",
    multiple=True,
    help="Of a task in doubt: its effect did not happen; it runs again. Repeatable.",
)
@click.option(
    "--outcome",
    metavar="TASK=JSON",
    multiple=True,
    help="Of a task in doubt: its effect happened, and this is its output. Repeatable.",
)
@code_option
@with_session
def resume(
    session: Session,
    name: str | None,
    all_: bool,
    happened: Words,
    not_happened: Words,
    outcome: Words,
    on_code_change: OnCodeChange,
) -> None:
    """Go on with a workflow that stopped.

    After a crash, or when it is FAILED, BLOCKED or IN_DOUBT. Waits for it and prints the result.
    """
    from exoflow.errors import UsageError

    outcomes = _outcomes(happened, not_happened, outcome)
    if (name is None) != all_:
        raise UsageError(message="say which workflow: exoflow resume NAME, or exoflow resume --all")
    if name is None:
        if outcomes:
            raise UsageError(message="--happened, --not-happened and --outcome are for one workflow; name it")
        with session.output.reserved():
            ends = _resume_all(session, on_code_change)
        _print_all(session, ends)
        return
    began_s = time.monotonic()
    with session.output.reserved():
        result = _resume(session, name, outcomes, on_code_change)
    print_result(session, name, result, took_s=time.monotonic() - began_s)


def _outcomes(happened: Words, not_happened: Words, outcome: Words) -> dict[str, Any]:
    """Verdicts by task, as Engine.resume takes them."""
    from exoflow.cli.loading import value_of
    from exoflow.errors import UsageError

    pairs: list[tuple[str, Any]] = [(task, True) for task in happened] + [(task, False) for task in not_happened]
    for text in outcome:
        task, equals, value = text.rpartition("=") if text.count("=") == 1 else text.partition("=")
        if not equals or not task:
            raise UsageError(message=f"--outcome takes TASK=JSON, got '{text:.60}'")
        parsed = value_of(value)
        if isinstance(parsed, bool):
            raise UsageError(message=f"an outcome that is {value} cannot be told from a verdict; use --happened or --not-happened {task}")
        pairs.append((task, parsed))
    given: dict[str, Any] = {}
    for task, verdict in pairs:
        if task in given:
            raise UsageError(message=f"two verdicts on task '{task}'; only one can be true")
        given[task] = verdict
    return given


def _resume(session: Session, name: str, outcomes: dict[str, Any], on_code_change: OnCodeChange) -> Any:
    from exoflow.cli.following import follow
    from exoflow.cli.loading import adopt_script
    from exoflow.errors import WorkflowInDoubtError

    with session.engine() as engine:
        session.import_modules()
        adopt_script(engine, name)
        if outcomes:
            _require_doubt(engine, name, outcomes)
            if not engine.get_status(name).ended:
                try:  # it crashed before it could stop and ask; let it come to that
                    return follow(session, engine, lambda: engine.resume(name, on_code_change=on_code_change), name)[1]
                except WorkflowInDoubtError:
                    _require_doubt(engine, name, outcomes)
        return follow(session, engine, lambda: engine.resume(name, outcomes=outcomes or None, on_code_change=on_code_change), name)[1]


def _require_doubt(engine: Engine, name: str, outcomes: dict[str, Any]) -> None:
    """A verdict on a task that is not in doubt is a mistake, or comes too late; it must not pass in silence."""
    from exoflow.errors import InvalidStateError, TaskNotFoundError

    report = engine.get_metadata(name)
    tasks = {task.task: task for task in report.tasks}
    doubtful = [task.task for task in report.tasks if task.kind == "committing" and task.effect_stands and not task.durable]
    for task in outcomes:
        if task not in tasks:
            raise TaskNotFoundError(workflow_id=name, what="task", task=task, hint=f"; in doubt: {', '.join(doubtful) or 'none'}")
        if task not in doubtful:
            reason = f"and its task '{task}' is not in doubt ({tasks[task].state}); in doubt: {', '.join(doubtful) or 'none'}"
            raise InvalidStateError(workflow_id=name, status=report.status, reason=reason)


def _resume_all(session: Session, on_code_change: OnCodeChange) -> dict[str, Future[Any]]:
    from exoflow.cli.following import follow_all
    from exoflow.cli.loading import adopt_script
    from exoflow.core.state import Status

    with session.engine() as engine:
        session.import_modules()
        adopt_script(engine, *(head.workflow_id for head in engine.list_all(Status.PENDING, Status.RUNNING)))
        futures: dict[str, Future[Any]] = {**engine.resume_all(on_code_change=on_code_change)}
        for name, future in futures.items():
            _say_end(session, name, future)
        follow_all(session, engine, futures)
    return futures


def _say_end(session: Session, name: str, future: Future[Any]) -> None:
    if session.output.as_json:
        return
    session.output.note(f"{name}: resumed")
    future.add_done_callback(lambda done: session.output.note(f"{name}: {'SUCCEEDED' if done.exception() is None else 'stopped'}"))


def _print_all(session: Session, ends: dict[str, Future[Any]]) -> None:
    """Results and errors by workflow. The exit code is that of the first that did not succeed."""
    from exoflow.cli.failures import document, exit_code
    from exoflow.cli.output import escaped, plain, shown
    from exoflow.errors import EngineBug, ExoflowError

    rows, table, codes = [], [], []
    for name, future in ends.items():
        error = future.exception()
        if error is None:
            value, text = plain(future.result())
            rows.append({"workflow_id": name, "result": value, "result_repr": text, "error": None})
            table.append((name, "SUCCEEDED", shown(future.result())))
            continue
        known = error if isinstance(error, ExoflowError) else EngineBug(message=f"{type(error).__name__}: {error}", story="")
        codes.append(exit_code(known))
        rows.append({"workflow_id": name, "result": None, "result_repr": None, **document(known)})
        table.append((name, known.code, escaped(str(known))))
    if session.output.as_json:
        session.output.document({"workflows": rows})
    elif table:
        session.output.table(("WORKFLOW", "END", "RESULT OR ERROR"), table)
    else:
        session.output.note("nothing to resume: no unfinished workflow has a dead owner")
    if codes:
        raise click.exceptions.Exit(codes[0])
