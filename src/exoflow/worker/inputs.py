"""Whether a function leaves its arguments as they were: tasks of one process share their values (setting ``check_inputs``)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from exoflow import codec, fingerprints
from exoflow.errors import InputMutatedError


class Inputs:
    """The arguments of one call, and a fingerprint of each from before it."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._arguments = inspect.signature(function).bind(*args, **kwargs).arguments
        self._before = {name: _fingerprint(value) for name, value in self._arguments.items()}

    def require_unchanged(self, task: str) -> None:
        """Raise InputMutatedError naming the first argument that is not what it was. Arguments without a fingerprint pass."""
        for name, value in self._arguments.items():
            if _fingerprint(value) != self._before[name]:
                raise InputMutatedError(task=task, argument=name)


def _fingerprint(value: Any) -> str | None:
    try:
        return fingerprints.fingerprint(value)
    except codec.NotSerializable:
        return None
