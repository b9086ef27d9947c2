"""One run of a workflow: engine after engine on one store, each dying where it was told to, until one comes to the end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from exoflow import codec
from exoflow.client.engine import Engine
from exoflow.client.intake import Dag
from exoflow.core.spec.graph import TaskSpec
from exoflow.errors import ExoflowError, WorkflowFailed, WorkflowInDoubtError
from exoflow.executors.base import Executor
from exoflow.settings import Settings
from exoflow.store.memory import MemoryStore
from exoflow.testing.crashes.points import Life, Point
from exoflow.testing.crashes.seams import Attempt, MortalStore, StepExecutor, fingerprint, role_of
from exoflow.testing.crashes.single import OneHost, SingleThread, Stuck
from exoflow.testing.effects import Book, Caller, Entry, SimulatedCrash, on_stage
from exoflow.wiring import Parts
from exoflow.worker.attempt import TaskCall

NAME = "workflow"
_DOUBTS_MAX = 20


class Subject(msgspec.Struct, frozen=True):
    """What is tried: a DAG with its arguments, and options of ``run_async``. ``prepare`` is called before each run."""

    dag: Dag
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    prepare: Callable[[], object] = lambda: None


class Trial:
    """A run. ``crashes``: at which place of each life it ends; ``seed``: of the order of what could happen in any order (0: the oldest
    first). When :meth:`run` is over, the rest is what became of it: ``status`` as in an engine, or a word for what no engine should say;
    ``result`` is a fingerprint, ``shown`` how it looks."""

    def __init__(self, subject: Subject, crashes: tuple[int, ...] = (), seed: int = 0) -> None:
        self.subject, self.crashes, self.seed = subject, crashes, seed
        self.lives: list[Life] = []
        self.deaths: list[Point] = []
        self.attempts: list[Attempt] = []
        self.books: list[Book] = []
        self.status = self.shown = self.error = ""
        self.result: str | None = None
        self.refusal: ExoflowError | None = None
        self.doubts: dict[str, bool] = {}
        self.entries: list[Entry] = []
        self.standing: list[Entry] = []
        self.state: dict[str, tuple[str, str]] = {}
        self.executors: set[str] = set()
        self._current: Attempt | None = None

    def run(self) -> Trial:
        """Run it to its end."""
        self.subject.prepare()
        store = MemoryStore()
        with on_stage(self):
            for crash_at in (*self.crashes, None):
                life = Life(len(self.lives) + 1, crash_at)
                self.lives.append(life)
                try:
                    self._live(life, store)
                    break
                except SimulatedCrash:
                    self.deaths.append(life.trace[crash_at - 1 if crash_at else -1])
                    self._current = None
        self.entries = sorted((entry for book in self.books for entry in book.entries), key=lambda entry: entry.number)
        self.standing = sorted((entry for book in self.books for entry in book.standing()), key=lambda entry: entry.number)
        for book in self.books:
            self.state.update(book.state())
        return self

    def _live(self, life: Life, store: MemoryStore) -> None:
        threads = SingleThread(life, random.Random(f"{self.seed}/{life.number}") if self.seed else None)
        engine: Engine

        def begin(call: TaskCall) -> Attempt:
            return self._begin(call, life, _spec(engine, call.context.task_id))

        def executor_for(name: str, _settings: Settings, _fds: tuple[int, ...]) -> Executor:
            self.executors.add(name)
            return StepExecutor(name, life, threads, begin)

        parts = Parts(lambda: threads.clock, threads, OneHost(life), executor_for, lambda **_: Settings())
        engine = Engine(MortalStore(store, life, threads), parts=parts)
        try:
            self._succeeded(self._drive(engine, threads))
        except WorkflowFailed as error:
            life.check()
            cause = error.__cause__
            self.status, self.error = _STATUS.get(error.code, "FAILED"), str(error)
            self.result = self.shown = type(cause if cause is not None else error).__name__
        except Stuck:
            self.status, self.error = "STUCK", "it did not end: nothing was left to be done"
        except ExoflowError as error:
            life.check()
            self.status, self.error, self.refusal = "REFUSED", f"{type(error).__name__}: {error}", error

    def _drive(self, engine: Engine, threads: SingleThread) -> Any:
        subject = self.subject
        args, kwargs = _fresh((subject.args, subject.kwargs))
        try:
            return engine.run(subject.dag, *args, name=NAME, **subject.options, **kwargs)
        except WorkflowInDoubtError as error:
            doubt = error
        for _ in range(_DOUBTS_MAX):  # what a person would do: look, and say so
            task = str(doubt.fields["task"])
            happened = any(entry.caller.task == task for book in self.books for entry in book.standing())
            self.doubts[task] = happened
            try:
                return threads.wait(engine.resume(NAME, outcomes={task: happened}))
            except WorkflowInDoubtError as error:
                doubt = error
        raise doubt

    def _succeeded(self, value: Any) -> None:
        self.status, self.result, self.shown = "SUCCEEDED", fingerprint(value), f"{value!r:.200}"

    # --- the stage of the effects ----------------------------------------------------------------------------------------------

    def _begin(self, call: TaskCall, life: Life, spec: TaskSpec | None) -> Attempt:
        context = call.context
        caller = Caller(role_of(call), context.task_id, context.attempt, len(self.attempts) + 1, life.number)
        self._current = Attempt(caller=caller, spec=spec)
        self.attempts.append(self._current)
        return self._current

    def caller(self) -> Caller:
        """See :class:`~exoflow.testing.effects.Stage`."""
        self.lives[-1].check()
        return self._current.caller if self._current is not None else Caller(life=len(self.lives))

    def point(self, what: str, when: Literal["before", "after"]) -> None:
        """See :class:`~exoflow.testing.effects.Stage`."""
        caller = self.caller()
        self.lives[-1].reach("effect", when, task=in_words(caller), attempt=caller.attempt, what=f"'{what}'")


_STATUS = {"cancelled": "CANCELLED", "in_doubt": "IN_DOUBT", "blocked": "BLOCKED"}


def in_words(caller: Caller) -> str:
    """Who acts, for people."""
    if caller.role == "outside":
        return "code outside of tasks"
    words = {"task": "task '{}'", "rollback": "the rollback of '{}'", "on_unknown": "on_unknown of '{}'"}[caller.role]
    return f"{words.format(caller.task)} (attempt {caller.attempt})"


def _spec(engine: Engine, task: str) -> TaskSpec | None:
    """What the task says of itself, as the engine has it (the options of a node may differ from those of its task)."""
    run = engine._loop.runs.get(NAME)  # noqa: SLF001 - nobody else knows
    found = run.machine.state.tasks.get(task) if run is not None else None
    return found.spec if found is not None else None


def _fresh(values: Any) -> Any:
    """A new life gets its arguments anew, as a new process would."""
    try:
        return codec.decode(codec.encode(values))
    except (codec.NotSerializable, codec.Unreadable):  # the engine will say so
        return values
