"""``exoflow gc``: remove saved bytes that belong to no workflow."""

from __future__ import annotations

import click

from exoflow.cli.session import Session, Span, with_session


@click.command("gc")
@click.option("--grace", metavar="SECONDS", type=Span(), default=3600.0, help="Spare what was written within so many seconds.")
@click.option("--dry-run", "-n", is_flag=True, help="Only count.")
@with_session
def collect(session: Session, grace: float, dry_run: bool) -> None:
    """Remove saved bytes that belong to no workflow.

    Crashes leave them between writing and recording. Safe while workflows run.
    """
    from exoflow.cli.output import size

    with session.engine() as engine:
        found = engine.collect_garbage(grace_s=grace, dry_run=dry_run)
    if session.output.as_json:
        session.output.document({"removed": found.removed, "size_bytes": found.size_bytes, "spared": found.spared, "dry_run": dry_run})
        return
    session.output.line(f"{'would remove' if dry_run else 'removed'} {found.removed} blobs, {size(found.size_bytes)}")
    if found.spared:
        session.output.note(f"spared {found.spared} that are younger than {grace:g} s, or whose record may be on its way")
