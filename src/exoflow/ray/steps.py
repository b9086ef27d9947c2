"""A node of a Ray DAG as ExoFlow runs it: one task for all functions, which is given the function, pickled, among its arguments.

So a workflow needs nothing of the script that made it: functions of ``__main__``, closures and lambdas go on after a crash, as they were
when they were submitted.
"""

from __future__ import annotations

import dataclasses
import inspect
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from ray.dag import DAGNode
from ray.exceptions import RayTaskError

from exoflow import codec
from exoflow.define.dag import Node
from exoflow.define.task import task
from exoflow.errors import ResultNotSerializableError, TaskError
from exoflow.fingerprints import code_fingerprint
from exoflow.ray.parcel import Parcel, given

PLAIN, CAUGHT, PASSED_ON = "plain", "caught", "passed on"
"""How the output of a step comes: as it is; as ``(value, error)``, because it catches; the same, for whoever called it to see."""

EXECUTOR = "ray"
"""What runs the functions."""
IN_ENGINE: dict[str, Any] = {"executor": "loop", "executor_options": {}}
"""Task options of what waits, which needs no worker for that."""
_NOT_FOR_EXECUTOR = frozenset({"max_retries", "retry_exceptions", "num_returns", "name", "max_calls"})
_FUNCTIONS_MAX = 1000
_functions: dict[bytes, Callable[..., Any]] = {}


class Body:
    """A function, pickled. For the engine, two are equal if they have one name and do the same."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.code = code_fingerprint(function)
        self.parcel = Parcel(function)

    def open(self) -> Callable[..., Any]:
        """The function; the same object each time in one process."""
        digest = self.parcel.digest()
        function = _functions.get(digest)
        if function is None:
            if len(_functions) >= _FUNCTIONS_MAX:
                _functions.clear()
            function = _functions[digest] = self.parcel.open()
        return function

    def __exoflow_meaning__(self) -> Any:
        return self.name, self.code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What a call of a function is, apart from its arguments.

    ``id`` is the name that the user gave it, or that Ray would, not numbered yet; ``name`` the engine's, unique in its DAG. ``takes`` says
    how each output that it reads comes, ``gives`` how its own does. ``options`` are the task options for the engine, ``shown`` those that
    the user gave, as Ray shows them. ``about`` is what the user says of the whole workflow, on its last step. The output of one that is
    ``sealed`` is a parcel, so that the engine needs none of the modules of which users' values are made.
    """

    id: str
    name: str
    body: Body
    takes: tuple[str, ...]
    gives: str
    options: dict[str, Any]
    shown: dict[str, Any]
    metadata: dict[str, Any]
    sealed: bool
    rollback: Body | None = None
    on_unknown: Body | None = None
    about: dict[str, Any] | None = None


Piece = tuple[Step, Parcel, tuple[int, ...], tuple[int, ...]]
"""A step, its arguments, and which pieces of its DAG it reads, and comes after."""


def nodes(pieces: Sequence[Piece]) -> Node:
    """The DAG of ``pieces``, of which the last one is the root."""
    made: list[Node] = []
    for step, parcel, reads, after in pieces:
        options = dict(step.options)
        if step.rollback is not None:
            options["rollback"] = undo
        if step.on_unknown is not None:
            options["on_unknown"] = ask
        runs = call if options["executor"] == EXECUTOR else wait
        node = runs.options(name=step.name, **options).bind(step, parcel, [made[index] for index in reads])
        if after:
            node.come_after(*(made[index] for index in after))
        made.append(node)
    return made[-1]


def placed(options: dict[str, Any]) -> dict[str, Any]:
    """Task options that have it run where ``options`` of Ray say."""
    return {"executor": EXECUTOR, "executor_options": {k: v for k, v in options.items() if k not in _NOT_FOR_EXECUTOR}}


@task
def call(step: Step, parcel: Parcel, inputs: list[Any]) -> Any:
    """Call the function of a step. A DAG of Ray that it returns becomes a sub-workflow."""
    from exoflow.ray.dag import translated

    args, kwargs = _arguments(step, parcel, inputs)
    output = step.body.open()(*args, **kwargs)
    if isinstance(output, DAGNode):
        return nodes(translated(output, caller=step, sealed=step.sealed))
    return _sealed(step, output) if step.sealed else output


@task
async def wait(step: Step, parcel: Parcel, inputs: list[Any]) -> Any:
    """Await the function of a step, in the engine's own process."""
    args, kwargs = _arguments(step, parcel, inputs)
    output = await step.body.open()(*args, **kwargs)
    return _sealed(step, output) if step.sealed else output


def _sealed(step: Step, output: Any) -> Parcel:
    try:
        return Parcel(output)
    except codec.NotSerializable as error:  # the function has done its work, so it must not run again for that
        raise ResultNotSerializableError(task=step.id, path=error.path, type_name=error.type_name, reason=error.reason) from None


def undo(step: Step, parcel: Parcel, inputs: list[Any]) -> None:
    """Call the rollback of a step with the arguments that it takes."""
    assert step.rollback is not None
    _call_share(step, step.rollback, parcel, inputs)


def ask(step: Step, parcel: Parcel, inputs: list[Any]) -> Any:
    """Ask the step's ``on_unknown`` function what happened."""
    assert step.on_unknown is not None
    return _call_share(step, step.on_unknown, parcel, inputs)


def _arguments(step: Step, parcel: Parcel, inputs: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    return given(parcel, [_taken(value, how) for value, how in zip(inputs, step.takes, strict=True)])


def _call_share(step: Step, body: Body, parcel: Parcel, inputs: list[Any]) -> Any:
    args, kwargs = _arguments(step, parcel, inputs)
    bound = inspect.signature(step.body.open()).bind(*args, **kwargs)
    bound.apply_defaults()
    function = body.open()
    return function(**{name: bound.arguments[name] for name in inspect.signature(function).parameters if name in bound.arguments})


def _taken(value: Any, how: str) -> Any:
    output, error = (value, None) if how == PLAIN else value
    output = output.open() if isinstance(output, Parcel) else output
    if how == PLAIN:
        return output
    if how == CAUGHT:
        return output, None if error is None else as_of_ray(error)
    if error is not None:
        raise error
    return output


def as_of_ray(error: BaseException) -> BaseException:
    """An exception of a function, as Ray hands it on: of its own class and a RayTaskError, with the original as ``cause``."""
    if isinstance(error, (RayTaskError, TaskError)) or not isinstance(error, Exception):
        return error
    story = "".join(traceback.format_exception(error))
    return RayTaskError(type(error).__name__, story, error).as_instanceof_cause()  # type: ignore[no-any-return]
