"""The execution seam: what an Executor must promise.

An executor runs attempts. It knows nothing of workflows, saves nothing, retries nothing and decides nothing. The promises:

1. **Exactly one answer.** For each :meth:`Executor.submit`, ``done`` is called exactly once, from any thread, with an
   :data:`~exoflow.worker.attempt.Outcome`: also after :meth:`Executor.stop`, after a worker died, and during :meth:`Executor.close`.
2. **The answer comes after the end.** When ``done`` has been called, no code of that attempt runs any more (``Stopped`` included). The one
   exception is declared: an executor whose ``can_kill`` is False answers ``stop`` only when the function itself returns.
3. **Isolation of death.** A worker that dies answers ``Died`` for the attempt it ran, and for no other.
4. **Nothing leaks.** After :meth:`Executor.close` no thread, process or file of the executor is left.
5. **Objects are not copied** within one process: the function gets the very objects that ``call.load()`` returned, and ``Returned.value``
   is the very object it returned. An executor that crosses a process gives :class:`~exoflow.codec.Encoded` instead, whose buffers nobody
   can write to any more, and which is there although its worker has died.

A remote backend that loses the data behind an output answers ``InputsLost`` for attempts that needed it.

``testing/executor_suite.py`` is this page as tests: a new executor inherits it and sets one fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from exoflow.worker.attempt import Done, TaskCall


class Executor(Protocol):
    """Runs attempts. See the top of this module for the promises."""

    name: str
    can_kill: bool
    """Whether ``stop`` ends a function that does not want to end."""
    is_elsewhere: bool
    """Whether functions run in other processes: then what is encoded stays so on its way there."""
    slots: int
    """How many attempts it is worth having submitted at once; the engine keeps the rest back."""

    def submit(self, call: TaskCall, done: Done) -> None:
        """Run ``call`` and answer with ``done``. Never blocks for long and never raises for what the function does.
        Raises ExecutorUnavailable or ClosedError if the call was not accepted (then ``done`` is not called)."""

    def stop(self, key: str) -> None:
        """Ask the attempt to end; its answer still comes through ``done``. Unknown keys are ignored."""

    def close(self) -> None:
        """Stop everything, answer what is open, release everything. Calling it twice is no error."""


@runtime_checkable
class PlacingExecutor(Executor, Protocol):
    """An executor that takes options for single tasks (``executor_options``), and says before anything runs what it cannot run."""

    def check(self, task: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
        """Refuse what could not run here, without starting anything. Raises InvalidOptionError, ArgumentNotSerializableError."""
