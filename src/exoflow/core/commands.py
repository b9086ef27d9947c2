"""Orders given by the core, imperative. The runtime has one function for each (``runtime/perform.py``)."""

from __future__ import annotations

import msgspec

from exoflow.core.journal import Failure, Record
from exoflow.core.state import Status


class _Command(msgspec.Struct, frozen=True, kw_only=True, gc=False):  # none is ever part of a circle
    pass


class Append(_Command, frozen=True, kw_only=True):
    """Make ``records`` durable, in this order, behind all earlier ones; answer ``Appended(ticket)``. ``status`` goes into the head."""

    ticket: int
    records: tuple[Record, ...]
    status: Status


class Run(_Command, frozen=True, kw_only=True):
    """Run an attempt; answer TaskSucceeded, TaskFailed, TaskStopped or InputsLost. With ``save``, encode the output on the way."""

    task: str
    attempt: int
    basis: int
    save: bool


class Stop(_Command, frozen=True, kw_only=True):
    """End an attempt if that can be done; its answer still comes."""

    task: str
    attempt: int


class Undo(_Command, frozen=True, kw_only=True):
    """Run the rollback function of an attempt, on the values that the attempt got; answer UndoSucceeded or UndoFailed."""

    task: str
    attempt: int
    basis: int


class Ask(_Command, frozen=True, kw_only=True):
    """Run the ``on_unknown`` function of a committing task; answer DoubtAnswered or DoubtUnanswered."""

    task: str
    attempt: int
    basis: int


class Save(_Command, frozen=True, kw_only=True):
    """Encode the output of an attempt and store its bytes; answer OutputStored or OutputUnstorable."""

    task: str
    attempt: int


class Keep(_Command, frozen=True, kw_only=True):
    """What this attempt returned is the task's output. (Whatever is not kept is dropped.)"""

    task: str
    attempt: int


class Adopt(_Command, frozen=True, kw_only=True):
    """Make ``(None, error)`` of the failed attempt the task's output (``catch``)."""

    task: str
    attempt: int
    failure: Failure


class Release(_Command, frozen=True, kw_only=True):
    """Nobody needs this output in memory any more."""

    task: str


class Grow(_Command, frozen=True, kw_only=True):
    """The task's output is a DAG that now exists; its tasks are called ``scope/name``."""

    task: str
    scope: str
    names: tuple[str, ...]


class Forget(_Command, frozen=True, kw_only=True):
    """These tasks no longer exist for the core: drop what the runtime keeps for them."""

    tasks: tuple[str, ...]


class SetTimer(_Command, frozen=True, kw_only=True):
    """Answer TimerFired(task, attempt, key) after ``delay_s`` seconds."""

    task: str
    attempt: int
    key: str
    delay_s: float


class Announce(_Command, frozen=True, kw_only=True):
    """This status is durable: tell whoever waits."""

    status: Status


class CancelAccepted(_Command, frozen=True, kw_only=True):
    """The cancel decision is durable: acknowledge it."""


Command = Append | Run | Stop | Undo | Ask | Save | Keep | Adopt | Release | Grow | Forget | SetTimer | Announce | CancelAccepted
