"""Code that changed between a crash and the resume: finished work stands, changed unfinished tasks are named, nothing is mixed up."""

from __future__ import annotations

import shutil

import pytest

from tests.api.scene import ROOT, Ledger, run_python

MODULE = """
import os
import exoflow
from exoflow import task
from tests.api.scene import Ledger

class Price:
    def __init__(self, amount):
        self.amount = amount

def whole(number):
    return int(number)

def rounded(number):
    return whole(number)

class Tax:
    def rate(self):
        return 1

def scaled(by):
    def scale(number):
        return number * by
    return scale

scale = scaled(1)

def unused():
    return 1

@task
def clean(ledger):
    Ledger(ledger).add("clean")
    return Price(5)

@task
def score(ledger, price, factor=2):
    first = Ledger(ledger).count("score") == 0
    Ledger(ledger).add("score")
    if first:
        os._exit(9)
    return scale(rounded(price.amount * factor)) * Tax().rate()

@task
def inner(ledger, price):
    return score.bind(ledger, price)

@task(name="by-name")
def named(value):
    return value + 0

def dag(ledger):
    return named.bind(score.bind(ledger, clean.bind(ledger)))

def deep(ledger):
    return named.bind(inner.bind(ledger, clean.bind(ledger)))
"""

RUN = """
import sys
import exoflow
url, ledger, how, which, accept = sys.argv[1:6]
with exoflow.Engine(url) as engine:
    options = {"on_code_change": accept} if accept else {}
    try:
        if how == "run":
            import flow
            print(engine.run_async(getattr(flow, which)(ledger), name="w", **options).result())
        elif how == "resume":
            print(engine.resume("w", **options).result())
        else:
            (future,) = engine.resume_all(**options).values()
            print(future.result())
    except exoflow.ExoflowError as error:
        print(type(error).__name__, str(error).replace("\\n", " "))
    print(engine.get_status("w"))
"""


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    """Folders in which a process died while ``score`` ran, ``clean`` being finished: one with score in the DAG, one in a sub-workflow."""
    made = {}
    for which in ("dag", "deep"):
        folder = made[which] = tmp_path_factory.mktemp(which)
        (folder / "flow.py").write_text(MODULE)
        run_python(RUN, "sqlite:x.db", "ledger", "run", which, "", cwd=folder, env={"PYTHONPATH": path(folder)}, code_wanted=9)
    return made


def path(folder):
    return f"{folder}:{ROOT}"


@pytest.fixture
def crashed(crashes, tmp_path):
    """Make an edit in a copy of such a folder, go on there, and give what is said."""

    def go_on(edit=None, *, how="run", which="dag", accept=""):
        folder = tmp_path / "copy"
        if not folder.exists():
            shutil.copytree(crashes[which], folder)
        if edit is None:
            (folder / "flow.py").unlink(missing_ok=True)
        else:
            text = MODULE
            for old, new in edit:
                assert old in text
                text = text.replace(old, new)
            (folder / "flow.py").write_text(text)
        said = run_python(RUN, "sqlite:x.db", "ledger", how, which, accept, cwd=folder, env={"PYTHONPATH": path(folder)})
        return [*said.splitlines(), Ledger(folder / "ledger").lines()]

    return go_on


pytestmark = pytest.mark.slow  # each case starts a process, because a module has one text per process

GOES_ON = ["10", "SUCCEEDED", ["clean", "score", "score"]]
STOPS = ["RUNNING", ["clean", "score"]]


@pytest.mark.parametrize("how", ["run", "resume", "resume_all"])
def test_nothing_changed(crashed, how):
    """Also in a process that never imported the module: names say where to look, also for a task with a name of its own."""
    assert crashed([], how=how) == GOES_ON


def test_comments_and_lines_changed(crashed):
    assert crashed([("@task\ndef score", "# the score\n\n@task\ndef score"), ("    first =", "    # first\n    first =")]) == GOES_ON


def test_docstrings_and_what_no_unfinished_task_uses_changed(crashed):
    edits = [("def score(ledger, price, factor=2):\n", "def score(ledger, price, factor=2):\n    'How much.'\n")]
    edits += [("def whole(number):\n", "def whole(number):\n    'Without a fraction.'\n"), ("return 1\n\n@task", "return 2\n\n@task")]
    assert crashed(edits) == GOES_ON


