"""Commands that change something: resume, cancel, delete, wait. Crashes are real: processes killed with -9."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
"""Slow: starts processes and kills them."""


def test_resume_after_kill_9(exo: Any) -> None:
    exo.killed("run", "shop:order", "--name", "o", when="gated book")
    assert exo.json("show", "o")["status"] == "RUNNING"
    doctor = {each["name"]: each for each in exo.json("doctor")["checks"]}
    assert (doctor["owners"]["level"], doctor["owners"]["advice"]) == ("warn", "exoflow resume --all goes on with them")
    exo.open_gate()
    again = exo.finished(exo.start("resume", "o"))
    assert again.out == "{'value': 'book'}\n"
    assert exo.ran() == ["fetch book", "gated book", "gated book", "finish book"]
    assert exo.json("resume", "o")["result"] == {"value": "book"}, "a workflow that SUCCEEDED gives its result"


def test_the_same_command_after_kill_9(exo: Any) -> None:
    exo.killed("run", "shop.py:mapped", "--name", "m", when="gated 1")
    exo.open_gate()
    assert exo.finished(exo.start("run", "shop.py:mapped", "--name", "m", "--json")).out.count('"SUCCEEDED"') == 1


def test_a_file_elsewhere_is_found_again_with_m(exo: Any) -> None:
    Path("else").mkdir()
    Path("else/far.py").write_text(Path("shop.py").read_text())
    Path("else/__init__.py").touch()
    Path("else/inner").mkdir()
    place = exo.folder / "else/inner"
    exo.killed("run", "else/far.py:order", "--name", "o", when="gated book")
    exo.open_gate()
    store = f"{exo.folder}/.exoflow/exoflow.db"
    (place / "gate").touch()
    lost = exo.finished(exo.start("resume", "o", "--store", store, cwd=place), code=2)
    assert "-m MODULE or -m FILE.py" in lost.err
    found = exo.finished(exo.start("resume", "o", "--store", store, "-m", "../far.py", cwd=place))
    assert found.out == "{'value': 'book'}\n"


def test_resume_all(exo: Any) -> None:
    exo.killed("run", "shop:order", "--name", "a", when="gated book")
    exo.killed("run", "shop:mapped", "--name", "b", when="gated 3")
    exo("run", "shop:fetch", "x", "--name", "done")
    exo.open_gate()
    rows = {row["workflow_id"]: row for row in exo.json("resume", "--all")["workflows"]}
    assert {name: row["result"] for name, row in rows.items()} == {"a": {"value": "book"}, "b": {"value": [1, 2, 3]}}
    assert all(row["error"] is None for row in rows.values())
    assert "nothing to resume" in exo("resume", "--all").err
    assert exo.json("resume", "--all") == {"workflows": []}


def test_resume_all_says_what_did_not_work(exo: Any) -> None:
    exo.killed("run", "shop:many", "2", "--name", "a", when="gated 1")
    exo.killed("run", "shop:order", "--name", "b", when="gated book")
    source = Path("shop.py").read_text()
    Path("shop.py").write_text(source.replace('note(f"finish {value}")', 'raise OSError("sold out")'))
    exo.open_gate()
    got = exo.json("resume", "--all", "--on-code-change", "accept", code=4)
    assert {row["workflow_id"]: row["error"]["code"] for row in got["workflows"]} == {"a": "task_failed", "b": "task_failed"}
    table = exo("list", "--status", "FAILED").out
    assert "sold out" in table


def test_resume_of_a_failed_workflow_goes_on(exo: Any) -> None:
    exo("run", "shop:declined", "--name", "d", code=4)
    assert exo.json("resume", "d", code=4)["error"]["code"] == "task_failed"
    assert exo.json("show", "d")["epoch"] == 2


def test_code_that_changed(exo: Any) -> None:
    exo.killed("run", "shop:order", "--name", "o", when="gated book")
    exo.open_gate()
    source = Path("shop.py").read_text()
    Path("shop.py").write_text(source.replace('return {"value": value}', 'return {"changed": value}'))
    got = exo("resume", "o", code=2)
    assert "'shop:finish' changed" in got.err
    assert "--on-code-change accept" in got.err
    assert exo("resume", "o", "--on-code-change", "accept").out == "{'changed': 'book'}\n"


def test_wrong_use_of_resume(exo: Any) -> None:
    exo("run", "shop:fetch", "x", "--name", "done")
    assert "exoflow resume NAME" in exo("resume", code=2).err
    assert "exoflow resume NAME" in exo("resume", "done", "--all", code=2).err
    assert "are for one workflow" in exo("resume", "--all", "--happened", "pay", code=2).err
    assert "two verdicts on task 'pay'" in exo("resume", "done", "--happened", "pay", "--not-happened", "pay", code=2).err
    assert "takes TASK=JSON" in exo("resume", "done", "--outcome", "pay", code=2).err
    assert "--happened or --not-happened pay" in exo("resume", "done", "--outcome", "pay=true", code=2).err
    assert "no task 'pay'" in exo("resume", "done", "--happened", "pay", code=2).err
    assert "'fetch' is not in doubt" in exo("resume", "done", "--happened", "fetch", code=2).err
    assert exo.json("resume", "nope", code=2)["error"]["code"] == "not_found"


def doubt(exo: Any) -> None:
    exo.killed("run", "shop:doubtful", "--name", "p", when="pay 7")
    exo.open_gate()


def test_a_task_in_doubt_waits_for_a_person(exo: Any) -> None:
    doubt(exo)
    got = exo("resume", "p", code=5)
    assert "exoflow resume p --happened pay" in got.err
    assert {task["task"]: task["state"] for task in exo.json("show", "p")["tasks"]} == {"pay": "IN_DOUBT", "finish": "WAITING"}
    assert exo.json("wait", "p", code=5)["error"]["code"] == "in_doubt"
    doctor = {each["name"]: each["level"] for each in exo.json("doctor")["checks"]}
    assert doctor["workflows"] == "warn"


@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize(
    ("verdict", "result", "paid"),
    [
        (["--happened", "pay"], None, 1),
        (["--not-happened", "pay"], 7, 2),
        (["--outcome", 'pay={"receipt": 5}'], {"receipt": 5}, 1),
    ],
)
def test_a_verdict_settles_a_doubt(exo: Any, verdict: list[str], result: Any, paid: int, crashed: bool) -> None:
    doubt(exo)
    if not crashed:
        exo("resume", "p", code=5)
    assert exo.json("resume", "p", *verdict)["result"] == {"value": result}
    assert exo.ran().count("pay 7") == paid


# --- cancel ----------------------------------------------------------------------------------------------------------------------


def test_cancel_of_a_workflow_that_another_process_drives(exo: Any) -> None:
    other = exo.start("run", "shop:trip", "--name", "t")
    exo.began("gated 12A")
    assert exo.json("cancel", "t") == {"workflow_id": "t", "status": "CANCELLED", "rolled_back": False, "standing": ["reserve", "gated"]}
    exo.open_gate()
    assert "cancelled" in exo.finished(other, code=7).err
    assert exo.json("resume", "t", code=2)["error"]["code"] == "invalid_state"
    assert exo.json("wait", "t", code=7)["error"]["code"] == "cancelled"


def test_cancel_with_rollback_after_a_crash(exo: Any) -> None:
    exo.killed("run", "shop:trip", "--name", "t", when="gated 12A")
    exo.open_gate()
    got = exo.json("cancel", "t", "--rollback")
    assert (got["status"], got["rolled_back"]) == ("CANCELLED", True)
    assert "reserve" not in got["standing"]
    assert exo.ran()[:2] == ["reserve 12A", "gated 12A"]
    assert exo.ran()[-1] == "release 12A"


def test_cancel_of_what_has_ended(exo: Any) -> None:
    exo("run", "shop:fetch", "x", "--name", "done")
    assert "nothing to cancel" in exo("cancel", "done", code=2).err
    assert exo.json("cancel", "nope", code=2)["error"]["code"] == "not_found"


# --- delete ----------------------------------------------------------------------------------------------------------------------


def test_delete(exo: Any) -> None:
    exo("run", "shop:fetch", "x", "--name", "f")
    assert "add --yes" in exo("delete", "f", code=2).err
    assert exo.json("delete", "f", code=2)["error"]["code"] == "usage"
    assert exo.json("delete", "f", "--yes") == {"workflow_id": "f", "deleted": True}
    assert exo.json("delete", "f", "--yes", code=2)["error"]["code"] == "not_found"


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 1), ("", 1, 1)])
def test_delete_asks_first(exo: Any, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int) -> None:
    monkeypatch.setattr("exoflow.cli.commands.delete.is_interactive", lambda: True)
    exo("run", "shop:fetch", "x", "--name", "f")
    exo("delete", "f", input=answer, code=code)
    assert len(exo.json("list")["workflows"]) == left


def test_delete_of_a_running_workflow_is_refused(exo: Any) -> None:
    other = exo.start("run", "shop:order", "--name", "o")
    exo.began("gated book")
    assert "cancel it first" in exo("delete", "o", "--yes", code=2).err
    exo.open_gate()
    exo.finished(other)


# --- wait ------------------------------------------------------------------------------------------------------------------------


def test_wait_for_a_workflow_of_another_process(exo: Any) -> None:
    other = exo.start("run", "shop:order", "--name", "o")
    exo.began("gated book")
    assert exo.json("wait", "o", "--timeout", "0.1", code=124)["error"]["code"] == "timed_out"
    waiting = exo.start("wait", "o")
    exo.open_gate()
    assert exo.finished(waiting).out == "{'value': 'book'}\n"
    exo.finished(other)
    assert exo.ran().count("gated book") == 1


def test_wait_goes_on_with_what_crashed(exo: Any) -> None:
    exo.killed("run", "shop:order", "--name", "o", when="gated book")
    exo.open_gate()
    assert exo("wait", "o").out == "{'value': 'book'}\n"


def test_wait_does_not_resume_what_failed(exo: Any) -> None:
    exo("run", "shop:declined", "--name", "d", code=4)
    got = exo("wait", "d", code=4)
    assert "in decline" in got.err, "the traceback of another process's task"
    assert exo.json("show", "d")["epoch"] == 1


SCRIPT = """
import dataclasses, os, sys, time
from pathlib import Path
import exoflow
import beside

