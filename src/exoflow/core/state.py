"""The state of one workflow as data. Every field has one meaning; ``invariants.py`` says what must hold between them.

*Facts* of a task: ``version`` (0: not executed), ``present`` (its output is in this engine's memory), ``durable`` (its record is
acknowledged), ``effect`` (an external output stands, or may). The ``phase`` says only what is going on right now.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING

from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.spec.terms import terms_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from exoflow.core.commands import Command
    from exoflow.core.ending import Ending
    from exoflow.core.journal import Failure, Orphan, Record, Stored, UnwindDecided, WorkflowEnded
    from exoflow.core.spec.annotations import Kind
    from exoflow.core.spec.graph import Graph, TaskSpec
    from exoflow.core.spec.terms import Terms
    from exoflow.core.stability import Blocked, Stability


class Status(enum.StrEnum):
    """Of a workflow. SUCCEEDED is final; CANCELLED too; the other stopped ones can be resumed."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    IN_DOUBT = "IN_DOUBT"
    BLOCKED = "BLOCKED"

    @property
    def ended(self) -> bool:
        return self not in (Status.PENDING, Status.RUNNING)


class Phase(enum.IntEnum):
    """What is going on with a task right now."""

    __hash__ = int.__hash__  # that of enums is a function in Python, and costs more than the sets below save

    IDLE = 0  # not asked for
    WAITING = 1  # to run, when `missing` inputs are there
    HELD = 2  # inputs are there; the commit rule says not yet
    STARTING = 3  # its intent is being written
    RUNNING = 4
    STOPPING = 5  # told to stop; its end is awaited because it may have effects
    UNDO_WAITING = 6  # to be rolled back, when `missing` inputs and `holds` are gone
    UNDO_STARTING = 14  # being written down that it will be rolled back
    UNDOING = 7  # rollback runs
    UNDO_PAUSED = 8  # rollback failed; back-off runs
    PAUSED = 9  # a failure is being recorded, or back-off runs
    ASKING = 10  # its on_unknown function runs
    IN_DOUBT = 11  # a person must say whether its effect happened
    DONE = 12  # executed; its output may have been released or lost since
    FAILED = 13  # for good


ACTIVE = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.UNDO_STARTING, Phase.UNDOING, Phase.ASKING})
"""Phases that end with an event of their own."""
AT_REST = frozenset({Phase.IDLE, Phase.DONE, Phase.FAILED})
"""Phases in which nothing is under way."""
COUNTING = frozenset({Phase.WAITING, Phase.HELD, Phase.UNDO_WAITING})
"""Phases in which ``missing`` is kept."""


class Saving(enum.IntEnum):
    """How far the save of an output has got."""

    NOT = 0
    ENCODING = 1  # the runtime is at it
    APPENDED = 2  # the record is on its way to the store


