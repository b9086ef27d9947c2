"""What goes on in a world: functions that run, records on their way, outputs that are being saved."""

from __future__ import annotations

from dataclasses import dataclass

from exoflow.core import journal
from exoflow.core.spec.annotations import Kind
from exoflow.core.spec.graph import TaskSpec

Provenance = dict[str, int]
"""Of a value: the draw of each nondeterministic task (and caught failure) that it has seen."""


@dataclass(slots=True)
class Attempt:
    """A function that runs: of the task itself (``kind`` run), its rollback (undo), or its question (ask)."""

    task: str
    number: int
    basis: int
    spec: TaskSpec
    seen: Provenance
    kind: str = "run"
    save: bool = False
    stopping: bool = False
    broken: tuple[str, ...] = ()
    in_memory: tuple[str, ...] = ()

    @property
    def may_haunt(self) -> bool:
        """Whether it may still act when its engine is dead and another goes on: allowed for what is idempotent by contract."""
        return self.kind == "run" and self.spec.annotations.kind is Kind.COMMITTING and not self.spec.annotations.leaves_intent


@dataclass(slots=True, eq=False)
class Entry:
    """A record on its way to the store, or there. ``value`` is the saved output, if it is one."""

    record: journal.Record
    value: Provenance | None = None
    landed: bool = False
    damaged: bool = False


@dataclass(slots=True)
class Save:
    """An output that is being encoded and stored."""

    task: str
    attempt: int
    value: Provenance
