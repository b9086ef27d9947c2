"""Finding functions again by name: in this process, in a worker, and after a crash.

A name in a journal is only ever looked up here. Importing the module that it names is all that is done to make it appear: its decorators
register what they decorate. No stored path is resolved attribute by attribute, so a journal cannot name ``os.system``.
"""

from __future__ import annotations

import importlib
import itertools
import runpy
import sys
from collections.abc import Callable
from typing import Any

from exoflow.errors import DuplicateRegistrationError, UnresumableTaskError

_entries: dict[str, tuple[str, Any]] = {}  # name -> (where it is defined, what)
_local = itertools.count(1)


def name_of(function: Callable[..., Any]) -> str:
    """``module:qualname``. Functions that no import could find (nested, lambda) get a number, so that two are never mixed up."""
    inner = getattr(function, "__func__", function)
    module = getattr(inner, "__module__", None) or type(inner).__module__
    qualname = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    name = f"{'__main__' if module == '__mp_main__' else module}:{qualname}"
    return f"{name}#{next(_local)}" if "<" in qualname else name


def importable(name: str) -> bool:
    """Whether another process can find it."""
    return "#" not in name


def location_of(function: Callable[..., Any]) -> str:
    """``file:line``, for people."""
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def register(name: str, entry: Any, *, defined_at: str, exclusive: bool = False) -> None:
    """Let ``name`` mean ``entry``. Defining the same function again (a reload, a notebook cell) replaces it; with ``exclusive``, another
    function under the same name raises DuplicateRegistrationError."""
    known = _entries.get(name)
    if exclusive and known is not None and known[0] != defined_at:
        raise DuplicateRegistrationError(name=name, first=known[0], second=defined_at)
    _entries[name] = (defined_at, entry)


def find(name: str, main: str | None = None) -> Any | None:
    """What ``name`` means, or None. Imports its module if need be (``__main__`` from the script ``main``)."""
    if name not in _entries:
        module = name.partition(":")[0]
        try:
            if module != "__main__":
                importlib.import_module(module)
            elif main is not None and "__mp_main__" not in sys.modules:
                _import_main(main)
        except ImportError:
            return None
    entry = _entries.get(name)
    return entry[1] if entry else None


def _import_main(path: str) -> None:
    """Import a script as multiprocessing's spawn does: under a name that does not trigger its ``if __name__ == "__main__"``."""
    module = type(sys)("__mp_main__")
    sys.modules["__mp_main__"] = module
    try:
        module.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    except OSError as error:
        del sys.modules["__mp_main__"]
        raise ImportError(str(error)) from error


def require_importable(name: str, function: Callable[..., Any]) -> None:
    """Raise UnresumableTaskError if a crashed workflow could not find ``function`` again."""
    if not importable(name):
        raise UnresumableTaskError(task=name.partition("#")[0].partition(":")[2], location=location_of(function))
