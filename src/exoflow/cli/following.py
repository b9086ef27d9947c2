"""Waiting for workflows, and what Ctrl-C and the other signals that ask a process to end do meanwhile.

The first Ctrl-C stops nothing. In a terminal it asks: again within three seconds cancels the workflow, otherwise the command lets go of it
("detached"): what is durable stays, and ``exoflow resume`` goes on. Without a terminal nobody can be asked, so it detaches. So it does,
without asking, when SIGTERM or SIGHUP comes: tasks that run may finish, what they made is saved, others may go on at once. A second one
ends the process as it always would, which loses no more than kill -9.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from exoflow.cli.display import shown
from exoflow.cli.failures import Interrupted
from exoflow.cli.session import Session
from exoflow.errors import ExoflowError, InvalidStateError, WorkflowCancelledError

if TYPE_CHECKING:
    from exoflow.client.engine import Engine

_LOOK_S = 0.05
_AGAIN_S = 3.0
_ENOUGH = 4
"""So often is pressed only if nothing seems to help."""


class _Signals:
    """Notes interrupts instead of raising them: KeyboardInterrupt in the middle of the engine's loop would lose an event. ``count`` is how
    often Ctrl-C was pressed, ``end`` the signal that asked us to end, or 0."""

    def __init__(self) -> None:
        self.count = self.end = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._pressed)
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:  # not if it is ignored (nohup)
                    self._before[number] = signal.signal(number, self._asked)
        return self

    def _pressed(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count >= _ENOUGH:
            raise KeyboardInterrupt

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        self.end = number
        self._restore(signal.SIGTERM, signal.SIGHUP)

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            if number in self._before:
                signal.signal(number, self._before.pop(number))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore(*self._before)


F = TypeVar("F", bound=Future[Any])


def follow(session: Session, engine: Engine, start: Callable[[], F], name: str) -> tuple[F, Any]:
    """Start a workflow, show its progress, and return its future and its result. ``start`` is called here so that Ctrl-C is ours from
    then on.

    Raises what the workflow ended with, and Interrupted.
    """
    with _Signals() as signals:
        future = start()
        with shown(session.output, engine, name) as note:
            _wait(session, engine, {name: future}, signals, note)
    return future, future.result()


def follow_all(session: Session, engine: Engine, futures: Mapping[str, Future[Any]]) -> None:
    """Wait until all have ended, however they end. Raises Interrupted."""
    with _Signals() as signals:
        _wait(session, engine, futures, signals, session.output.note)


def _wait(session: Session, engine: Engine, futures: Mapping[str, Future[Any]], signals: _Signals, note: Callable[[str], None]) -> None:
    waiting = set(futures.values())
    deadline_s: float | None = None
    while waiting:
        waiting = wait(waiting, _LOOK_S).not_done
        if not waiting or not (signals.count or signals.end):
            continue
        left = [name for name, future in futures.items() if future in waiting]
        if signals.end or session.output.as_json or not session.output.notes_to_terminal:
            raise _detached(session, engine, left, signals.end or signal.SIGINT)
        if deadline_s is None:
            deadline_s = time.monotonic() + _AGAIN_S
            what = "the workflow" if len(left) == 1 else f"{len(left)} workflows"
            note(
                f"Ctrl-C again within {_AGAIN_S:.0f} s cancels {what}; otherwise detached: it can be resumed with: {_resume(session, left)}"
            )
        elif signals.count > 1:
            raise _cancelled(engine, {name: futures[name] for name in left}, signals, note)
        elif time.monotonic() > deadline_s:
            raise _detached(session, engine, left, signal.SIGINT)


def _resume(session: Session, names: list[str]) -> str:
    return session.command("resume", names[0]) if len(names) == 1 else session.command("resume", "--all")


def _detached(session: Session, engine: Engine, names: list[str], number: int) -> Interrupted:
    ours = is_driven_here(engine, names)
    if ours:
        text = (
            f"detached from {', '.join(names)}: tasks that run get {engine.settings.drain_s:g} s to finish, what is durable stays; "
            f"it can be resumed with: {_resume(session, names)}"
        )
    else:
        look = session.command("show", names[0])
        text = f"no longer waiting for {', '.join(names)}, which goes on in another process; look at it with: {look}"
    return _said(session, Interrupted(text, outcome="detached", workflow_ids=tuple(names), signal=number))


def _said(session: Session, interrupted: Interrupted) -> Interrupted:
    """Say it now: closing the engine may take a few seconds."""
    if not session.output.as_json:
        session.output.note(str(interrupted))
        interrupted.said = True
    return interrupted


def is_driven_here(engine: Engine, names: list[str]) -> bool:
    """Whether this process drives one of them."""
    from exoflow.client.progress import progress

    return any(progress(engine, name, tasks_max=0) is not None for name in names)


def _cancelled(engine: Engine, futures: dict[str, Future[Any]], signals: _Signals, note: Callable[[str], None]) -> Interrupted:
    note(f"cancelling {', '.join(futures)} (Ctrl-C once more leaves at once) ...")
    ends = [begin_cancel(engine, name) for name in futures]
    waiting: set[Future[Any]] = {*ends, *futures.values()}
    while waiting and signals.count < 3 and not signals.end:
        waiting = wait(waiting, _LOOK_S).not_done
        failed = next((end.exception() for end in ends if end.done() and end.exception() is not None), None)
        if isinstance(failed, InvalidStateError):  # it ended by itself meanwhile
            continue
        if failed is not None:
            raise failed
    texts = [_in_words(name, future) for name, future in futures.items()]
    outcome = "cancelled" if not waiting else "unknown"
    return Interrupted("\n".join(texts), outcome=outcome, workflow_ids=tuple(futures), signal=signals.end or signal.SIGINT)


def begin_cancel(engine: Engine, name: str, *, rollback: bool = False) -> Future[None]:
    """Cancel on a thread, so that Ctrl-C is still seen meanwhile."""
    end: Future[None] = Future()

    def cancel() -> None:
        try:
            engine.cancel(name, rollback=rollback)
        except Exception as error:
            end.set_exception(error)
        else:
            end.set_result(None)

    threading.Thread(target=cancel, name="exoflow-cancel", daemon=True).start()
    return end


def _in_words(name: str, future: Future[Any]) -> str:
    if not future.done():
        return f"{name}: left while it was being cancelled; exoflow show {name} says how far that came"
    error = future.exception()
    if isinstance(error, WorkflowCancelledError):
        return f"cancelled: {error}"
    if isinstance(error, ExoflowError):
        return f"{name}: {error}"
    return f"{name}: it had ended before it could be cancelled"
