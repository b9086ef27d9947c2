"""How the output of one task gets to another, as far as their executors say: in a DAG, or in what is recorded of a workflow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from exoflow.client.report import WorkflowReport
from exoflow.core import journal, replay
from exoflow.core.commands import Grow
from exoflow.define.plan import Call, Plan
from exoflow.runtime.recover import read_records, sketched
from exoflow.runtime.values import Saved
from exoflow.store.base import Store

UNKNOWN = "unknown"
_HERE = frozenset({"thread", "loop", "inline"})
_FUNCTION = "a function elsewhere"
_WORKER = "pickled, large arrays as shared memory; a Ref as itself if it can go, else its data"
_RAY = "pickled, large values through Ray's store; a Ref of Ray as itself"
_HOW = {
    ("here", "here"): "the object itself",
    ("ray", "ray"): "stays in Ray if it is large; a Ref as itself",
    ("ray", "here"): "stays in Ray until it is read, if it is large; a Ref as itself",
}


def movements(plan: Plan) -> list[dict[str, Any]]:
    """Of each edge: ``up`` and ``down``, where it leads ``from`` and ``to`` (here, process, ray, ...), and ``how`` data goes there."""
    places = {name: _place(call) for name, call in plan.calls.items()}
    return _edges(((spec.id, spec.reads) for spec in plan.graph.tasks), places)


def recorded(store: Store, report: WorkflowReport) -> list[dict[str, Any]]:
    """The same of a workflow, by its journal: none of its code is needed or imported. ``refs`` are the kinds of the Refs that the saved
    output of ``up`` holds, one for each. Where a definition cannot be read, an end is ``unknown``. Raises StoreCorruptError,
    WorkflowNotFoundError."""
    name = report.workflow_id
    entries = store.entries(name)
    records = read_records(store, name, entries)
    state = replay.fold(name, report.epoch, records)
    saved = {
        record.task: Saved(record.stored, entry.seq, entry.payload)
        for entry, record in zip(entries, records, strict=True)
        if isinstance(record, journal.OutputSaved)
    }
    definitions = [("", Saved(record.plan, entries[0].seq, entries[0].payload)) for record in records[:1] if hasattr(record, "plan")]
    definitions += [(f"{each.scope}/", saved[each.task]) for each in state.commands if isinstance(each, Grow) and each.task in saved]
    places = {}
    for scope, definition in definitions:
        plan = sketched(store, name, definition)
        places.update({f"{scope}{task}": _place(call) for task, call in plan.calls.items()} if plan is not None else {})
    edges = _edges(((task.id, [up.id for up in task.reads]) for task in state.tasks.values()), places)
    for edge in edges:
        up = saved.get(edge["up"])
        edge["refs"] = [kept.kind for kept in up.stored.refs] if up is not None else []
    return edges


def _edges(tasks: Iterable[tuple[str, Iterable[str]]], places: dict[str, str]) -> list[dict[str, Any]]:
    found = []
    for down, reads in tasks:
        for up in reads:
            start, end = places.get(up, UNKNOWN), places.get(down, UNKNOWN)
            found.append({"up": up, "down": down, "from": start, "to": end, "how": _how(start, end)})
    return found


def _place(call: Call) -> str:
    if call.is_elsewhere:
        return _FUNCTION
    return "here" if call.executor in _HERE else call.executor


def _how(start: str, end: str) -> str:
    if UNKNOWN in (start, end):
        return "not on record"
    if _FUNCTION in (start, end):
        return "as JSON; a BucketRef as its address"
    if (start, end) in _HOW:
        return _HOW[start, end]
    return _RAY if "ray" in (start, end) else _WORKER
