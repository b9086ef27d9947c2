"""What a workflow that this engine drives is doing right now, for displays. Read under the loop's lock; nothing is changed.

``report`` tells from the journal what is durable; this tells what is going on: what runs, what is held back and why.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING

import msgspec

from exoflow.core.readiness import GATE
from exoflow.core.state import Phase, State, Task
from exoflow.runtime.run import Run

if TYPE_CHECKING:
    from exoflow.client.engine import Engine

_WORDS = {
    Phase.IDLE: "IDLE",
    Phase.WAITING: "WAITING",
    Phase.HELD: "HELD",
    Phase.STARTING: "STARTING",
    Phase.RUNNING: "RUNNING",
    Phase.STOPPING: "STOPPING",
    Phase.UNDO_WAITING: "ROLLING_BACK",
    Phase.UNDO_STARTING: "ROLLING_BACK",
    Phase.UNDOING: "ROLLING_BACK",
    Phase.UNDO_PAUSED: "ROLLING_BACK",
    Phase.PAUSED: "RETRYING",
    Phase.ASKING: "ASKING",
    Phase.IN_DOUBT: "IN_DOUBT",
    Phase.DONE: "DONE",
    Phase.FAILED: "FAILED",
}
_QUIET = frozenset({Phase.IDLE, Phase.WAITING, Phase.DONE})
_CLOSED_AGAIN_S = 0.05
_PATH_MAX = 5


class TaskNow(msgspec.Struct, frozen=True, kw_only=True):
    """One task: ``state`` is a word of ``Progress.counts``, ``why`` what it waits for or what happened to its last attempt."""

    task: str
    state: str
    attempt: int
    failures: int
    why: str = ""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow. ``counts``: how many tasks are in which state (QUEUED: it may run, and waits for a free worker). ``tasks``: all of them
    if they are few, else those in which something goes on; ``total`` says how many there are, ``saved`` how many outputs are durable.
    ``ending`` is the status in which it will end, from the moment that is decided (it then waits for what runs), or empty."""

    workflow_id: str
    status: str
    ending: str
    total: int
    saved: int
    counts: dict[str, int]
    tasks: tuple[TaskNow, ...]


def progress(engine: Engine, name: str, *, tasks_max: int = 50) -> Progress | None:
    """What workflow ``name`` is doing, with at most ``tasks_max`` tasks; None unless this engine drives it now. From any thread but those
    that run tasks."""
    loop = engine._loop  # noqa: SLF001 - the engine's inner life is what is asked for
    run = loop.runs.get(name)
    if run is None:
        return None
    answer: Future[Progress] = Future()

    def look() -> None:
        try:
            answer.set_result(_look(run, tasks_max))
        except Exception as error:  # in the loop it would stop the workflow
            answer.set_exception(error)

    loop.post(run, look)
    while True:
        try:
            return loop.threads.wait(answer, _CLOSED_AGAIN_S)
        except TimeoutError:
            if run.closed and not answer.done():  # it ended before it was our turn
                return None


def _look(run: Run, tasks_max: int) -> Progress:
    state = run.machine.state
    words = Counter(_word(run, task) for task in state.tasks.values())
    chosen = state.tasks.values() if len(state.tasks) <= tasks_max else (t for t in state.tasks.values() if t.phase not in _QUIET)
    tasks = list[TaskNow]()
    for task in chosen:
        if len(tasks) == tasks_max:
            break
        word = _word(run, task)
        tasks.append(TaskNow(task=task.id, state=word, attempt=task.attempt, failures=task.failures, why=_why(state, run, task)))
    return Progress(
        workflow_id=run.workflow_id,
        status=state.status,
        ending=state.ending.status if state.ending is not None else "CANCELLED" if state.cancelling else "",
        total=len(state.tasks),
        saved=sum(task.durable for task in state.tasks.values()),
        counts=dict(words),
        tasks=tuple(tasks),
    )


def _word(run: Run, task: Task) -> str:
    if task.phase is Phase.RUNNING and run.key(task.id, task.attempt) not in run.live:
        return "QUEUED"
    return _WORDS[task.phase]


def _why(state: State, run: Run, task: Task) -> str:
    if task.phase is Phase.HELD:
        return _held(state, task)
    if task.phase is Phase.RUNNING:
        return "" if run.key(task.id, task.attempt) in run.live else f"for a free worker of '{run.calls[task.id].executor}'"
    if task.phase in (Phase.PAUSED, Phase.UNDO_PAUSED, Phase.FAILED) and task.failure is not None:
        return task.failure.text
    if task.phase is Phase.UNDO_WAITING:
        return "for what was built on it to be undone first, or for its inputs"
    return ""


def _held(state: State, task: Task) -> str:
    """The commit rule's reason, nearest first."""
    path = [(why.prop.name.lower(), why.task.id) for why in state.stability.blame_path(GATE[task.kind], task)] if task.kind in GATE else []
    if not path:
        return "the commit rule holds it back"
    words = " needs ".join(f"{prop}({name})" for prop, name in path[:_PATH_MAX])
    return f"the commit rule needs {words}{' needs …' if len(path) > _PATH_MAX else ''}"
