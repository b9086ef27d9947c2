"""``exoflow version``: of the package, of Python, of SQLite."""

from __future__ import annotations

import platform

import click

from exoflow.cli.session import Session, with_session


@click.command("version")
@with_session
def version(session: Session) -> None:
    """Print versions: of exoflow, Python and SQLite."""
    import apsw

    from exoflow import __version__

    versions = {
        "exoflow": __version__,
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "apsw": apsw.apsw_version(),
    }
    if session.output.as_json:
        session.output.document(versions)
        return
    for name, text in versions.items():
        session.output.line(f"{name} {text}")
