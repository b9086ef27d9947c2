"""The laws of ``state.py`` as assertions with a story. Tests and the simulator call ``check`` after every turn."""

from __future__ import annotations

from collections.abc import Iterator

from exoflow.core.spec.ids import UNEXECUTED
from exoflow.core.state import ACTIVE, AT_REST, COUNTING, Phase, Saving, State, Task
from exoflow.errors import EngineBug


def check(state: State) -> None:
    """Raise EngineBug if a law does not hold."""
    broken = [*_laws(state)]
    if broken:
        raise EngineBug(message="; ".join(broken[:5]), story=repr(list(state.tasks.values())[:50]))


def _laws(state: State) -> Iterator[str]:
    tasks = state.tasks.values()
    if state.active != sum(task.phase in ACTIVE for task in tasks):
        yield "active is miscounted"
    if state.busy != sum(task.phase not in AT_REST for task in tasks):
        yield "busy is miscounted"
    if state.encoding != sum(task.saving is Saving.ENCODING for task in tasks):
        yield "encoding is miscounted"
    if state.agenda or state.records:
        yield "a turn ended with work undone"
    for task in tasks:
        yield from (f"{task!r}: {law}" for law in _task_laws(state, task))


def _task_laws(state: State, task: Task) -> Iterator[str]:
    if (task.present or task.durable) and task.version == UNEXECUTED:
        yield "an output without a version"
    if task.phase is Phase.DONE and task.version == UNEXECUTED:
        yield "DONE without a version"
    if task.kids is not None and not task.grew:
        yield "a sub-workflow that it did not return"
    if task.saving is Saving.ENCODING and not task.present:
        yield "encodes what is not there"
    if task.phase in COUNTING:
        missing = sum(not up.usable_by(task) for up in task.reads)
        if task.phase is not Phase.UNDO_WAITING and not task.condemned:
            missing += sum(not up.precedes(task) for up in task.after)
        if missing != task.missing:
            yield f"missing is {task.missing}, should be {missing}"
    if task.phase is Phase.RUNNING and task.spec.annotations.leaves_intent and not task.effect:
        yield "runs without an intent"
    claims = sum(reader.wanting for reader in task.readers) + (task is state.root and state.claimed)
    if state.claimed and claims != task.claims:
        yield f"claims are {task.claims}, should be {claims}"
    holds = sum(down.condemned for down in task.downs)
    if task.holds not in (0, holds) or (task.condemned and task.holds != holds):
        yield f"holds are {task.holds}, should be {holds}"
    for up in task.ups:
        if not state.has(up):
            yield f"reads {up.id}, which is not there"
