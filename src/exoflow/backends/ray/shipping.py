"""How a function gets to Ray's workers: by its place in a module where that is enough, else by value, once for each worker.

What a main script or a notebook defines is not to be imported elsewhere, so it goes by value, with the functions, classes and tasks that it
uses. On the worker they are known under the names that they have here.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import cloudpickle  # type: ignore[import-untyped]
import msgspec
import ray

from exoflow import codec
from exoflow.codec import Encoded
from exoflow.define import registry
from exoflow.define.options import TaskOptions
from exoflow.define.task import Task
from exoflow.errors import InvalidOptionError, PayloadUnreadableError
from exoflow.worker.places import at, place_of

_KEPT_MAX = 4096
_OURS = {"num_returns": 2, "max_retries": 0, "retry_exceptions": False}
"""Ray must not run a task again: only the engine knows whether it may."""
ACTOR, NAMESPACE = "actor", "namespace"
"""Options that name the actor on which a task runs."""
_REASONS = {
    "max_retries": "a task runs again when the engine says so; use retries",
    "retry_exceptions": "a task runs again when the engine says so; use retries and retry_on",
    "num_returns": "a task has one output; return a tuple",
    "name": "a task on Ray has the name of the task in its workflow",
}


class _Shipped(msgspec.Struct, frozen=True, array_like=True):
    module: str
    path: str
    pickled: bytes


# --- here ------------------------------------------------------------------------------------------------------------------------


def ship(function: Callable[..., Any]) -> bytes:
    """``function`` as :func:`open_function` takes it. Raises NotSerializable."""
    module, path = place_of(function)
    if path and module != "__main__":
        return msgspec.msgpack.encode(_Shipped(module, path, b""))
    return msgspec.msgpack.encode(_Shipped("", "", by_value(function).header))


def by_value(value: Any) -> Encoded:
    """``value`` pickled so that nothing of the main script is needed to load it. Raises NotSerializable."""
    try:
        return codec.encode_with(_Pickler, value)
    except Exception as error:
        codec.encode(value)  # which says what it is
        raise codec.NotSerializable("the value itself", type(value).__name__, str(error)) from error


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Tasks are pickled by name; one of the main script must take its function along."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Task) and value.function.__module__ == "__main__":
            return _adopt, (value.key, value.function, value.task_options)
        return super().reducer_override(value)


def check_options(task: str, options: dict[str, Any]) -> None:
    """Raise InvalidOptionError for what Ray or this executor does not take."""
    for name, reason in _REASONS.items():
        if name in options:
            raise InvalidOptionError(message=f"executor_options of task '{task}': '{name}' cannot be given, because {reason}")
    if ACTOR in options:
        others = sorted(options.keys() - {ACTOR, NAMESPACE})
        texts = all(isinstance(options.get(name, ""), str) for name in (ACTOR, NAMESPACE))
        if others or not texts or not options[ACTOR]:
            reason = f"{', '.join(others)}: the actor has its resources already" if others else "the name of an actor is a str"
            raise InvalidOptionError(message=f"executor_options of task '{task}': {reason}")
        return
    try:
        ray.remote(**options, **_OURS)(_nothing)
    except (TypeError, ValueError) as error:
        raise InvalidOptionError(message=f"executor_options of task '{task}': {error}") from None


def _nothing() -> NoReturn:
    raise NotImplementedError


def remote(function: Callable[..., Any], shipped: bytes, options: dict[str, Any]) -> Any:
    """The remote function of Ray that runs calls of ``function``; what it is given follows ``shipped`` in :func:`far_end.run`."""
    from exoflow.backends.ray import far_end

    def run(note: bytes, parcel: Any = None) -> Any:
        return far_end.run(shipped, note, parcel)

    run.__name__ = run.__qualname__ = getattr(function, "__name__", "task")
    return ray.remote(**options, **_OURS)(run)


def run_on_actor(instance: Any, shipped: bytes, note: bytes, parcel: Any = None) -> Any:
    """What ``__ray_call__`` of an actor is given."""
    from exoflow.backends.ray import far_end

    return far_end.run(shipped, note, parcel, instance)


# --- there -----------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=_KEPT_MAX)
def open_function(shipped: bytes) -> Callable[..., Any]:
    """The function. Raises PayloadUnreadableError where its module cannot be imported."""
    place = msgspec.msgpack.decode(shipped, type=_Shipped)
    if not place.pickled:
        try:
            return at(place.module, place.path)
        except (ImportError, AttributeError) as error:
            reason = f"{error}, on a worker of Ray; take the module there with a runtime_env, or install it on every node"
            raise PayloadUnreadableError(what=f"function {place.module}:{place.path}", reason=reason) from error
    function: Callable[..., Any] = codec.decode(Encoded(place.pickled))
    main = sys.modules["__main__"]
    for name, value in getattr(function, "__globals__", {}).items():
        if isinstance(value, type) and value.__module__ == "__main__" and not hasattr(main, name):
            setattr(main, name, value)  # so that what the function makes of it can be pickled by name
    return function


def _adopt(key: str, function: Callable[..., Any], options: TaskOptions) -> Task[..., Any]:
    """A task of the main script, under the name that it has there."""
    known = registry.find(key)
    task = known if isinstance(known, Task) and known.task_options == options else Task(function, options, key)
    if known is None:
        registry.register(key, task, defined_at=registry.location_of(function))
    return task
