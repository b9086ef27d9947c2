"""DAGs of Ray's remote functions on ExoFlow: :func:`run` and :func:`options` here, Ray Workflows in :mod:`exoflow.ray.workflow`."""

from __future__ import annotations

from typing import Any

from exoflow.errors import MissingExtraError

try:
    import ray as _ray  # noqa: F401 - to say at once what is missing
except ModuleNotFoundError as error:
    raise MissingExtraError(feature="exoflow.ray", extra="ray") from error

from exoflow.client.default import default_engine
from exoflow.client.engine import Engine
from exoflow.define.dag import Node
from exoflow.ray.dag import translated
from exoflow.ray.options import options
from exoflow.ray.steps import nodes
from exoflow.runtime.run import WorkflowFuture


def as_node(dag: Any, /, *args: Any, **kwargs: Any) -> Node:
    """A DAG made of remote functions with ``.bind``, as a node of ExoFlow, with ``args`` and ``kwargs`` in its InputNode: for whatever
    takes one, such as ``Engine.run``, ``exoflow.check``, or the arguments of another task.

    Raises TypeError, ValueError, IndexError, KeyError for what is wrong with it, ArgumentNotSerializableError."""
    return nodes(translated(dag, args, kwargs))


def run(dag: Any, /, *args: Any, name: str | None = None, engine: Engine | None = None, **kwargs: Any) -> Any:
    """Run a DAG made of remote functions with ``.bind`` to its end and return the result.

    ``args`` and ``kwargs`` are for its InputNode. As :func:`exoflow.run` otherwise: the same ``name``, DAG and arguments again waits for
    it, goes on after a crash, or gives the result at once. The engine is in this process; by default it is that of :func:`exoflow.run`.
    """
    return (engine or default_engine()).run(as_node(dag, *args, **kwargs), name=name)


def run_async(
    dag: Any, /, *args: Any, name: str | None = None, engine: Engine | None = None, how: dict[str, Any] | None = None, **kwargs: Any
) -> WorkflowFuture:
    """:func:`run` without waiting for the end. ``how`` holds options of :meth:`Engine.run_async`, such as ``{"mode": "auto"}``."""
    return (engine or default_engine()).run_async(as_node(dag, *args, **kwargs), name=name, **(how or {}))


__all__ = ["as_node", "options", "run", "run_async"]
