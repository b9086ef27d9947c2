"""``exoflow delete``: forget a workflow."""

from __future__ import annotations

import click

from exoflow.cli.commands.show import name_argument
from exoflow.cli.session import Session, is_interactive, with_session


@click.command("delete")
@name_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@with_session
def delete(session: Session, name: str, yes: bool) -> None:
    """Forget a workflow that is not running.

    Its saved outputs go with it; what it did outside stays done.
    """
    from exoflow.errors import UsageError

    with session.engine() as engine:
        status = engine.get_status(name)
        if not yes:
            if session.output.as_json or not is_interactive():
                raise UsageError(message=f"deleting '{name}' ({status}) cannot be undone, and nobody can be asked here; add --yes")
            click.confirm(f"Delete workflow '{name}' ({status}) and its saved outputs?", abort=True, err=True)
        engine.delete(name)
    if session.output.as_json:
        session.output.document({"workflow_id": name, "deleted": True})
    else:
        session.output.line(f"deleted {name}")