@dataclasses.dataclass
class Order:
    what: str

@dataclasses.dataclass
class Receipt:
    order: Order

@exoflow.task
def book(order, then):
    with open("ran", "a") as ran:
        ran.write("book\\n")
    while not Path("gate").exists():
        time.sleep(0.005)
    return Receipt(order)

@exoflow.task(executor="process", can_rollback=True)
def look(receipt):
    assert type(receipt) is Receipt, type(receipt)
    return Receipt(Order(receipt.order.what + beside.MARK))

@exoflow.task
def say(receipt):
    assert isinstance(receipt.order, Order)
    return receipt

if __name__ == "__main__":
    print(exoflow.run(say.bind(look.bind(book.bind(Order("tea"), say))), name="o"))
"""


@pytest.fixture
def script(exo: Any) -> Any:
    """A script that was killed in the middle of a workflow whose arguments and outputs are of its own classes."""
    (exo.folder / "apart").mkdir()
    (exo.folder / "apart/beside.py").write_text("MARK = '!'\n")
    (exo.folder / "apart/script.py").write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, "apart/script.py"], cwd=exo.folder, stdout=subprocess.PIPE, text=True)
    exo.processes.append(process)
    exo.began("book")
    process.kill()
    process.communicate()
    exo.open_gate()
    return exo


RESULT = "Receipt(order=Order(what='tea!'))"


@pytest.mark.parametrize("words", [["resume", "o"], ["wait", "o"]])
def test_a_workflow_of_a_script_goes_on_without_it(script: Any, words: list[str]) -> None:
    """The script is imported for its classes and tasks; then the script itself gets the result."""
    assert script.finished(script.start(*words)).out == f"{RESULT}\n"
    assert script.finished(script.start("resume", "o")).out == f"{RESULT}\n", "and once more, now that it has ended"
    again = subprocess.run([sys.executable, "apart/script.py"], cwd=script.folder, capture_output=True, text=True, check=True)
    assert again.stdout == f"{RESULT}\n"


def test_workflows_of_scripts_are_among_all(script: Any) -> None:
    (row,) = json.loads(script.finished(script.start("resume", "--all", "--json")).out)["workflows"]
    assert (row["workflow_id"], row["error"], row["result"]) == ("o", None, {"order": {"what": "tea!"}})


def test_a_workflow_of_a_script_is_cancelled_without_it(script: Any) -> None:
    assert "cancelled o" in script.finished(script.start("cancel", "o")).out


def test_a_script_that_cannot_be_imported_is_named(script: Any) -> None:
    (script.folder / "apart/beside.py").unlink()
    got = script.finished(script.start("resume", "o"), code=8)
    assert "run that script again" in got.err
    (script.folder / "apart/script.py").unlink()
    assert "run that script again" in script.finished(script.start("resume", "o"), code=8).err
