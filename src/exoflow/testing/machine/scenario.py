"""A schedule as data: a workflow, and what happened in which order. Readable, small, and repeated for ever once it has found something."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import msgspec

from exoflow.core.spec.annotations import Annotations, Checkpoint, Unknown
from exoflow.core.spec.graph import Graph, TaskSpec
from exoflow.core.spec.retry import RetryPolicy

KindName = Literal["internal", "undoable", "committing"]
_SAVES: dict[Checkpoint, Literal["no", "async", "sync"]] = {Checkpoint.NONE: "no", Checkpoint.ASYNC: "async", Checkpoint.SYNC: "sync"}
_CHECKPOINTS = {word: checkpoint for checkpoint, word in _SAVES.items()}


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task of a workflow in words; defaults are left out."""

    id: str
    reads: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    kind: KindName = "internal"
    save: Literal["no", "async", "sync"] = "no"
    deterministic: bool = False
    on_unknown: Unknown = "retry"
    retries: int = 0
    catch: bool = False
    timeout: bool = False

    def spec(self) -> TaskSpec:
        """The task as the core takes it."""
        return TaskSpec(
            id=self.id,
            reads=self.reads,
            after=self.after,
            annotations=Annotations(
                checkpoint=_CHECKPOINTS[self.save],
                deterministic=self.deterministic,
                can_rollback=self.kind != "committing",
                has_rollback=self.kind == "undoable",
                on_unknown=self.on_unknown,
            ),
            retry=RetryPolicy(retries=self.retries),
            timeout_s=1.0 if self.timeout else None,
            catch=self.catch,
        )


Lines = tuple[Line, ...]
"""A workflow: upstream first; the last one is the root."""


def line_of(spec: TaskSpec) -> Line:
    """The inverse of ``Line.spec``."""
    notes = spec.annotations
    kind: KindName = "committing" if not notes.can_rollback else "undoable" if notes.has_rollback else "internal"
    return Line(
        id=spec.id,
        reads=spec.reads,
        after=spec.after,
        kind=kind,
        save=_SAVES[notes.checkpoint],
        deterministic=notes.deterministic,
        on_unknown=notes.on_unknown,
        retries=spec.retry.retries,
        catch=spec.catch,
        timeout=spec.timeout_s is not None,
    )


def lines_of(graph: Graph) -> Lines:
    """A workflow in words. Its root must be its last task."""
    return tuple(line_of(spec) for spec in graph.tasks)


@functools.lru_cache(maxsize=20_000)
def graph_of(lines: Lines) -> Graph:
    """The workflow as the core takes it."""
    return Graph(tuple(line.spec() for line in lines), lines[-1].id)


# --- what may happen next ----------------------------------------------------------------------------------------------------


class _Step(msgspec.Struct, frozen=True, tag_field="step", kw_only=True, omit_defaults=True):
    pass


class Land(_Step, frozen=True, kw_only=True, tag="land"):
    """The oldest ``count`` appends are durable, and the machine is told."""

    count: int = 1


class Return(_Step, frozen=True, kw_only=True, tag="return"):
    """An attempt does its work and returns; with ``stored``, its output is encoded already. ``growth``: it returns this DAG (if it has
    not returned anything else on equal inputs before)."""

    task: str
    attempt: int = 0
    stored: bool = False
    growth: Lines = ()


class Fail(_Step, frozen=True, kw_only=True, tag="fail"):
    """An attempt raises, or dies with its worker, before or after it has done its work (``acted``). ``final``: not worth a retry."""

    task: str
    attempt: int = 0
    how: Literal["raised", "final", "died", "stranded"] = "raised"
    acted: bool = False


class End(_Step, frozen=True, kw_only=True, tag="end"):
    """An attempt that was told to stop does so, before or after it has done its work."""

    task: str
    attempt: int = 0
    acted: bool = False


