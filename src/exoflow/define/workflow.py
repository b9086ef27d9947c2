"""``@exoflow.workflow``: an ordinary-looking function whose calls to tasks build a DAG."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from exoflow.define.dag import Node
from exoflow.define.plan import as_node
from exoflow.define.task import building, signature
from exoflow.errors import InvalidOptionError, SignatureError

P = ParamSpec("P")
R = TypeVar("R")


class Workflow(Generic[P, R]):
    """Calling it calls the function, tasks and all, without an engine; ``bind`` builds the DAG; ``exoflow.run(it, *args)`` does both.

    The function runs once, when the DAG is built: it may use ordinary control flow over its arguments, but the outputs of tasks are
    nodes, whose values are not known yet. It may return a node, a list, tuple or dict holding nodes, or a plain value.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def bind(self, /, *args: Any, **kwargs: Any) -> Node:
        """The DAG for these arguments. Raises SignatureError if they do not fit."""
        try:
            signature(self.function).bind(*args, **kwargs)
        except TypeError as error:
            raise SignatureError(message=f"workflow '{self.function.__qualname__}': {error}") from None
        token = building.set(True)
        try:
            output = self.function(*args, **kwargs)
        finally:
            building.reset(token)
        return as_node(output)

    def __repr__(self) -> str:
        return f"<exoflow.Workflow {self.function.__qualname__}>"


def workflow(function: Callable[P, R]) -> Workflow[P, R]:
    """Make a function a workflow. Inside it, calling a task binds it. Raises InvalidOptionError."""
    if not inspect.isroutine(function):
        raise InvalidOptionError(message=f"@exoflow.workflow is for functions, got {function!r:.60}")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidOptionError(
            message=f"@exoflow.workflow '{function.__qualname__}' must be a plain function: it builds the DAG and waits for nothing; "
            "its tasks may be async"
        )
    return Workflow(function)
