"""From nodes to a plan: what the core is told (the graph) and what the runtime keeps (functions' names and arguments)."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any

import msgspec

from exoflow import codec, fingerprints
from exoflow.core import checks
from exoflow.core.spec.graph import Graph, TaskSpec, ordered
from exoflow.define import registry
from exoflow.define.dag import InputNode, Node, Slot, nodes_in, slot, substitute
from exoflow.define.options import TaskOptions
from exoflow.define.task import Task, task
from exoflow.errors import (
    ArgumentNotSerializableError,
    DuplicateRegistrationError,
    DuplicateTaskNameError,
    ForeignNodeError,
    SignatureError,
    UnresumableTaskError,
)

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One task's call: the name of the task, its arguments with a Slot where an output goes, and what goes with it. ``is_elsewhere``: the
    executor's process only asks a function for it that is somewhere else."""

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    executor: str
    rollback: str = ""
    on_unknown: str = ""
    catch: bool = False
    options: dict[str, Any] = {}
    is_elsewhere: bool = False


class Plan(msgspec.Struct, frozen=True, array_like=True):
    """A DAG, ready to be saved. ``calls`` by task id; ``code`` holds each function's fingerprint by task name; ``main`` is the script that
    ``__main__`` stands for; ``homes`` holds the module of each task whose name does not say it."""

    graph: Graph
    calls: dict[str, Call]
    code: dict[str, str]
    main: str | None = None
    homes: dict[str, str] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        specs, calls = _columns(_SPEC, self.graph.tasks), _columns(_CALL, self.calls.values())
        return _Pickled, (specs, self.graph.root, list(self.calls), calls, self.code, self.main, self.homes)

    def meaning(self) -> str:
        """Fingerprint of the definition and the arguments, without the code."""
        calls = {
            name: (call.task, call.args, call.kwargs, call.executor, call.rollback, call.on_unknown) for name, call in self.calls.items()
        }
        return fingerprints.fingerprint((msgspec.msgpack.encode(self.graph), calls))


_SPEC, _CALL = ([attrgetter(name) for name in cls.__struct_fields__] for cls in (TaskSpec, Call))
_Columns = list[list[Any]]


def _columns(fields: list[attrgetter[Any]], rows: Iterable[Any]) -> _Columns:
    """What each field holds in each of ``rows``. By C alone, and without an object for each row, which the collector would walk."""
    return list(map(list, map(map, fields, repeat(rows))))


class _Pickled:
    """How a plan is pickled: in columns, which takes two thirds of the time of a pickle for each of its objects. A class, since nothing
    else is called for a sketch."""

    def __new__(  # type: ignore[misc]
        cls, specs: _Columns, root: str, names: list[str], calls: _Columns, code: dict[str, str], main: str | None, homes: dict[str, str]
    ) -> Plan:
        graph = Graph(tuple(map(TaskSpec, *specs)), root)
        return Plan(graph, dict(zip(names, map(Call, *calls), strict=True)), code, main, homes)


def make_plan(
    root: Node, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, *, durable: bool = False, whole: bool = True
) -> Plan:
    """The plan of everything that leads to ``root``, with the inputs put in. Of the tasks that left their checkpoint open (``"auto"``),
    those are saved that the commit rule needs; if this is not the ``whole`` workflow, those that it could need.

    Raises CycleError, DuplicateTaskNameError, SignatureError, ForeignNodeError, DuplicateRegistrationError, and, if ``durable``,
    UnresumableTaskError.
    """
    named = kwargs or {}
    used: set[int | str] = set()
    plan = _plan(root, lambda inp: inp.value(args, named, used), durable=durable, whole=whole)
    extra = [f"argument {place}" for place in range(len(args)) if place not in used] + [repr(key) for key in named if key not in used]
    if extra:
        has = "no other InputNode" if used else "no InputNode"
        raise SignatureError(message=f"run() was given {', '.join(extra)}, which the DAG does not use: it has {has}")
    return plan


def plan_of(root: Node) -> Plan:
    """The plan of everything that leads to ``root``, whatever the inputs will be: with an InputNode where one goes."""
    return _plan(root, lambda inp: inp, durable=False, whole=True)


def graph_of(root: Node) -> Graph:
    """The graph of everything that leads to ``root``, whatever the inputs will be."""
    return plan_of(root).graph


