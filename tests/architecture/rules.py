"""The rules of the house. Each takes the repository and gives its offences, one line each: where, what, and what to do instead.

A rule about something that does not exist yet finds nothing; it bites as soon as the thing is there (``test_rules_bite.py``).
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator

from tests.architecture.house import PACKAGE, File, House

# --- sizes -----------------------------------------------------------------------------------------------------------------------

FUNCTION_LINES, CORE_FILE_LINES, FILE_LINES, FOLDER_FILES, SEAM_METHODS = 70, 400, 600, 16, 10
CORE_LINES, SRC_LINES, ELSEWHERE_LINES, KIT_LINES = 4_000, 17_500, 8_000, 15_000
ELSEWHERE = ("backends/", "functions/", "ray/", "refs/")


def long_functions(house: House) -> list[str]:
    return [
        f"{file.name}:{node.lineno}: {node.name}() has {lines} lines without its docstring, the limit is {FUNCTION_LINES}; "
        f"give a part that has a name of its own a function of its own"
        for file in house.src
        for node in ast.walk(file.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (lines := _lines_without_docstring(node)) > FUNCTION_LINES
    ]


def _lines_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def long_files(house: House) -> list[str]:
    limits = [(file, CORE_FILE_LINES if file in house.core else FILE_LINES) for file in house.src]
    return [
        f"{file.name}:1: {file.lines} lines, the limit is {limit}; move one idea into a file named after it"
        for file, limit in limits
        if file.lines > limit
    ]


def crowded_folders(house: House) -> list[str]:
    """``__init__.py`` is the map of its folder and does not count."""
    folders: dict[str, int] = {}
    for file in house.src:
        folder, _, name = file.name.rpartition("/")
        folders[folder] = folders.get(folder, 0) + (name != "__init__.py")
    return [
        f"{folder}: {count} files, the limit is {FOLDER_FILES}; make a folder for those that belong together, or join two"
        for folder, count in folders.items()
        if count > FOLDER_FILES
    ]


def heavy_package(house: House) -> list[str]:
    kit = [file for file in house.src if file.inside.startswith("testing/")]
    elsewhere = [file for file in house.src if file.inside.startswith(ELSEWHERE)]
    engine = [file for file in house.src if file not in kit and file not in elsewhere]
    totals = (
        ("src/exoflow/core", house.core, CORE_LINES),
        ("src/exoflow/testing", kit, KIT_LINES),
        ("what runs elsewhere: backends, functions, ray and refs in src/exoflow", elsewhere, ELSEWHERE_LINES),
        ("the rest of src/exoflow", engine, SRC_LINES),
    )
    return [
        f"{name}: {total} lines together, the limit is {limit}; take something out before something new comes in"
        for name, files, limit in totals
        if (total := sum(file.lines for file in files)) > limit
    ]


def wide_seams(house: House) -> list[str]:
    """A seam is a Protocol in a ``base.py``."""
    found = []
    for file in house.src:
        if not file.name.endswith("/base.py"):
            continue
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
                methods = [m.name for m in node.body if isinstance(m, (ast.FunctionDef, ast.AsyncFunctionDef)) and m.name[0] != "_"]
                if len(methods) > SEAM_METHODS:
                    found.append(
                        f"{file.name}:{node.lineno}: {node.name} has {len(methods)} methods, the limit is {SEAM_METHODS}; "
                        f"whoever implements it pays for each: can a caller do it with those that are there?"
                    )
    return found


# --- calls that have a better place ------------------------------------------------------------------------------------------------


def _banned(house: House, names: Iterable[str], instead: str, *, allowed: tuple[str, ...] = (), kit: tuple[str, ...] = ()) -> list[str]:
    """Uses of ``names`` outside the paths ``allowed``. A name that ends in a dot stands for all below it. The kit may use ``kit``."""
    exact = {name for name in names if not name.endswith(".")}
    below = tuple(name for name in names if name.endswith("."))
    return [
        f"{file.name}:{line}: {name} is banned here; {instead}"
        for file in house.src
        if not file.inside.startswith(allowed)
        for name, line in file.uses()
        if (name in exact or name.startswith(below)) and not (name in kit and file.inside.startswith("testing/"))
    ]


def clocks(house: House) -> list[str]:
    """Executors and workers run on the real clock by nature, the kit and the command line talk to people."""
    names = [f"time.{name}{ns}" for name in ("time", "monotonic", "perf_counter") for ns in ("", "_ns")]
    names += ["datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"]
    allowed = ("runtime/clock.py", "executors/", "backends/", "worker/", "testing/", "cli/")
    return _banned(house, names, "take a Clock of runtime/clock.py as a parameter", allowed=allowed)


def chance(house: House) -> list[str]:
    """The kit may draw from a seed, never from the world."""
    names = ["uuid.uuid1", "uuid.uuid4", "os.urandom", "os.getrandom", "random.", "secrets."]
    instead = "ids are drawn in runtime/host.py, refs/ and backends/, jitter in runtime/clock.py; both travel as fields of events"
    return _banned(
        house, names, instead, allowed=("runtime/host.py", "runtime/clock.py", "store/", "refs/", "backends/"), kit=("random.Random",)
    )


def concurrency(house: House) -> list[str]:
    """A simulation must be able to replace it. A clock is a seam of its own."""
    names = ["threading.", "queue.", "time.sleep", "concurrent.futures.ThreadPoolExecutor", "concurrent.futures.ProcessPoolExecutor"]
    instead = "locks, threads and pauses come from the Threads of runtime/threads.py that the engine was given"
    found = _banned(house, names, instead, allowed=("runtime/threads.py", "runtime/clock.py"))
    return [line for line in found if line.startswith(("src/exoflow/runtime/", "src/exoflow/client/"))]


def prints(house: House) -> list[str]:
    return _banned(house, ["print"], "write to a logger, or return the text to whoever asked", allowed=("cli/", "testing/"))


def evaluation(house: House) -> list[str]:
    return _banned(house, ["eval", "exec", "builtins.eval", "builtins.exec"], "find functions by name in a dict that we filled")


def shells(house: House) -> list[str]:
    instead = "run a list of arguments without a shell: subprocess.run([...])"
    found = _banned(house, ["os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"], instead)
    for file in house.src:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.keyword) and node.arg == "shell" and not _is_constant(node.value, value=False):
                found.append(f"{file.name}:{node.value.lineno}: shell= is banned; {instead}")
    return found


def unpickling(house: House) -> list[str]:
    names = [f"{module}.{name}" for module in ("pickle", "cloudpickle", "marshal") for name in ("load", "loads", "Unpickler")]
    return _banned(
        house, [*names, "shelve.open"], "decode bytes with exoflow.codec, the one place that may", allowed=("codec.py", "worker/")
    )


def _is_constant(node: ast.expr, *, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def swallowed_errors(house: House) -> list[str]:
    found = []
    for file in house.src:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ExceptHandler):
                if node.type is None:
                    found.append(f"{file.name}:{node.lineno}: bare except; name what you expect, at the widest Exception")
                elif _is_broad(node.type) and all(_says_nothing(statement) for statement in node.body):
                    found.append(f"{file.name}:{node.lineno}: everything is caught and dropped; name what may happen, or report it")
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress") and any(map(_is_broad, node.args)):
                found.append(f"{file.name}:{node.lineno}: everything is suppressed; name what may happen")
    return found


def _is_broad(node: ast.expr) -> bool:
    names = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(ast.unparse(name).endswith(("Exception", "BaseException")) and "." not in ast.unparse(name) for name in names)


def _says_nothing(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Pass, ast.Continue)) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def notes_for_later(house: House) -> list[str]:
    word = re.compile(r"\b(TO[D]O|FIXM[E]|X[X]X)\b")
    return [
        f"{file.name}:{token.start[0]}: a note for later; do it now, or open an issue and leave no trace here"
        for file in house.code
        if word.search(file.text)
        for token in tokenize.generate_tokens(io.StringIO(file.text).readline)
        if token.type in {tokenize.COMMENT, tokenize.STRING} and word.search(token.string)
    ]


# --- structure -----------------------------------------------------------------------------------------------------------------------


def unused_modules(house: House) -> list[str]:
    """A module is used if another file of the package imports it or names it in a string (a registry, ``python -m``), or if pyproject
    names it as an entry point. Modules of the kit may also be used by tests alone."""
    modules = {file.module: file for file in house.src}
    used = set(_entry_points(house))
    for file in house.code:
        kit_only = not file.name.startswith(PACKAGE)
        for name in _mentions(file):
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules and modules[target] is not file and (not kit_only or modules[target].inside.startswith("testing/")):
                used.add(target)
    return [
        f"{file.name}:1: nothing imports it; delete it, or import it where it is used"
        for module, file in modules.items()
        if module not in used and not file.name.endswith(("/__init__.py", "/__main__.py"))
    ]


def _mentions(file: File) -> Iterator[str]:
    yield from (full for full, _ in file.imports)
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("exoflow."):
            yield node.value.partition(":")[0]


def _entry_points(house: House) -> Iterator[str]:
    project = house.project.get("project", {})
    tables = [project.get("scripts", {}), project.get("gui-scripts", {}), *project.get("entry-points", {}).values()]
    for table in tables:
        yield from (value.partition(":")[0] for value in table.values())


def commits_elsewhere(house: House) -> list[str]:
    """``Store.commit`` is used in runtime/commit.py and nowhere else: the line where a result becomes durable has one address."""
    users = [
        (file, node.lineno)
        for file in house.src
        if not file.inside.startswith(("testing/", "store/"))
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Attribute) and node.attr == "commit" and "store" in ast.unparse(node.value).rpartition(".")[2].lower()
    ]
    found = [
        f"{file.name}:{line}: Store.commit is used outside runtime/commit.py; hand the write to the function there"
        for file, line in users
        if file.inside != "runtime/commit.py"
    ]
    door = next((file for file in house.src if file.inside == "runtime/commit.py"), None)
    if door is not None and all(file is not door for file, _ in users):
        found.append(f"{door.name}:1: does not call store.commit(); call it there, on something whose name says that it is a store")
    return found


def empty_names(house: House) -> list[str]:
    banned = re.compile(r"(utils?|commons?|helpers?|managers?|misc)")
    return [
        f"{file.name}:1: '{part}' says nothing; name it after the one thing that it holds"
        for file in house.code
        for part in file.name.removesuffix(".py").split("/")
        if banned.fullmatch(part.lower().strip("_"))
    ]


# fmt: off
PURE = frozenset({
    "__future__", "abc", "bisect", "collections", "copy", "dataclasses", "enum", "functools", "graphlib", "hashlib", "heapq", "itertools",
    "math", "operator", "re", "string", "struct", "types", "typing", "unicodedata",
    "msgspec",
})
# fmt: on


def impure_core(house: House) -> list[str]:
    """An allow-list, where the import contract has a deny-list; and calls that depend on identity, hash seed or the world."""
    found = []
    for file in house.core:
        for full, line in file.imports:
            if full.partition(".")[0] not in PURE and not full.startswith(("exoflow.core", "exoflow.errors")):
                found.append(f"{file.name}:{line}: core imports {full}; let it come in as a field of an event, or go out as a command")
        for name, line in file.uses():
            if name in {"id", "hash", "open", "input", "print", "breakpoint", "__import__", "globals"}:
                found.append(f"{file.name}:{line}: core uses {name}(), which acts or differs between runs; use ids and events")
    return found
