"""From what is typed, ``package.module:dag`` or ``path/to/file.py:dag`` and its arguments, to a DAG.

A file gets the module name under which another process, started in the same directory, finds it again: tasks are looked up by that name
when a crashed workflow is resumed.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from exoflow.errors import ExoflowError, UsageError

if TYPE_CHECKING:
    from exoflow.client.engine import Engine
    from exoflow.client.intake import Dag

_KEYWORD = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_SHOWN_MAX = 10


def import_from_here() -> None:
    """Let imports look into the working directory first, as ``python -m`` does."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)


def adopt_script(engine: Engine, *names: str) -> None:
    """Let the script that began one of these workflows be the main one of this process, as far as that is not known without it."""
    from exoflow.define.registry import adopt_main
    from exoflow.runtime.recover import script_of

    script = next(filter(None, (script_of(engine.store, name) for name in names)), None)
    if script is not None:
        adopt_main(script)


# --- modules -------------------------------------------------------------------------------------------------------------------


def find_module(name: str) -> ModuleType:
    """The module ``a.b`` or the file ``a/b.py``. Raises UsageError."""
    if name.endswith(".py") or os.sep in name:
        return _import_file(Path(name))
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(message=f"'{name:.200}' is neither a module (package.module) nor a file (path/to/file.py)")
    return _import(name, f"module '{name}'")


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(message=f"there is no file '{path}' (looked in {os.getcwd()})")
    path = path.resolve()
    name, folder = _module_name(path)
    for place in dict.fromkeys((str(folder), str(path.parent))):
        if place not in sys.path:
            sys.path.append(place)  # behind everything else: it must not hide installed packages
    module = _import(name, f"file '{path}' as module '{name}'")
    found = getattr(module, "__file__", None)
    if found is None or not Path(found).resolve().samefile(path):
        raise UsageError(
            message=f"file '{path}' would be module '{name}', but that name belongs to {found or 'a built-in module'}; rename the file"
        )
    return module


def _module_name(path: Path) -> tuple[str, Path]:
    """The name of the module in a file, and the folder in which imports must look for it: that of the outermost package it is in; the
    working directory, if it is below that; its own."""
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        folder = folder.parent
    here = Path.cwd().resolve()
    if folder == path.parent and path.is_relative_to(here):
        folder = here
    parts = path.relative_to(folder).with_suffix("").parts
    if not all(part.isidentifier() for part in parts):
        folder, parts = path.parent, (path.stem,)
    if not parts[-1].isidentifier():
        raise UsageError(message=f"'{path.name}' cannot be imported: '{path.stem}' is no name in Python; rename the file")
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts), folder


