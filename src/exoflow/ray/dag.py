"""From a DAG of Ray to steps."""

from __future__ import annotations

import inspect
import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import ray
from ray.dag import DAGInputData, DAGNode, FunctionNode, InputAttributeNode, InputNode

from exoflow import codec
from exoflow.errors import ArgumentNotSerializableError
from exoflow.ray.options import OPTIONS_OF_RAY, POLLS, split
from exoflow.ray.parcel import Hole, Parcel, Whole
from exoflow.ray.steps import CAUGHT, IN_ENGINE, PASSED_ON, PLAIN, Body, Piece, Step, placed

_RETRIES_OF_RAY = 3
_RETRIES_MAX = 1_000_000
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")
_NOT_FOR_ENGINE = ("after", "catch_exceptions", "checkpoint", "metadata", "name", "rollback", "task_id", "wait_until_committed", POLLS)
"""What of our own options is not handed to the engine as it is."""


class _Inputs(DAGInputData):  # type: ignore[misc]
    """The inputs of a DAG. Where its InputNode stands alone, that is the input itself, if there is but one."""

    def alone(self) -> Any:
        return self._args[0] if len(self._args) == 1 and not self._kwargs else self

    def __reduce__(self) -> Any:
        return _the_input, (self._args, self._kwargs)


def _the_input(args: list[Any], kwargs: dict[str, Any]) -> Any:
    return _Inputs(*args, **kwargs).alone()


def translated(
    dag: Any,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    caller: Step | None = None,
    sealed: bool = False,
    about: dict[str, Any] | None = None,
) -> list[Piece]:
    """The steps of ``dag`` with its inputs put in, the last one its root. ``caller`` is the step that returned it; ``sealed`` and ``about``
    are as in :class:`~exoflow.ray.steps.Step`.

    Raises TypeError for what is no DAG, and for actors; ValueError, IndexError, KeyError for options and inputs that mean nothing;
    ArgumentNotSerializableError."""
    if not isinstance(dag, DAGNode):
        raise TypeError(f"a DAG made with .bind() was expected, not {type(dag).__name__}")
    if not isinstance(dag, FunctionNode):
        raise TypeError(f"the last node of a workflow must be a function, not {type(dag).__name__}")
    return _Translation(dag.get_stable_uuid(), _Inputs(*args, **(kwargs or {})), caller, sealed=sealed, about=about).of(dag)


def executed(dag: Any) -> Any:
    """An ObjectRef of what comes of ``dag`` as plain Ray tasks, without a workflow."""

    def start(node: Any) -> Any:
        if not isinstance(node, FunctionNode):
            raise TypeError(f"a DAG of functions was expected, {type(node).__name__} is none")
        function = node._body  # noqa: SLF001 - Ray has no other way to ask a node for its function
        remote = ray.remote(function)
        options = split(function, node.get_options())[1]
        return (remote.options(**options) if options else remote).remote(*node.get_args(), **node.get_kwargs())

    return dag.apply_recursive(start)


