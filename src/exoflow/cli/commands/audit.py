"""``exoflow audit``: whether tasks that are annotated deterministic are."""

from __future__ import annotations

import click

from exoflow.cli.commands.show import name_argument
from exoflow.cli.session import Session, with_session

_DIGITS = 12


@click.command("audit")
@name_argument
@click.option("--task", metavar="TASK", help="Only this task.")
@with_session
def audit(session: Session, name: str, task: str | None) -> None:
    """Run the deterministic tasks of a workflow again, on their recorded inputs, and compare.

    Exit code 1 if one gives another output, or fails. Writes nothing, and runs no task that may have effects. An output that was not saved
    is made twice. Tasks run in this process; -m names what defines them.
    """
    from exoflow.client.audit import audit as audit_tasks

    output = session.output
    with session.engine() as engine, output.reserved():
        session.import_modules()
        audited = audit_tasks(engine.store, name, task)
    ok = all(each.verdict in ("agrees", "skipped") for each in audited)
    if output.as_json:
        output.document({"workflow_id": name, "ok": ok, "tasks": audited})
    else:
        from exoflow.cli.output import escaped

        if not audited:
            output.note(f"no task of '{name}' is annotated deterministic")
        rows = [(each.task, each.verdict, each.against, each.before[:_DIGITS], each.now[:_DIGITS]) for each in audited]
        if rows:
            output.table(("TASK", "VERDICT", "AGAINST", "BEFORE", "NOW"), rows)
        for each in audited:
            if each.differs or each.reason:
                output.line(f"{escaped(each.task)}: {escaped(each.differs or each.reason)}")
    if not ok:
        raise click.exceptions.Exit(1)
