"""From a name to a running Executor. Other packages add theirs in the entry point group ``exoflow.executors``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from exoflow.errors import InvalidOptionError, MissingExtraError
from exoflow.executors.base import Executor

GROUP = "exoflow.executors"


def open_executor(name: str, **options: Any) -> Executor:
    """The executor called ``name``, made with ``options`` (see its class).

    Raises :class:`~exoflow.errors.InvalidOptionError` for a name that nobody offers, and for an option that it does not take.
    """
    make = _factory(name)
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise InvalidOptionError(message=f"executor '{name}' cannot be made with {sorted(options)}: {error}") from None
    return make(**options)


def _factory(name: str) -> Callable[..., Executor]:
    # The imports are here so that each executor costs only those who use it.
    if name == "inline":
        from exoflow.executors.inline import InlineExecutor

        return InlineExecutor
    if name == "loop":
        from exoflow.executors.loop import LoopExecutor

        return LoopExecutor
    if name == "process":
        from exoflow.executors.process_pool import ProcessExecutor

        return ProcessExecutor
    if name == "ray":
        try:
            from exoflow.backends.ray.executor import RayExecutor
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise MissingExtraError(feature="executor 'ray'", extra="ray") from None
        return RayExecutor
    if name == "thread":
        from exoflow.executors.threads import ThreadExecutor

        return ThreadExecutor
    from importlib.metadata import entry_points

    offered = entry_points(group=GROUP)
    if name in offered.names:
        return offered[name].load()  # type: ignore[no-any-return]
    known = ", ".join(repr(one) for one in ["inline", "loop", "process", "ray", "thread", *sorted(offered.names)])
    raise InvalidOptionError(message=f"there is no executor {name!r}; known are {known}")
