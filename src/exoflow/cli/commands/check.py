"""``exoflow check``: what could break exactly-once in a crash, found without running or writing anything."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from exoflow.cli.commands.run import args_argument, mode_option, target_argument
from exoflow.cli.session import Session, with_session


@click.command("check")
@target_argument
@args_argument
@mode_option
@with_session
def check(session: Session, target: str, args: tuple[str, ...], mode: str) -> None:
    """Say what a crash could break, and the repair.

    Exit code 1 if anything could break exactly-once, 0 if the DAG is safe. Runs and writes nothing.
    MODULE alone checks every DAG and workflow that the module defines. --mode auto shows what that mode would turn on.
    """
    from exoflow.cli.loading import arguments

    output = session.output
    with output.reserved():
        session.import_modules()
        reports, skipped = _reports(target, *arguments(args), auto=mode == "auto")
    safe = all(each["safe"] for each in reports)
    if output.as_json:
        output.document({"safe": safe, "dags": reports, "skipped": skipped})
    else:
        for each in reports:
            _print(session, each, auto=mode == "auto")
        for name in skipped:
            output.note(f"{name}: not checked, because it takes arguments: exoflow check {name} ARGS...")
    if not safe:
        raise click.exceptions.Exit(1)


def _reports(target: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, auto: bool) -> tuple[list[dict[str, Any]], list[str]]:
    from exoflow.cli.loading import bound, dags_of, find_dag, find_module
    from exoflow.cli.repairs import plan_of
    from exoflow.errors import SignatureError, UsageError

    if ":" in target:
        return [_report(target, plan_of(*bound(find_dag(target), args, kwargs)), auto=auto)], []
    if args or kwargs:
        raise UsageError(message=f"arguments are for one DAG; say which: {target}:name")
    reports, skipped = [], []
    for name, dag in dags_of(find_module(target)).items():
        full = f"{target}:{name}"
        try:
            plan = plan_of(*_bound_or_none(dag))
        except SignatureError:
            skipped.append(full)
            continue
        reports.append(_report(full, plan, auto=auto))
    if not reports and not skipped:
        raise UsageError(message=f"module '{target}' defines no DAG and no workflow")
    return reports, skipped


def _bound_or_none(dag: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Without arguments. Raises SignatureError if it needs some."""
    import inspect

    from exoflow.cli.loading import bound
    from exoflow.define.dag import Node
    from exoflow.errors import SignatureError

    if not isinstance(dag, Node):
        try:
            inspect.signature(dag.function).bind()
        except TypeError as error:
            raise SignatureError(message=str(error)) from None
    return bound(dag, (), {})


def _report(name: str, plan: Any, *, auto: bool) -> dict[str, Any]:
    from exoflow.cli.repairs import findings_of, turned_on_in
    from exoflow.client.movements import movements

    graph = plan.graph
    findings = findings_of(graph)
    return {
        "dag": name,
        "safe": not findings,
        "tasks": len(graph.tasks),
        "findings": [{**msgspec.to_builtins(finding), "message": str(finding)} for finding in findings],
        "turned_on": list(turned_on_in(graph)) if auto and findings else [],
        "edges": movements(plan),
    }


def _print(session: Session, report: dict[str, Any], *, auto: bool) -> None:
    from exoflow.cli.moving import print_edges
    from exoflow.cli.output import block, escaped

    output = session.output
    name = escaped(report["dag"])
    if report["safe"]:
        output.line(f"{name}: safe ({report['tasks']} tasks)")
        print_edges(output, report["edges"])
        return
    findings = report["findings"]
    output.line(f"{name}: NOT safe, {len(findings)} of {report['tasks']} tasks could break exactly-once in a crash")
    for finding in findings:
        output.line(f"  {finding['code']}  task {escaped(finding['task'])}")
        output.line(f"    {block(finding['message'])}")
        output.line(f"    path:   {escaped(' -> '.join(finding['path']))}")
        repairs = [f"{repair['annotation']}={repair['value']} on '{repair['task']}'" for repair in finding["repairs"]]
        output.line(f"    repair: {escaped(', '.join(repairs)) or 'none found'}")
    if auto and report["turned_on"]:
        output.line(f"  mode auto would turn on: checkpoint=True on {escaped(', '.join(report['turned_on']))}")
    elif auto:
        output.line("  mode auto finds no set of checkpoints that helps")