def _plan(root: Node, fill: Callable[[InputNode], Any], *, durable: bool, whole: bool) -> Plan:
    nodes = _collect(root)
    names = _name(nodes)
    specs, calls, auto = [], {}, []
    code: dict[str, str] = {}
    homes: dict[str, str] = {}
    looked_at: set[Task[..., Any]] = set()
    for node, held in nodes.items():
        bound, name = node.task, names[node]
        options = bound.task_options
        args, kwargs, reads = _filled(node, held, fill, names) if held else (node.args, node.kwargs, ())
        if bound not in looked_at:
            looked_at.add(bound)
            _require_registered(bound)
            if durable:
                _require_importable(bound)
            if bound.key not in code:
                code[bound.key] = bound.code.fingerprint()
                if ":" not in bound.key:
                    homes[bound.key] = registry.home_of(bound.function)
        if durable and bound is fan_out:
            _require_importable(args[0])
        if bound.check is not None:
            bound.check(name, args, kwargs)
        if options.checkpoint == "auto":
            auto.append(name)
        calls[name] = Call(
            bound.key,
            args,
            kwargs,
            bound.executor,
            bound.rollback_key,
            bound.on_unknown_key,
            options.catch_exceptions,
            options.executor_options,
            bound.check is not None,
        )
        after = _after(node, names, reads) if node.after else ()
        timeout_s = float(options.timeout) if options.timeout is not None else None
        specs.append(TaskSpec(name, reads, after, bound.annotations, bound.retry, timeout_s, options.catch_exceptions))
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    graph = ordered(specs, names[root])
    if auto:
        graph = _decide(graph, auto, whole=whole)
    return Plan(graph, calls, code, main, homes)


def _after(node: Node, names: dict[Node, str], reads: tuple[str, ...]) -> tuple[str, ...]:
    read = set(reads)
    return tuple(name for name in dict.fromkeys(names[up] for up in node.after) if name not in read)


def _filled(
    node: Node, held: Sequence[Node | InputNode], fill: Callable[[InputNode], Any], names: dict[Node, str]
) -> tuple[tuple[Any, ...], dict[str, Any], tuple[str, ...]]:
    """The arguments of a node that holds others, with slots for their outputs, and which tasks fill the slots."""
    reads: dict[Node, Slot] = {}

    def place(found: Node) -> Slot:
        if found not in names:
            raise ForeignNodeError(message=f"node '{found.label}' was given to run() as an input; pass it to a task's bind() instead")
        return reads.setdefault(found, slot(len(reads)))

    args, kwargs = node.args, node.kwargs
    if any(isinstance(each, InputNode) for each in held):
        args, kwargs = substitute(args, kwargs, fill, (InputNode,))
    args, kwargs = substitute(args, kwargs, place, (Node,))
    return args, kwargs, tuple(names[up] for up in reads)


def _decide(graph: Graph, auto: list[str], *, whole: bool) -> Graph:
    if whole:
        return checks.repair(graph, only=auto)[0]
    return checks.with_checkpoints(graph, [spec.id for spec in graph.tasks if spec.id in auto and not spec.annotations.deterministic])


def _require_importable(bound: Task[..., Any]) -> None:
    registry.require_importable(bound.key, bound.function)
    for name in (bound.rollback_key, bound.on_unknown_key):
        if not registry.importable(name):
            raise UnresumableTaskError(task=name.partition("#")[0].partition(":")[2], location="its definition")


def _require_registered(bound: Task[..., Any]) -> None:
    """The function that will be found under the name of a task must be the task's."""
    found = registry.find(bound.key)
    if isinstance(found, Task) and not registry.is_same(found.function, bound.function):
        first, second = registry.location_of(bound.function), registry.location_of(found.function)
        raise DuplicateRegistrationError(name=bound.key, first=first, second=second)


def _collect(root: Node) -> dict[Node, Sequence[Node | InputNode]]:
    """All nodes that lead to ``root``, each behind those it was given, in the order in which they appear; and what each holds."""
    order: dict[Node, Sequence[Node | InputNode]] = {}
    seen: set[Node] = set()
    stack: list[tuple[Node, Sequence[Node | InputNode] | None]] = [(root, None)]
    while stack:
        node, held = stack.pop()
        if held is not None:
            order[node] = held
        elif node not in seen:
            seen.add(node)
            try:
                held = nodes_in(node.args, node.kwargs)
            except RecursionError:
                reason = "it is nested too deeply"
                raise ArgumentNotSerializableError(task=node.label, path="args", type_name="?", reason=reason) from None
            if not held and not node.after:
                order[node] = held
                continue
            stack.append((node, held))
            stack += [(up, None) for up in (*reversed(node.after), *reversed(held)) if isinstance(up, Node) and up not in seen]
    return order


