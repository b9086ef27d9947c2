"""Wrong words on the command line: each gets its code, its exit code and a message that says what to do; nothing is written, and no
traceback is shown. The numbers are those of the list of bad inputs in the design (reliability, section 5)."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from exoflow.cli.failures import EXIT_CODES
from exoflow.store.registry import open_store

LONG = "x" * 201
SECRET = "hunter2"
IDS = [
    ("1", "", "workflow_id is empty; omit it"),
    ("1", "   ", "workflow_id is empty"),
    ("2", "../../etc/passwd", "workflow_id contains '/' (SOLIDUS) at position 2"),
    ("2", ".hidden", "beginning with a letter or digit"),
    ("3", LONG, "workflow_id has 201 characters; the limit is 200"),
    ("4", "a\nb", "U+000A"),
    ("4", "abcde\u202ef", "U+202E (RIGHT-TO-LEFT OVERRIDE) at position 5"),
    ("4", "\uff21", "U+FF21 (FULLWIDTH LATIN CAPITAL LETTER A)"),
]
TAKES_AN_ID = (["run", "shop:greet", "x", "--name"], ["show"], ["wait"], ["resume"], ["cancel"], ["delete", "--yes"])

CASES: list[tuple[str, list[str], str, str]] = [
    *((number, [*command, name], "invalid_id", says) for number, name, says in IDS for command in TAKES_AN_ID),
    (
        "6",
        ["run", "shop:greet", "eve", "--name", "seed"],
        "id_conflict",
        "or other arguments (arguments of greet)",
    ),
    ("6", ["run", "shop:add", "1", "2", "--name", "seed"], "id_conflict", "choose a new name"),
    ("8", ["run", "wrong:circle"], "cycle", "task graph has a cycle: a -> b -> a"),
    ("9", ["run", "wrong:itself"], "cycle", "a -> a"),
    ("10", ["run", "wrong:twins"], "duplicate_task_name", "two tasks are named 'x' ("),
    ("11", ["run", "claims.py:f"], "duplicate_registration", "the name 'claimed' is registered by"),
    ("12", ["run", "misspelt.py:f"], "invalid_option", "got 'snyc'; did you mean 'sync'?"),
    ("13", ["run", "contrary.py:f"], "invalid_option", "rollback function given but can_rollback=False"),
    ("15", ["run", "shop:unsafe"], "unsafe_workflow", "nondeterministic"),
    ("16", ["run", "shop:greet"], "signature", "task 'greet': missing a required argument: 'name'"),
    ("16", ["run", "shop:add", "1", "2", "3"], "signature", "too many positional arguments"),
    ("16", ["run", "shop:add", "a=1", "c=2"], "signature", "task 'add'"),
    ("17", ["run", "wrong:holds_a_lock"], "argument_not_serializable", "_thread.lock"),
    ("20", ["run", "wrong:nameless"], "unresumable_task", "has no importable name"),
    *(
        ("21", [*command, "nope"], "not_found", "no workflow 'nope' in store sqlite:")
        for command in (["show"], ["wait"], ["resume"], ["cancel"], ["delete", "--yes"])
    ),
    ("21", ["show", "seed", "--story", "gret"], "task_not_found", "did you mean 'greet'?"),
    ("21", ["resume", "seed", "--happened", "nope"], "task_not_found", "no task 'nope'"),
    ("22", ["cancel", "seed"], "invalid_state", "workflow 'seed' is SUCCEEDED; nothing to cancel"),
    ("22", ["resume", "seed", "--happened", "greet"], "invalid_state", "is not in doubt"),
    ("24", ["wait", "seed", "--timeout", "-1"], "usage", "--timeout"),
    ("24", ["wait", "seed", "--timeout", "nan"], "usage", "--timeout"),
    ("24", ["gc", "--grace", "nan"], "usage", "--grace"),
    ("24", ["list", "--limit", "0"], "usage", "--limit"),
    ("25", ["list", "--store", f"postgre://joe:{SECRET}@h/x"], "store_config", "unknown scheme 'postgre'"),
    ("25", ["run", "shop:greet", "x", "--store", "sqlite:"], "store_config", "names no file"),
    ("26", ["run", "shop:greet", "x", "--store", "letter.db"], "store_open", "it is not an SQLite database"),
    ("26", ["list", "--store", "foreign.db"], "store_open", "SQLite database of another program"),
    ("26", ["show", "seed", "--store", "none.db"], "store_open", "there is no such file"),
    ("", ["run", "shop:nope"], "usage", "'shop' has no 'nope'"),
    ("", ["run", "nowhere:f"], "usage", "there is no module 'nowhere'"),
    ("", ["run", "shop"], "usage", "say module:name"),
    ("", ["run", "shop:greet", "x", "--mode", "careful"], "usage", "--mode"),
    ("", ["resume", "seed", "--on-code-change", "ignore"], "usage", "--on-code-change"),
    ("", ["resume"], "usage", "say which workflow"),
    ("", ["delete", "seed"], "usage", "add --yes"),
    ("", ["list", "--status", "DONE"], "invalid_option", "--status must be one of"),
    ("", ["lst"], "usage", "lst"),
    ("", ["show"], "usage", "NAME"),
]

FILES = {
    "wrong.py": """
