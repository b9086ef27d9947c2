"""A function that runs elsewhere, as a task: its arguments become JSON, and the answer becomes the output.

What a :class:`Remote` has to tell apart is the whole point. It returns the answer, or raises

* :class:`~exoflow.errors.FunctionError`: it ran, and failed;
* :class:`~exoflow.errors.FunctionUnavailable`: it did not run, and may later;
* :class:`~exoflow.errors.FunctionRefusedError`: it did not run, and never will;
* :class:`~exoflow.errors.UnknownOutcomeError`: it may have run. When in doubt, this one.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Sequence
from types import FrameType
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

from exoflow.codec import identities
from exoflow.define import registry
from exoflow.define.dag import Slot
from exoflow.define.options import TaskOptions
from exoflow.define.task import Task
from exoflow.errors import (
    ArgumentNotJsonError,
    ArgumentsTooLargeError,
    FunctionUnavailable,
    InvalidOptionError,
    ResultNotSerializableError,
    SignatureError,
)
from exoflow.worker.context import inside_task

TRIES_UNAVAILABLE = 9
"""How often a call is tried that never reached the function, unless the task says otherwise; about four minutes with the usual back-off."""
_WHOLE, _EACH = "whole_event", "arguments"
_FREE = inspect.Signature(
    [
        inspect.Parameter(_WHOLE, inspect.Parameter.POSITIONAL_ONLY, default=None),
        inspect.Parameter(_EACH, inspect.Parameter.VAR_KEYWORD),
    ]
)


class Remote(Protocol):
    """A function elsewhere. ``name`` is for people; None for ``limit_bytes`` means that nobody knows how large a request may be."""

    @property
    def name(self) -> str: ...

    @property
    def limit_bytes(self) -> int | None: ...

    def call(self, payload: bytes, told: dict[str, Any] | None) -> bytes:
        """Run it once, on JSON, and give its JSON. ``told`` is for deduplication. See the top of this module for what is raised."""


class Invoke:
    """The function of the task: an object, so that a new version of this code does not pass for a change of the user's."""

    def __init__(self, remote: Remote, module: str, qualname: str, signature: inspect.Signature) -> None:
        self._remote = remote
        self.__module__, self.__qualname__, self.__name__ = module, qualname, remote.name
        self.__signature__ = signature
        self.__doc__ = f"Calls {remote.name}."

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        context = inside_task()
        event = _event(self.__signature__, args, kwargs)
        payload = _encode(self._remote, context.task_id if context else self.__name__, event)
        told: dict[str, Any] | None = None
        if context is not None:
            told = {
                "idempotency_key": context.idempotency_key,
                "attempt": context.attempt,
                "epoch": context.epoch,
                "workflow": context.workflow_id,
                "task": context.task_id,
            }
        answer = self._remote.call(payload, told)
        try:
            return json.loads(answer, object_hook=_with_refs) if answer else None
        except ValueError as error:
            text = f"{self._remote.name} answered with what is not JSON ({error}): {answer[:60]!r}"
            raise ResultNotSerializableError(message=text) from None

    def __exoflow_check__(self, task: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called when a DAG is made ready. Raises SignatureError, ArgumentNotJsonError, ArgumentsTooLargeError as far as that can be known;
        an output that is not there yet is a Slot."""
        event = _event(self.__signature__, args, kwargs)
        if not _require_json(task, event, may_wait=True):
            _encode(self._remote, task, event)


def _event(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the function gets: the arguments by name, or, if there is but one without a name, that."""
    given = signature.bind(*args, **kwargs).arguments
    if signature != _FREE:  # equal, not the same, where it came from another process
        return given
    whole, each = given.get(_WHOLE), given.get(_EACH, {})
    if whole is None:
        return each
    if each:
        raise SignatureError(message=f"a function takes one value, or arguments by name, not both: {', '.join(each)}")
    return whole


def _encode(remote: Remote, task: str, event: Any) -> bytes:
    _require_json(task, event, may_wait=False)
    try:
        payload = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_json).encode()
    except UnicodeEncodeError as error:
        raise ArgumentNotJsonError(task=task, path="a text", type_name="str", reason=str(error)) from None
    if remote.limit_bytes is not None and len(payload) > remote.limit_bytes:
        raise ArgumentsTooLargeError(
            what=f"arguments of task '{task}' for {remote.name}", size_bytes=len(payload), limit_bytes=remote.limit_bytes
        )
    return payload


