"""``exoflow show``: one workflow and its tasks, or how a task got where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from exoflow.cli.session import Session, with_session

if TYPE_CHECKING:
    from exoflow.client.report import TaskReport, WorkflowReport

_ROWS_MAX = 200
_ORDER = ("IN_DOUBT", "BLOCKED", "FAILED", "CANCELLED")

name_argument = click.argument("name", help="Id of the workflow.")


@click.command("show")
@name_argument
@click.option(
    "--story",
    metavar="[TASK]",
    is_flag=False,
    flag_value="",  # where --story comes without a task
    help="How this task got where it is; without TASK, the whole workflow.",
)
@click.option("--limit", metavar="N", type=click.IntRange(min=0), default=_ROWS_MAX, help="Print at most so many tasks; 0: all.")
@with_session
def show(session: Session, name: str, story: str | None, limit: int) -> None:
    """Show one workflow and its tasks.

    Of each task: its state, whether its output is saved and its effect stands, attempts, times. Where data leaves the process: how it
    moves from task to task. With --story: the journal in words.
    """
    from exoflow.cli.moving import print_edges
    from exoflow.client.movements import recorded

    with session.engine() as engine:
        report = engine.get_metadata(name)
        edges = recorded(engine.store, report) if story is None else []
        text = engine.story(name, story or None) if story is not None else ""
    if story is not None:
        _print_story(session, name, story, text)
    elif session.output.as_json:
        session.output.document({**msgspec.to_builtins(report), "edges": edges})
    else:
        _print_report(session, report, limit)
        print_edges(session.output, edges)


def _print_story(session: Session, name: str, task: str, text: str) -> None:
    from exoflow.cli.output import escaped

    if session.output.as_json:
        session.output.document({"workflow_id": name, "task": task or None, "story": text.splitlines()})
        return
    for line in text.splitlines():
        session.output.line(escaped(line))


def _print_report(session: Session, report: WorkflowReport, limit: int) -> None:
    from exoflow.cli.output import escaped, lasted, size, when

    output = session.output
    took = lasted((report.updated_ms - report.created_ms) / 1000)
    output.line(f"{report.workflow_id}  {report.status}")
    output.line(f"created {when(report.created_ms)}, updated {when(report.updated_ms)} ({took} later), owner no. {report.epoch}")
    if report.note:
        output.line(f"note: {escaped(report.note)}")
    if report.rolled_back:
        output.line("its external outputs were rolled back")
    if report.standing and report.status != "SUCCEEDED":
        output.line(f"external outputs that stand: {escaped(', '.join(report.standing))}")
    output.line()
    tasks = sorted(report.tasks, key=lambda task: _ORDER.index(task.state) if task.state in _ORDER else len(_ORDER))
    chosen = tasks[:limit] if limit else tasks
    columns = ("TASK", "STATE", "KIND", "SAVED", "EFFECT", "ATTEMPTS", "FAILURES", "STARTED", "TOOK", "SIZE", "ERROR")
    output.table(columns, [_row(task, when, lasted, size) for task in chosen])
    if len(chosen) < len(tasks):
        output.note(f"… and {len(tasks) - len(chosen)} more; --limit 0 prints all")


def _row(task: TaskReport, when: Any, lasted: Any, size: Any) -> tuple[str, ...]:
    times = task.started_ms, task.ended_ms
    took = lasted((times[1] - times[0]) / 1000) if times[0] and times[1] else ""
    fields = msgspec.structs.asdict(task)
    return (
        task.task,
        task.state,
        task.kind,
        "yes" if task.durable else "no",
        "stands" if task.effect_stands and task.kind != "internal" else "",
        str(fields["attempts"] or ""),
        str(fields["failures"] or ""),
        when(task.started_ms),
        took,
        size(task.size_bytes),
        (task.error or "").splitlines()[0] if task.error else "",
    )