class _Translation:
    """Of one DAG. Nodes come in the order in which Ray visits them, each behind those that it reads."""

    def __init__(self, root: str, inputs: _Inputs, caller: Step | None, *, sealed: bool, about: dict[str, Any] | None) -> None:
        self._root, self._inputs, self._caller, self._sealed, self._about = root, inputs, caller, sealed, about
        self._pieces: list[Piece] = []
        self._known: dict[str, Any] = {}
        self._bodies: dict[int, Body] = {}
        self._names: set[str] = set()

    def of(self, dag: Any) -> list[Piece]:
        self._walk(dag)
        return self._pieces

    def _walk(self, node: Any) -> Any:
        return node.apply_recursive(lambda each: self._visit(each))  # noqa: PLW0108 - Ray writes into the function, not into a method

    def _visit(self, node: Any) -> Any:
        uuid = node.get_stable_uuid()
        if uuid not in self._known:
            self._known[uuid] = self._replaced(node, uuid)
        return self._known[uuid]

    def _replaced(self, node: Any, uuid: str) -> Any:
        if isinstance(node, FunctionNode):
            return self._step(node, uuid)
        if isinstance(node, InputAttributeNode):
            return self._inputs[node.key]
        if isinstance(node, InputNode):
            return self._inputs
        raise TypeError(
            f"workflows are made of functions; {type(node).__name__} is an actor or something else that nobody could go on with"
        )

    def _step(self, node: Any, uuid: str) -> Hole:
        function = node._body  # noqa: SLF001 - Ray has no other way to ask a node for its function
        given, options = split(function, node.get_options())
        if options.get("num_returns") not in (None, 1):
            raise ValueError("a task of a workflow has one output; return a tuple")
        body = self._body(function)
        name = given.get("task_id") or given.get("name") or f"{function.__module__}.{_slug(function.__qualname__)}"
        parcel = self._parcel(name, function, node.get_args(), node.get_kwargs())
        reads = parcel.reads
        after = [self._after(each) for each in given.get("after", ())]
        gives = self._gives(given, is_root=uuid == self._root)
        step = Step(
            id=name,
            name=self._named(name),
            body=body,
            takes=tuple(self._pieces[index][0].gives for index in reads),
            gives=gives,
            options=self._task_options(given, options, gives),
            shown=_shown(given, options),
            metadata=given.get("metadata") or {},
            sealed=self._sealed,
            rollback=self._side(given.get("rollback")),
            on_unknown=self._side(given.get("on_unknown")) if callable(given.get("on_unknown")) else None,
            about=self._about if uuid == self._root else None,
        )
        self._pieces.append((step, parcel, reads, tuple(index for index in after if index not in reads)))
        return Hole(len(self._pieces) - 1)

    def _body(self, function: Callable[..., Any]) -> Body:
        known = self._bodies.get(id(function))
        if known is None:
            try:
                known = self._bodies[id(function)] = Body(function)
            except codec.NotSerializable as error:
                raise _unserializable(function.__qualname__, "the function", error) from error
        return known

    def _side(self, function: Any) -> Body | None:
        return None if function is None else self._body(getattr(function, "_function", function))

    def _parcel(self, name: str, function: Callable[..., Any], args: Iterable[Any], kwargs: dict[str, Any]) -> Parcel:
        args, kwargs = tuple(map(_whole, args)), {key: _whole(value) for key, value in kwargs.items()}
        inspect.signature(function).bind(*args, **kwargs)
        try:
            return Parcel((args, kwargs))
        except codec.NotSerializable as error:
            raise _unserializable(name, "its arguments", error) from error

    def _after(self, node: Any) -> int:
        hole = self._walk(node)
        if not isinstance(hole, Hole):
            raise TypeError(f"after= takes nodes of functions, not {type(node).__name__}")
        return hole.index

    def _gives(self, given: dict[str, Any], *, is_root: bool) -> str:
        own = given.get("catch_exceptions")
        if own:
            return CAUGHT
        above = PLAIN if self._caller is None else self._caller.gives
        if is_root and own is None:
            return above  # its output is its caller's
        return PLAIN if above == PLAIN else PASSED_ON

    def _task_options(self, given: dict[str, Any], options: dict[str, Any], gives: str) -> dict[str, Any]:
        """Options for the engine: those of Ray, of Ray Workflows, and whatever else was given."""
        again = options.get("retry_exceptions", False)
        retries = options.get("max_retries", _RETRIES_OF_RAY)
        checkpoint = given.get("checkpoint")
        if checkpoint is None:
            checkpoint = True if self._caller is None else self._caller.options["checkpoint"]
        made = {
            "checkpoint": checkpoint,
            "retries": (_RETRIES_MAX if retries == -1 else retries) if again else 0,
            "backoff": 0.0,
            "jitter": 0.0,
            "retry_on": tuple(again) if isinstance(again, (list, tuple)) else (),
            "catch_exceptions": gives != PLAIN,
            **(IN_ENGINE if given.get(POLLS) else placed(options)),
        }
        more = {key: value for key, value in given.items() if key not in _NOT_FOR_ENGINE}
        if callable(more.get("on_unknown")):
            del more["on_unknown"]
        return {**made, **more}

    def _named(self, name: str) -> str:
        base = _NOT_IN_A_NAME.sub("_", name).replace("..", "_")[:150].lstrip("._-") or "task"
        number, made = 1, base
        while made in self._names:
            number += 1
            made = f"{base}_{number}"
        self._names.add(made)
        return made


def _whole(value: Any) -> Any:
    if isinstance(value, Hole):
        return Whole(value.index)
    return value.alone() if isinstance(value, _Inputs) else value


def _shown(given: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options of a node, as Ray Workflows showed them; what is not JSON, in words."""
    said = {name: value for name, value in given.items() if name != POLLS}
    shown = {"_metadata": {OPTIONS_OF_RAY: said}, **options} if said else options
    return json.loads(json.dumps(shown, default=repr))  # type: ignore[no-any-return]


def _slug(qualname: str) -> str:
    """``qualname`` as Ray puts it into ids: ``f.<locals>.g`` is ``f.locals.g``."""
    plain = unicodedata.normalize("NFKD", qualname).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w.\-]", "", plain).strip())


def _unserializable(name: str, what: str, error: codec.NotSerializable) -> ArgumentNotSerializableError:
    return ArgumentNotSerializableError(task=name, path=f"{what}, {error.path}", type_name=error.type_name, reason=error.reason)
