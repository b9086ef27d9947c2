"""From what a caller gives to a plan that is safe to run; and what is wrong with it, if it is not."""

from __future__ import annotations

import math
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

import msgspec

from exoflow import codec, fingerprints
from exoflow.core import checks
from exoflow.core.checks import Finding
from exoflow.core.journal import KeptRef, Stored
from exoflow.define import registry
from exoflow.define.dag import Node
from exoflow.define.plan import Plan, encode_plan, graph_of, make_plan
from exoflow.define.task import Task
from exoflow.define.workflow import Workflow
from exoflow.errors import InvalidOptionError, UnsafeWorkflowError, WrongContextError
from exoflow.runtime.refs import PLAN, holder_of, when_all
from exoflow.runtime.threads import Threads
from exoflow.runtime.values import Values, store_bytes, store_ref
from exoflow.settings import Settings
from exoflow.worker.context import inside_worker

Dag = Node | Workflow[Any, Any] | Task[Any, Any]
Mode = Literal["strict", "auto"]
OnExisting = Literal["attach", "fail"]
OnFailure = Literal["keep", "rollback"]

_MANY_TASKS = 10_000


def check(dag: Dag, /, *args: Any, **kwargs: Any) -> list[Finding]:
    """What could break exactly-once if a crash came at the wrong moment: code, task, the path from the nondeterministic ancestor, and the
    cheapest repair, tried and found to work. Empty for a safe DAG. Needs no engine and writes nothing."""
    if isinstance(dag, Node) and not args and not kwargs:
        return checks.check(graph_of(dag))
    root, inputs, named = root_of(dag, args, kwargs)
    return checks.check(make_plan(root, inputs, named).graph)


def digest_of(plan: codec.Encoded) -> str:
    """Tells definitions with their arguments apart, by their bytes; and, of Refs, by what they stand for."""
    return codec.digest((*codec.frame(plan), *(codec.identities[type(ref)](ref).encode() for ref in plan.refs))).hex()


def saved(plan: Plan, values: Values, settings: Settings, threads: Threads) -> tuple[Stored, bytes | None, str]:
    """Where the plan is saved, what of it goes into the journal, and its digest. Its Refs are saved first, and held by ``values``. Raises
    ArgumentNotSerializableError, PayloadTooLargeError, CheckpointFailedError, RefLostError, and what settling its Refs raises."""
    codec.settle(plan)
    encoded = encode_plan(plan)
    kept: tuple[KeptRef, ...] = ()
    if encoded.refs:
        values.arrive(PLAN, 0, encoded, save=True)
        values.keep(PLAN, 0)
        waiting = values.refs.snapshots(PLAN, 0, encoded.refs)
        if waiting:
            ended: Future[None] = Future()
            when_all(waiting, lambda: ended.set_result(None))
            threads.wait(ended)
        put = partial(store_ref, values.store, holder_of(PLAN), limit_bytes=settings.payload_limit)
        kept = values.refs.save(PLAN, 0, encoded.refs, put)
    stored, payload = store_bytes(
        values.store,
        encoded,
        inline_bytes=settings.inline_bytes,
        limit_bytes=settings.payload_limit,
        what=f"the definition and arguments of '{values.workflow_id}'",
        refs=kept,
    )
    return stored, payload, digest_of(encoded) if kept else stored.digest.hex()


def give_back(plan: Plan) -> None:
    """Return to the system what it took to begin with a large plan. glibc would keep it for the next one: 700 bytes for each task that
    then waits, a third of all that the task holds. To return them takes 0.05 µs."""
    if len(plan.calls) >= _MANY_TASKS:
        import ctypes  # not at the top: 10 ms that only those pay who have large plans

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def root_of(dag: Dag, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Node, tuple[Any, ...], dict[str, Any]]:
    """The node to run, and the inputs that are left for its InputNode."""
    if isinstance(dag, (Workflow, Task)):
        return dag.bind(*args, **kwargs), (), {}
    if not isinstance(dag, Node):
        raise InvalidOptionError(
            message=f"run() takes a DAG (task.bind(...)), a workflow or a task, got {type(dag).__name__} ({dag!r:.60})"
        )
    return dag, args, kwargs


def made_safe(plan: Plan, mode: Mode) -> tuple[Plan, tuple[str, ...]]:
    """``plan``, if no crash can break it; in auto mode with the missing checkpoints on, and for which tasks. Raises UnsafeWorkflowError."""
    findings = checks.check(plan.graph)
    if not findings:
        return plan, ()
    graph, turned_on = checks.repair(plan.graph) if mode == "auto" else (plan.graph, ())
    if not turned_on:
        raise UnsafeWorkflowError(findings=findings)
    return msgspec.structs.replace(plan, graph=graph), turned_on


def one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidOptionError(message=f"{name} must be one of {', '.join(map(repr, known))}, got {value!r:.60}")


def seconds(name: str, value: object, *, none: bool = False) -> None:
    """Refuse a span of time that is none. With ``none``, None (for ever) is allowed."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and 0 <= value < math.inf) and not (none and value is None):  # type: ignore[operator]
        wanted = "a finite number of seconds from 0" + ", or None" * none
        raise InvalidOptionError(message=f"{name} must be {wanted}, got {value!r:.60}")


def what_changed(before: Plan, now: Plan) -> str:
    gone, new = before.calls.keys() - now.calls.keys(), now.calls.keys() - before.calls.keys()
    if gone or new:
        return f"tasks gone: {', '.join(sorted(gone)[:5]) or 'none'}; new: {', '.join(sorted(new)[:5]) or 'none'}"
    if before.graph != now.graph:
        differ = [a.id for a, b in zip(before.graph.tasks, now.graph.tasks, strict=True) if a != b]
        return f"edges or annotations of {', '.join(differ[:5])}"
    differ = [name for name in now.calls if fingerprints.fingerprint(_plain(now, name)) != fingerprints.fingerprint(_plain(before, name))]
    return f"arguments of {', '.join(differ[:5])}"


def _plain(plan: Plan, name: str) -> tuple[Any, ...]:
    call = plan.calls[name]
    return call.task, call.args, call.kwargs, call.executor, call.rollback, call.on_unknown


def refuse_import() -> None:
    """Raise WrongContextError if a script is being imported for its tasks: by a worker, or to go on with a workflow."""
    if inside_worker() or registry.importing_main():
        raise WrongContextError(
            message="exoflow.run was called while another process imports your script; put it under: if __name__ == '__main__':"
        )
