"""Commands that look: list, show, check, doctor, version, help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

import exoflow
from exoflow.cli.health import filesystem_of


def runs(exo: Any, *names: str) -> None:
    for name in names:
        exo("run", "shop:fetch", "book", "--name", name)


# --- list ------------------------------------------------------------------------------------------------------------------------


def test_list_before_anything_ran(exo: Any) -> None:
    got = exo("list")
    assert "no store yet" in got.err
    assert exo.json("list") == {"workflows": [], "next_after": None}
    assert not Path(".exoflow").exists()


def test_list(exo: Any) -> None:
    runs(exo, "a", "b")
    exo("run", "shop:declined", "--name", "c", code=4)
    lines = exo("list").out.splitlines()
    assert [line.split()[:2] for line in lines] == [["WORKFLOW", "STATUS"], ["a", "SUCCEEDED"], ["b", "SUCCEEDED"], ["c", "FAILED"]]
    assert "\x1b" not in "".join(lines)
    row = exo.json("list", "--status", "failed")["workflows"]
    assert [each["workflow_id"] for each in row] == ["c"]
    assert set(row[0]) == {"workflow_id", "status", "created_ms", "updated_ms", "epoch", "owner", "note"}


def test_list_by_pages(exo: Any) -> None:
    runs(exo, "a", "b", "c")
    first = exo.json("list", "--limit", "2")
    assert [each["workflow_id"] for each in first["workflows"]] == ["a", "b"]
    rest = exo.json("list", "--limit", "2", "--after", first["next_after"])
    assert [each["workflow_id"] for each in rest["workflows"]] == ["c"]
    assert rest["next_after"] is None
    assert "exoflow list --after b" in exo("list", "--limit", "2").err


def test_list_refuses_a_status_that_does_not_exist(exo: Any) -> None:
    runs(exo, "a")
    assert "--status must be one of PENDING" in exo("list", "--status", "lost", code=2).err


@pytest.mark.parametrize("command", [["list"], ["show", "a"], ["resume", "a"], ["cancel", "a"], ["delete", "a", "--yes"], ["wait", "a"]])
def test_a_store_that_is_named_and_absent_is_not_made(exo: Any, command: list[str]) -> None:
    error = exo.json(*command, "--store", "sqlite:none.db", code=8)["error"]
    assert error["code"] == "store_open"
    assert "there is no such file" in error["message"]
    assert not Path("none.db").exists()


# --- show ------------------------------------------------------------------------------------------------------------------------


def test_show(exo: Any) -> None:
    exo("run", "shop:total", "2", "--name", "t")
    out = exo("show", "t").out
    assert out.startswith("t  SUCCEEDED\n")
    assert [line.split()[:4] for line in out.splitlines()[-2:]] == [
        ["add", "UNKNOWN", "internal", "no"],
        ["add_2", "SUCCEEDED", "internal", "yes"],
    ]


def test_show_in_json(exo: Any) -> None:
    exo("run", "shop:declined", "--name", "d", code=4)
    got = exo.json("show", "d")
    assert (got["workflow_id"], got["status"]) == ("d", "FAILED")
    [task] = got["tasks"]
    assert {"task", "state", "kind", "durable", "effect_stands", "attempts", "failures", "size_bytes", "inputs", "error"} <= set(task)
    assert (task["task"], task["state"]) == ("decline", "FAILED")


def test_show_lets_no_control_character_through(exo: Any) -> None:
    exo("run", "shop:declined", "--name", "d", code=4)
    for words in (["show", "d"], ["show", "d", "--story"], ["list"]):
        out = exo(*words).out
        assert "\\x1b[2J funds\\u202e" in out
        assert all(char.isprintable() or char == "\n" for char in out)


def test_show_prints_the_first_tasks_of_many(exo: Any) -> None:
    exo("run", "shop:total", "5", "--name", "t")
    got = exo("show", "t", "--limit", "2")
    assert "and 3 more" in got.err
    assert exo("show", "t", "--limit", "0").out.count("add") == 5


def test_the_story_of_a_task_and_of_the_whole(exo: Any) -> None:
    exo.open_gate()
    exo("run", "shop:order", "--name", "o")
    whole = exo("show", "o", "--story").out
    assert "the workflow was accepted, 3 tasks" in whole
    assert "gated: output of attempt 1" in whole
    one = exo("show", "o", "--story", "fetch").out
    assert "fetch: output of attempt 1" in one
    assert "gated" not in one
    assert exo.json("show", "--story=fetch", "o") == {"workflow_id": "o", "task": "fetch", "story": one.splitlines()}
    assert exo.json("show", "o", "--story")["task"] is None


def test_show_of_what_is_not_there(exo: Any) -> None:
    runs(exo, "a")
    assert exo.json("show", "b", code=2)["error"]["code"] == "not_found"
    assert "did you mean 'fetch'?" in exo("show", "a", "--story", "fetsch", code=2).err
    assert exo.json("show", "", code=2)["error"]["code"] == "invalid_id"


def test_show_says_how_data_moves_where_it_leaves_the_process(exo: Any) -> None:
    """Also when the module with the tasks is not there any more."""
    Path("moved.py").write_text(
        "import exoflow\n"
        "@exoflow.task(can_rollback=True)\ndef make(): return exoflow.ValueRef(1)\n"
        "@exoflow.task(can_rollback=True, executor='process')\ndef there(a): return 2\n"
        "moves = there.bind(make.bind())\n",
        "utf-8",
    )
    exo("run", "moved:moves", "--name", "m")
    Path("moved.py").unlink()
    out = exo("show", "m").out
    assert "here -> process: pickled" in out
    assert out.endswith("\n    make -> there (1 Ref)\n")
    [edge] = exo.json("show", "m")["edges"]
    assert (edge["up"], edge["down"], edge["from"], edge["to"]) == ("make", "there", "here", "process")
    assert edge["refs"] == ["exoflow.refs.values:ValueRef"]


# --- check -----------------------------------------------------------------------------------------------------------------------


def test_check_of_a_safe_dag(exo: Any) -> None:
    assert exo("check", "shop:order").out == "shop:order: safe (3 tasks)\n"
    assert exo.json("check", "shop:total", "4")["safe"] is True
    assert not Path(".exoflow").exists()


def test_check_says_how_data_moves_where_it_leaves_the_process(exo: Any) -> None:
    Path("moving.py").write_text(
        "import exoflow\n"
        "@exoflow.task(can_rollback=True)\ndef make(): ...\n"
        "@exoflow.task(can_rollback=True, executor='process')\ndef there(a): ...\n"
        "@exoflow.task(can_rollback=True, executor='ray')\ndef on_ray(a): ...\n"
        "tell = exoflow.http_function('http://127.0.0.1:1/tell')\n"
        "dag = tell.bind(on_ray.bind(on_ray.bind(there.bind(make.bind()))))\n"
    )
    out = exo("check", "moving:dag").out
    for line in (
        "here -> process: pickled, large arrays as shared memory; a Ref as itself if it can go, else its data",
        "process -> ray: pickled, large values through Ray's store; a Ref of Ray as itself",
        "ray -> ray: stays in Ray if it is large; a Ref as itself",
        "ray -> a function elsewhere: as JSON; a BucketRef as its address",
        "make -> there",
    ):
        assert line in out
    edges = exo.json("check", "moving:dag")["dags"][0]["edges"]
    assert (edges[0]["up"], edges[0]["down"], edges[0]["from"], edges[0]["to"]) == ("make", "there", "here", "process")


def test_check_of_an_unsafe_dag(exo: Any) -> None:
    out = exo("check", "shop:unsafe", code=1).out
    assert "NOT safe" in out
    assert "path:   price -> charge" in out
    assert "repair: checkpoint=True on 'price'" in out
    assert "mode auto" not in out
    got = exo.json("check", "shop:unsafe", code=1)
    [dag] = got["dags"]
    [finding] = dag["findings"]
    assert (got["safe"], dag["dag"], dag["tasks"], dag["turned_on"]) == (False, "shop:unsafe", 2, [])
    assert {"code", "task", "culprit", "path", "repairs", "message"} <= set(finding)
    assert finding["repairs"] == [{"task": "price", "annotation": "checkpoint", "value": True}]


def test_check_says_what_mode_auto_would_turn_on(exo: Any) -> None:
    assert "mode auto would turn on: checkpoint=True on price" in exo("check", "shop:unsafe", "--mode", "auto", code=1).out
    assert exo.json("check", "shop:unsafe", "--mode", "auto", code=1)["dags"][0]["turned_on"] == ["price"]


def test_check_of_a_whole_module(exo: Any) -> None:
    got = exo.json("check", "shop", code=1)
    names = [dag["dag"] for dag in got["dags"]]
    assert "shop:unsafe" in names
    assert "shop:params" in names, "the inputs of an InputNode do not matter"
    assert got["skipped"] == ["shop:total", "shop:many"]
    Path("safe.py").write_text("from shop import fetch, finish\na = fetch.bind(1)\nb = finish.bind(a)\n")
    assert exo("check", "safe").out == "safe:b: safe (2 tasks)\n", "a is part of b"


def test_check_of_a_module_with_nothing_to_check(exo: Any) -> None:
    Path("empty.py").touch()
    assert "defines no DAG and no workflow" in exo("check", "empty", code=2).err
    assert "arguments are for one DAG" in exo("check", "shop", "1", code=2).err


# --- doctor ----------------------------------------------------------------------------------------------------------------------


def levels(exo: Any, *words: str, code: int = 0) -> dict[str, str]:
    got = exo.json("doctor", *words, code=code)
    assert all(set(each) == {"name", "level", "text", "advice"} for each in got["checks"])
    assert got["ok"] is (code == 0)
    return {each["name"]: each["level"] for each in got["checks"]}


def test_doctor_where_all_is_well(exo: Any) -> None:
    runs(exo, "a")
    found = levels(exo)
    found.pop("disk"), found.pop("space")  # of this machine
    assert set(found.values()) == {"ok"}
    assert {"exoflow", "python", "sqlite", "settings", "permissions", "store", "schema", "integrity"} < set(found)
    lines = exo("doctor").out.splitlines()
    assert all(line.startswith(("ok    ", "warn  ")) for line in lines)


def test_doctor_before_anything_ran(exo: Any) -> None:
    assert levels(exo)["store"] == "ok"
    assert levels(exo, "--store", "none.db", code=1)["store"] == "fail"
    assert not Path("none.db").exists()


def test_doctor_finds_wrong_settings(exo: Any) -> None:
    Path("pyproject.toml").write_text('[tool.exoflow]\nlease_s = "long"\n')
    assert levels(exo, code=1)["settings"] == "fail"


def test_doctor_finds_a_file_that_is_no_store(exo: Any) -> None:
    Path("text.db").write_text("no database " * 100)
    Path("text.db").chmod(0o600)
    assert levels(exo, "--store", "text.db", code=1)["store"] == "fail"


def test_doctor_finds_open_permissions(exo: Any) -> None:
    runs(exo, "a")
    Path(".exoflow/exoflow.db").chmod(0o644)
    assert levels(exo)["permissions"] == "warn"
    Path(".exoflow/exoflow.db-blobs").chmod(0o777)
    got = exo("doctor", code=1).out
    assert "chmod 700" in got


def big(exo: Any) -> Path:
    """A workflow whose output is a blob; its file."""
    Path("large.py").write_text("import exoflow\n@exoflow.task\ndef f(): return 'x' * 100_000\n")
    exo("run", "large:f", "--name", "l")
    [blob] = [path for path in Path(".exoflow/exoflow.db-blobs").rglob("*") if path.is_file() and "locks" not in path.parts]
    return blob


def test_doctor_finds_a_flipped_byte_in_a_blob(exo: Any) -> None:
    blob = big(exo)
    assert levels(exo)["outputs"] == "ok"
    bytes_ = bytearray(blob.read_bytes())
    bytes_[-1] ^= 1
    blob.write_bytes(bytes_)
    assert levels(exo, code=1)["outputs"] == "fail"
    assert "l/f" in exo("doctor", code=1).out


def test_doctor_finds_a_lost_blob(exo: Any) -> None:
    big(exo).unlink()
    assert levels(exo, code=1)["outputs"] == "fail"


def test_gc_removes_what_no_workflow_names(exo: Any) -> None:
    kept = big(exo)
    left = kept.with_name(f"{kept.parent.name}{'0' * 30}")
    left.write_bytes(b"left by a crash")
    assert "exoflow gc removes them" in exo("doctor").out
    young = exo("gc")
    assert young.out == "removed 0 blobs, 0 B\n"
    assert "spared 1 that are younger than 3600 s" in young.err
    assert exo.json("gc", "--grace", "0", "--dry-run") == {"removed": 1, "size_bytes": 15, "spared": 0, "dry_run": True}
    assert exo("gc", "-n", "--grace", "0").out == "would remove 1 blobs, 15 B\n"
    assert exo.json("gc", "--grace", "0") == {"removed": 1, "size_bytes": 15, "spared": 0, "dry_run": False}
    assert exo("gc", "--grace", "0").out == "removed 0 blobs, 0 B\n"
    assert levels(exo)["outputs"] == "ok"
    for wrong in ("-1", "nan", "inf", "soon"):
        assert exo.json("gc", "--grace", wrong, code=2)["error"]["code"] in {"usage", "invalid_option"}


def test_doctor_finds_a_damaged_page(exo: Any) -> None:
    runs(exo, "a", "b")
    path = Path(".exoflow/exoflow.db")
    db = apsw.Connection(str(path))
    db.pragma("wal_checkpoint", "TRUNCATE")
    db.close()
    bytes_ = bytearray(path.read_bytes())
    at = bytes_.rindex(b"shop")
    bytes_[at] ^= 1
    path.write_bytes(bytes_)
    assert "fail" in levels(exo, code=1).values()


def test_doctor_knows_file_systems() -> None:
    mounts = "overlay / overlay rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/sda /tmp/with\\040space ext4 rw 0 0\n"
    assert filesystem_of(Path("/tmp/with space/x"), mounts) == "ext4"
    assert filesystem_of(Path("/tmp/other"), mounts) == "tmpfs"
    assert filesystem_of(Path("/else"), mounts) == "overlay"
    assert isinstance(filesystem_of(Path("/")), str)


# --- version, help ---------------------------------------------------------------------------------------------------------------


def test_versions(exo: Any) -> None:
    assert exo("--version").out == f"exoflow {exoflow.__version__}\n"
    assert f"sqlite {apsw.sqlite_lib_version()}" in exo("version").out
    assert set(exo.json("version")) == {"exoflow", "python", "sqlite", "apsw"}


def test_help(exo: Any) -> None:
    out = exo("--help").out
    commands = ["run", "list", "show", "wait", "resume", "cancel", "delete", "gc", "check", "doctor", "version"]
    for command in commands:
        assert f"\n  {command}" in out
        help_ = exo(command, "--help").out
        assert all(option in help_ for option in ("--store", "--json", "--module", "--verbose"))
    assert "exoflow run" in exo("run", "-h").out
    assert "Usage: exoflow" in exo(code=2).err


def test_the_shell_completes_commands_and_choices(exo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_EXOFLOW_COMPLETE", "bash_complete")
    for typed, offered in (("exoflow res", "resume"), ("exoflow run --mode a", "auto"), ("exoflow list --st", "--status --store")):
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
        assert exo().out.split() == [f"plain,{word}" for word in offered.split()]


def test_a_command_that_does_not_exist(exo: Any) -> None:
    assert "No such command 'lst'" in exo("lst", code=2).err
    assert exo.json("lst", code=2)["error"]["code"] == "usage"


def test_help_does_not_load_what_only_running_needs(folder: Path) -> None:
    """Of other people's packages, the command line adds click to what ``import exoflow`` loads, and nothing heavy."""
    program = (
        "import sys, exoflow; before = set(sys.modules)\n"
        "import exoflow.cli.main\n"
        "try: exoflow.cli.main.app(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}), file=sys.stderr)\n"
        "assert 'apsw' not in sys.modules and 'exoflow.store.sqlite' not in sys.modules\n"
    )
    got = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert got.returncode == 0, got.stderr
    added = {name for name in got.stderr.split() if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert added <= {"click", "exoflow"}


def test_nothing_is_left_open(exo: Any) -> None:
    """Each command closes its engine: no lock file stays behind."""
    runs(exo, "a")
    exo("show", "a")
    exo("doctor")
    assert os.listdir(".exoflow/exoflow.db-blobs/locks") == []
