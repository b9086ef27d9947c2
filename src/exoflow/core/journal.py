"""Journal records: the only truth. ``encode``/``decode`` turn them into bytes; ``fold`` (in ``replay``) turns them into state.

Each record says what became true when it became durable. Numbers are small and names short because a large workflow has many.
"""

from __future__ import annotations

import msgspec

from exoflow.core.spec.graph import Graph, TaskSpec

RECORD_VERSION = 1


class KeptRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A Ref in a saved value: its ``kind``, which ``version`` of what it stands for was saved, and where that is: the framed bytes
    themselves, or the blob of that name."""

    kind: str
    version: str
    data: bytes = b""
    blob: str | None = None


class Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where the bytes of a value are: inline in the entry's payload, or in the blob of that name. ``digest`` is over the framed bytes.
    ``meaning`` is the fingerprint of a deterministic task's output, to audit a later run against; empty if not taken.
    ``refs`` are those that the value holds, in order."""

    size: int
    digest: bytes
    blob: str | None = None
    meaning: str = ""
    refs: tuple[KeptRef, ...] = ()

    @property
    def blobs(self) -> list[str]:
        """Every blob that it names."""
        return [blob for blob in (self.blob, *(ref.blob for ref in self.refs)) if blob is not None]


class Failure(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """Why an attempt failed, as data. ``types`` are the names of the exception's class and its bases. ``kind``: ``raised`` (an exception),
    ``died`` (the worker), ``stranded`` (its machine died, or what it had called elsewhere), ``timeout``, ``final`` (not worth retrying),
    ``unusable`` (the function returned, so its effects stand, but what it returned cannot be kept), ``blocked`` (something outside must be
    repaired first)."""

    kind: str
    types: tuple[str, ...]
    text: str
    traceback: str = ""
    pickled: bytes | None = None


class _Record(msgspec.Struct, frozen=True, tag_field="r", kw_only=True, omit_defaults=True, gc=False):  # none is ever part of a circle
    pass


class WorkflowBegan(_Record, frozen=True, kw_only=True, tag="began"):
    """First record. The entry's payload (or blob) holds the definition and the arguments."""

    version: int
    graph: Graph
    plan: Stored
    auto: bool = False
    undo_on_failure: bool = False


class OutputSaved(_Record, frozen=True, kw_only=True, tag="saved"):
    """An output is durable, under this version. ``parent_version`` ties a task of a sub-workflow to the shape it belongs to."""

    task: str
    attempt: int
    epoch: int
    version: int
    basis: int
    stored: Stored
    parent: str = ""
    parent_version: int = 0
    growth: Graph | None = None
    caught: bool = False
    started_ms: int = 0
    ended_ms: int = 0


class GraphReturned(_Record, frozen=True, kw_only=True, tag="grew"):
    """A task returned a DAG whose shape is not saved yet. Comes before whatever is saved downstream of that DAG, so that a later life does
    not take the task for one whose output is a plain value."""

    task: str
    parent: str = ""
    parent_version: int = 0


class AttemptIntended(_Record, frozen=True, kw_only=True, tag="intent"):
    """An attempt that may have an effect is about to start."""

    task: str
    attempt: int
    epoch: int
    basis: int
    parent: str = ""
    parent_version: int = 0


class AttemptFailed(_Record, frozen=True, kw_only=True, tag="failed"):
    """An attempt raised (or timed out), and another may follow. ``failures`` counts them all."""

    task: str
    attempt: int
    failures: int
    failure: Failure
    parent: str = ""
    parent_version: int = 0


class WorkerDied(_Record, frozen=True, kw_only=True, tag="died"):
    """An attempt's worker died. ``deaths`` counts them all, but for those that were ``stranded``: see Failure."""

    task: str
    attempt: int
    deaths: int
    reason: str
    stranded: bool = False
    parent: str = ""
    parent_version: int = 0


class UndoIntended(_Record, frozen=True, kw_only=True, tag="undoing"):
    """An executed task is about to be rolled back: from here on it counts as not executed, and its effect as neither there nor gone."""

    task: str
    attempt: int


class EffectUndone(_Record, frozen=True, kw_only=True, tag="undone"):
    """The rollback of an attempt finished: its external output no longer stands."""

    task: str
    attempt: int


class EffectSettled(_Record, frozen=True, kw_only=True, tag="settled"):
    """A doubt was answered: the effect of a committing task did not happen (if it did, OutputSaved follows)."""

    task: str


class TasksWithdrawn(_Record, frozen=True, kw_only=True, tag="withdrawn"):
    """Outputs that rest on a version that will be replaced: they are void."""

    tasks: tuple[str, ...]


class RoundsDropped(_Record, frozen=True, kw_only=True, tag="rounds"):
    """A loop written as recursion is past some of its rounds: ``task`` stands right below ``parent`` from here on, and all records of the
    tasks in ``past`` are no longer needed."""

    task: str
    spec: TaskSpec
    parent: str
    past: tuple[str, ...]


class OutputSpoiled(_Record, frozen=True, kw_only=True, tag="spoiled"):
    """Saved bytes turned out damaged: the output is no longer durable."""

    task: str


class UnwindDecided(_Record, frozen=True, kw_only=True, tag="unwind"):
    """``task`` has failed for good, and the workflow will end FAILED after all external outputs of undoable tasks have been rolled back."""

    task: str
    attempt: int
    failure: Failure


class CancelDecided(_Record, frozen=True, kw_only=True, tag="cancel"):
    """The workflow will end CANCELLED; with ``undo``, after all external outputs of undoable tasks have been rolled back."""

    undo: bool = False


class WorkflowResumed(_Record, frozen=True, kw_only=True, tag="resumed"):
    """A stopped workflow goes on: failures and deaths are forgiven."""


class WorkflowEnded(_Record, frozen=True, kw_only=True, tag="ended"):
    """``status`` as in core.state.Status. For SUCCEEDED, ``task`` is the one whose output is the result; for FAILED, IN_DOUBT and BLOCKED,
    ``task`` and ``failure`` say why. ``undone`` says that external outputs were rolled back; ``standing`` names tasks whose external
    outputs stand, or may."""

    status: str
    task: str = ""
    attempt: int = 0
    failure: Failure | None = None
    undone: bool = False
    standing: tuple[str, ...] = ()


Record = (
    WorkflowBegan
    | OutputSaved
    | GraphReturned
    | AttemptIntended
    | AttemptFailed
    | WorkerDied
    | UndoIntended
    | EffectUndone
    | EffectSettled
    | TasksWithdrawn
    | RoundsDropped
    | OutputSpoiled
    | UnwindDecided
    | CancelDecided
    | WorkflowResumed
    | WorkflowEnded
)


class Orphan:
    """What the journal says of a task whose parent has not (yet again) returned the DAG that it belongs to."""

    __slots__ = ("deaths", "effect", "failures", "grew", "intent", "lost", "owed", "parent", "parent_version", "rounds", "saved")

    def __init__(self, parent: str, parent_version: int) -> None:
        self.parent, self.parent_version = parent, parent_version
        self.saved: OutputSaved | None = None
        self.rounds: RoundsDropped | None = None  # how far the loop below it is
        self.intent: tuple[int, int] = (0, 0)
        self.effect = self.owed = self.grew = self.lost = False  # lost: what is saved is not to be had any more
        self.failures = self.deaths = 0

    @property
    def durable(self) -> OutputSaved | None:
        """What is saved and need not be made again."""
        return None if self.owed or self.lost else self.saved


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    return _encoder.encode(record)


def decode(body: bytes) -> Record:
    """The record in ``body``. Raises ValueError if it is none (or one of a newer version)."""
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a journal record: {error}") from error
