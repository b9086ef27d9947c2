"""``python -m tests.backends.ray_workflows.differences [NAME…]``: run the programs on ``exoflow.ray``, compare with what they showed
on Ray 2.40, and write the table of differences in docs/ray-workflows.md anew.

Why things differ is said here, in ``REASONS``; a difference without a reason is a fault, and so is a reason without a difference.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.backends.ray_workflows.running import HERE, NAMES, ROOT, Observables, for_exoflow, observe, recorded, source_of

PAGE = ROOT / "docs" / "ray-workflows.md"
FOUND = HERE / "differences.json"
BEGIN, END = "<!-- begin: python -m tests.backends.ray_workflows.differences -->", "<!-- end -->"

REASONS: dict[tuple[str, str], str] = {
    (
        "basics",
        "one input",
    ): "A lone `InputNode` is the input itself, as the documentation of `ray.dag` says; in Ray Workflows it was a wrapper "
    "around it, on which most functions failed.",
    (
        "large_data",
        "loaded later",
    ): "An output is what the function returned, also when it is loaded from the store: here a reference, to the same "
    "value. Ray gave the value instead.",
    ("management", "delete a running one"): "Both refuse; Ray lost the class of the error on its way to the caller.",
    ("management", "resume what was cancelled"): "A cancelled workflow stays so, as the documentation of `CANCELED` says; Ray ran it.",
    ("management", "cancel nobody"): "Cancelling what does not exist is an error; Ray made a cancelled workflow of that name.",
    ("management", "status of whom nobody ran"): "The same.",
    ("management", "at the end"): "The same.",
    ("metadata", "of a failed task"): "Times are those of a saved output, so a task that failed has none; Ray kept when it began.",
    (
        "options",
        "its output",
    ): "`checkpoint=False` is a wish. Where a later task may have effects, its inputs must not change, so the output is "
    "saved all the same, and can be asked for.",
}


def run_ours(name: str) -> Observables:
    with tempfile.TemporaryDirectory() as folder:
        return observe(name, for_exoflow(source_of(name)), sys.executable, Path(folder))


def differences(name: str, ours: Observables) -> dict[str, tuple[object, object]]:
    """What a program shows on Ray and on ours where that is not the same."""
    theirs = recorded(name)
    return {what: (theirs.get(what), ours.get(what)) for what in theirs | ours if theirs.get(what, ...) != ours.get(what, ...)}


def table(found: dict[str, dict[str, tuple[object, object]]]) -> str:
    """As Markdown."""
    lines = ["| program: observable | Ray 2.40 | ExoFlow | why |", "|---|---|---|---|"]
    for name, differs in found.items():
        for what, (theirs, ours) in differs.items():
            lines.append(f"| {name}: {what} | {_shown(theirs)} | {_shown(ours)} | {REASONS[name, what]} |")
    return "\n".join(lines)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text if len(text) <= 100 else '… ' + text[-90:]}`"


def page_with(text: str, rows: str) -> str:
    """The page with another table."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{rows}\n{END}{rest.partition(END)[2]}"


def main(names: list[str]) -> None:
    before = json.loads(FOUND.read_text("utf-8")) if names else {}
    found = {name: before[name] if names and name not in names else differences(name, run_ours(name)) for name in NAMES}
    FOUND.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(page_with(PAGE.read_text("utf-8"), table(found)), "utf-8")
    total = sum(len(recorded(name)) for name in NAMES)
    print(f"{len(NAMES)} programs, {total} observables, {sum(map(len, found.values()))} differ")


if __name__ == "__main__":
    main(sys.argv[1:])
