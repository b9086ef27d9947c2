"""Facts given to the core, past tense. Whatever the core may not find out by itself (time, chance) comes as a field."""

from __future__ import annotations

import msgspec

from exoflow.core.journal import Failure, Stored
from exoflow.core.spec.graph import Graph


class _Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):  # none is ever part of a circle
    pass


class Began(_Event, frozen=True, kw_only=True):
    """A new workflow was accepted. ``plan`` says where its definition is stored."""

    plan: Stored
    auto: bool = False
    undo_on_failure: bool = False


class Recovered(_Event, frozen=True, kw_only=True):
    """The state was folded from a journal; drive it on. With ``resumed``, a person asked for it: a stopped workflow starts again, and
    ``answers`` are what the person says of tasks in doubt."""

    resumed: bool = False
    answers: tuple[DoubtAnswered, ...] = ()


class Appended(_Event, frozen=True, kw_only=True):
    """Everything up to this ticket is durable."""

    ticket: int


class TaskSucceeded(_Event, frozen=True, kw_only=True):
    """An attempt returned. ``stored`` is set if its output is already saved (or encoded inline); ``growth`` if it returned a DAG."""

    task: str
    attempt: int
    stored: Stored | None = None
    growth: Graph | None = None
    started_ms: int = 0
    ended_ms: int = 0


class TaskFailed(_Event, frozen=True, kw_only=True):
    """An attempt ended without an output. ``chance`` in [0, 1) is the jitter of a possible retry."""

    task: str
    attempt: int
    failure: Failure
    chance: float = 0.0


class TaskStopped(_Event, frozen=True, kw_only=True):
    """An attempt that was asked to stop has ended. Nothing of it runs any more."""

    task: str
    attempt: int


class InputsLost(_Event, frozen=True, kw_only=True):
    """An attempt could not start because outputs that it needs are gone, or their saved bytes fail their digest (``spoiled``). With
    ``began``, it did start, and may have acted before it found that out."""

    task: str
    attempt: int
    lost: tuple[str, ...] = ()
    spoiled: tuple[str, ...] = ()
    began: bool = False


class OutputsLost(_Event, frozen=True, kw_only=True):
    """The backend lost these outputs (those of them that are saved can be loaded again). ``unsaved``: the one that was being saved when
    that showed, and ``reason`` how."""

    tasks: tuple[str, ...]
    unsaved: str = ""
    reason: str = ""


class OutputStored(_Event, frozen=True, kw_only=True):
    """The bytes of an output are where ``stored`` says, flushed. Its record is not written yet."""

    task: str
    attempt: int
    stored: Stored


class OutputUnstorable(_Event, frozen=True, kw_only=True):
    """The output cannot be saved, ever (not picklable, too large)."""

    task: str
    attempt: int
    failure: Failure


class UndoSucceeded(_Event, frozen=True, kw_only=True):
    """The rollback of an attempt returned."""

    task: str
    attempt: int


class UndoFailed(_Event, frozen=True, kw_only=True):
    """The rollback of an attempt did not return. ``chance`` as in TaskFailed."""

    task: str
    attempt: int
    failure: Failure
    chance: float = 0.0


class DoubtAnswered(_Event, frozen=True, kw_only=True):
    """The ``on_unknown`` function, or a person, said whether the effect of a committing task happened. If it did, its output is at hand
    in the runtime."""

    task: str
    happened: bool


class DoubtUnanswered(_Event, frozen=True, kw_only=True):
    """The ``on_unknown`` function failed: a person must decide."""

    task: str
    failure: Failure


class TimerFired(_Event, frozen=True, kw_only=True):
    """``key`` is as in the SetTimer command."""

    task: str
    attempt: int
    key: str


class CancelAsked(_Event, frozen=True, kw_only=True):
    """Somebody wants the workflow cancelled; with ``undo``, rolled back too."""

    undo: bool = False


Event = (
    Began
    | Recovered
    | Appended
    | TaskSucceeded
    | TaskFailed
    | TaskStopped
    | InputsLost
    | OutputsLost
    | OutputStored
    | OutputUnstorable
    | UndoSucceeded
    | UndoFailed
    | DoubtAnswered
    | DoubtUnanswered
    | TimerFired
    | CancelAsked
)
