"""Runs functions in threads of this process. Nothing can end a thread, so ``stop`` is a wish and the answer says what really happened."""

from __future__ import annotations

from exoflow.executors.crew import Attempt, Crew, cpus
from exoflow.worker import task_runner
from exoflow.worker.attempt import Done, Outcome, Stopped, TaskCall


class ThreadExecutor:
    """``workers`` threads (default: processors + 4, at most 32), started on demand and reused.

    ``close`` waits ``grace_s`` for functions that run. A thread whose function never returns is left behind as a daemon, and its
    answer comes if the function ever returns.
    """

    name = "thread"
    can_kill = False
    is_elsewhere = False

    def __init__(self, workers: int | None = None, *, grace_s: float = 5.0) -> None:
        workers = min(32, cpus() + 4) if workers is None else workers
        self._crew = Crew(self.name, workers=workers, station=_Here, grace_s=grace_s)
        self.slots = 2 * workers  # so that a thread that is done finds its next call waiting

    def submit(self, call: TaskCall, done: Done) -> None:
        """See :class:`~exoflow.executors.base.Executor`."""
        self._crew.submit(call, done)

    def stop(self, key: str) -> None:
        """Answers at once for a call that has not begun; a function that runs is not disturbed."""
        self._crew.stop(key)

    def close(self) -> None:
        """See :class:`~exoflow.executors.base.Executor` and the top of this class."""
        self._crew.close()


class _Here:
    """A station that is nothing but the thread itself."""

    def run(self, attempt: Attempt) -> Outcome:
        return Stopped(began=False) if attempt.stop_asked else task_runner.run(attempt.call)

    def stop(self, attempt: Attempt) -> None:
        pass

    def take_back(self) -> bool:
        return True  # it never asks for a follower

    def close(self) -> None:
        pass
