"""How the output of one task gets to another, as far as their executors say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exoflow.define.plan import Call, Plan

_HERE = frozenset({"thread", "loop", "inline"})
_FUNCTION = "a function elsewhere"
_WORKER = "pickled, large arrays as shared memory; a Ref as itself if it can go, else its data"
_RAY = "pickled, large values through Ray's store; a Ref of Ray as itself"
_HOW = {
    ("here", "here"): "the object itself",
    ("ray", "ray"): "stays in Ray if it is large; a Ref as itself",
    ("ray", "here"): "stays in Ray until it is read, if it is large; a Ref as itself",
}


def movements(plan: Plan) -> list[dict[str, str]]:
    """Of each edge: ``up`` and ``down``, where it leads ``from`` and ``to`` (here, process, ray, ...), and ``how`` data goes there."""
    found = []
    for spec in plan.graph.tasks:
        end = _place(plan, plan.calls[spec.id])
        for up in spec.reads:
            start = _place(plan, plan.calls[up])
            found.append({"up": up, "down": spec.id, "from": start, "to": end, "how": _how(start, end)})
    return found


def _place(plan: Plan, call: Call) -> str:
    from exoflow.define import registry

    task: Any = registry.find(call.task, plan.main, plan.homes.get(call.task, ""))
    if hasattr(getattr(task, "function", None), "__exoflow_check__"):
        return _FUNCTION
    return "here" if call.executor in _HERE else call.executor


def _how(start: str, end: str) -> str:
    if _FUNCTION in (start, end):
        return "as JSON; a BucketRef as its address"
    if (start, end) in _HOW:
        return _HOW[start, end]
    return _RAY if "ray" in (start, end) else _WORKER
