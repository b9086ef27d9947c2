"""Pages of the documentation as programs: which blocks belong together, how they are run, and what they must print.

Conventions for authors of README.md and docs/:

* ```` ```python ```` is a whole program. It is written to ``example.py`` (or to the name in its first line, ``# shop.py``) in an empty
  folder and run as a script; it must end with exit code 0.
* ``<!-- continues -->`` in front of it: it goes on where the last one ended, in the same folder, as if pasted below it.
* ```` ```output ```` is what the program above prints; ``...`` stands for anything.
* ```` ```console ```` holds commands behind ``$`` and what they print, run in the folder of the program above. Only ``exoflow`` and
  ``python`` are run. ``# exit code 3`` behind a command says how it ends; 0 is not mentioned.
* ```` ```text ```` and ```` ```mermaid ```` are not run. Nothing else is known, so that no block escapes by a slip of the pen.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_S = 100
OF_BACKENDS = ("ray.md", "ray-workflows.md", "spark.md")
"""Pages whose programs need an extra: tests/backends runs them."""


@dataclass
class Block:
    kind: str
    line: int
    text: str
    continues: bool


@dataclass
class Program:
    """Blocks that share a folder."""

    page: str
    blocks: list[Block] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.page}:{self.blocks[0].line}"


def blocks_of(text: str) -> list[Block]:
    found: list[Block] = []
    above, inside = "", None
    for number, line in enumerate(text.splitlines(), 1):
        if inside is None and line.startswith("```"):
            inside = Block(line.removeprefix("```").strip(), number, "", "<!-- continues -->" in above)
        elif inside is not None and line.startswith("```"):
            found.append(inside)
            inside = None
        elif inside is not None:
            inside.text += line + "\n"
        if line.strip():
            above = line
    assert inside is None, f"line {inside.line}: the block has no end" if inside else ""
    return found


def programs_of(path: Path) -> list[Program]:
    page = path.relative_to(ROOT).as_posix()
    found: list[Program] = []
    for block in blocks_of(path.read_text("utf-8")):
        if block.kind in ("text", "mermaid"):
            continue
        assert block.kind in ("python", "output", "console"), f"{page}:{block.line}: nobody knows what to do with '{block.kind}'"
        if block.kind == "python" and not block.continues:
            found.append(Program(page))
        assert found, f"{page}:{block.line}: '{block.kind}' needs a program above it"
        found[-1].blocks.append(block)
    return found


def environment() -> dict[str, str]:
    """Of programs: this checkout, and no settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXOFLOW_")}
    path = os.pathsep.join(str(ROOT / folder) for folder in ("src", "examples/third_party"))
    return kept | {"PYTHONPATH": path, "PYTEST_PLUGINS": "exoflow_pytest", "COLUMNS": "160", "NO_COLOR": "1"}


def run(program: Program, folder: Path) -> None:
    """Run all blocks. Raises AssertionError saying which one, what it printed, and what it should have printed."""
    files: dict[str, str] = {}
    printed = ""
    for block in program.blocks:
        where = f"{program.page}:{block.line}"
        if block.kind == "output":
            check(where, block.text, printed)
        elif block.kind == "console":
            for command, code, wanted in commands(block.text):
                got = call(where, command, folder, code)
                if wanted:
                    check(f"{where} ({shlex.join(command)})", wanted, got)
        else:
            name = match[1] if (match := re.match(r"# (\w+\.py)\n", block.text)) else "example.py"
            files[name] = (files.get(name, "") + "\n" if block.continues else "") + block.text
            (folder / name).write_text(files[name], encoding="utf-8")
            printed = call(where, ["python", name], folder, 0)


def commands(text: str) -> list[tuple[list[str], int, str]]:
    """(command, exit code, what it prints) of a console."""
    found = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, wanted = part.partition("\n")
        line, _, code = line.partition("# exit code ")
        found.append((shlex.split(line), int(code or 0), wanted))
    return found


def call(where: str, command: list[str], folder: Path, code: int) -> str:
    programs = {"python": [sys.executable], "exoflow": [sys.executable, "-m", "exoflow"]}
    assert command[0] in programs, f"{where}: only {' and '.join(programs)} are run here; what is only shown belongs into ```text"
    done = subprocess.run(
        [*programs[command[0]], *command[1:]], cwd=folder, env=environment(), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    story = f"{where}: {shlex.join(command)} ended with {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == code, story
    return done.stdout


def check(where: str, wanted: str, got: str) -> None:
    """What went before in the same file may have printed, too; only the end is compared."""
    same = doctest.OutputChecker().check_output
    wanted, got = ("\n".join(line.rstrip() for line in text.splitlines()) + "\n" for text in (wanted, got))
    matches = same(wanted, got, doctest.ELLIPSIS) or same("...\n" + wanted, got, doctest.ELLIPSIS)
    assert matches, f"{where}: it should print\n{wanted}\nbut prints\n{got}"