def _name(nodes: Iterable[Node]) -> dict[Node, str]:
    """Explicit names as given; automatic ones numbered in the order of appearance: the same in every process and run."""
    names: dict[Node, str] = {}
    taken: dict[str, Node] = {}
    for node in nodes:
        explicit = _explicit_name(node) if node.task.task_options.name is not None else None
        if explicit is None:
            continue
        other = taken.setdefault(explicit, node)
        if other is not node:
            where = [registry.location_of(each.task.function) for each in (other, node)]
            raise DuplicateTaskNameError(name=explicit, first=where[0], second=where[1])
        names[node] = explicit
    counts: dict[str, int] = {}
    bases: dict[str, str] = {}
    for node in nodes:
        if node in names:
            continue
        base = bases.get(node.label) or bases.setdefault(node.label, _NOT_IN_A_NAME.sub("_", node.label)[:150])
        while True:
            number = counts[base] = counts.get(base, 0) + 1
            name = base if number == 1 else f"{base}_{number}"
            if name not in taken:
                break
        taken[name] = node
        names[node] = name
    return names


def _explicit_name(node: Node) -> str | None:
    """The name given with ``.options(name=…)`` (the decorator's name is only a base for numbering)."""
    name = node.task.task_options.name
    registered = registry.find(node.task.key) if registry.importable(node.task.key) else None
    return None if isinstance(registered, Task) and registered.task_options.name == name else name


def encode_plan(plan: Plan) -> codec.Encoded:
    """The plan as bytes. Raises ArgumentNotSerializableError naming the task and the path to what cannot be saved."""
    try:
        return codec.encode(plan)
    except codec.NotSerializable as whole:
        for name, call in plan.calls.items():
            for where, value in (
                *((f"args[{i}]", arg) for i, arg in enumerate(call.args)),
                *((f"args.{k}", v) for k, v in call.kwargs.items()),
            ):
                try:
                    codec.encode(value)
                except codec.NotSerializable as error:
                    path = where if error.path.startswith("the value") else where + error.path
                    raise ArgumentNotSerializableError(task=name, path=path, type_name=error.type_name, reason=error.reason) from error
        raise ArgumentNotSerializableError(task="?", path=whole.path, type_name=whole.type_name, reason=whole.reason) from whole


def as_node(output: Any) -> Node:
    """What a workflow function returned, as one node."""
    return output if isinstance(output, Node) else Node(collect, (output,), {}, label="collect")


def find_dag(output: Any) -> Plan | None:
    """The plan of the DAG that a task returned, or None if it returned a plain value. A DAG is a node, or a list, tuple or dict that
    directly holds one."""
    if isinstance(output, Node):
        return make_plan(output, whole=False)
    if type(output) in (list, tuple, dict) and any(
        isinstance(item, Node) for item in (output.values() if isinstance(output, dict) else output)
    ):
        return make_plan(as_node(output), whole=False)
    return None


def find_task(key: str, changes: dict[str, Any], home: str = "") -> Task[..., Any]:
    """Unpickling of a Task: by name. Raises UnresumableTaskError if there is none of that name."""
    found = registry.find(key, home=home)
    if not isinstance(found, Task):
        raise UnresumableTaskError(task=key, location="an unknown place")
    return Task(found.function, TaskOptions.make(found.task_options, changes), key) if changes else found


@task(deterministic=True, can_rollback=True, checkpoint=False, executor="inline")
def collect(value: Any) -> Any:
    """Wait for all nodes in ``value``; the engine puts their outputs in."""
    return value


@task(deterministic=True, can_rollback=True, checkpoint=False, executor="inline")
def fan_out(each: Task[..., Any], items: Iterable[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``each.map(items, …)``: one task for each item, as a sub-workflow."""
    label = each.task_options.name or each.label
    numbered = each.options(name=None)  # there are many, so a name that was given can only be the base of theirs
    return [numbered.bind(item, *args, **kwargs).relabelled(label) for item in items] or collect.bind([])
