"""The terms of a task: what its specification says, apart from its name and its inputs."""

from __future__ import annotations

import functools

from exoflow.core.spec.annotations import Annotations, Checkpoint
from exoflow.core.spec.graph import TaskSpec
from exoflow.core.spec.retry import RetryPolicy


class Terms:
    """What follows from them is kept ready. Tasks that are specified alike share one object: large workflows have few kinds of tasks."""

    __slots__ = ("annotations", "deterministic", "kind", "leaves_intent", "needs_saving", "read_when_saved", "spec", "timeout_s")

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec  # without name and inputs
        self.annotations, self.timeout_s = spec.annotations, spec.timeout_s
        self.kind, self.leaves_intent = spec.annotations.kind, spec.annotations.leaves_intent
        self.deterministic = spec.deterministic
        self.needs_saving = spec.annotations.checkpoint is not Checkpoint.NONE
        self.read_when_saved = spec.annotations.checkpoint is Checkpoint.SYNC  # consumers wait for the save


def terms_of(spec: TaskSpec) -> Terms:
    """The one object for all tasks that are specified like this one."""
    return _terms(spec.annotations, spec.retry, spec.timeout_s, spec.catch)


@functools.lru_cache(maxsize=1024)
def _terms(annotations: Annotations, retry: RetryPolicy, timeout_s: float | None, catch: bool) -> Terms:  # noqa: FBT001 - a field
    return Terms(TaskSpec("", (), (), annotations, retry, timeout_s, catch))
