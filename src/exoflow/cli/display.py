"""Progress while a workflow runs: a live tree in a terminal, now and then a line elsewhere. All of it goes to stderr.

A thread of its own asks and draws, so that neither holds up the other, and asks the less often the longer an answer takes (an engine with
a hundred thousand tasks has better things to do).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from exoflow.cli.output import Output, escaped, lasted, style_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from exoflow.client.engine import Engine
    from exoflow.client.progress import Progress, TaskNow

_FRAME_S = 0.1
_ASKING_SHARE = 0.05
_LINE_S = 2.0
_ROWS_MAX = 40
_ROWS_BESIDE = 6
_ORDER = (
    "RUNNING",
    "STOPPING",
    "ROLLING_BACK",
    "RETRYING",
    "ASKING",
    "IN_DOUBT",
    "HELD",
    "STARTING",
    "QUEUED",
    "FAILED",
    "WAITING",
    "DONE",
    "IDLE",
)
_COUNTED = ("QUEUED", "WAITING", "DONE", "IDLE")
"""States of which only the number matters when tasks are many."""
_MEANINGS = {"IDLE": "not needed", "HELD": "held back by the commit rule", "QUEUED": "for a free worker", "WAITING": "for inputs"}

Note = Callable[[str], None]


@contextmanager
def shown(output: Output, engine: Engine, name: str) -> Iterator[Note]:
    """While inside, show what workflow ``name`` is doing; gives a function that prints a line beside that."""
    if output.notes_to_terminal and not _is_dumb():
        with _live(engine, name) as note:
            yield note
        return
    note = _nothing if output.as_json else output.note
    with _asking(engine, name, _Lines(name, note).show, note):
        yield note


def _nothing(_text: str) -> None:
    pass


def _is_dumb() -> bool:
    import os

    return os.environ.get("TERM", "").lower() in ("dumb", "unknown", "")


@contextmanager
def _asking(engine: Engine, name: str, show: Callable[[Progress | None], None], note: Note) -> Iterator[None]:
    """Ask for the progress again and again, on a thread of its own, and hand it to ``show``."""
    from exoflow.client.progress import progress

    over = threading.Event()

    def ask() -> None:
        pause_s = _FRAME_S
        while not over.wait(pause_s):
            began = time.monotonic()
            try:
                now = progress(engine, name)
                if not over.is_set():
                    show(now)
            except Exception as error:  # a display must not disturb what it shows
                note(f"the progress display stopped: {escaped(f'{type(error).__name__}: {error}')}")
                return
            pause_s = max(_FRAME_S, (time.monotonic() - began) / _ASKING_SHARE)

    thread = threading.Thread(target=ask, name="exoflow-display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)


# --- lines ---------------------------------------------------------------------------------------------------------------------


class _Lines:
    """For logs: what failed, at once; counts, when they have changed and not too often."""

    def __init__(self, name: str, note: Note) -> None:
        self._name, self._note = name, note
        self._counts: dict[str, int] = {}
        self._said_s = time.monotonic()
        self._failures: dict[str, int] = {}

    def show(self, now: Progress | None) -> None:
        if now is None:
            return
        for task in now.tasks:
            if task.failures > self._failures.get(task.task, 0) and task.state == "RETRYING":
                self._failures[task.task] = task.failures
                self._note(
                    f"{self._name}: task '{escaped(task.task)}' failed (attempt {task.attempt}) and is tried again: {escaped(task.why)}"
                )
        if now.counts != self._counts and time.monotonic() - self._said_s >= _LINE_S:
            self._counts, self._said_s = now.counts, time.monotonic()
            self._note(f"{self._name}: {summary(now)}")


def summary(now: Progress) -> str:
    """Counts in one line."""
    parts = [f"will end {now.ending}"] if now.ending else []
    parts += [f"{now.counts.get('DONE', 0)} of {now.total} tasks done ({now.saved} saved)"]
    parts += [f"{now.counts[state]} {_word(state)}" for state in _ORDER if now.counts.get(state) and state not in ("DONE", "IDLE")]
    return ", ".join(parts)


def _word(state: str) -> str:
    return state.lower().replace("_", " ")


# --- a live tree ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _live(engine: Engine, name: str) -> Iterator[Note]:
    import sys

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    tree = _Tree(name, console)
    both = sys.stdout.isatty()  # else what tasks print belongs into a file or pipe, and not between our lines
    live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=both, redirect_stderr=True, vertical_overflow="crop")

    def show(now: Progress | None) -> None:
        live.update(tree.drawn(now), refresh=True)

    def note(text: str) -> None:
        console.print(Text(text), soft_wrap=True)  # a command in it can be copied

    with live, _asking(engine, name, show, note):
        yield note


class _Tree:
    """Tasks grouped by state: all of them if they fit, else those in which something goes on."""

    def __init__(self, name: str, console: Console) -> None:
        self._name, self._console = name, console
        self._began_s = time.monotonic()
        self._since: dict[tuple[str, int, str], float] = {}

    def drawn(self, now: Progress | None) -> RenderableType:
        from rich.text import Text
        from rich.tree import Tree

        head = Text.assemble((self._name, "bold"), "  ", (lasted(time.monotonic() - self._began_s), "dim"), "  ")
        if now is None:
            head.append("driven by another process, or about to end; waiting for it", "dim")
            return head
        head.append(summary(now), style_of(now.ending))
        tree = Tree(head, guide_style="dim")
        room = max(3, min(_ROWS_MAX, self._console.size.height - _ROWS_BESIDE))
        self._keep_times(now)
        for state in _ORDER:
            room -= self._group(tree, state, now, room)
        return tree

    def _group(self, tree: Any, state: str, now: Progress, room: int) -> int:
        """Add the tasks in one state; returns the lines that took."""
        from rich.text import Text

        count = now.counts.get(state, 0)
        tasks = [] if state in _COUNTED and now.total > room else [task for task in now.tasks if task.state == state]
        if not count or room < 1 or (state == "IDLE" and now.total > count):
            return 0
        label = Text.assemble((f"{count} {_word(state)}", style_of(state)))
        if state in _MEANINGS:
            label.append(f"  {_MEANINGS[state]}", "dim")
        branch = tree.add(label)
        rows = min(len(tasks), room - 1)
        for task in tasks[:rows]:
            branch.add(self._row(task))
        left_out = count - rows
        if rows and left_out:
            branch.add(Text(f"… and {left_out} more", "dim"))
        return 1 + rows + bool(rows and left_out)

    def _row(self, task: TaskNow) -> Any:
        from rich.text import Text

        row = Text(escaped(task.task), no_wrap=True, overflow="ellipsis")
        since = self._since.get((task.task, task.attempt, task.state))
        if since is not None:
            row.append(f"  {lasted(time.monotonic() - since)}", "cyan")
        if task.attempt > 1:
            row.append(f"  attempt {task.attempt}", "yellow")
        if task.why:
            row.append(f"  {escaped(task.why)}", "dim")
        return row

    def _keep_times(self, now: Progress) -> None:
        """Since when each task is in its state, as far as was seen."""
        seen = {(task.task, task.attempt, task.state) for task in now.tasks if task.state not in ("WAITING", "DONE", "IDLE")}
        this_moment = time.monotonic()
        self._since = {key: self._since.get(key, this_moment) for key in seen}