class Miss(_Step, frozen=True, kw_only=True, tag="miss"):
    """An attempt or a rollback cannot begin: inputs that were only in memory are ``lost``, or saved ones turn out damaged. Or an attempt
    ``began`` before that showed, and may have ``acted``."""

    task: str
    attempt: int = 0
    lost: tuple[str, ...] = ()
    began: bool = False
    acted: bool = False


class RollBack(_Step, frozen=True, kw_only=True, tag="roll back"):
    """A rollback ends; with ``fails``, before or after it has undone the effect (``acted``)."""

    task: str
    attempt: int = 0
    fails: bool = False
    acted: bool = True


class Answer(_Step, frozen=True, kw_only=True, tag="answer"):
    """The on_unknown function of a task answers (the truth), or fails."""

    task: str
    attempt: int = 0
    fails: bool = False


class Store(_Step, frozen=True, kw_only=True, tag="store"):
    """The bytes of an output are stored; with ``fails``, it cannot be encoded."""

    task: str
    attempt: int = 0
    fails: bool = False


class Fire(_Step, frozen=True, kw_only=True, tag="fire"):
    """A timer fires; a timeout that does not (``late``) is void because the attempt is in time."""

    task: str
    attempt: int = 0
    key: str = "retry"
    late: bool = False


class Crash(_Step, frozen=True, kw_only=True, tag="crash"):
    """The engine dies. The oldest ``arrived`` appends were durable by then; the attempts of ``acted`` (running then) have done their
    work. Committing attempts of ``zombies`` may still do it later."""

    arrived: int = 0
    acted: tuple[str, ...] = ()
    zombies: tuple[str, ...] = ()


class Lose(_Step, frozen=True, kw_only=True, tag="lose"):
    """The backend loses outputs. Saves of those in ``saving`` that are under way come to their end all the same."""

    tasks: tuple[str, ...]
    saving: tuple[str, ...] = ()


class Spoil(_Step, frozen=True, kw_only=True, tag="spoil"):
    """The saved bytes of an output are damaged; that shows when they are loaded."""

    task: str


class Cancel(_Step, frozen=True, kw_only=True, tag="cancel"):
    """Somebody cancels; with ``undo``, effects of undoable tasks are to be undone."""

    undo: bool = False


class Haunt(_Step, frozen=True, kw_only=True, tag="haunt"):
    """An attempt of a committing task that was left over from an earlier life does its work now."""

    task: str


class Resume(_Step, frozen=True, kw_only=True, tag="resume"):
    """A person has repaired what was damaged, and resumes a workflow that stopped; with ``answers``, doubts are answered too."""

    answers: bool = True


Step = Land | Return | Fail | End | Miss | RollBack | Answer | Store | Fire | Crash | Lose | Spoil | Cancel | Haunt | Resume


class Scenario(msgspec.Struct, kw_only=True, omit_defaults=True):
    """``steps`` that cannot be taken when their turn comes are left out; after the last one nothing goes wrong any more.

    Attributes:
        story: what it once broke, and what was wrong.
        found: the command that found it.
    """

    story: str
    found: str = ""
    tasks: Lines
    auto: bool = False
    undo_on_failure: bool = False
    steps: tuple[Step, ...] = ()


def save(path: Path, scenario: Scenario) -> None:
    """Write a scenario so that people can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = ['{"story": ' + _json(scenario.story) + ',"found": ' + _json(scenario.found)]
    text[0] += f',"auto": {_json(scenario.auto)},"undo_on_failure": {_json(scenario.undo_on_failure)}'
    text.append('"tasks": [\n  ' + ",\n  ".join(map(_json, scenario.tasks)) + "\n ]")
    text.append('"steps": [\n  ' + ",\n  ".join(map(_json, scenario.steps)) + "\n ]}\n")
    path.write_text(",\n ".join(text), encoding="utf-8")


def load(path: Path) -> Scenario:
    """Read a scenario. Raises msgspec.ValidationError if it is none."""
    return msgspec.json.decode(path.read_bytes(), type=Scenario)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