import threading
import exoflow

@exoflow.task
def one(): return 1

@exoflow.task
def same(value): return value

a, b = one.options(name="a").bind(), one.options(name="b").bind()
circle = a >> b
_ = b >> a
itself = one.options(name="a").bind()
_ = itself >> itself
twins = same.bind([one.options(name="x").bind(), same.options(name="x").bind(2)])
holds_a_lock = same.bind(threading.Lock())
nameless = exoflow.task(lambda: 1).bind()
""",
    "claims.py": "import exoflow\n@exoflow.task(name='claimed')\ndef f(): ...\n@exoflow.task(name='claimed')\ndef g(): ...\n",
    "misspelt.py": "import exoflow\n@exoflow.task(checkpoint='snyc')\ndef f(): ...\n",
    "contrary.py": "import exoflow\ndef undo(): ...\n@exoflow.task(rollback=undo, can_rollback=False)\ndef f(): ...\n",
    "letter.db": "This is a letter.\n" * 100,
}


@pytest.fixture
def seeded(exo: Any) -> Any:
    """A folder with one workflow that SUCCEEDED, and files with mistakes in them."""
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("letter.db").chmod(0o600)
    with sqlite3.connect("foreign.db") as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    Path("foreign.db").chmod(0o600)
    exo("run", "shop:greet", "ada", "--name", "seed")
    return exo


def everything() -> Any:
    """What is in the store, and in the files beside it. (Its own file changes with each process that opens it.)"""
    with contextlib.closing(open_store("sqlite:.exoflow/exoflow.db")) as store:
        inside = [(head, store.entries(head.workflow_id, retired=True)) for head in store.heads()]
        blobs = list(store.blobs.names())
    outside = sorted((str(path), path.read_bytes()) for path in Path().iterdir() if path.is_file())
    return inside, blobs, outside


@pytest.mark.slow
def test_each_mistake_gets_its_code_and_changes_nothing(seeded: Any) -> None:
    """As text and as JSON. (Slow, because it is one test for all: each would have to make the folder anew.)"""
    rows = seeded.json("list")
    before = everything()
    for number, words, code, says in CASES:
        what = f"{number}: exoflow {' '.join(words)}"
        exit_code = EXIT_CODES.get(code, 8 if code == "store_open" else 3 if code == "unsafe_workflow" else 2)
        got = seeded(*words, "--json", code=exit_code)
        error = json_of(got.out, what)["error"]
        assert error["code"] == code, (what, error)
        assert says in error["message"], (what, error)
        text = seeded(*words, code=exit_code)
        for said in (got.out + got.err, text.out + text.err):
            assert "Traceback" not in said, what
            assert SECRET not in said, what
            assert all(char.isprintable() or char == "\n" for char in said), what
        assert says.split("'")[0] in text.err, (what, text.err)
    assert seeded.json("list") == rows
    assert everything() == before


def json_of(text: str, what: str) -> Any:
    assert text.count("\n") == 1, what
    return json.loads(text)


def test_the_same_again_is_no_mistake(seeded: Any) -> None:
    """7: it attaches."""
    assert seeded("run", "shop:greet", "ada", "--name", "seed").out == "'hello ada'\n"