def test_a_finished_task_changed(crashed):
    """Its output stands."""
    assert crashed([("Price(5)", "Price(7)")]) == GOES_ON


@pytest.mark.parametrize(
    "edit",
    [
        ("amount * factor", "amount * factor + 1"),
        ("factor=2", "factor=3"),
        ('count("score") == 0', 'count("score") == 9'),
        ("return whole(number)", "return whole(number) + 1"),
        ("return int(number)", "return int(number) + 1"),
        ("return 1\n\ndef scaled", "return 3\n\ndef scaled"),
        ("scaled(1)", "scaled(3)"),
    ],
    ids=["body", "default", "constant", "helper", "helper of the helper", "method", "closure"],
)
def test_an_unfinished_task_changed(crashed, edit):
    """In itself, or in what it calls in its module: it is named, and nothing runs, until the change is accepted or undone."""
    for how in ("run", "resume"):
        said = crashed([edit], how=how)
        text = "CodeChangedError since workflow 'w' began, code of unfinished tasks changed: 'flow:score' changed; finished tasks are kept;"
        assert said[0].startswith(text)
        assert said[1:] == STOPS
    accepted = crashed([edit], accept="accept")
    assert accepted[1:] == GOES_ON[1:]
    assert accepted[0] in {"10", "11", "15", "30"}


def test_a_change_that_is_undone(crashed):
    assert crashed([("factor=2", "factor=3")])[1:] == STOPS
    assert crashed([]) == GOES_ON


@pytest.mark.parametrize("accept", ["", "accept"])
def test_an_unfinished_task_is_gone(crashed, accept):
    """Accepting does not help: there is nothing to run."""
    said = crashed([("def score", "def points"), ("score.bind", "points.bind")], how="resume", accept=accept)
    assert said[0].startswith("CodeChangedError")
    assert "'flow:score' missing;" in said[0]
    assert said[1:] == STOPS


def test_the_module_cannot_be_imported(crashed):
    said = crashed([("@task\ndef score", "@task\ndef score(")], how="resume")
    assert said[0].startswith("CodeChangedError")
    assert "'flow:score' missing (SyntaxError: " in said[0]
    assert said[1:] == STOPS
    said = crashed([("import os\n", "import os\nraise RuntimeError('no licence')\n")], how="resume_all")
    assert "'flow:score' missing (RuntimeError: no licence)" in said[0]
    assert "'by-name' missing (RuntimeError: no licence)" in said[0]


def test_the_module_is_gone(crashed):
    said = crashed(None, how="resume")
    assert said[0].startswith(("CodeChangedError", "PayloadUnreadableError"))
    assert "No module named 'flow'" in said[0]
    assert said[1:] == STOPS
    assert crashed([]) == GOES_ON


def test_the_shape_of_the_dag_changed(crashed):
    """run() of another DAG under the name is a conflict; resume() goes on with the DAG that was submitted."""
    edit = [("return named.bind(score.bind(ledger, clean.bind(ledger)))", "return score.bind(ledger, clean.bind(ledger))")]
    said = crashed(edit)
    assert said[0].startswith("WorkflowIdConflictError workflow 'w' exists with another definition")
    assert said[1:] == STOPS
    assert crashed(edit, how="resume") == GOES_ON


def test_an_annotation_changed(crashed):
    edit = [("@task\ndef score", "@task(retries=3)\ndef score")]
    assert crashed(edit)[0].startswith("WorkflowIdConflictError")
    assert crashed(edit, how="resume") == GOES_ON


def test_a_task_of_a_sub_workflow_changed(crashed):
    """Also what only appeared at run time is compared."""
    said = crashed([("factor=2", "factor=3")], which="deep")
    assert said[0].startswith("CodeChangedError")
    assert "'flow:score' changed" in said[0]
    assert said[1:] == STOPS
    assert crashed([], which="deep") == GOES_ON


def test_a_class_of_a_saved_value_is_gone(crashed):
    """Nothing is lost: the workflow stops BLOCKED, says which class, and goes on when it is there again."""
    edit = [("class Price:", "class Cost:"), ("Price(5)", "Cost(5)")]
    said = crashed(edit, how="resume")
    assert "Price" in said[0]
    assert "flow" in said[0]
    assert said[1:] == ["BLOCKED", ["clean", "score"]]
    assert crashed([], how="resume") == GOES_ON
