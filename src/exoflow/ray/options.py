"""``f.options(**options(...))``: what Ray carries along for us without looking inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from ray.remote_function import RemoteFunction

from exoflow.define.options import TaskOptions
from exoflow.errors import InvalidOptionError

_CARRIER, _KEY = "_labels", "exoflow.io/options"
"""Of the options that Ray takes for a task, its labels are those that change nothing."""
POLLS = "polls"
"""Our own option of a task that does nothing but wait: it is a coroutine, and waits in the engine instead of on a worker."""
_ATTRIBUTE = "__exoflow_options__"
"""Where a decorated function keeps its own."""
OPTIONS_OF_RAY = "workflow.io/options"
"""Where Ray Workflows kept the same; what is shown to users has it there."""


class _Carried(str):
    """A label, for Ray; the options, for us."""

    __slots__ = ("options",)
    options: dict[str, Any]

    def __new__(cls, options: dict[str, Any]) -> Self:
        made = super().__new__(cls, ",".join(sorted(options)))
        made.options = options
        return made

    def __reduce__(self) -> Any:
        return _Carried, (self.options,)


class Options(Mapping[str, Any]):
    """Options for ``f.options(**it)``, ``ray.remote(**it)``, or as a decorator of a remote function."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._options = {_CARRIER: {_KEY: _Carried(given)}}

    def __getitem__(self, key: str) -> Any:
        return self._options[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __call__(self, function: Any) -> Any:
        """Let these be the options of a remote function, unless others are given with ``.options``. Raises ValueError if it is none."""
        if not isinstance(function, RemoteFunction):
            raise ValueError(f"these options are for functions decorated with @ray.remote, not for {function!r:.60}")  # noqa: TRY004 - as in Ray
        inner = function._function  # noqa: SLF001 - Ray has no other way to ask for it
        setattr(inner, _ATTRIBUTE, {**getattr(inner, _ATTRIBUTE, {}), **self._given})
        return function


def split(function: Any, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """From a function and the options of its node: ours, and Ray's own."""
    labels = dict(options.get(_CARRIER) or {})
    carried = labels.pop(_KEY, None)
    rest = {name: value for name, value in options.items() if name != _CARRIER}
    if labels:
        rest[_CARRIER] = labels
    ours = {**getattr(function, _ATTRIBUTE, {}), **(carried.options if isinstance(carried, _Carried) else {})}
    return ours, rest


_MORE = ("after", "metadata", "task_id", "wait_until_committed")
"""Beside the options of any task. The last is of the authors' code, and needs nothing: a task that commits waits by itself."""


class options(Options):  # noqa: N801 - it reads as a function
    """Options of a task for :func:`exoflow.ray.run`: ``f.options(**exoflow.ray.options(deterministic=True, rollback=undo))``.

    Args:
        given: any of :class:`~exoflow.define.options.TaskOptions` but where it runs, which Ray's own options say. ``rollback`` and a
            function for ``on_unknown`` may be any functions that can be pickled. Furthermore ``task_id`` (the same as ``name``);
            ``metadata`` (a dict); ``after`` (nodes that must have finished before); ``wait_until_committed`` is accepted, and true
            without it.
    ``retries`` and ``retry_on`` count if given, else Ray's ``max_retries`` with ``retry_exceptions``. Raises InvalidOptionError.
    """

    def __init__(self, **given: Any) -> None:
        checked = {name: value for name, value in given.items() if name not in _MORE}
        for name in ("executor", "executor_options"):
            if name in checked:
                raise InvalidOptionError(message=f"'{name}' is not for functions of Ray; say where they run with Ray's own options")
        TaskOptions.make(None, checked)
        super().__init__(given)
