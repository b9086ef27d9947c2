"""``exoflow doctor``: is everything that workflows rest on as it should be?"""

from __future__ import annotations

import click

from exoflow.cli.session import Session, with_session


@click.command("doctor")
@with_session
def doctor(session: Session) -> None:
    """Look for what is wrong here, and say what to do.

    Looks at Python, SQLite, the store, its disk, every journal and every saved output. Exit code 1 if something is wrong.
    """
    from exoflow.cli.health import examine
    from exoflow.cli.output import escaped, style_of

    output = session.output
    checks = []
    for check in examine(session):
        checks.append(check)
        if output.as_json:
            continue
        text = f"{check.name}: {escaped(check.text)}{f' -> {escaped(check.advice)}' if check.advice else ''}"
        colour = style_of(check.level) if output.is_terminal else ""
        output.line(f"{click.style(f'{check.level:<4}', fg=colour) if colour else f'{check.level:<4}'}  {text}")
    ok = all(check.level != "fail" for check in checks)
    if output.as_json:
        output.document({"ok": ok, "checks": checks})
    if not ok:
        raise click.exceptions.Exit(1)
