"""The repository as data for the rules: files with their syntax trees, and what each file uses under its full name."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

PACKAGE = "src/exoflow/"
CODE_FOLDERS = ("src", "tests", "examples", "benchmarks", "tools")


@dataclass(frozen=True, eq=False)
class File:
    """A Python file. ``name`` is its path from the root of the repository, with slashes."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.name)

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def inside(self) -> str:
        """The path inside the package (``store/base.py``)."""
        return self.name.removeprefix(PACKAGE)

    @property
    def module(self) -> str:
        """The dotted name under which it is imported; a package's ``__init__`` is the package."""
        parts = self.name.removeprefix("src/").removesuffix(".py").split("/")
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        return self.module if self.name.endswith("__init__.py") else self.module.rpartition(".")[0]

    @cached_property
    def imports(self) -> list[tuple[str, int]]:
        """Every import, wherever it stands, as (full name, line): ``from a import b`` gives ``a.b``."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(alias.name, node.lineno) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found += [(f"{self._absolute(node)}.{alias.name}", node.lineno) for alias in node.names]
        return found

    @cached_property
    def aliases(self) -> dict[str, str]:
        """What the names bound by imports stand for: ``{"now": "time.time"}`` after ``from time import time as now``."""
        known: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                known |= {alias.asname: alias.name for alias in node.names if alias.asname}
            elif isinstance(node, ast.ImportFrom):
                known |= {alias.asname or alias.name: f"{self._absolute(node)}.{alias.name}" for alias in node.names}
        return known

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])

    def uses(self) -> Iterator[tuple[str, int]]:
        """Every name that is read, as (full name, line), with aliases undone. A use need not be a call: handing a function on is one."""
        inner: set[int] = set()
        for node in ast.walk(self.tree):  # outer nodes come first, so the longest chain of attributes wins
            if not isinstance(node, (ast.Name, ast.Attribute)) or id(node) in inner or not isinstance(node.ctx, ast.Load):
                continue
            parts: list[str] = []
            at: ast.expr = node
            while isinstance(at, ast.Attribute):
                parts.append(at.attr)
                at = at.value
                inner.add(id(at))
            if isinstance(at, ast.Name):
                yield ".".join([self.aliases.get(at.id, at.id), *reversed(parts)]), node.lineno


class House:
    """The repository below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def code(self) -> list[File]:
        """All Python files of the project."""
        paths = sorted(path for folder in CODE_FOLDERS for path in (self.root / folder).rglob("*.py"))
        return [File(path.relative_to(self.root).as_posix(), path.read_text(encoding="utf-8")) for path in paths]

    @cached_property
    def src(self) -> list[File]:
        """The Python files of the package."""
        return [file for file in self.code if file.name.startswith(PACKAGE)]

    @cached_property
    def core(self) -> list[File]:
        return [file for file in self.src if file.inside.startswith("core/")]

    @cached_property
    def project(self) -> dict[str, Any]:
        """pyproject.toml, or nothing."""
        path = self.root / "pyproject.toml"
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def requirements(self) -> Iterator[tuple[str, str]]:
        """Every direct dependency as (where it is stated, requirement): ``("runtime", "apsw>=3.51.3")``."""
        project = self.project.get("project", {})
        yield from (("runtime", text) for text in project.get("dependencies", []))
        for extra, texts in project.get("optional-dependencies", {}).items():
            yield from ((extra, text) for text in texts)
        for group, texts in self.project.get("dependency-groups", {}).items():
            yield from ((group, text) for text in texts)
        yield from (("build", text) for text in self.project.get("build-system", {}).get("requires", []))

    def tracked(self) -> Iterator[tuple[str, str]]:
        """Every text file that git knows (or, where there is no git, every file that is not hidden) as (name, text)."""
        try:
            listed = subprocess.run(["git", "ls-files", "-z"], cwd=self.root, capture_output=True, text=True, check=True).stdout.split("\0")
            names = [name for name in listed if name]
        except (OSError, subprocess.CalledProcessError):
            paths = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
            names = [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]
        for name in names:
            path = self.root / name
            if path.is_file() and not path.is_symlink():
                raw = path.read_bytes()
                if b"\0" not in raw:
                    yield name, raw.decode("utf-8", "replace")


def distribution(requirement: str) -> str:
    """The normalised name in ``Scikit_Learn>=1.5``: ``scikit-learn``."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", match.group()).lower() if match else requirement
