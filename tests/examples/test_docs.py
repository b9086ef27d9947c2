"""What is written for users works: every program in README.md and docs/, every file in examples/, and the demo.

How blocks of a page become programs is said in ``pages.py``.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from exoflow import errors
from exoflow.define.options import TaskOptions
from exoflow.settings import Settings
from tests.examples import pages
from tests.examples.pages import ROOT, Program

PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
PROGRAMS = [program for page in PAGES if page.name not in pages.OF_BACKENDS for program in pages.programs_of(page)]
TEN_LINES = PROGRAMS[0]
"""Has a test of its own, which kills it."""

pytestmark = pytest.mark.slow  # programs of their own, each with an interpreter's start; some wait, because that is what they show


@pytest.mark.parametrize("program", PROGRAMS[1:], ids=str)
def test_page(program: Program, tmp_path: Path) -> None:
    pages.run(program, tmp_path)


def test_the_ten_lines_survive_kill_9(tmp_path: Path) -> None:
    """Pasted into a file, killed while it publishes, and run again: the same number under the same key, drawn once."""
    assert TEN_LINES.page == "README.md"
    (tmp_path / "example.py").write_text(TEN_LINES.blocks[0].text, encoding="utf-8")
    command = [sys.executable, "example.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=pages.environment(), stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        drawing, publishing = first.stdout.readline(), first.stdout.readline()
        os.kill(first.pid, signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL
    assert (drawing, publishing.split()[0]) == ("drawing\n", "publishing")
    number = publishing.split()[1]
    second = pages.call("second life", ["python", "example.py"], tmp_path, 0)
    assert second == f"{publishing}{number} is published\n"
    assert pages.call("third life", ["python", "example.py"], tmp_path, 0) == f"{number} is published\n"


# --- examples/ -------------------------------------------------------------------------------------------------------------------

PRINTS = {
    "agent_loop": ["you sail at nine (after 2 steps)", "decide~2/decide: output of attempt 1"],
    "annotations": ["no effects, deterministic, not saved"],
    "fan_out": ["[('quick', 3), ('brown', 2), ('thinking', 1)]"],
    "on_unknown": ["line 1 of the statement\n['900 to landlord']\n"],
    "order": ["['back up shop', 'migrate shop', 'open traffic to version 42']"],
    "parameters": ["Ada: 100.00 net, 120.00 gross\nGrace: 100.00 net, 107.00 gross\nAda: 100.00 net", "WorkflowIdConflictError"],
    "trip_booking": ["booked\n"],
}
"""What each example must say, among other things."""


def example(name: str, folder: Path, *arguments: str, code: int = 0) -> str:
    return pages.call(name, ["python", str(ROOT / "examples" / f"{name}.py"), *arguments], folder, code)


def test_every_example_is_listed() -> None:
    assert sorted([*PRINTS, "test_double_charge"]) == sorted(path.stem for path in ROOT.glob("examples/*.py"))


def test_a_test_of_under_twenty_lines_finds_a_double_charge(tmp_path: Path) -> None:
    path = ROOT / "examples/test_double_charge.py"
    assert len(path.read_text("utf-8").splitlines()) < 20
    command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", os.devnull, str(path)]
    assert "1 passed" in pages.call("double charge", command, tmp_path, 0)


@pytest.mark.parametrize("name", sorted(PRINTS))
def test_example_runs_and_runs_again(name: str, tmp_path: Path) -> None:
    lives = [example(name, tmp_path)]
    if name != "annotations":  # it keeps nothing
        lives.append(example(name, tmp_path))
    for printed in lives:
        assert [wanted for wanted in PRINTS[name] if wanted not in printed] == []


def test_a_crash_in_the_middle_of_a_trip_books_it_once(tmp_path: Path) -> None:
    example("trip_booking", tmp_path, "--crash", code=-signal.SIGKILL)
    printed = example("trip_booking", tmp_path)
    for what in ("seat", "hotel"):
        balance = printed.count(f"{what} reserved") - printed.count(f"{what} released")
        assert printed.index(f"{what} released") < printed.rindex(f"{what} reserved")
        assert balance in (0, 1)  # 0: it died before it had reserved this one, and undoing nothing did no harm
    assert printed.count("charged") == 1


def test_a_declined_card_undoes_the_trip(tmp_path: Path) -> None:
    printed = example("trip_booking", tmp_path, "--declined")
    assert "the card was declined" in printed
    assert "charged" not in printed
    assert [printed.count(f"{what} re{how}") for what in ("seat", "hotel") for how in ("served", "leased")] == [1, 1, 1, 1]


def test_a_transfer_in_doubt_is_made_once(tmp_path: Path) -> None:
    example("on_unknown", tmp_path, "--crash", code=-signal.SIGKILL)
    assert example("on_unknown", tmp_path) == "line 1 of the statement\n['900 to landlord']\n"


def test_the_demo_proves_its_point(tmp_path: Path) -> None:
    """As ``make demo`` runs it, but small. It kills the pipeline three times and fails if a proof does not hold."""
    printed = pages.call(
        "demo", ["python", str(ROOT / "examples/digits/demo.py"), "--quick", "--keep", str(tmp_path / "kept")], tmp_path, 0
    )
    assert "Everything happened exactly once" in printed


# --- pages against code ------------------------------------------------------------------------------------------------------------


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def test_every_error_is_explained() -> None:
    """Name, code, and what to do, in one line of the table each."""
    rows = {match[1]: match[2] for match in re.finditer(r"^\| `(\w+)` \| `(\w+)` \|.+\|.+\|$", text_of("docs/errors.md"), re.MULTILINE)}
    classes = [cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, errors.ExoflowError)]
    assert rows == {cls.__name__: cls.code for cls in classes}


def test_every_option_is_explained() -> None:
    guide = text_of("docs/guide.md")
    fields = [*vars(TaskOptions.make(None, {})), *Settings.__struct_fields__]
    assert [name for name in fields if f"`{name}`" not in guide] == []


def test_links_lead_somewhere() -> None:
    lost = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if not (page.parent / target).exists():
                lost.append(f"{page.relative_to(ROOT)}: {target}")
    assert lost == []


def test_the_map_is_complete() -> None:
    """ARCHITECTURE.md names every folder of the package, and no file that is not there."""
    architecture = text_of("ARCHITECTURE.md")
    folders = [path.parent.relative_to(ROOT / "src/exoflow").as_posix() for path in ROOT.glob("src/exoflow/**/__init__.py")]
    assert [folder for folder in folders if folder != "." and f"{folder}/" not in architecture] == []
    files = re.findall(r"`((?:\w+/)+\w+\.py)`", architecture)
    assert [name for name in files if not (ROOT / "src/exoflow" / name).exists() and not (ROOT / name).exists()] == []
