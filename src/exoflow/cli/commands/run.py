"""``exoflow run``: start a DAG (or go on with it), show its progress, print the result."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import typer

from exoflow.cli.session import Session

Target = Annotated[str, typer.Argument(metavar="MODULE:NAME", help="A DAG, workflow or task: package.module:name or path/to/file.py:name.")]
Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARGS", help="Its arguments: VALUE or KEY=VALUE, as JSON if it parses as that. Put -- before -1."),
]
NameOption = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Id of the workflow; the same again attaches or goes on.")]
ModeOption = Annotated[
    Literal["strict", "auto"], typer.Option("--mode", help="Of an unsafe DAG: refuse it, or turn on the missing checkpoints.")
]
ExistingOption = Annotated[
    Literal["attach", "fail"], typer.Option("--on-existing", help="If the name is taken by the same DAG: wait for it, or refuse.")
]
FailureOption = Annotated[
    Literal["keep", "rollback"], typer.Option("--on-failure", help="If a task fails for good: keep the effects of others, or undo them.")
]
CodeOption = Annotated[
    Literal["fail", "accept"],
    typer.Option("--on-code-change", help="If code of unfinished tasks changed since the crash: refuse, or accept."),
]


def run(
    session: Session,
    target: Target,
    args: Arguments = None,
    name: NameOption = None,
    mode: ModeOption = "strict",
    on_existing: ExistingOption = "attach",
    on_failure: FailureOption = "keep",
    on_code_change: CodeOption = "fail",
) -> None:
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
        dag, inputs, named = bound(find_dag(target), *arguments(args or []))
        workflow = name if name is not None else f"wf-{SYSTEM_HOST.new_id()}"
        options: dict[str, Any] = {"mode": mode, "on_existing": on_existing, "on_failure": on_failure, "on_code_change": on_code_change}
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