def _import(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ExoflowError as error:
        raise error.with_traceback(None) from None
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(message=f"there is no {what}: '{error.name}' is not found (looked in {os.getcwd()} and sys.path)") from error
        _refuse_import(what, error)
    except (Exception, SystemExit) as error:
        _refuse_import(what, error)


def _refuse_import(what: str, error: BaseException) -> NoReturn:
    raise UsageError(message=f"{what} cannot be imported: {_in_words(error)}") from error


def _in_words(error: BaseException) -> str:
    """What user code raised, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames and not isinstance(error, SyntaxError) else ""
    return f"{type(error).__name__}: {error}{where}"


# --- DAGs ----------------------------------------------------------------------------------------------------------------------


def find_dag(target: str) -> Dag:
    """The DAG, workflow or task that ``module:name`` means. Raises UsageError."""
    place, _, name = target.partition(":")
    if not place or not name:
        hint = _offer(place, find_module(place)) if place and not name else ""
        raise UsageError(message=f"'{target}' does not say which DAG; say module:name{hint}")
    module = find_module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(message=f"'{place}' has no '{name}'{_offer(place, module, name)}")
        found = getattr(found, part)
    if not is_dag(found):
        raise UsageError(
            message=f"'{target}' is {_kind(found)}, not a DAG (task.bind(...)), an @exoflow.workflow or an @exoflow.task"
            f"{_offer(place, module)}"
        )
    return found  # type: ignore[no-any-return]  # is_dag says so


def is_dag(value: object) -> bool:
    """Whether ``run`` takes it."""
    from exoflow.define.dag import Node
    from exoflow.define.task import Task
    from exoflow.define.workflow import Workflow

    return isinstance(value, (Node, Workflow, Task))


def dags_of(module: ModuleType) -> dict[str, Any]:
    """DAGs and workflows that a module defines, by name, without those that are part of another."""
    from exoflow.define.dag import Node, nodes_in
    from exoflow.define.workflow import Workflow

    found = {name: value for name, value in vars(module).items() if isinstance(value, (Node, Workflow)) and not name.startswith("_")}
    inner: set[Node] = set()
    waiting = [value for value in found.values() if isinstance(value, Node)]
    while waiting:
        node = waiting.pop()
        ups = {up for up in (*nodes_in(node.args, node.kwargs), *node.after) if isinstance(up, Node)} - inner
        inner |= ups
        waiting += ups
    return {name: value for name, value in found.items() if not isinstance(value, Node) or value not in inner}


def _offer(place: str, module: ModuleType, wanted: str = "") -> str:
    """What could have been meant."""
    names = [name for name, value in vars(module).items() if is_dag(value) and not name.startswith("_")]
    close = difflib.get_close_matches(wanted, names, 1)
    if close:
        return f"; did you mean {place}:{close[0]}?"
    listed = ", ".join(f"{place}:{name}" for name in names[:_SHOWN_MAX])
    return f"; there is {listed}{', …' if len(names) > _SHOWN_MAX else ''}" if names else "; it defines none"


def _kind(value: object) -> str:
    if inspect.isfunction(value):
        return "a plain function"
    return "a module" if inspect.ismodule(value) else f"of type {type(value).__name__}"


# --- arguments -----------------------------------------------------------------------------------------------------------------


def arguments(words: Sequence[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments: ``3``, ``'[1, 2]'``, ``text``, ``key=value``; each value JSON if it parses as that, else a
    string. Raises UsageError."""
    args, kwargs = [], dict[str, Any]()
    for word in words:
        keyword = _KEYWORD.fullmatch(word)
        if keyword is None:
            if kwargs:
                raise UsageError(message=f"positional argument '{word:.60}' follows key=value; put it in front")
            args.append(value_of(word))
        elif keyword[1] in kwargs:
            raise UsageError(message=f"argument '{keyword[1]}' is given twice")
        else:
            kwargs[keyword[1]] = value_of(keyword[2])
    return tuple(args), kwargs


def value_of(word: str) -> Any:
    """JSON if it parses as that, else the string itself."""
    try:
        return json.loads(word, parse_constant=_no_constant)
    except RecursionError:
        raise UsageError(message=f"argument '{word:.40}…' is nested too deeply") from None
    except ValueError:
        return word


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def bound(dag: Dag, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Dag, tuple[Any, ...], dict[str, Any]]:
    """The DAG with its arguments put in as far as can be, and those that are left for its InputNode. So no name of an argument collides
    with an option of the engine. Raises UsageError, also for what a workflow function raises while it builds its DAG."""
    from exoflow.client.engine import Engine
    from exoflow.define.dag import Node

    if isinstance(dag, Node):
        taken = kwargs.keys() & inspect.signature(Engine.run_async).parameters.keys()
        if taken:
            raise UsageError(
                message=f"an InputNode cannot be given '{min(taken)}' here, which means something to run(); rename that input, or make the "
                "DAG in an @exoflow.workflow function"
            )
        return dag, args, kwargs
    try:
        return dag.bind(*args, **kwargs), (), {}
    except ExoflowError as error:
        raise error.with_traceback(None) from error.__cause__
    except TypeError as error:
        _refuse_signature(dag, args, kwargs, error)
    except Exception as error:
        raise UsageError(message=f"{dag!r} failed while it built its DAG: {_in_words(error)}") from error


def _refuse_signature(dag: Any, args: tuple[Any, ...], kwargs: dict[str, Any], error: TypeError) -> NoReturn:
    """A TypeError: of arguments that do not fit, or of the function's own doing."""
    try:
        inspect.signature(dag.function).bind(*args, **kwargs)
    except TypeError as misfit:
        raise UsageError(message=f"arguments of '{dag.function.__name__}': {misfit}") from error
    raise UsageError(message=f"{dag!r} failed while it built its DAG: {_in_words(error)}") from error
