"""``exoflow delete``: forget a workflow."""

from __future__ import annotations

from typing import Annotated

import typer

from exoflow.cli.commands.show import NameArgument
from exoflow.cli.session import Session, is_interactive


def delete(
    session: Session,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget a workflow that is not running.

    Its saved outputs go with it; what it did outside stays done.
    """
    from exoflow.errors import UsageError

    with session.engine() as engine:
        status = engine.get_status(name)
        if not yes:
            if session.output.as_json or not is_interactive():
                raise UsageError(message=f"deleting '{name}' ({status}) cannot be undone, and nobody can be asked here; add --yes")
            typer.confirm(f"Delete workflow '{name}' ({status}) and its saved outputs?", abort=True, err=True)
        engine.delete(name)
    if session.output.as_json:
        session.output.document({"workflow_id": name, "deleted": True})
    else:
        session.output.line(f"deleted {name}")
