"""The tasks of a workflow under the ids that Ray Workflows would have given them, read from its journal."""

from __future__ import annotations

import dataclasses
from typing import Any

from exoflow import codec
from exoflow.core import journal
from exoflow.core.spec.graph import Graph
from exoflow.core.spec.ids import child_scope
from exoflow.define.plan import Plan
from exoflow.errors import StoreCorruptError
from exoflow.ray.steps import Step
from exoflow.runtime.recover import read_records
from exoflow.runtime.values import Saved, Spoiled, fetch
from exoflow.store.base import Entry, Head, Store


@dataclasses.dataclass
class Row:
    """A task: its name in the engine, what it calls, which tasks it reads, by id; times in seconds since 1970, if its output is saved."""

    task: str
    step: Step
    reads: list[str]
    times: tuple[float, float] | None = None


class Table:
    """The tasks of one workflow. Raises WorkflowNotFoundError, StoreCorruptError."""

    def __init__(self, store: Store, head: Head) -> None:
        self._store, self._head = store, head
        self.rows: dict[str, Row] = {}
        """By id, as Ray numbers them: in the order in which they came to be known, over all sub-workflows."""
        self.root = ""
        self.about: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._ids: dict[str, str] = {}
        self._tails: dict[str, str] = {}  # of a task that returned a DAG: the task whose output is its own
        entries = store.entries(head.workflow_id, retired=True)
        for entry, record in zip(entries, read_records(store, head.workflow_id, entries), strict=True):
            if isinstance(record, journal.WorkflowBegan):
                self.root = record.graph.root
                self._add(self._plan(entry, record.plan), record.graph, "")
            elif isinstance(record, journal.OutputSaved):
                if record.growth is not None:
                    self._grow(entry, record, record.growth)
                elif record.task in self._ids:
                    self.rows[self._ids[record.task]].times = (record.started_ms / 1000, record.ended_ms / 1000)

    def _plan(self, entry: Entry, stored: journal.Stored) -> Plan:
        """As far as this package's own classes go: nothing of the user's is loaded for it."""
        name = self._head.workflow_id
        try:
            plan = codec.sketch(fetch(self._store, name, Saved(stored, entry.seq, entry.payload)))
        except (Spoiled, codec.Unreadable) as error:
            raise StoreCorruptError(store=self._store.url, what=f"a definition in workflow '{name}' ({error})") from error
        if not isinstance(plan, Plan):
            raise StoreCorruptError(store=self._store.url, what=f"a definition in workflow '{name}'")
        return plan

    def _grow(self, entry: Entry, record: journal.OutputSaved, graph: Graph) -> None:
        task = record.task
        is_tail = task in self._tails.values()
        scope = child_scope(task, tail=is_tail)
        self._tails[task] = f"{scope}/{graph.root}"
        self._add(self._plan(entry, record.stored), graph, scope)

    def _add(self, plan: Plan, graph: Graph, scope: str) -> None:
        reads = {spec.id: spec.reads for spec in graph.tasks}
        names: dict[str, str] = {}
        for name, planned in plan.calls.items():
            step = planned.args[0] if planned.args else None
            if not isinstance(step, Step):
                continue
            number = self._counts[step.id] = self._counts.get(step.id, -1) + 1
            task_id = names[name] = f"{step.id}_{number}" if number else step.id
            task = f"{scope}/{name}" if scope else name
            self._ids[task] = task_id
            self.rows[task_id] = Row(task, step, [names[up] for up in reads[name] if up in names])
            if step.about is not None:
                self.about = step.about

    def last(self, task: str) -> str:
        """The task whose output is that of ``task``: itself, or the last of what it returned."""
        while task in self._tails:
            task = self._tails[task]
        return task
