"""Executors whose workers are strands, with the traits of the real ones: threads cannot be stopped, worker processes can, and die."""

from __future__ import annotations

from collections.abc import Callable

from exoflow import codec
from exoflow.errors import ClosedError
from exoflow.testing.simulation import situations
from exoflow.testing.simulation.scheduler import Killed, Process, Scheduler, Strand
from exoflow.worker import task_runner
from exoflow.worker.attempt import Died, Done, Grown, Outcome, Returned, Stopped, TaskCall
from exoflow.worker.context import TaskContext


class _Attempt:
    def __init__(self, call: TaskCall, done: Done) -> None:
        self.call, self.done = call, done
        self.strand: Strand | None = None
        self.began = self.stop_asked = self.died = False


class SimExecutor:
    """See :class:`~exoflow.executors.base.Executor`. With ``can_kill`` its workers are processes: outputs come back pickled. ``loop_share``
    of the answers come from the thread of an event loop."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        process: Process,
        *,
        slots: int,
        can_kill: bool,
        grace_s: float,
        loop_share: float = 0.0,
        on_start: Callable[[TaskContext], None] = lambda _: None,
        reach: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._loop_share = loop_share
        self._on_start, self._reach = on_start, reach
        self.name, self.slots, self.can_kill = name, slots, can_kill
        self.is_elsewhere = False  # functions get what is loaded here
        self._scheduler, self._process, self._grace_s = scheduler, process, grace_s
        self._open: dict[str, _Attempt] = {}
        self._closed = False

    def submit(self, call: TaskCall, done: Done) -> None:
        """See Executor."""
        if self._closed:
            raise ClosedError(what=f"executor '{self.name}'")
        attempt = self._open[call.key] = _Attempt(call, done)
        attempt.strand = self._scheduler.start(f"{self.name} {call.context.task_id}", lambda: self._work(attempt), self._process)

    def _work(self, attempt: _Attempt) -> None:
        if attempt.stop_asked:
            self._answer(attempt, Stopped(began=False))
            return
        attempt.began = True
        if attempt.call.may_grow:  # not a rollback or a question
            self._on_start(attempt.call.context)
        outcome = task_runner.run(attempt.call)
        strand = attempt.strand
        if attempt.died and self._process.alive:
            with_its_machine = attempt.call.context.attempt % 3 == 0
            self._answer(attempt, Died("killed by a fault", stranded=with_its_machine))
            return
        if strand is None or strand.stopped or not self._process.alive:
            raise Killed
        self._answer(attempt, self._sent_back(outcome) if self.can_kill else outcome)

    @staticmethod
    def _sent_back(outcome: Outcome) -> Outcome:
        if isinstance(outcome, (Returned, Grown)):
            sent = task_runner.guard(lambda: codec.encode(outcome.value if isinstance(outcome, Returned) else outcome.plan))
            if isinstance(sent, Returned):
                return Returned(sent.value) if isinstance(outcome, Returned) else Grown(sent.value)
            return sent
        return outcome

    def _answer(self, attempt: _Attempt, outcome: Outcome) -> None:
        if self._open.pop(attempt.call.key, None) is not None:
            self._scheduler.note(f"{attempt.call.key}: {type(outcome).__name__}")
            if self._loop_share and self._scheduler.rng.random() < self._loop_share:
                with self._scheduler.on_loop():
                    attempt.done(outcome)
            else:
                attempt.done(outcome)

    def die(self, strand: Strand) -> None:
        """The worker that runs there dies. Raises Killed in it."""
        for attempt in self._open.values():
            if attempt.strand is strand and self.can_kill:
                attempt.died = True
                self._reach(situations.DIED)
                raise Killed

    @property
    def busy(self) -> bool:
        """Whether an answer is open that cannot be for want of a way to stop it."""
        return self.can_kill and bool(self._open)

    def stop(self, key: str) -> None:
        """See Executor."""
        attempt = self._open.get(key)
        if attempt is None:
            return
        attempt.stop_asked = True
        if attempt.began and self.can_kill and attempt.strand is not None and attempt.strand is not self._scheduler.current:
            self._scheduler.stop(attempt.strand)
            self._scheduler.start(f"{self.name} reaper", lambda: self._answer(attempt, Stopped()), self._process)

    def close(self) -> None:
        """See Executor."""
        self._closed = True
        for key in list(self._open):
            self.stop(key)
        deadline = self._scheduler.now + self._grace_s
        while self._open and self._scheduler.now < deadline and self._scheduler.current is not None:
            self._scheduler.park(0.01)
