"""Ray's references as Refs: to objects, which never change, and to actors, which tasks may change.

The engine holds a reference of Ray as long as an output needs it; when it lets go, Ray counts, as always, who else has it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import ray
from ray import exceptions as rx
from ray.actor import ActorHandle

from exoflow.backends.ray import cluster
from exoflow.errors import InvalidOptionError, RefLostError
from exoflow.refs.base import causes, register
from exoflow.refs.values import beside

_DEATHS = (rx.WorkerCrashedError, rx.NodeDiedError, rx.OutOfMemoryError, rx.LocalRayletDiedError, rx.RayActorError)
"""What Ray raises for an object that was never made, because whoever was to make it is gone. It does not say which object."""
_FAILURES = (*_DEATHS, rx.ObjectLostError)
_LOOK_S = 1.0
"""So long may it take until Ray says of each object whether it is there; one that is still being made is not lost."""
_UNKNOWN = "this cluster of Ray does not know it: it is of another one, or of one that has ended"
_ACTOR = re.compile(r"Actor\((.*), ([0-9a-f]+)\)")
"""What Ray shows of a handle: the one public way to its id."""


class _Objects:
    """The adapter of ``ray.ObjectRef``."""

    kind = f"{__name__}:OBJECTS"
    mutable = False
    portable = False

    def id(self, ref: Any) -> str:
        return str(ref.hex())

    def get(self, ref: Any) -> Any:
        _require_connection(self, ref)
        try:
            return ray.get(ref)
        except rx.RayError as error:
            if is_failure_of_ray(error) or isinstance(error, rx.TaskCancelledError):
                raise RefLostError(kind=self.kind, ref=self.id(ref), reason=_first_line(error)) from error
            raise  # somebody's code has failed to make it
        except ValueError as error:
            raise RefLostError(kind=self.kind, ref=self.id(ref), reason=_UNKNOWN) from error

    def checkpoint(self, ref: Any, id: str) -> Future[Any]:  # noqa: A002
        return beside(lambda: self.get(ref), "ray-object")

    def restore(self, value: Any) -> Any:
        cluster.ensure()
        return ray.put(value)

    def lost(self, error: BaseException) -> tuple[str, ...]:
        if isinstance(error, RefLostError):
            return (error.ref,) if error.kind == self.kind else ()
        return (error.object_ref_hex,) if isinstance(error, rx.ObjectLostError) else ()

    def release(self, ref: Any) -> None:
        """Ray frees the object when nobody has a reference to it any more."""


class _Actors:
    """The adapter of handles of actors. Their class has two methods: ``checkpoint()`` gives the state, ``restore(state)`` takes the place
    of ``__init__`` in a new actor."""

    kind = f"{__name__}:ACTORS"
    mutable = True
    portable = False

    def id(self, ref: Any) -> str:
        found = _ACTOR.fullmatch(repr(ref))
        if found is None:
            raise InvalidOptionError(message=f"{ref!r} is no handle of an actor as this version of ExoFlow knows them")
        return found[2]

    def get(self, ref: Any) -> Any:
        return ref

    def checkpoint(self, ref: Any, id: str) -> Future[Any]:  # noqa: A002
        """The snapshot is taken when this returns, so that whatever calls the actor later comes after it."""
        lacking = [name for name in ("checkpoint", "restore") if not hasattr(ref, name)]
        if lacking:
            name = repr(ref).removeprefix("Actor(").partition(",")[0]
            raise InvalidOptionError(
                message=f"actor class {name} has no {' and no '.join(f'{each}()' for each in lacking)}, so it cannot be saved; "
                f"add both, or set checkpoint=False on the tasks that return such an actor (an argument of a workflow is always saved)"
            )
        _require_connection(self, ref)
        try:
            snapshot = ref.__ray_call__.options(max_task_retries=0, retry_exceptions=False).remote(_snapshot)
        except rx.RayError:
            raise
        except Exception as error:  # Ray has no type of its own for it
            raise RefLostError(kind=self.kind, ref=self.id(ref), reason=_UNKNOWN) from error
        ray.wait([snapshot], fetch_local=False)
        return beside(lambda: ray.get(snapshot), "ray-actor")

    def restore(self, value: Any) -> Any:
        cluster.ensure()
        options = value["options"]
        if options.get("name") is not None and _is_taken(options):
            del options["name"]  # the actor that had it is still there
        return ray.remote(**options)(_revived(value["class"])).remote(value["state"])

    def lost(self, error: BaseException) -> tuple[str, ...]:
        if isinstance(error, RefLostError):
            return (error.ref,) if error.kind == self.kind else ()
        if isinstance(error, rx.RayActorError) and error.actor_id and not error.actor_init_failed:
            return (error.actor_id,)
        return ()

    def release(self, ref: Any) -> None:
        """Ray ends the actor when nobody has a handle of it any more."""


def _require_connection(adapter: _Objects | _Actors, ref: Any) -> None:
    """Raise RefLostError where there is no cluster: Ray would start one, to say that it does not know ``ref``."""
    if not ray.is_initialized():
        raise RefLostError(kind=adapter.kind, ref=adapter.id(ref), reason="this process is not connected to Ray any more")


def _snapshot(actor: Any) -> dict[str, Any]:
    """On the actor: all that it takes to make it anew."""
    cls = next(each for each in type(actor).__mro__ if "__ray_call__" not in vars(each))  # Ray derives a class of its own
    here = ray.get_runtime_context()
    options: dict[str, Any] = {"num_cpus": 0}
    for name, amount in here.get_assigned_resources().items():
        if name in ("CPU", "GPU", "memory"):
            options[{"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}[name]] = amount
        elif not name.startswith("node:"):
            options.setdefault("resources", {})[name] = amount
    if here.get_actor_name():
        options |= {"name": here.get_actor_name(), "namespace": here.namespace}
    if here.runtime_env:
        options["runtime_env"] = dict(here.runtime_env)
    state = actor.checkpoint()
    if inspect.iscoroutine(state):
        state.close()
        raise InvalidOptionError(message=f"checkpoint() of actor class {cls.__qualname__} is async; make it a plain method")
    return {"class": cls, "options": options, "state": state}


def _revived(cls: type[Any]) -> type[Any]:
    def __init__(self: Any, state: Any) -> None:  # noqa: N807
        self.restore(state)

    if "__exoflow_revived__" in vars(cls):
        return cls
    return type(cls.__name__, (cls,), {"__init__": __init__, "__module__": cls.__module__, "__exoflow_revived__": True})


def _is_taken(options: dict[str, Any]) -> bool:
    try:
        ray.get_actor(options["name"], options["namespace"])
    except ValueError:
        return False
    return True


OBJECTS, ACTORS = _Objects(), _Actors()
NATIVE = (ray.ObjectRef, ActorHandle)
"""Types that mean the same in every process of the cluster."""
register(OBJECTS, ray.ObjectRef)
register(ACTORS, ActorHandle)


# --- which Ref is gone -----------------------------------------------------------------------------------------------------------


def losses_in(error: BaseException, refs: Sequence[Any]) -> list[RefLostError]:
    """What is gone, if ``error`` comes of that: what Ray names, and which of ``refs`` cannot be had. Ray does not name all of it: not what
    was to be made by a worker that died, nor what was to be made of what is gone."""
    found = {
        (adapter.kind, lost): RefLostError(kind=adapter.kind, ref=lost, reason=_first_line(each))
        for each in causes(error)
        for adapter in (OBJECTS, ACTORS)
        for lost in adapter.lost(each)
    }
    objects = [ref for ref in refs if isinstance(ref, ray.ObjectRef)]
    ready = ray.wait(objects, num_returns=len(objects), timeout=_LOOK_S, fetch_local=False)[0] if objects else []
    for ref in ready:
        try:
            OBJECTS.get(ref)
        except RefLostError as lost_one:
            found[lost_one.kind, lost_one.ref] = lost_one
        except rx.RayError:  # somebody's code has failed to make it
            continue
    return list(found.values())


def is_failure_of_ray(error: BaseException) -> bool:
    """Whether ``error``, or one of its causes, is of Ray and not of anybody's code."""
    return any(isinstance(each, _FAILURES) and not getattr(each, "actor_init_failed", False) for each in causes(error))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
