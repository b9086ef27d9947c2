"""``exoflow list``: the workflows of a store."""

from __future__ import annotations

import click

from exoflow.cli.session import Session, with_session

_STATUSES = "PENDING RUNNING SUCCEEDED FAILED CANCELLED IN_DOUBT BLOCKED"


@click.command("list")
@click.option("--status", metavar="STATUS", multiple=True, help=f"Only these: {_STATUSES}. Repeatable.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=100, help="At most so many.")
@click.option("--after", metavar="NAME", default="", show_default=False, help="Begin behind this id: the next page.")
@with_session
def list_workflows(session: Session, status: tuple[str, ...], limit: int, after: str) -> None:
    """List workflows, by id."""
    from exoflow.cli.output import when
    from exoflow.runtime.ownership import life_of

    output = session.output
    path = session.store_file()
    if session.store is None and path is not None and not path.exists():
        heads = []
        output.note(f"no store yet at {path}; exoflow run makes it")
    else:
        wanted = [_status(word) for word in status]
        with session.engine() as engine:
            heads = engine.store.heads(status=wanted, after=after, limit=limit + 1)
    more = len(heads) > limit
    heads = heads[:limit]
    if output.as_json:
        names = ("workflow_id", "status", "created_ms", "updated_ms", "owner", "note")
        rows = [{name: getattr(head, name) for name in names} | {"epoch": life_of(head.epoch)} for head in heads]
        output.document({"workflows": rows, "next_after": heads[-1].workflow_id if more else None})
        return
    table = [(head.workflow_id, head.status, when(head.created_ms), when(head.updated_ms), head.note) for head in heads]
    output.table(("WORKFLOW", "STATUS", "CREATED", "UPDATED", "NOTE"), table)
    if more:
        output.note(f"there are more: {session.command('list', '--after', heads[-1].workflow_id)}")


def _status(word: str) -> str:
    from exoflow.core.state import Status
    from exoflow.errors import InvalidOptionError

    try:
        return Status(word.upper())
    except ValueError:
        raise InvalidOptionError(message=f"--status must be one of {_STATUSES}, got {word!r:.60}") from None
