"""``exoflow gc``: remove saved bytes that belong to no workflow."""

from __future__ import annotations

from typing import Annotated

import typer

from exoflow.cli.session import Session


def collect(
    session: Session,
    grace: Annotated[
        float, typer.Option("--grace", metavar="SECONDS", min=0, help="Spare what was written within so many seconds.")
    ] = 3600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only count.")] = False,
) -> None:
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
