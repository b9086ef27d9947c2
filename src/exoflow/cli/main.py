"""The argument tree of ``exoflow``, and the one place where errors leave it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from exoflow import __version__
from exoflow.cli.commands.audit import audit
from exoflow.cli.commands.cancel import cancel
from exoflow.cli.commands.check import check
from exoflow.cli.commands.delete import delete
from exoflow.cli.commands.doctor import doctor
from exoflow.cli.commands.gc import collect
from exoflow.cli.commands.list import list_workflows
from exoflow.cli.commands.resume import resume
from exoflow.cli.commands.run import run
from exoflow.cli.commands.show import show
from exoflow.cli.commands.simulate import simulate
from exoflow.cli.commands.version import version
from exoflow.cli.commands.wait import wait
from exoflow.cli.failures import Interrupted, misuse, report
from exoflow.cli.output import Output
from exoflow.cli.session import Session, with_shared_options

_INTERRUPTED = Interrupted("interrupted; exoflow list shows what was accepted, and exoflow resume goes on with it")


class Root(click.Group):
    """``exoflow`` itself: whatever a command raises becomes a message or a document, and an exit code."""

    def main(self, *given: Any, **options: Any) -> Any:
        """Run one command, whose words are ``args`` or those of the process, and exit."""
        args: Sequence[str] | None = given[0] if given else options.pop("args", None)
        words = list(sys.argv[1:] if args is None else args)
        before_dashes = words[: words.index("--")] if "--" in words else words
        session = Session(output=Output(as_json="--json" in before_dashes))  # known in time for errors of the parser
        options.update(prog_name="exoflow", standalone_mode=False, obj=session)
        try:
            code = super().main(words, **options)
        except click.Abort as error:  # click makes one of Ctrl-C while it reads the words
            code = _report(_INTERRUPTED if isinstance(error.__cause__, KeyboardInterrupt) else error, session)
        except Exception as error:
            code = _report(error, session)
        sys.exit(code if isinstance(code, int) else 0)

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """In the order in which they are mostly needed, not that of letters."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """The command itself."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _INTERRUPTED from None


def _report(error: Exception, session: Session) -> int:
    if isinstance(error, click.Abort):
        session.output.note("not confirmed; nothing was done")
        return 1
    if not isinstance(error, click.ClickException):
        return report(error, session.output, verbose=session.verbose)
    if session.output.as_json:
        return misuse(error.format_message(), session.output)
    error.show()  # usage, and what is wrong
    return 2


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@with_shared_options
@click.version_option(__version__, message="%(prog)s %(version)s", help="Print the version.")
def app() -> None:
    """Run, watch and repair exactly-once workflows.

    Exit codes: 0 done, 1 a check or doctor found something, 2 wrong use, 3 unsafe DAG, 4 failed, 5 in doubt, 6 blocked, 7 cancelled, 8
    environment, 9 another owner, 70 a fault of ExoFlow, 124 timed out, 130 interrupted, 129 or 143
    told to end by SIGHUP or SIGTERM.
    """


for _command in (run, list_workflows, show, wait, resume, cancel, delete, collect, check, audit, doctor, simulate, version):
    app.add_command(_command)
