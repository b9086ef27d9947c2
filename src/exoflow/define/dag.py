"""Nodes: calls of tasks that have not run. They know their arguments, which may hold other nodes, and what must come before them."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self

import msgspec

from exoflow.errors import ForeignNodeError, SignatureError, WrongContextError

if TYPE_CHECKING:
    from exoflow.define.task import Task


_NO_KWARGS: dict[str, Any] = {}
"""One for all nodes: a large DAG keeps those of each of its tasks."""


class Node:
    """A task on its arguments. Made by ``task.bind(...)``; run by ``exoflow.run(node)``; given to other tasks as an argument."""

    __slots__ = ("__weakref__", "after", "args", "kwargs", "label", "task")

    def __init__(self, task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], label: str = "") -> None:
        self.task, self.args, self.kwargs = task, args, kwargs or _NO_KWARGS
        self.label = label or task.task_options.name or task.label
        self.after: list[Node] | tuple[()] = ()

    def come_after(self, *earlier: Node) -> None:
        """Start only when these have finished."""
        self.after = self.after or []
        self.after.extend(earlier)

    def relabelled(self, label: str) -> Self:
        """The same node, with another base for its automatic name."""
        self.label = label
        return self

    def __rshift__(self, later: Node) -> Node:
        """``a >> b``: b starts only when a has finished. Returns b."""
        if not isinstance(later, Node):
            return NotImplemented
        later.come_after(self)
        return later

    def __lshift__(self, earlier: Node) -> Node:
        """``b << a``: the same. Returns b."""
        if not isinstance(earlier, Node):
            return NotImplemented
        self.come_after(earlier)
        return self

    def __rrshift__(self, earlier: list[Node] | tuple[Node, ...]) -> Node:
        """``[a, b] >> c``."""
        for node in earlier:
            if not isinstance(node, Node):
                return NotImplemented
        self.come_after(*earlier)
        return self

    def __repr__(self) -> str:
        return f"<exoflow.Node {self.label}>"

    def __reduce__(self) -> NoReturn:
        raise ForeignNodeError(
            message=f"node '{self.label}' is part of a DAG, not a value: return it from a task by itself or directly inside a list, tuple "
            "or dict, and the task becomes a sub-workflow"
        )

    def _unknown(self, *_: object) -> NoReturn:
        raise WrongContextError(
            message=f"the output of task '{self.label}' is not known while the DAG is being built; pass the node to a task and decide there"
        )

    __bool__ = __iter__ = __len__ = __getitem__ = __contains__ = __int__ = __float__ = __call__ = _unknown


class InputNode:
    """Stands for the arguments of ``run``: ``InputNode()`` is the only one, ``inp[0]`` the first, ``inp["x"]`` or ``inp.x`` the keyword."""

    __slots__ = ("_key",)
    _key: int | str | None

    def __init__(self, _key: int | str | None = None) -> None:
        object.__setattr__(self, "_key", _key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getitem__(self, key: int | str) -> InputNode:
        if self._key is not None:
            raise SignatureError(
                message=f"InputNode takes one index or keyword, got {key!r:.40} on {self!r}; take the value apart in a task"
            )
        return InputNode(key)

    def __getattr__(self, name: str) -> InputNode:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> NoReturn:
        raise WrongContextError(message="the inputs of a workflow are not known while the DAG is being built")

    def __repr__(self) -> str:
        return "InputNode()" if self._key is None else f"InputNode()[{self._key!r}]"

    def value(self, args: tuple[Any, ...], kwargs: dict[str, Any], used: set[int | str]) -> Any:
        """What it stands for; its place or keyword is added to ``used``. Raises SignatureError if ``run`` was not given that."""
        key = self._key
        if key is None and len(args) == 1 and not kwargs:
            key = 0
        if isinstance(key, int) and -len(args) <= key < len(args):
            used.add(key % len(args))
            return args[key]
        if isinstance(key, str) and key in kwargs:
            used.add(key)
            return kwargs[key]
        given = ", ".join([f"{len(args)} positional"] * bool(args) + sorted(kwargs)) or "no arguments"
        raise SignatureError(
            message=f"the DAG uses {self!r}, but run() was given {given}; use InputNode() alone only for a single argument"
        )


class Slot(msgspec.Struct, frozen=True, gc=False):
    """The place of an output in the arguments of a task: the ``index``-th of what it reads. Unknown to the garbage collector, which so lets
    go of arguments that hold nothing else but numbers and text."""

    index: int

    def __reduce__(self) -> tuple[Any, ...]:
        return Slot, (self.index,)


@functools.lru_cache(maxsize=64)
def slot(index: int) -> Slot:
    """The slot with this index. Most tasks read few outputs, so theirs are shared."""
    return Slot(index)


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def substitute(args: tuple[Any, ...], kwargs: dict[str, Any], replace: Callable[[Any], Any], kinds: tuple[type, ...]) -> Arguments:
    """The arguments of a call with each instance of ``kinds`` in them replaced, however deep in lists, tuples, dicts and dataclasses. What
    holds none is returned as it is, not copied; what is held twice is replaced once. Raises RecursionError if nested too deeply."""
    made: dict[int, Any] = {}
    return _substitute(args, replace, kinds, made), _substitute(kwargs, replace, kinds, made) if kwargs else kwargs


def _substitute(value: Any, replace: Callable[[Any], Any], kinds: tuple[type, ...], made: dict[int, Any]) -> Any:
    """``made`` holds what has become of each container, by id; of one whose inside is being visited, the container itself."""
    items = _held(value)
    if items is None:
        return value
    known = made.setdefault(id(value), made)
    if known is not made:
        return known
    made[id(value)] = value
    new = [
        replace(item) if isinstance(item, kinds) else item if type(item) in _LEAVES else _substitute(item, replace, kinds, made)
        for item in items
    ]
    if not all(map(operator.is_, new, items)):
        made[id(value)] = _with(value, new)
    return made[id(value)]


def _held(value: Any) -> list[Any] | None:
    """What is in a container that may hold a node; None if it is no such container."""
    cls = type(value)
    if cls is list or cls is tuple:
        items = list(value)
    elif cls is dict:
        items = list(value.values())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        items = list(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [getattr(value, field.name) for field in dataclasses.fields(value) if field.init]
    else:
        return None
    return None if _LEAVES.issuperset(map(type, items)) else items


def _with(value: Any, items: list[Any]) -> Any:
    """A container like ``value`` that holds ``items`` instead."""
    cls = type(value)
    if cls is list or cls is tuple:
        return cls(items)
    if cls is dict:
        return dict(zip(value, items, strict=True))
    if isinstance(value, tuple):
        return cls(*items)
    names = [field.name for field in dataclasses.fields(value) if field.init]
    return dataclasses.replace(value, **dict(zip(names, items, strict=True)))


_LEAVES = frozenset({int, float, str, bytes, bool, type(None), complex})


def nodes_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Node | InputNode]:
    """Every node in the arguments of a call, in order, each as often as it occurs."""
    if not kwargs and _LEAVES.issuperset(map(type, args)):
        return ()
    found: list[Node | InputNode] = []

    def note(node: Node | InputNode) -> Node | InputNode:
        found.append(node)
        return node

    substitute(args, kwargs, note, (Node, InputNode))
    return found
