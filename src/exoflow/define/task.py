"""``@exoflow.task``: a function, what it says of itself, and ``bind``."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, Generic, ParamSpec, TypeVar, overload

from exoflow import fingerprints
from exoflow.define import registry
from exoflow.define.dag import InputNode, Node
from exoflow.define.options import TaskOptions
from exoflow.errors import InvalidOptionError, SignatureError

P = ParamSpec("P")
R = TypeVar("R")

building: ContextVar[bool] = ContextVar("exoflow_building", default=False)
"""True while an ``@exoflow.workflow`` function runs: calls to tasks bind instead of running."""


class Task(Generic[P, R]):
    """A function as a unit of recovery. Calling it calls the function; ``bind`` makes a node of a DAG.

    ``key`` is the name under which it is found again (``module:qualname``, or the ``name=`` given to the decorator).
    """

    def __init__(self, function: Callable[P, R], options: TaskOptions, key: str) -> None:
        try:
            signature(function)
        except ValueError:
            raise InvalidOptionError(message=f"'{key}' does not tell its signature; call it in a function of your own") from None
        options.check_function(getattr(function, "__name__", key), function)
        functools.update_wrapper(self, function)  # first, since it copies whatever attributes the function has
        self.function, self.task_options, self.key = function, options, key
        self.rollback_key = self._register(options.rollback)
        self.on_unknown_key = self._register(options.on_unknown if callable(options.on_unknown) else None)
        # what every node of it needs, made once
        self.annotations, self.retry = options.annotations(), options.retry_policy()
        self.executor = options.executor or ("loop" if inspect.iscoroutinefunction(function) else "thread")
        self.code = fingerprints.Code(function)
        self._fitting = _positional(function)
        self.check: Callable[[str, tuple[Any, ...], dict[str, Any]], None] | None = getattr(function, "__exoflow_check__", None)

    @staticmethod
    def _register(function: Callable[..., Any] | None) -> str:
        if function is None:
            return ""
        inner = function.function if isinstance(function, Task) else function
        name = registry.name_of(inner)
        known = registry.find(name)
        if not (isinstance(known, Task) and known.function is inner):  # it is a task of its own, too
            registry.register(name, inner, defined_at=registry.location_of(inner))
        return name

    @property
    def label(self) -> str:
        """What its nodes are called unless told otherwise."""
        given = getattr(self.function, "__name__", "task")
        return "task" if "<" in given else given

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if building.get():
            return self.bind(*args, **kwargs)  # type: ignore[return-value]  # while a DAG is built, outputs are nodes
        return self.function(*args, **kwargs)

    def options(self, **changes: Any) -> Task[P, R]:
        """The same function with other annotations or options (see TaskOptions). Raises InvalidOptionError."""
        return Task(self.function, TaskOptions.make(self.task_options, changes), self.key)

    def bind(self, /, *args: Any, **kwargs: Any) -> Node:
        """A node of a DAG: this task on these arguments, which may be nodes or hold nodes. Raises SignatureError if they do not fit."""
        self._require_fit(*args, **kwargs)
        return Node(self, args, kwargs)

    def _require_fit(self, /, *args: Any, **kwargs: Any) -> None:
        if not kwargs and len(args) in self._fitting:
            return
        try:
            signature(self.function).bind(*args, **kwargs)
        except TypeError as error:
            raise SignatureError(message=f"task '{self.label}': {error}") from None

    def map(self, items: Any, /, *args: Any, **kwargs: Any) -> Node:
        """A node whose output is ``[self(item, *args, **kwargs) for item in items]``, one task for each item. ``items`` may be a node
        whose output is known only at run time."""
        from exoflow.define.plan import fan_out

        self._require_fit(None, *args, **kwargs)
        if not isinstance(items, (Node, InputNode, Iterable)):
            raise SignatureError(message=f"task '{self.label}': map() takes an iterable or a node, got {items!r:.60}")
        return Node(fan_out, (self, items, args, kwargs), {}, label=self.task_options.name or f"{self.label}_map")

    def __repr__(self) -> str:
        return f"<exoflow.Task {self.key}>"

    def __get__(self, instance: object, owner: type | None = None) -> Task[P, R]:
        return self  # a task in a class body is not a method

    def __reduce__(self) -> tuple[Any, ...]:
        from exoflow.define.plan import find_task

        registered = registry.find(self.key)
        changes = {} if registered is None else _difference(registered.task_options, self.task_options)
        return find_task, (self.key, changes, registry.home_of(self.function))


def _difference(base: TaskOptions, other: TaskOptions) -> dict[str, Any]:
    return {name: value for name, value in vars(other).items() if vars(base)[name] != value}


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """Of a function; kept, because asking takes long. Raises ValueError if a function of C does not tell it."""
    return _signature(function) if isinstance(function, types.FunctionType) else inspect.signature(function)


def _positional(function: Callable[..., Any]) -> range:
    """How many arguments it takes if none is given by name: as many as that fit surely, the signature itself knows the rest."""
    parameters = signature(function).parameters.values()
    by_place = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if any(each.kind is each.KEYWORD_ONLY and each.default is each.empty for each in parameters):
        return range(0)
    return range(sum(each.default is each.empty for each in by_place), len(by_place) + 1)


@functools.lru_cache(maxsize=4096)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task: ``@exoflow.task``, or ``@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)``.

    Without annotations a task is the safe worst case: it may have external outputs, is not deterministic, is saved, and is idempotent for
    equal inputs. See :class:`~exoflow.define.options.TaskOptions` for all options. Raises InvalidOptionError, DuplicateRegistrationError.
    """

    def make(function: Callable[..., Any]) -> Task[..., Any]:
        if isinstance(function, Task):
            raise InvalidOptionError(message=f"'{function.label}' is a task already; use .options(...) to change it")
        if not callable(function):
            raise InvalidOptionError(message=f"@exoflow.task is for functions, got {function!r:.60}")
        checked = TaskOptions.make(None, options)
        key = checked.name or registry.name_of(function)
        made = Task(function, checked, key)
        registry.register(key, made, defined_at=registry.location_of(function), exclusive=checked.name is not None)
        return made

    return make if function is None else make(function)
