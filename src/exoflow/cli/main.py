"""The argument tree of ``exoflow``, and the one place where errors leave it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

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
from exoflow.cli.commands.show import WithBareStory, show
from exoflow.cli.commands.simulate import simulate
from exoflow.cli.commands.version import version
from exoflow.cli.commands.wait import wait
from exoflow.cli.failures import Interrupted, misuse, report
from exoflow.cli.output import Output
from exoflow.cli.session import JsonOption, ModuleOption, Session, StoreOption, VerboseOption, session_of, with_session


class Root(TyperGroup):
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
        except Exception as error:
            code = _report(error, session)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """The command itself."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; exoflow list shows what was accepted, and exoflow resume goes on with it") from None


def _report(error: Exception, session: Session) -> int:
    if isinstance(error, typer.Abort):
        session.output.note("not confirmed; nothing was done")
        return 1
    if not hasattr(error, "format_message"):
        return report(error, session.output, verbose=session.verbose)
    if session.output.as_json:
        return misuse(str(error.format_message()), session.output)
    show_misuse: Callable[[], None] = error.show  # type: ignore[attr-defined]  # of typer's parser: usage, and what is wrong
    show_misuse()
    return 2


app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"exoflow {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    store: StoreOption = None,
    as_json: JsonOption = False,
    module: ModuleOption = None,
    verbose: VerboseOption = False,
    _version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Run, watch and repair exactly-once workflows.

    Exit codes: 0 done, 1 a check or doctor found something, 2 wrong use, 3 unsafe DAG, 4 failed, 5 in doubt, 6 blocked, 7 cancelled, 8
    environment, 9 another owner, 70 a fault of ExoFlow, 124 timed out, 130 interrupted, 129 or 143
    told to end by SIGHUP or SIGTERM.
    """
    session_of(ctx).take(store=store, as_json=as_json, module=module, verbose=verbose)


app.command("run")(with_session(run))
app.command("list")(with_session(list_workflows))
app.command("show", cls=WithBareStory)(with_session(show))
app.command("wait")(with_session(wait))
app.command("resume")(with_session(resume))
app.command("cancel")(with_session(cancel))
app.command("delete")(with_session(delete))
app.command("gc")(with_session(collect))
app.command("check")(with_session(check))
app.command("audit")(with_session(audit))
app.command("doctor")(with_session(doctor))
app.command("simulate")(with_session(simulate))
app.command("version")(with_session(version))
