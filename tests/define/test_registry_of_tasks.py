"""Finding functions by name: registered ones only, wherever they are defined; never what a stored name happens to spell."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

import exoflow
from exoflow import task
from exoflow.define import registry
from exoflow.define.plan import Call, Plan, encode_plan, find_task, make_plan
from exoflow.errors import CodeChangedError, DuplicateRegistrationError, UnresumableTaskError
from exoflow.store.memory import MemoryStore
from tests.api.scene import environment, run_python


@task
def known():
    return 1


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "os:path.join",
        "builtins:eval",
        "subprocess:run",
        "nowhere:f",
        "",
        ":",
        "os",
        "os.path:join",
        "..:x",
        "a b:c",
        "\0:x",
        "json:",
    ],
)
def test_names_of_functions_that_nobody_registered_mean_nothing(name):
    """A stored name is looked up, not resolved: os.system is not a task."""
    assert registry.find(name) is None
    with pytest.raises(UnresumableTaskError):
        find_task(name, {})


def test_a_registered_task_is_found_under_its_name():
    assert registry.find(known.key) is known
    assert find_task(known.key, {}) is known
    assert find_task(known.key, {"retries": 3}).task_options.retries == 3


def test_a_name_without_a_module_imports_nothing():
    """A task may be called like a module: @task(name="antigravity")."""
    assert registry.find("antigravity") is None
    assert "antigravity" not in sys.modules


def test_a_journal_that_names_os_system_runs_nothing(url_of, tmp_path):
    """Somebody changed the name of a task in a store: what it spells is not run."""
    store = MemoryStore()
    mark = tmp_path / "mark"
    node = known.bind()
    plan = make_plan(node)
    call = Call("os:system", (f"touch {mark}",), {}, "thread")
    forged = Plan(plan.graph, {"known": call}, {"os:system": ""}, None)
    with exoflow.Engine(Abandoned(store)) as engine:
        url_of(engine, forged)
        with pytest.raises(CodeChangedError, match="'os:system' missing"):
            engine.resume("forged").result(10)
    assert not mark.exists()


class Abandoned:
    """A store that stays open when its engine closes."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)

    def close(self):
        """Its owner closes it."""


@pytest.fixture
def url_of():
    """Write a workflow with this plan, as a process that has died since would have."""
    from exoflow import codec
    from exoflow.core import journal
    from exoflow.core.journal import Stored
    from exoflow.store.base import Head, Write

    def write(engine, plan):
        payload = b"".join(codec.frame(encode_plan(plan)))
        stored = Stored(len(payload), codec.digest([payload]))
        record = journal.encode(journal.WorkflowBegan(version=journal.RECORD_VERSION, graph=plan.graph, plan=stored))
        head = Head(workflow_id="forged", epoch=1, owner="dead", status="RUNNING", created_ms=1, updated_ms=1, digest=stored.digest.hex())
        engine.store.commit([Write(workflow_id="forged", epoch=1, entries=((record, payload),), head=head, create=True)])

    return write


def test_a_module_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.find("broken_module:f") is None
    assert registry.trouble("broken_module:f") == "ZeroDivisionError: division by zero"
    assert registry.find("f", home="broken_module") is None
    assert "ZeroDivisionError" in registry.trouble("f", "broken_module")
    assert registry.find("missing_module:f") is None
    assert registry.trouble("missing_module:f") == "ModuleNotFoundError: No module named 'missing_module'"


def test_a_task_with_a_name_of_its_own_is_found_by_its_home(tmp_path, monkeypatch):
    (tmp_path / "home_module.py").write_text("from exoflow import task\n\n@task(name='home-task')\ndef f():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.find("home-task") is None
    found = registry.find("home-task", home="home_module")
    assert found() == 1


def test_two_functions_under_one_explicit_name():
    @task(name="explicit-name")
    def first():
        return 1

    with pytest.raises(DuplicateRegistrationError) as caught:

        @task(name="explicit-name")
        def second():
            return 2

    assert "explicit-name" in str(caught.value)
    assert str(caught.value).count("test_registry_of_tasks.py:") == 2
    assert registry.find("explicit-name")() == 1


def test_the_same_definition_again_under_an_explicit_name():
    """A module that is reloaded."""

    def define():
        @task(name="explicit-again")
        def f():
            return 1

        return f

    define()
    again = define()
    assert registry.find("explicit-again") is again


@pytest.mark.slow
def test_functions_without_an_importable_name_are_numbered():
    """Nested functions, lambdas, partial functions and callable objects: two are never one, in no process. (Starts one, as do the tests
    of scripts below.)"""

    class Callable:
        def __call__(self):
            return 1

    def nested():
        return 1

    for make in (lambda: nested, lambda: lambda: 1, lambda: functools.partial(nested), Callable):
        one, other = registry.name_of(make()), registry.name_of(make())
        assert one != other
        assert not registry.importable(one)
    assert registry.importable(registry.name_of(known.function))
    here = registry.name_of(nested)
    there = run_python("from exoflow.define import registry\nprint(registry.name_of(lambda: 1).partition('#')[2])").strip()
    assert here.partition("#")[2] != there


SCRIPT = """
import sys
import exoflow
from exoflow import task

@task
def step(x):
    return x + 1

if len(sys.argv) > 1:
    exoflow.run(step.bind(1), name="w")
print("ran")
"""


@pytest.mark.slow
def test_an_unguarded_script_is_not_run_when_it_is_imported_for_its_tasks(tmp_path):
    """Another process resumes a workflow of a script and imports it: exoflow.run() in it must not start anything there."""
    (tmp_path / "script.py").write_text(SCRIPT.replace("if len(sys.argv) > 1:", "if True:"))
    code = f"""
from exoflow.define import registry
found = registry.find("__main__:step", {str(tmp_path / "script.py")!r})
print(found is not None, registry.trouble("__main__:step"))
"""
    said = run_python(code, cwd=tmp_path)
    assert said.startswith("True WrongContextError: exoflow.run was called while another process imports your script")
    assert not (tmp_path / ".exoflow").exists()


@pytest.mark.slow
def test_a_script_is_not_imported_by_itself(tmp_path):
    """What the running script defines is known; importing it once more would run it."""
    path = tmp_path / "own.py"
    path.write_text(
        "import exoflow\nfrom exoflow.define import registry\nprint('once')\nassert registry.find('__main__:gone', __file__) is None\n"
    )
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == "once\n"
