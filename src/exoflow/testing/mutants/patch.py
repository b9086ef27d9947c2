"""Changing the engine while it is imported."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path

from exoflow.testing.mutants.mutant import Mutant

OURS = ("exoflow", "tests")
"""Packages that are imported anew when a mutant is applied: whatever may hold on to something of the engine."""


def changed_source(mutant: Mutant) -> str:
    """The source of the mutant's module with the bug in it. Raises ValueError if the text to be replaced does not stand there exactly
    once: the engine has changed, and the mutant must be written anew."""
    source = _path(mutant.module).read_text("utf-8")
    if (count := source.count(mutant.old)) != 1:
        raise ValueError(f"mutant {mutant.name}: its text stands {count} times in {mutant.module}, not once: {mutant.old!r}")
    return source.replace(mutant.old, mutant.new)


def _path(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module {module}")
    return Path(spec.origin)


def apply(mutant: Mutant) -> None:
    """Forget all that was imported of the engine; from now on it is imported with the bug. For a process that does nothing else."""
    source, path = changed_source(mutant), str(_path(mutant.module))
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Finder(mutant.module, path, source))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, path: str, source: str) -> None:
        self._module, self._loader = module, _Loader(module, path, source)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        return importlib.util.spec_from_file_location(fullname, self._loader.path, loader=self._loader)


class _Loader(importlib.machinery.SourceFileLoader):
    """Like the loader of files, but with another text, and neither reading nor writing compiled code."""

    def __init__(self, module: str, path: str, source: str) -> None:
        super().__init__(module, path)
        self._source = source

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self._source.encode(), self.path)
