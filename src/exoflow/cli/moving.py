"""How data moves along the edges of a DAG or a workflow, in print."""

from __future__ import annotations

from typing import Any

from exoflow.cli.output import Output, escaped

_EDGES_MAX = 5


def print_edges(output: Output, edges: list[dict[str, Any]]) -> None:
    """Edges by the way that data takes, if any leads out of this process. Only some of each way are named."""
    ways: dict[tuple[str, str, str], list[str]] = {}
    for edge in edges:
        refs = f" ({count} Ref{'s' if count > 1 else ''})" if (count := len(edge.get("refs", ()))) else ""
        ways.setdefault((edge["from"], edge["to"], edge["how"]), []).append(f"{edge['up']} -> {edge['down']}{refs}")
    if all(start == end == "here" for start, end, _ in ways):
        return
    for (start, end, how), there in ways.items():
        more = f" and {len(there) - _EDGES_MAX} more" if len(there) > _EDGES_MAX else ""
        output.line(f"  {start} -> {end}: {how}")
        output.line(f"    {escaped(', '.join(there[:_EDGES_MAX]))}{more}")
