"""Where a function is, so that another process finds it: its module, and the path to it there."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

WRAPPERS_MAX = 20
"""How many decorators may lie around a function that is found by its name; objects that have every attribute (mocks) have no end."""


def place_of(function: Callable[..., Any]) -> tuple[str, str]:
    """The module of ``function`` and the path to it there, or two empty strings if another process could not find it.

    A decorator may have put an object in the function's place; then the path goes on through its ``function`` or ``__wrapped__``.
    """
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str):
        return "", ""
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    for _ in range(WRAPPERS_MAX):
        if found is function:
            return module, path
        name = "__wrapped__" if isinstance(found, FunctionType) or not hasattr(found, "function") else "function"
        path, found = f"{path}.{name}", getattr(found, name, None)
    return "", ""


@functools.cache
def at(module: str, path: str) -> Callable[..., Any]:
    """The function that is there. Raises whatever importing the module raises, and AttributeError."""
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found  # type: ignore[no-any-return]