def _require_json(task: str, event: Any, *, may_wait: bool) -> bool:
    """Whether ``event`` holds a Slot. Raises ArgumentNotJsonError, which names the place."""
    waits = False
    stack = [("", event, 0)]
    while stack:
        path, value, depth = stack.pop()
        if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            continue
        reason = "it is not made of dict, list, str, int, float, bool, None and BucketRef"
        if type(value) in identities and hasattr(value, "address"):
            continue
        if may_wait and isinstance(value, Slot):
            waits = True
            continue
        if depth > _DEPTH_MAX:
            reason = "it is nested too deeply, or holds itself"
        elif isinstance(value, (list, tuple)):
            stack += [(f"{path}[{index}]", item, depth + 1) for index, item in enumerate(value)]
            continue
        elif isinstance(value, dict):
            odd = next((key for key in value if not isinstance(key, str)), None)
            if odd is None and None not in value:
                stack += [(f"{path}.{key}" if path else key, item, depth + 1) for key, item in value.items()]
                continue
            reason = f"the key {odd!r:.40} is not a str"
        elif isinstance(value, float):
            reason = f"JSON has no {value}"
        raise ArgumentNotJsonError(task=task, path=path or "the value", type_name=type(value).__name__, reason=reason)
    return waits


_DEPTH_MAX = 500
_REF = "exoflow:ref"


def _as_json(ref: Any) -> dict[str, Any]:
    """A Ref to an object in a bucket, as a function elsewhere gets it."""
    return {_REF: ref.address()}


def _with_refs(found: dict[str, Any]) -> Any:
    """A JSON object, or the Ref that it stands for."""
    address = found.get(_REF)
    if len(found) != 1 or not isinstance(address, dict) or address.keys() != {"url", "path"}:
        return found
    from exoflow.refs.buckets import BucketRef  # not at the top: it needs an extra

    return BucketRef(address["url"], address["path"])


def remote_task(remote: Remote, kind: str, parameters: Sequence[str] | None, options: dict[str, Any], caller: FrameType) -> Task[..., Any]:
    """The task. ``caller`` is where the user made it: another process finds it again there, if that is the top level of a module. Raises
    InvalidOptionError, DuplicateRegistrationError."""
    signature = _FREE
    if parameters is not None:
        try:
            signature = inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in parameters])
        except (TypeError, ValueError) as error:
            raise InvalidOptionError(message=f"parameters must be names of parameters, got {parameters!r:.60}: {error}") from None
    if not options.keys() & {"retries", "retry_on"}:
        options = {**options, "retries": TRIES_UNAVAILABLE - 1, "retry_on": FunctionUnavailable}
    checked = TaskOptions.make(None, options)
    module = str(caller.f_globals.get("__name__", "__main__"))
    local = "<locals>." if caller.f_code.co_flags & inspect.CO_OPTIMIZED else ""
    function = Invoke(remote, module, f"{local}{kind}.{remote.name}", signature)
    key = checked.name or registry.name_of(function)
    made: Task[..., Any] = Task(function, checked, key)
    registry.register(key, made, defined_at=f"{caller.f_code.co_filename}:{caller.f_lineno}", exclusive=True)
    return made


def web_address(option: str, url: str) -> SplitResult:
    """The parts of ``url``. Raises InvalidOptionError."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and not parts.fragment and parts.username is None and parts.port != 0
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidOptionError(message=f"{option} {url!r:.80} is no URL: {error}") from None
    if not good or any(character <= " " or character > "~" for character in url):
        raise InvalidOptionError(message=f"{option} must be like https://host/path, without user or fragment, got {url!r:.80}")
    return parts


def require_seconds(**given: Any) -> None:
    """Raise InvalidOptionError unless each is a number of seconds."""
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise InvalidOptionError(message=f"{name} must be a number of seconds > 0, got {value!r:.60}")
