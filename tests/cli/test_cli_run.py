"""``exoflow run``: what it takes, what it prints, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exoflow.errors import UsageError


def test_a_result_is_printed_and_the_name_is_said(exo: Any) -> None:
    got = exo("run", "shop:total", "4", "first=10", "--name", "t")
    assert got.out == "16\n"
    assert got.err.startswith("t: SUCCEEDED after ")


def test_a_result_in_json(exo: Any) -> None:
    assert exo.json("run", "shop:total", "4", "--name", "t") == {
        "workflow_id": "t",
        "status": "SUCCEEDED",
        "result": 6,
        "result_repr": None,
        "turned_on": [],
    }


def test_a_result_that_is_not_json_comes_as_text(exo: Any) -> None:
    got = exo.json("run", "shop:strange")
    assert got["result"] is None
    assert got["result_repr"].startswith("<object object at ")


def test_options_may_stand_in_front_of_the_command_too(exo: Any) -> None:
    assert '"result": 3' in exo("--json", "--store", "other.db", "run", "shop:add", "1", "2").out
    assert Path("other.db").exists()
    assert not Path(".exoflow").exists()


@pytest.mark.parametrize(
    "target", ["shop.py:total", "./shop.py:total", "deep/er/flow.py:total", "pack/age/flow.py:total", "pack.age.flow:total"]
)
def test_a_dag_can_be_named_by_module_or_file(exo: Any, target: str) -> None:
    for place in ("deep/er", "pack/age"):
        Path(place).mkdir(parents=True)
        Path(place, "flow.py").write_text(Path("shop.py").read_text())
    for place in ("pack", "pack/age"):
        Path(place, "__init__.py").touch()
    assert exo("run", target, "3").out == "3\n"


def test_a_file_outside_the_working_directory(exo: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "beside.py").write_text("N = 5\n")
    (place / "outlying.py").write_text("import exoflow, beside\n@exoflow.task\ndef f(): return beside.N\n")
    assert exo("run", f"{place}/outlying.py:f").out == "5\n"


def test_arguments_of_an_input_node(exo: Any) -> None:
    assert exo("run", "shop:params", '"a"', "b=bc").out == "'abc'\n"
    assert "means something to run()" in exo("run", "shop:taken", "name=Ada", code=2).err


def test_arguments_of_tasks_may_have_the_names_of_options(exo: Any) -> None:
    assert exo("run", "shop:greet", "name=Ada", "greeting=moin").out == "'moin Ada'\n"


def test_the_same_again_gives_the_result_again(exo: Any) -> None:
    for _ in range(2):
        assert exo("run", "shop:fetch", "book", "--name", "f").out == "'book'\n"
    assert exo.ran() == ["fetch book"]


def test_a_name_that_is_taken(exo: Any) -> None:
    exo("run", "shop:fetch", "book", "--name", "f")
    assert "exists with another definition or other arguments" in exo("run", "shop:fetch", "pen", "--name", "f", code=2).err
    assert exo.json("run", "shop:fetch", "pen", "--name", "f", code=2)["error"]["code"] == "id_conflict"
    assert exo.json("run", "shop:fetch", "book", "--name", "f", "--on-existing", "fail", code=2)["error"]["code"] == "already_exists"


def test_an_unsafe_dag_is_refused_and_says_how_to_repair_it(exo: Any) -> None:
    got = exo("run", "shop:unsafe", "--name", "u", code=3)
    assert "checkpoint=True on 'price'" in got.err
    assert "--mode auto" in got.err
    error = exo.json("run", "shop:unsafe", code=3)["error"]
    assert error["code"] == "unsafe_workflow"
    assert error["findings"][0]["task"] == "charge"
    assert exo.json("list")["workflows"] == []


def test_mode_auto_says_what_it_turned_on(exo: Any) -> None:
    assert exo.json("run", "shop:unsafe", "--mode", "auto")["turned_on"] == ["price"]


def test_a_task_that_fails(exo: Any) -> None:
    got = exo("run", "shop:declined", "--name", "d", code=4)
    assert "task 'decline' (attempt 1) of workflow 'd' failed: ValueError: no\\x1b[2J funds\\u202e for 5. Resume it with" in got.err
    assert 'raise ValueError(f"{wait} for {amount}")' in got.err
    assert "exoflow/worker" not in got.err
    assert "\x1b" not in got.err
    assert "\u202e" not in got.err


def test_a_task_that_fails_in_json(exo: Any) -> None:
    error = exo.json("run", "shop:declined", "--name", "d", code=4)["error"]
    assert (error["code"], error["workflow_id"], error["task"], error["attempt"]) == ("task_failed", "d", "decline", 1)
    assert "in decline" in error["traceback"]


@pytest.mark.slow
def test_a_task_that_fails_in_another_process(exo: Any) -> None:
    """Slow: starts a process."""
    assert "ValueError: declined 5" in exo("run", "shop:declined_elsewhere", "--name", "d", code=4).err


def test_verbose_shows_where_it_came_from(exo: Any) -> None:
    assert "Traceback" not in exo("run", "shop:unsafe", code=3).err
    assert "UnsafeWorkflowError" in exo("run", "shop:unsafe", "--verbose", code=3).err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["shop"], "does not say which DAG; say module:name; there is shop:add"),
        (["shop:"], "does not say which DAG"),
        ([":order"], "does not say which DAG"),
        (["shop:oder"], "did you mean shop:order?"),
        (["shop:not_a_dag"], "is of type int, not a DAG"),
        (["shop:plain"], "is a plain function, not a DAG"),
        (["ship:order"], "there is no module 'ship'"),
        (["shop.inner:order"], "there is no module 'shop.inner'"),
        (["ship.py:order"], "there is no file 'ship.py'"),
        (["a b:order"], "neither a module"),
        (["faulty:order"], "ZeroDivisionError: division by zero (at "),
        (["lacking:order"], "No module named 'no_such_thing'"),
        (["garbled:order"], "SyntaxError"),
        (["leaving:order"], "SystemExit"),
        (["my-flow.py:order"], "is no name in Python; rename the file"),
        (["shop:total"], "missing a required argument: 'n'"),
        (["shop:total", "1", "2"], "too many positional arguments"),
        (["shop:total", "n=1", "2"], "follows key=value"),
        (["shop:total", "n=1", "n=2"], "given twice"),
        (["shop:total", "x"], "'str' object cannot be interpreted as an integer"),
        (["shop:total", "[" * 100_000], "nested too deeply"),
        (["broken:flow"], "LookupError: no such shelf"),
        (["shop:order", "1"], "does not use"),
        (["shop:order", "--name", "../x"], "contains '/'"),
        (["shop:order", "--name", ""], "workflow_id is empty"),
        (["shop:order", "-m", "nope"], "there is no module 'nope'"),
        (["shop:order", "--store", "what"], "names no store"),
        (["shop:order", "--store", "post://u:secret@h/d"], "unknown scheme 'post' in 'post:***@h/d'"),
        ([], "Missing argument"),
        (["shop:order", "--mode", "lax"], "--mode"),
        (["shop:order", "--no-such-option"], "No such option"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_written(exo: Any, words: list[str], says: str) -> None:
    Path("faulty.py").write_text("1 / 0\n")
    Path("lacking.py").write_text("import no_such_thing\n")
    Path("garbled.py").write_text("def (:\n")
    Path("leaving.py").write_text("raise SystemExit(0)\n")
    Path("my-flow.py").write_text("")
    Path("broken.py").write_text("import exoflow\n@exoflow.workflow\ndef flow(): raise LookupError('no such shelf')\n")
    got = exo("run", *words, code=2)
    assert says in got.err
    assert "Traceback" not in got.err
    assert "secret" not in got.err
    assert got.out == ""
    assert not list(Path().glob(".exoflow/*.db")) or exo.json("list")["workflows"] == []
    error = exo.json("run", *words, code=2)["error"]
    assert error["code"]
    assert says in error["message"]


def test_what_a_module_raises_on_purpose_passes(exo: Any) -> None:
    Path("wrong.py").write_text("import exoflow\n@exoflow.task(checkpoint='snyc')\ndef f(): pass\n")
    assert "did you mean 'sync'?" in exo("run", "wrong:f", code=2).err


def test_a_file_whose_name_means_another_module(exo: Any) -> None:
    Path("json.py").write_text("import exoflow\n@exoflow.task\ndef f(): pass\n")
    assert "that name belongs to" in exo("run", "json.py:f", code=2).err


def test_the_environment_is_not_the_users_fault(exo: Any) -> None:
    Path("text.db").write_text("no database, but long enough to be taken for one " * 50)
    Path("text.db").chmod(0o600)
    got = exo("run", "shop:order", "--store", "text.db", code=8)
    assert "it is not an SQLite database" in got.err
    assert exo.json("run", "shop:order", "--store", "text.db", code=8)["error"]["code"] == "store_open"


def test_effects_are_undone_on_failure_if_asked_for(exo: Any) -> None:
    Path("fails.py").write_text("from shop import *\ndag = decline.bind(reserve.bind('1A'))\n")
    exo("run", "fails:dag", "--on-failure", "rollback", code=4)
    assert exo.ran() == ["reserve 1A", "release 1A"]


def test_usage_errors_are_usage_errors() -> None:
    assert UsageError(message="x").code == "usage"
