"""Finding functions again by name: in this process, in a worker, and after a crash.

A name in a journal is only ever looked up here. Importing the module that it names is all that is done to make it appear: its decorators
register what they decorate. No stored path is resolved attribute by attribute, so a journal cannot name ``os.system``.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import runpy
import sys
import types
from collections.abc import Callable
from typing import Any

from exoflow import fingerprints
from exoflow.errors import DuplicateRegistrationError, UnresumableTaskError

_entries: dict[str, tuple[str, Any]] = {}  # name -> (where it is defined, what)
_troubles: dict[str, str] = {}  # module -> why it could not be imported
_local = itertools.count(1)
_importing_main = False


def name_of(function: Callable[..., Any]) -> str:
    """``module:qualname``. Functions that no import could find (nested, lambda, callable objects) get a number that no other function of
    any process has, so that two are never mixed up."""
    inner = getattr(function, "__func__", function)
    module = getattr(inner, "__module__", None) or type(inner).__module__
    qualname = getattr(inner, "__qualname__", None) or f"<{type(inner).__qualname__}>"
    name = f"{'__main__' if module == '__mp_main__' else module}:{qualname}"
    return f"{name}#{os.getpid()}.{next(_local)}" if "<" in qualname else name


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


def find(name: str, main: str | None = None, home: str = "") -> Any | None:
    """What ``name`` means, or None (:func:`trouble` may know more). Imports its module if need be: ``home`` where the name does not say
    it, ``__main__`` from the script ``main``."""
    if name not in _entries:
        module = _module(name, home)
        try:
            if module not in ("", "__main__"):
                importlib.import_module(module)
            elif module and main is not None and "__mp_main__" not in sys.modules and not _is_running(main):
                _import_main(main)
        except Exception as error:  # a module is code of the user, and may raise anything
            _troubles[module] = f"{type(error).__name__}: {error}"
    entry = _entries.get(name)
    return entry[1] if entry else None


def trouble(name: str, home: str = "") -> str:
    """Why the module of ``name`` could not be imported; empty if it could."""
    return _troubles.get(_module(name, home), "")


def home_of(function: Callable[..., Any]) -> str:
    """The module to import for a task whose name does not say it."""
    module = getattr(function, "__module__", None) or ""
    return "__main__" if module == "__mp_main__" else module


def is_same(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether two functions do the same: one, or the same definition carried out twice (a reload, a notebook cell)."""
    if one is other:
        return True
    plain = all(getattr(f, "__closure__", None) is None and not hasattr(f, "__wrapped__") for f in (one, other))
    return plain and fingerprints.code_fingerprint(one) == fingerprints.code_fingerprint(other)


def importing_main() -> bool:
    """Whether a script is being imported for its tasks right now: nothing of it must run."""
    return _importing_main


def _module(name: str, home: str) -> str:
    module, colon, _ = name.partition(":")
    return module if colon else home


def _is_running(script: str) -> bool:
    """Whether ``script`` is this process's own: then everything that it defines is known, and running it again would do harm."""
    own = getattr(sys.modules.get("__main__"), "__file__", None)
    return own is not None and os.path.realpath(own) == os.path.realpath(script)


def _import_main(path: str) -> None:
    """Import a script as multiprocessing's spawn does: under a name that does not trigger its ``if __name__ == "__main__"``."""
    global _importing_main  # noqa: PLW0603 - it is a fact about the process
    module = type(sys)("__mp_main__")
    sys.modules["__mp_main__"] = module
    _importing_main = True
    try:
        module.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    except Exception:
        del sys.modules["__mp_main__"]
        raise
    finally:
        _importing_main = False


def adopt_main(script: str) -> None:
    """Let ``script`` be this process's main script: for the command line, which has none of its own, so that values and functions of
    ``__main__`` are found. Nothing happens if it has adopted one already; :func:`trouble` knows why a script could not be imported."""
    if "__mp_main__" in sys.modules or _is_running(script):
        return
    folder = os.path.dirname(os.path.realpath(script))
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as Python does for a script
    try:
        _import_main(script)
    except Exception as error:  # it is code of the user, and may raise anything
        _troubles["__main__"] = f"{type(error).__name__}: {error}"
        return
    module = sys.modules["__main__"] = sys.modules["__mp_main__"]
    claim_for_main(vars(module))


def claim_for_main(namespace: Any) -> None:
    """Let what a script defines belong to ``__main__``, as where it runs, so that what is pickled here can be loaded there."""
    for found in list(namespace.values()):
        value = fingerprints.function_in(found)  # a task holds one
        if isinstance(value, (type, types.FunctionType)) and value.__module__ == "__mp_main__":
            with contextlib.suppress(AttributeError, TypeError):  # a metaclass may forbid it
                value.__module__ = "__main__"
                if isinstance(value, type):
                    claim_for_main(vars(value))


def require_importable(name: str, function: Callable[..., Any]) -> None:
    """Raise UnresumableTaskError if a crashed workflow could not find ``function`` again."""
    if not importable(name):
        raise UnresumableTaskError(task=name.partition("#")[0].partition(":")[2], location=location_of(function))
