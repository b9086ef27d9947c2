"""What a simulation does, as plain data: workflows, engines, what clients ask for, and what goes wrong. Readable JSON, kept for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

Kind = Literal["internal", "undoable", "committing"]
Does = Literal["return", "nest", "big", "refer", "hold", "change", "raise", "hang", "die", "grow", "map", "lie"]


class TaskLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One task: its annotations, and how its function behaves.

    ``does``: ``nest`` returns its inputs inside its value, ``big`` a value that is saved as a blob; ``refer`` a Ref to its value, ``hold``
    one to what others change, ``change`` changes what its one input refers to, and returns that; ``raise``, ``hang`` and ``die`` misbehave
    in the first ``times`` executions (after the effect if ``late``), and then return; ``grow`` returns one of the sub-workflows ``grows``
    (which one, its draw says), ``map`` a fan-out over up to three items; ``lie`` draws although it is annotated deterministic.
    """

    name: str
    reads: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    kind: Kind = "internal"
    checkpoint: bool | Literal["sync"] = True
    deterministic: bool = False
    on_unknown: Literal["retry", "fail", "ask"] = "retry"
    retries: int = 0
    timeout_s: float | None = None
    catch: bool = False
    executor: Literal["thread", "process", "inline"] = "thread"
    does: Does = "return"
    times: int = 0
    late: bool = False
    grows: tuple[Dag, ...] = ()


class Dag(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tasks, each behind those that it needs; the last one's output is the result."""

    tasks: tuple[TaskLine, ...]

    @property
    def root(self) -> TaskLine:
        return self.tasks[-1]


class WorkflowLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A workflow that a client may run."""

    name: str
    dag: Dag
    mode: Literal["strict", "auto"] = "strict"
    on_failure: Literal["keep", "rollback"] = "keep"


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client of engine number ``engine`` asks for, ``at_s`` virtual seconds after the start; asked again by its next life if it dies
    before the answer."""

    do: Literal["run", "wait", "cancel", "cancel+rollback", "resume", "resume_all", "delete", "look", "collect"]
    workflow: str = ""
    engine: int = 0
    at_s: float = 0.0


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``do`` happens at the ``nth`` time that anybody comes to the point ``at``. ``much`` is how long, how many, or which one."""

    at: str
    nth: int
    do: str
    much: float = 0.0


class Scenario(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One simulation. ``engines`` names the host of each. ``preempt`` is how often a strand makes way where it need not,
    ``loop_share`` how many answers of executors come from an event loop."""

    about: str = ""
    seed: int = 0
    workflows: tuple[WorkflowLine, ...] = ()
    engines: tuple[str, ...] = ("host",)
    operations: tuple[Operation, ...] = ()
    faults: tuple[Fault, ...] = ()
    policy: Literal["random", "priority"] = "random"
    preempt: float = 0.1
    lease_s: float = 1.0
    inline_bytes: int = 65536
    slots: int = 4
    loop_share: float = 0.0
    checked: bool = False

    @property
    def lies(self) -> bool:
        """Whether a task is annotated deterministic and is not: then only a report of it is asked for, not a right result."""
        return any(_lies(workflow.dag) for workflow in self.workflows)


def _lies(dag: Dag) -> bool:
    return any(task.does == "lie" or any(map(_lies, task.grows)) for task in dag.tasks)


def read(path: Path) -> Scenario:
    """The scenario in a file. Raises msgspec.ValidationError."""
    return msgspec.json.decode(path.read_bytes(), type=Scenario)


def write(path: Path, scenario: Scenario) -> None:
    """Write it to be read by people as well."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(scenario), indent=1) + b"\n")
