"""What can be said of a task, checked when it is said. Annotations are the semantics (docs/semantics.md); the rest is placement."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

from exoflow.core.spec.annotations import Annotations, Checkpoint
from exoflow.core.spec.ids import check_id
from exoflow.core.spec.retry import RetryPolicy
from exoflow.errors import InvalidOptionError

CheckpointOption = bool | Literal["sync", "async", "auto"]
OnUnknown = Literal["retry", "fail"] | Callable[..., Any]

_CHECKPOINTS = {True: Checkpoint.ASYNC, "async": Checkpoint.ASYNC, "sync": Checkpoint.SYNC, False: Checkpoint.NONE, "auto": Checkpoint.NONE}
_SECONDS_MAX = 10 * 365 * 86400.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Everything that ``@exoflow.task(...)`` and ``.options(...)`` take.

    Annotations:
        checkpoint: ``True`` or ``"async"`` saves the output while consumers may already run; ``"sync"`` makes them wait for it; ``False``
            never saves; ``"auto"`` saves if the commit rule needs it.
        deterministic: the output is a function of the inputs.
        can_rollback: it has no external output, or one that ``rollback`` undoes. False: it may have one, idempotent for equal inputs.
        rollback: undoes the external output; idempotent; takes a subset of the task's parameters, by name. Implies ``can_rollback``.
        on_unknown: for a task that is neither idempotent nor undoable: what to do when an attempt died and nobody knows whether its effect
            happened. ``"retry"``; ``"fail"`` stops the workflow IN_DOUBT; a function (parameters like rollback's) answers True (it
            happened), False (it did not), or the output as any other value.

    Failure handling (seconds):
        retries: further attempts after an exception. backoff, backoff_factor, backoff_max, jitter (0 to 1): the waits between them.
        retry_on: exception class, or tuple of them; others fail at once. timeout: of one attempt.
        catch_exceptions: the output becomes ``(output, None)`` or ``(None, error)``.

    Placement:
        name: of the task in its workflow. executor: ``"loop"``, ``"thread"``, ``"process"``, ``"ray"``; default: loop for ``async def``,
            else thread. executor_options: what the executor takes for a single task (``"ray"``: resources and the like).
    """

    name: str | None = None
    checkpoint: CheckpointOption = True
    deterministic: bool = False
    can_rollback: bool | None = None
    rollback: Callable[..., Any] | None = None
    on_unknown: OnUnknown = "retry"
    retries: int = 0
    backoff: float = 1.0
    backoff_factor: float = 2.0
    backoff_max: float = 300.0
    jitter: float = 0.5
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = ()
    timeout: float | None = None
    catch_exceptions: bool = False
    executor: str | None = None
    executor_options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def make(cls, base: TaskOptions | None, changes: dict[str, Any]) -> TaskOptions:
        """``base`` with ``changes``. Raises InvalidOptionError naming the option, the value and the reason."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in changes:
            if name not in known:
                import difflib

                close = difflib.get_close_matches(name, known, 1)
                raise InvalidOptionError(
                    message=f"unknown option '{name}'{f'; did you mean {close[0]!r}?' if close else ''}; known: {', '.join(known)}"
                )
        made = dataclasses.replace(base, **changes) if base is not None else cls(**changes)
        made.check()
        return made

    @property
    def rolls_back(self) -> bool:
        return self.rollback is not None if self.can_rollback is None else self.can_rollback

    def check(self) -> None:
        """Raise InvalidOptionError if a value means nothing or contradicts another."""
        # what was given may be anything, whatever the types of the fields say
        given: dict[str, Any] = vars(self)
        if self.name is not None:
            check_id(self.name.lstrip("_") if isinstance(given["name"], str) else given["name"], "task name")
        self._check_annotations()
        for name in ("deterministic", "catch_exceptions"):
            _require(isinstance(given[name], bool), name, "True or False", given[name])
        is_count = isinstance(given["retries"], int) and not isinstance(given["retries"], bool) and 0 <= self.retries <= 1_000_000
        _require(is_count, "retries", "a whole number from 0 to 1,000,000", self.retries)
        for name, low, high in (
            ("backoff", 0.0, _SECONDS_MAX),
            ("backoff_max", 0.0, _SECONDS_MAX),
            ("backoff_factor", 1.0, 1000.0),
            ("jitter", 0.0, 1.0),
        ):
            value = getattr(self, name)
            _require(_is_number(value) and low <= value <= high, name, f"a finite number from {low:g} to {high:g}", value)
        if self.timeout is not None:
            _require(
                _is_number(self.timeout) and 0 < self.timeout <= _SECONDS_MAX, "timeout", "a finite number > 0 (seconds)", self.timeout
            )
        for each in given["retry_on"] if isinstance(given["retry_on"], tuple) else (given["retry_on"],):
            _require(isinstance(each, type) and issubclass(each, BaseException), "retry_on", "exception classes", each)
        _require(given["executor"] is None or isinstance(given["executor"], str), "executor", "the name of an executor", self.executor)
        placed = given["executor_options"]
        _require(isinstance(placed, dict) and all(isinstance(key, str) for key in placed), "executor_options", "a dict of options", placed)

    def _check_annotations(self) -> None:
        given: dict[str, Any] = vars(self)
        if not isinstance(given["checkpoint"], (bool, str)) or self.checkpoint not in _CHECKPOINTS:
            import difflib

            close = difflib.get_close_matches(str(self.checkpoint), ["sync", "async", "auto"], 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InvalidOptionError(
                message=f"checkpoint must be True, False, 'sync', 'async' or 'auto', got {self.checkpoint!r:.60}{hint}"
            )
        _require(
            given["can_rollback"] is None or isinstance(given["can_rollback"], bool), "can_rollback", "True or False", self.can_rollback
        )
        if self.rollback is not None:
            _require(callable(self.rollback), "rollback", "a function", self.rollback)
            if self.can_rollback is False:
                raise InvalidOptionError(message="rollback function given but can_rollback=False; set can_rollback=True or remove rollback")
        _require(
            callable(self.on_unknown) or self.on_unknown in ("retry", "fail"),
            "on_unknown",
            "'retry', 'fail' or a function",
            self.on_unknown,
        )
        if self.on_unknown != "retry":
            if self.rolls_back:
                raise InvalidOptionError(message="on_unknown is for tasks that cannot be rolled back; remove it, or set can_rollback=False")
            if self.checkpoint is False:
                raise InvalidOptionError(
                    message="on_unknown needs to know what happened, so the output must be saved; remove checkpoint=False"
                )

    def check_function(self, name: str, function: Callable[..., Any]) -> None:
        """The executor must be one for such a function; rollback and on_unknown must be callable with its parameters. Raises
        InvalidOptionError."""
        if self.executor == "loop" and not inspect.iscoroutinefunction(function):
            raise InvalidOptionError(message=f"executor='loop' is for 'async def', which task '{name}' is not; use 'thread'")
        for role, undo in (("rollback", self.rollback), ("on_unknown", self.on_unknown if callable(self.on_unknown) else None)):
            if undo is None:
                continue
            if inspect.iscoroutinefunction(undo) and not inspect.iscoroutinefunction(function):
                raise InvalidOptionError(message=f"{role} of task '{name}' is async but the task is not; make both alike")
            theirs = set(inspect.signature(function).parameters)
            for parameter in inspect.signature(undo).parameters.values():
                optional = parameter.default is not parameter.empty or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
                if parameter.name not in theirs and not optional:
                    label = getattr(undo, "__name__", repr(undo))
                    has = ", ".join(sorted(theirs))
                    raise InvalidOptionError(
                        message=f"{role} '{label}' takes '{parameter.name}', which task '{name}' does not have (it has {has})"
                    )

    def annotations(self) -> Annotations:
        unknown: Literal["retry", "fail", "ask"] = "ask" if callable(self.on_unknown) else self.on_unknown
        return Annotations(_CHECKPOINTS[self.checkpoint], self.deterministic, self.rolls_back, self.rollback is not None, unknown)

    def retry_policy(self) -> RetryPolicy:
        classes = self.retry_on if isinstance(self.retry_on, tuple) else (self.retry_on,)
        names = tuple(f"{each.__module__.replace('__mp_main__', '__main__')}.{each.__qualname__}" for each in classes)
        return RetryPolicy(
            self.retries, float(self.backoff), float(self.backoff_factor), float(self.backoff_max), float(self.jitter), names
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require(good: bool, name: str, wanted: str, got: object) -> None:  # noqa: FBT001 - an assertion reads best that way
    if not good:
        raise InvalidOptionError(message=f"{name} must be {wanted}, got {got!r:.60}")
