"""Where the package lets state leave the memory of its process, found in its source: every use of a call that does such a thing.

An exit is named ``module.function.call``, for example ``runtime.host._lock.flock``. Two uses of one call in one function are one exit.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.house import File, House

FUNCTIONS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "os": "open write writev pwrite pwritev sendfile copy_file_range fsync fdatasync sync truncate ftruncate posix_fallocate "
        "rename renames replace link symlink unlink remove removedirs rmdir mkdir makedirs mkfifo mknod chmod chown utime setxattr "
        "close closerange kill killpg fork forkpty posix_spawn posix_spawnp system popen abort",
        "fcntl": "flock lockf",
        "signal": "raise_signal pthread_kill",
        "socket": "send_fds",
        "subprocess": "Popen run call check_call check_output",
        "shutil": "copy copy2 copyfile copyfileobj copymode copystat copytree move rmtree make_archive unpack_archive",
        "tempfile": "mkstemp mkdtemp NamedTemporaryFile TemporaryDirectory",
        "multiprocessing": "Process Pool",
    }.items()
    for name in names.split()
)
METHODS = frozenset(
    name
    for names in (
        "mkdir unlink rename rmdir touch write_bytes write_text symlink_to hardlink_to chmod",  # of paths
        "send sendall sendmsg sendto send_bytes sendfile shutdown",  # of sockets and connections
        "execute executemany executescript pragma wal_checkpoint backup serialize blob_open",  # of databases
        "send_signal terminate kill flush resize",  # of processes and memory maps
    )
    for name in names.split()
)
_READS_ONLY = {"os.open": "O_RDONLY"}


def exits(root: Path) -> set[str]:
    """Those of the whole package, but for the kit and the core, which is pure (tests/architecture)."""
    return {name for file in House(root).src if not file.inside.startswith(("testing/", "core/")) for name in exits_of(file)}


def exits_of(file: File) -> Iterator[str]:
    finder = _Finder(file)
    finder.visit(file.tree)
    module = file.module.removeprefix("exoflow.")
    yield from (f"{module}.{name}" for name in finder.found)


class _Finder(ast.NodeVisitor):
    def __init__(self, file: File) -> None:
        self.file = file
        self.place: list[str] = []
        self.found: list[str] = []
        self.harmless: set[int] = set()

    def _inside(self, name: str, node: ast.AST, *, function: bool) -> None:
        self.place += [name, "<locals>"] if function else [name]
        self.generic_visit(node)
        del self.place[-1 - function :]

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node.name, node, function=False)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside(node.name, node, function=True)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._inside(node.name, node, function=True)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._inside("<lambda>", node, function=True)

    def visit_Call(self, node: ast.Call) -> None:
        word = _READS_ONLY.get(self._full(node.func))
        if word is not None and word in ast.unparse(node):
            self.harmless.add(id(node.func))
        if isinstance(node.func, ast.Attribute) and node.func.attr == "replace" and len(node.args) == 1 and not node.keywords:
            self._take("replace")  # of a path: that of a string takes two, that of a dataclass takes keywords
        elif isinstance(node.func, ast.Attribute) and node.func.attr in METHODS and self._full(node.func) not in FUNCTIONS:
            self._take(node.func.attr)
        elif self._opens_to_write(node):
            self._take("open")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        full = self._full(node)
        if full in FUNCTIONS and id(node) not in self.harmless:
            self._take(node.attr)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        full = self.file.aliases.get(node.id, "")
        if full in FUNCTIONS and id(node) not in self.harmless:
            self._take(full.rpartition(".")[2])

    def _full(self, node: ast.expr) -> str:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            return f"{self.file.aliases.get(node.value.id, node.value.id)}.{node.attr}"
        return self.file.aliases.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def _opens_to_write(self, node: ast.Call) -> bool:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else self._full(node.func)
        if name not in ("open", "fdopen") or self._full(node.func) in FUNCTIONS:
            return False
        texts = [arg.value for arg in (*node.args, *(word.value for word in node.keywords)) if isinstance(arg, ast.Constant)]
        return any(isinstance(text, str) and len(text) <= 3 and set(text) & set("wax+") for text in texts)

    def _take(self, call: str) -> None:
        place = self.place[:-1] if self.place[-1:] == ["<locals>"] else self.place
        self.found.append(".".join([*place, call]))