class Task:
    """One task of a workflow, linked to its neighbours."""

    __slots__ = (
        "after",  # tasks that must have finished first
        "again",  # it is being undone in order to run again
        "asked",  # how many inputs the commit rule has passed; n_, r_, s_prop: see stability
        "attempt",
        "basis",  # of the inputs that the current or last attempt saw
        "before",  # inverse of `after`
        "caught",  # the output is (None, error)
        "claims",  # readers that hold on to the output (and the caller, for the root)
        "condemned",  # saw a version that will be replaced; to be dropped
        "deaths",
        "deterministic",
        "durable",
        "effect",
        "failure",  # why the last attempt failed, until the next one starts
        "failures",
        "giving_up",  # no retry is left; its effect is undone first
        "grew",  # its output is a DAG, although maybe not known which
        "growth",  # that Graph, if known
        "holds",  # condemned downstream tasks that must be dropped first
        "id",
        "kids",  # tasks of the sub-workflow it returned
        "kind",
        "meaning",  # fingerprint of an earlier output, to audit against
        "missing",
        "n_prop",
        "owed",  # its effect was undone to be made again, and what is built on its output still stands
        "parent",  # the task whose sub-workflow it belongs to
        "phase",
        "present",
        "pressed",  # a commit waits for its checkpoint, which will never land by itself
        "r_prop",
        "readers",  # inverse of `reads`
        "reads",
        "recorded",  # the journal (or what is on its way there) says that it was executed
        "s_prop",
        "saving",
        "tail",  # the task of `kids` whose output is this one's
        "terms",
        "times",  # (started_ms, ended_ms) of the executed attempt
        "undo_tries",
        "ups",  # `reads` and `after`
        "version",
        "wanting",  # it holds claims on what it reads
    )

    def __init__(self, name: str, terms: Terms, parent: Task | None = None) -> None:
        self.id, self.parent = name, parent
        self.set_terms(terms)
        self.ups: tuple[Task, ...] = ()
        self.reads: tuple[Task, ...] = ()
        self.after: tuple[Task, ...] = ()
        self.readers: tuple[Task, ...] = ()
        self.before: tuple[Task, ...] = ()
        self.kids: list[Task] | None = None
        self.tail: Task | None = None
        self.growth: Graph | None = None
        self.phase = Phase.IDLE
        self.attempt = self.failures = self.deaths = self.undo_tries = 0
        self.version = UNEXECUTED
        self.basis = 0
        self.present = self.durable = self.effect = self.caught = self.condemned = self.wanting = self.giving_up = self.again = (
            self.owed
        ) = self.pressed = self.recorded = self.grew = False
        self.saving = Saving.NOT
        self.claims = self.missing = self.holds = 0
        self.failure: Failure | None = None
        self.meaning = ""
        self.times = (0, 0)
        self.s_prop: Blocked | bool | None = None
        self.n_prop: Blocked | bool | None = None
        self.r_prop: Blocked | bool | None = None
        self.asked = 0

    def set_terms(self, terms: Terms) -> None:
        self.terms = terms
        self.kind: Kind = terms.kind
        self.deterministic: bool = terms.deterministic

    def follow(self, reads: tuple[Task, ...], after: tuple[Task, ...]) -> None:
        """Take these inputs. Whoever calls this also tells the inputs."""
        self.reads, self.after = reads, after
        self.ups = reads + after if after else reads

    def __repr__(self) -> str:
        flags = "".join(letter for letter, on in zip("pdec", (self.present, self.durable, self.effect, self.condemned), strict=True) if on)
        return f"<{self.id} {self.phase.name} v{self.version} {flags}>"

    @property
    def spec(self) -> TaskSpec:
        """Without name and inputs."""
        return self.terms.spec

    @property
    def parent_id(self) -> str:
        return self.parent.id if self.parent is not None else ""

    @property
    def parent_version(self) -> int:
        return self.parent.version if self.parent is not None else 0

    @property
    def downs(self) -> tuple[Task, ...]:
        return self.readers + self.before if self.before else self.readers

    @property
    def at_hand(self) -> bool:
        """Its output can be had without running it."""
        return self.version != UNEXECUTED and (self.present or self.durable)

    @property
    def is_lost(self) -> bool:
        """Its output is not to be had unless it runs (again). One whose record is on its way to the store will be there."""
        return not self.at_hand and self.saving is not Saving.APPENDED

    @property
    def dirty(self) -> bool:
        """Something of it would have to be withdrawn if its inputs changed."""
        return self.version != UNEXECUTED or self.effect or self.phase in ACTIVE or self.phase in (Phase.PAUSED, Phase.IN_DOUBT)

    @property
    def checkpoint_lost(self) -> bool:
        """It is to be saved, but its output was lost before."""
        return (
            self.version != UNEXECUTED
            and self.needs_saving
            and not (self.durable or self.present or self.condemned)
            and self.saving is Saving.NOT
            and self.phase is Phase.DONE
        )

    @property
    def is_held(self) -> bool:
        """The commit rule keeps it from starting."""
        return self.phase is Phase.HELD

    def usable_by(self, reader: Task) -> bool:
        """Its output may be read by ``reader`` now. What is condemned may be read only by what is condemned with it (a rollback gets
        the very values that the task got)."""
        return (
            self.version != UNEXECUTED
            and (self.durable or (self.present and not self.read_when_saved))
            and (not self.condemned or reader.condemned)
        )

    def precedes(self, later: Task) -> bool:
        """It has finished, as far as order without data is concerned. If it returned a DAG, that must be known: its tasks come first."""
        return (
            self.version != UNEXECUTED
            and (self.durable or not self.read_when_saved)
            and (not self.grew or self.kids is not None)
            and (not self.condemned or later.condemned)
        )

    def hand_over(self, heir: Task, *, but: Collection[Task] = ()) -> tuple[Task, ...]:
        """Let whoever reads or follows this task, except ``but``, read or follow ``heir``. Returns who did."""
        readers = tuple(reader for reader in self.readers if reader not in but)
        before = tuple(later for later in self.before if later not in but)
        self.readers = tuple(reader for reader in self.readers if reader in but)
        self.before = tuple(later for later in self.before if later in but)
        for reader in readers:
            reader.follow(_replaced(reader.reads, self, heir), reader.after)
        for later in before:
            later.follow(later.reads, _replaced(later.after, self, heir))
        heir.readers += readers
        heir.before += before
        return readers + before

    @property
    def read_when_saved(self) -> bool:
        """Consumers wait for the save."""
        return self.terms.read_when_saved

    @property
    def needs_saving(self) -> bool:
        return self.terms.needs_saving


def _replaced(tasks: tuple[Task, ...], old: Task, new: Task) -> tuple[Task, ...]:
    """``new`` in the place of ``old``, which is there once. In C: of a large join, each input may be replaced."""
    at = tasks.index(old)
    return (*tasks[:at], new, *tasks[at + 1 :])


