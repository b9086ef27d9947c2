"""``exoflow run``: start a DAG (or go on with it), show its progress, print the result."""

from __future__ import annotations

import time
from typing import Any

import click

from exoflow.cli.session import Session, with_session

target_argument = click.argument(
    "target", metavar="MODULE:NAME", help="A DAG, workflow or task: package.module:name or path/to/file.py:name."
)
args_argument = click.argument("args", nargs=-1, help="Its arguments: VALUE or KEY=VALUE, as JSON if it parses as that. Put -- before -1.")
mode_option = click.option(
    "--mode",
    type=click.Choice(["strict", "auto"]),
    default="strict",
    help="Of an unsafe DAG: refuse it, or turn on the missing checkpoints.",
)
code_option = click.option(
    "--on-code-change",
    type=click.Choice(["fail", "accept"]),
    default="fail",
    help="If code of unfinished tasks changed since the crash: refuse, or accept.",
)


@click.command("run")
@target_argument
@args_argument
@click.option("--name", metavar="NAME", help="Id of the workflow; the same again attaches or goes on.")
@mode_option
@click.option(
    "--on-existing",
    type=click.Choice(["attach", "fail"]),
    default="attach",
    help="If the name is taken by the same DAG: wait for it, or refuse.",
)
@click.option(
    "--on-failure",
    type=click.Choice(["keep", "rollback"]),
    default="keep",
    help="If a task fails for good: keep the effects of others, or undo them.",
)
@code_option
@with_session
def run(session: Session, /, target: str, args: tuple[str, ...], name: str | None, **options: Any) -> None:
    """Run a DAG to its end and print the result.

    The same command with the same --name after a crash goes on where it can.
    """
    from exoflow.cli.following import follow
    from exoflow.cli.loading import arguments, bound, find_dag
    from exoflow.runtime.host import SYSTEM_HOST

    output = session.output
    began_s = time.monotonic()
    with output.reserved():
        session.import_modules()
        dag, inputs, named = bound(find_dag(target), *arguments(args))
        workflow = name if name is not None else f"wf-{SYSTEM_HOST.new_id()}"
        with session.engine(may_create=True) as engine:
            future, result = follow(session, engine, lambda: engine.run_async(dag, *inputs, name=workflow, **options, **named), workflow)
    print_result(session, workflow, result, took_s=time.monotonic() - began_s, turned_on=list(future.turned_on))


def print_result(session: Session, name: str, result: Any, *, took_s: float, **more: Any) -> None:
    """A workflow SUCCEEDED."""
    from exoflow.cli.output import lasted, plain, shown

    output = session.output
    if output.as_json:
        value, text = plain(result)
        output.document({"workflow_id": name, "status": "SUCCEEDED", "result": value, "result_repr": text, **more})
        return
    output.note(f"{name}: SUCCEEDED after {lasted(took_s)}")
    output.line(shown(result))
