"""``exoflow cancel``: stop a workflow for good."""

from __future__ import annotations

import click

from exoflow.cli.commands.show import name_argument
from exoflow.cli.session import Session, with_session


@click.command("cancel")
@name_argument
@click.option("--rollback", is_flag=True, help="Undo the external outputs of tasks that can be rolled back.")
@with_session
def cancel(session: Session, name: str, rollback: bool) -> None:
    """Cancel a workflow, whoever drives it.

    Says which external outputs stand.
    """
    from exoflow.cli.following import begin_cancel, follow
    from exoflow.cli.loading import adopt_script
    from exoflow.cli.output import escaped
    from exoflow.core.state import Status
    from exoflow.errors import InvalidStateError, WorkflowFailed

    output = session.output
    with output.reserved(), session.engine() as engine:
        session.import_modules()
        adopt_script(engine, name)
        follow(session, engine, lambda: begin_cancel(engine, name, rollback=rollback), name)
        try:  # what runs here, rollbacks above all, must come to its end before this process does
            engine.wait(name)
        except WorkflowFailed as error:
            ended = error
        else:
            raise InvalidStateError(workflow_id=name, status=Status.SUCCEEDED, reason="it ended before it could be cancelled")
        report = engine.get_metadata(name)
    if report.status != Status.CANCELLED:
        raise ended
    if output.as_json:
        standing = list(report.standing)
        output.document({"workflow_id": name, "status": report.status, "rolled_back": report.rolled_back, "standing": standing})
        return
    output.line(f"cancelled {name}; external outputs that stand: {escaped(', '.join(report.standing)) or 'none'}")