ROUNDS_KEPT = 100
"""Tasks of past rounds of a loop whose records stay in the journal until all of them are dropped at once."""


class State:
    """Everything the core knows of one workflow, and the worklists of the turn in progress."""

    __slots__ = (
        "active",
        "agenda",
        "attempts_used",
        "auto",
        "busy",
        "cancelled",
        "cancelling",
        "claimed",
        "commands",
        "encoding",
        "ending",
        "epoch",
        "folding",
        "losses",
        "lossy",
        "orphans",
        "outcome",
        "owes",
        "past",
        "pauses",
        "plan",
        "records",
        "root",
        "rounds_kept",
        "stability",
        "status",
        "strandings",
        "tasks",
        "undo_cancelled",
        "undo_on_failure",
        "undone",
        "unsettled",
        "unwind",
        "unwinding",
        "workflow_id",
    )

    def __init__(self, workflow_id: str, epoch: int) -> None:
        self.workflow_id, self.epoch = workflow_id, epoch
        self.status = Status.PENDING
        self.tasks: dict[str, Task] = {}
        self.root: Task | None = None
        self.plan: Stored | None = None
        self.auto = self.undo_on_failure = False
        self.orphans: dict[str, Orphan] = {}
        self.past: dict[str, list[str]] = {}  # rounds of the loop below a task whose records are still in the journal
        self.attempts_used: dict[str, int] = {}  # by tasks that were removed: one of that name may come back, and must not reuse them
        self.outcome: WorkflowEnded | None = None
        self.ending: Ending | None = None
        self.unwinding: deque[Task] | None = None
        self.cancelling = False  # the decision is on its way to the store, or there
        self.cancelled = False  # it is there
        self.undo_cancelled = False
        self.unwind: UnwindDecided | None = None  # the decision, on its way to the store or there
        self.claimed = False  # the caller holds a claim on the root
        self.undone = False  # external outputs were rolled back: the workflow is over
        self.active = 0  # tasks in an ACTIVE phase
        self.busy = 0  # tasks not AT_REST
        self.encoding = 0  # tasks whose output is being encoded
        self.rounds_kept = ROUNDS_KEPT
        self.folding = False  # a journal, whose later records may make what is known by now void
        self.owes = False  # a journal said so of a task: see `Task.owed`
        self.lossy = False  # outputs may have been lost before they were saved
        self.unsettled = 0  # nondeterministic tasks without checkpoint: while 0, every graph is safe
        self.stability: Stability
        self.losses: dict[str, int] = {}  # how often attempts found, while they ran, that what they were given is gone
        self.strandings: dict[str, int] = {}  # how often attempts died with what they ran on
        self.pauses: dict[str, float] = {}  # back-off of failed attempts whose failure is being recorded
        # worklists
        self.agenda: list[Task] = []
        self.records: list[Record] = []
        self.commands: list[Command] = []

    def add(self, task: Task) -> Task:
        self.tasks[task.id] = task
        task.attempt = self.attempts_used.get(task.id, 0)
        self.unsettled += _unsettled(task.terms)
        return task

    def forget(self, task: Task) -> None:
        """The inverse of ``add``, for a task of whose name there may be another."""
        if task.attempt:
            self.attempts_used[task.id] = task.attempt
        self.remove(task)

    def remove(self, task: Task) -> None:
        """The inverse of ``add``, for good."""
        del self.tasks[task.id]
        self.unsettled -= _unsettled(task.terms)

    def respecify(self, task: Task, spec: TaskSpec) -> None:
        """Give a task other annotations (of the same kind)."""
        terms = terms_of(spec)
        self.unsettled += _unsettled(terms) - _unsettled(task.terms)
        task.set_terms(terms)

    def has(self, task: Task) -> bool:
        return self.tasks.get(task.id) is task

    @property
    def winding_down(self) -> bool:
        """Nothing is run any more but rollbacks and what they need."""
        return self.ending is not None or self.cancelling

    def may_start(self, task: Task) -> bool:
        """While the workflow winds down, only outputs that a rollback needs are made again."""
        if self.status is not Status.RUNNING or self.winding_down:
            return self.unwinding is not None and task.deterministic and task.version != UNEXECUTED
        return True

    def move(self, task: Task, phase: Phase) -> None:
        """The only place where a phase changes, so that the counts are right."""
        self.busy += (task.phase in AT_REST) - (phase in AT_REST)
        self.active += (phase in ACTIVE) - (task.phase in ACTIVE)
        task.phase = phase

    def set_saving(self, task: Task, saving: Saving) -> None:
        self.encoding += (saving is Saving.ENCODING) - (task.saving is Saving.ENCODING)
        task.saving = saving


def _unsettled(terms: Terms) -> bool:
    return not (terms.deterministic or terms.needs_saving)
