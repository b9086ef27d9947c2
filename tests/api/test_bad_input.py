"""Wrong calls: each gets the error it deserves, which says what is wrong with the value shown and what to do, and changes nothing.

The numbers are those of the list of bad inputs in the design (reliability, section 5). Not here: 6 (conflicts), 7 (attach), 22 (cancel
of what has ended) are in test_engine.py, 23 in test_code_change.py, 18 and 19 also in test_failures.py, 27 in test_large_outputs.py.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

import exoflow
from exoflow import InputNode, task
from exoflow import errors as e
from exoflow.client.default import run_async
from exoflow.errors import ExoflowError


@task
def one():
    return 1


@task
def same(value):
    return value


@task
def join(left, right):
    return left, right


@task(checkpoint=False, can_rollback=True)
def draw():
    return 4


def undo_x(seat_id):
    """Undoes nothing."""


def undo(seat):
    """Undoes nothing."""


@task
def reserve(trip, seat):
    return seat


@dataclasses.dataclass(frozen=True)
class Case:
    number: str
    do: Callable[[exoflow.Engine], object]
    cls: type[ExoflowError]
    words: tuple[str, ...]
    only: str = ""
    base: type[Exception] = Exception
    limit_s: float = 0.1
    """Of this thread's time; whatever is wrong is found before anything long begins."""


CASES: list[Case] = []


def case(number, cls, *words, only="", base=Exception, limit_s=0.1):
    """The decorated function makes the mistake."""

    def note(do):
        CASES.append(Case(f"{number} {do.__name__}", do, cls, words, only, base, limit_s))
        return do

    return note


def options(number, *words, cls=e.InvalidOptionError, **given):
    CASES.append(Case(f"{number} {' '.join(given)}", lambda _: task(**given)(lambda trip, seat=1: seat), cls, words, base=ValueError))


def name(number, value, *words, base=ValueError):
    CASES.append(
        Case(
            f"{number} id",
            lambda engine: engine.run(one.bind(), name=value),
            e.InvalidIdError,
            ("workflow_id", *words),
            base=base,
        )
    )


def argument(number, make, *words):
    """An argument that cannot be saved, deep inside others; ``make`` may give something to close as well."""

    def do(engine):
        value = make()
        try:
            engine.run(join.bind(1, right={"deep": [value]}), name="new")
        finally:
            if isinstance(value, (io.IOBase, socket.socket, sqlite3.Connection)) or hasattr(value, "cr_code"):
                value.close()

    where = ("argument of task 'join' cannot be pickled", "args.right['deep'][0]", "make it inside the task")
    CASES.append(Case(f"{number} {words[0]}", do, e.ArgumentNotSerializableError, (*where, *words), base=TypeError))


# 1 to 5: ids

name(1, "", "is empty; omit it to get a generated id, or pass 1-200 of A-Z a-z 0-9 . _ : -")
name(1, "   ", "is empty")
name(2, "../../etc/passwd", "contains '/' (SOLIDUS) at position 2")
name(2, "a..b", "no '..'")
name(2, ".hidden", "beginning with a letter or digit")
name(2, "-rf", "beginning with a letter or digit")
name(2, "a\\b", "contains '\\' (REVERSE SOLIDUS) at position 1")
name(3, "x" * 201, "has 201 characters; the limit is 200")
name(3, "x" * 10_000_000, "has 10000000 characters")
name(4, "a\0b", "U+0000", "position 1")
name(4, "a\nb", "U+000A", "position 1")
name(4, "abcde\u202ef", "U+202E (RIGHT-TO-LEFT OVERRIDE) at position 5")
name(4, "\N{GRINNING FACE}", "U+1F600 (GRINNING FACE) at position 0")
name(4, "\uff21\uff22", "U+FF21 (FULLWIDTH LATIN CAPITAL LETTER A) at position 0")
name(4, "a\ud800", "U+D800")
name(5, 7, "must be str, got int (7); use str(...)", base=TypeError)
name(5, b"x", "must be str, got bytes", base=TypeError)
name(5, ["x"] * 1000, "must be str, got list", base=TypeError)


@case(1, e.InvalidIdError, "workflow_id is empty")
def workflow_id_instead_of_name(engine):
    engine.run(one.bind(), workflow_id="")


@case(1, e.InvalidOptionError, "name and workflow_id mean the same")
def both_names(engine):
    engine.run(one.bind(), name="a", workflow_id="a")


@case(4, e.InvalidIdError, "task name contains '/'", base=ValueError)
def task_name_with_a_slash(engine):
    engine.run(one.options(name="a/b").bind())


@case(5, e.InvalidIdError, "task name must be str, got int (3)", base=TypeError)
def task_name_that_is_none(engine):
    engine.run(one.options(name=3).bind())


# 8 to 11: graphs and names


@case(8, e.CycleError, "task graph has a cycle: ", " -> ", base=ValueError)
def a_circle(engine):
    a, b, c = (one.options(name=n).bind() for n in "abc")
    _ = a >> b >> c >> a
    engine.run(c, name="new")


@case(9, e.CycleError, "task graph has a cycle: a -> a", base=ValueError)
def a_task_on_itself(engine):
    a = one.options(name="a").bind()
    _ = a >> a
    engine.run(a, name="new")


@case(9, e.ForeignNodeError, "node 'one' was given to run() as an input", "bind()")
def a_node_as_input(engine):
    engine.run(same.bind(InputNode()), one.bind(), name="new")


@case(9, e.ArgumentNotSerializableError, "node 'one' is part of a DAG, not a value")
def a_node_in_a_set(engine):
    engine.run(same.bind({one.bind()}), name="new")


@case(9, e.ArgumentNotSerializableError, "a running workflow", "its future cannot be saved; pass its name")
def a_future_as_argument(engine):
    engine.run(same.bind(engine.run_async(one.bind(), name="seed")), name="new")


@case(10, e.DuplicateTaskNameError, "two tasks are named 'load' (", "test_bad_input.py:", " and ", "another name=")
def two_tasks_of_one_name(engine):
    engine.run(join.bind(one.options(name="load").bind(), draw.options(name="load").bind()), name="new")


@case(11, e.DuplicateRegistrationError, "the name 'bad-input-load' is registered by ", "test_bad_input.py:", "again by")
def two_functions_under_one_name(_):
    @task(name="bad-input-load")
    def first(): ...

    @task(name="bad-input-load")
    def second(): ...


@case("", e.InvalidOptionError, "run() takes a DAG (task.bind(...)), a workflow or a task, got NoneType")
def nothing_to_run(engine):
    engine.run(None, name="new")


@case("", e.InvalidOptionError, "run() takes a DAG", "got list")
def a_list_to_run(engine):
    engine.run([one.bind()], name="new")


@case("", e.InvalidOptionError, "run() takes a DAG", "got function")
def a_plain_function_to_run(engine):
    engine.run(undo, 1, name="new")


@case("", e.InvalidOptionError, "the DAG has 5 tasks; the limit is 4 (tasks_max)")
def too_many_tasks(engine):
    with exoflow.Engine(engine.store, tasks_max=4) as small:
        small.store = SPARED
        small.run(same.bind([one.bind() for _ in range(4)]), name="new")


# 12 to 14: options

options(12, "checkpoint must be True, False, 'sync', 'async' or 'auto', got 'snyc'; did you mean 'sync'?", checkpoint="snyc")
options(12, "checkpoint must be", "got 1", checkpoint=1)
options(12, "checkpoint must be", "got None", checkpoint=None)
options(12, "checkpoint must be", "got []", checkpoint=[])
options(12, "unknown option 'chekpoint'; did you mean 'checkpoint'?", chekpoint=True)
options(13, "rollback function given but can_rollback=False; set can_rollback=True or remove rollback", rollback=undo, can_rollback=False)
options(13, "on_unknown is for tasks that cannot be rolled back", on_unknown="fail", rollback=undo)
options(13, "on_unknown needs to know what happened, so the output must be saved", on_unknown="fail", checkpoint=False)
options(14, "rollback must be a function, got 'undo'", rollback="undo")
options(14, "rollback 'undo_x' takes 'seat_id', which task '<lambda>' does not have (it has seat, trip)", rollback=undo_x)
options(14, "on_unknown 'undo_x' takes 'seat_id'", on_unknown=undo_x)
options(14, "on_unknown must be 'retry', 'fail' or a function, got 'ask'", on_unknown="ask")
options(12, "deterministic must be True or False, got 1", deterministic=1)
options(12, "can_rollback must be True or False, got 'yes'", can_rollback="yes")
options(12, "executor must be the name of an executor, got 3", executor=3)
options(12, "executor='loop' is for 'async def'", executor="loop")


async def undo_async(seat):
    """Undoes nothing."""


options(14, "rollback of task '<lambda>' is async but the task is not", rollback=undo_async)


# 15: graphs that a crash could break


@case(15, e.UnsafeWorkflowError, "'same' commits", "'draw' is nondeterministic and not saved", "draw -> same", "checkpoint=True on 'draw'")
def a_commit_on_chance(engine):
    engine.run(same.bind(draw.bind()), name="new")


@case(15, e.UnsafeWorkflowError, "'reserve' has a rollback, whose arguments could be lost", "draw -> reserve", base=ValueError)
def a_rollback_on_chance(engine):
    engine.run(reserve.options(rollback=undo).bind(1, draw.bind()), name="new")


# 16: signatures


@case(16, e.SignatureError, "task 'join': missing a required argument: 'right'", base=TypeError)
def too_few_arguments(_):
    join.bind(1)


@case(16, e.SignatureError, "task 'join': too many positional arguments", base=TypeError)
def too_many_arguments(_):
    join.bind(1, 2, 3)


@case(16, e.SignatureError, "task 'join': got an unexpected keyword argument 'middle'", base=TypeError)
def unknown_arguments(_):
    join.bind(1, 2, middle=3)


@case(16, e.SignatureError, "task 'one': got an unexpected keyword argument 'self'", base=TypeError)
def an_argument_called_self(_):
    one.bind(self=1)


@case(16, e.SignatureError, "task 'join': missing a required argument: 'right'", base=TypeError)
def a_task_run_with_too_few(engine):
    engine.run(join, 1, name="new")


@case(16, e.SignatureError, "run() was given 'colour', which the DAG does not use")
def an_input_that_nobody_takes(engine):
    engine.run(same.bind(InputNode()["x"]), x=1, colour="red", name="new")


# 17: arguments that cannot be saved


async def coroutine():
    """Does nothing."""


argument(17, coroutine, "builtins.coroutine")
argument(17, lambda: (n for n in range(3)), "builtins.generator")
argument(17, threading.Lock, "_thread.lock")
argument(17, lambda: open(os.devnull), "_io.TextIOWrapper")  # noqa: SIM115 - closed by the table
argument(17, lambda: open(os.devnull, "rb"), "_io.BufferedReader")  # noqa: SIM115
argument(17, lambda: sqlite3.connect(":memory:"), "sqlite3.Connection")
argument(17, socket.socket, "socket.socket")
argument(17, lambda: threading.Thread(target=print), "_thread")


@case(17, e.ArgumentNotSerializableError, "argument of task 'same' cannot be pickled", "nested too deeply", limit_s=1.0)
def an_argument_of_endless_depth(engine):
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    engine.run(same.bind(deep), name="new")


# 19: too large


@case(19, e.PayloadTooLargeError, "the definition and arguments of 'new' is", "the limit is 1000 (payload_limit)")
def arguments_above_the_limit(engine):
    with exoflow.Engine(engine.store, payload_limit=1000) as small:
        small.store = SPARED
        small.run(same.bind("x" * 2000), name="new")


# 20: functions that nobody would find again


@case(20, e.UnresumableTaskError, "<lambda>' at ", "test_bad_input.py:", "has no importable name", "Engine(store='memory:')", only="sqlite")
def a_lambda(engine):
    engine.run(task(lambda: 1).bind(), name="new")


@case(20, e.UnresumableTaskError, "nested' at ", "has no importable name", only="sqlite")
def a_nested_function(engine):
    @task
    def nested():
        return 1

    engine.run(nested.bind(), name="new")


@case(20, e.UnresumableTaskError, "<partial>", "has no importable name", only="sqlite")
def a_partial_function(engine):
    engine.run(task(functools.partial(join.function, 1)).bind(2), name="new")


@case(20, e.UnresumableTaskError, "<lambda>", only="sqlite")
def a_nested_rollback(engine):
    engine.run(reserve.options(rollback=lambda seat: None).bind(1, 2), name="new")


# 21: what does not exist


@case(21, e.WorkflowNotFoundError, "no workflow 'nope' in store ", base=LookupError)
def resume_of_nothing(engine):
    engine.resume("nope")


@case(21, e.WorkflowNotFoundError, "no workflow 'nope' in store ", base=LookupError)
def output_of_nothing(engine):
    engine.get_output("nope")


@case(21, e.TaskNotFoundError, "workflow 'seed' has no saved output of 'nope'", base=LookupError)
def output_of_no_task(engine):
    engine.get_output("seed", task="nope")


# 6, 7, 22: what is there already


@case(6, e.WorkflowIdConflictError, "workflow 'seed' exists with another definition or other arguments (tasks gone: one; new: draw, same)")
def a_taken_name(engine):
    engine.run(same.options(can_rollback=True).bind(draw.bind()), name="seed")


@case(7, e.WorkflowAlreadyExistsError, "workflow 'seed' already exists with status SUCCEEDED, begun 2")
def a_name_that_must_be_new(engine):
    engine.run(one.bind(), name="seed", on_existing="fail")


@case(22, e.InvalidStateError, "workflow 'seed' is SUCCEEDED; nothing to cancel")
def cancel_of_what_has_ended(engine):
    engine.cancel("seed")


@case(22, e.InvalidStateError, "workflow 'seed' is SUCCEEDED; nothing of it is in doubt; leave out outcomes")
def a_verdict_on_what_has_ended(engine):
    engine.resume("seed", outcomes={"one": True})


@case(21, e.TaskNotFoundError, "workflow 'seed' has no task 'on'; did you mean 'one'?", base=LookupError)
def story_of_no_task(engine):
    engine.story("seed", "on")


# 24: numbers


@case(24, e.InvalidOptionError, "timeout must be a finite number of seconds from 0, or None, got '3'", base=ValueError)
def waiting_for_a_text(engine):
    engine.wait("seed", "3")


@case(24, e.InvalidOptionError, "timeout must be a finite number of seconds from 0, or None, got -1", base=ValueError)
def cancelling_before_now(engine):
    engine.cancel("seed", timeout=-1)


@case(24, e.InvalidOptionError, "timeout must be a finite number of seconds from 0, or None, got True", base=ValueError)
def waiting_for_the_truth(engine):
    engine.wait("seed", True)


for bad in (-1, float("nan"), float("inf"), "3", None, True):
    CASES.append(
        Case(
            f"24 grace {bad}",
            lambda engine, bad=bad: engine.collect_garbage(grace_s=bad),
            e.InvalidOptionError,
            ("grace_s must be a finite number of seconds from 0, got",),
        )
    )
for bad in (-1, True, 1.5, "3", 10**9, None):
    options(24, "retries must be a whole number from 0 to 1,000,000, got", retries=bad)
for bad in (0, -1, float("nan"), float("inf"), True, "3", 1e12):
    options(24, "timeout must be a finite number > 0 (seconds), got", timeout=bad)
for bad in (-0.1, float("nan"), False, None):
    options(24, "backoff must be a finite number from 0 to", backoff=bad)
options(24, "backoff_factor must be a finite number from 1 to 1000, got 0.5", backoff_factor=0.5)
options(24, "jitter must be a finite number from 0 to 1, got 2", jitter=2)
for bad in ("ValueError", [ValueError], (ValueError, 3), int, ValueError("x")):
    options(24, "retry_on must be exception classes, got", retry_on=bad)


# options of run


@case("", e.InvalidOptionError, "mode must be one of 'strict', 'auto', got 'careful'")
def an_unknown_mode(engine):
    engine.run_async(one.bind(), mode="careful", name="new")


@case("", e.InvalidOptionError, "on_existing must be one of 'attach', 'fail', got 'replace'")
def an_unknown_on_existing(engine):
    engine.run_async(one.bind(), on_existing="replace", name="new")


@case("", e.InvalidOptionError, "on_failure must be one of 'keep', 'rollback', got True")
def an_unknown_on_failure(engine):
    engine.run_async(one.bind(), on_failure=True, name="new")


@case("", e.InvalidOptionError, "on_code_change must be one of 'fail', 'accept', got 'ignore'")
def an_unknown_on_code_change(engine):
    engine.run_async(one.bind(), on_code_change="ignore", name="new")


@case("", e.InvalidOptionError, "on_code_change must be one of 'fail', 'accept', got 'yes'")
def an_unknown_on_code_change_of_resume(engine):
    engine.resume("seed", on_code_change="yes")


@case("", e.InvalidOptionError, "on_code_change must be one of 'fail', 'accept', got True")
def an_unknown_on_code_change_of_resume_all(engine):
    engine.resume_all(on_code_change=True)


@case("", e.InvalidOptionError, "outcomes must be a dict such as {\"charge\": True}, got 'happened'")
def a_verdict_that_names_no_task(engine):
    engine.resume("seed", outcomes="happened")


@case(16, e.SignatureError, "task 'same': map() takes an iterable or a node, got 5")
def a_map_over_a_number(_):
    same.map(5)


@case("", e.InvalidOptionError, "there is no executor 'spark'; known are 'inline', 'loop', 'process', 'ray', 'thread'")
def an_unknown_executor(engine):
    engine.run(one.options(executor="spark").bind(), name="new")


@case("", e.InvalidOptionError, "status must be one of", "got 'DONE'")
def an_unknown_status(engine):
    engine.list_all("DONE")


# 30: the wrong place


@case(30, e.WrongContextError, "current_task() was called outside a running task; pass what you need as an argument")
def current_task_outside(_):
    exoflow.current_task()


@case(30, e.WrongContextError, "the output of task 'one' is not known while the DAG is being built")
def a_decision_on_a_node(_):
    if one.bind():
        pass


@case(30, e.WrongContextError, "run() was called inside task 'inside' of workflow 'v'", "return the DAG from the task")
def run_inside_a_task(engine):
    from exoflow.worker import context

    token = context.set_current(context.TaskContext(workflow_id="v", task_id="inside", attempt=1, epoch=1, basis=1))
    try:
        engine.run(one.bind(), name="new")
    finally:
        context.reset_current(token)


@case(30, e.SelfWaitError, "a task of workflow 'seed' waits for that same workflow; return a DAG")
def waiting_for_oneself(engine):
    from exoflow.worker import context

    token = context.set_current(context.TaskContext(workflow_id="seed", task_id="inside", attempt=1, epoch=1, basis=1))
    try:
        engine.wait("seed")
    finally:
        context.reset_current(token)


class Spared:
    """Stands in for a store, so that closing a second engine does not close the store under test."""

    durable = False
    url = "memory:"

    def close(self):
        """The owner closes it."""


SPARED = Spared()
SECRET = "hunter2"


def everything_in(store):
    heads = store.heads()
    journals = [(entry.seq, entry.body, entry.payload) for head in heads for entry in store.entries(head.workflow_id, retired=True)]
    return heads, journals, sorted(store.blobs.names())


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def seeded(request, tmp_path_factory):
    """An engine with one workflow that has ended."""
    url = "memory:" if request.param == "memory" else f"sqlite:{tmp_path_factory.mktemp('bad')}/x.db"
    with exoflow.Engine(url) as engine:
        engine.run(one.bind(), name="seed")
        yield engine


@pytest.mark.parametrize("wrong", CASES, ids=[f"{at}: {case.number}" for at, case in enumerate(CASES)])
def test_each_mistake_gets_its_error_and_changes_nothing(seeded, wrong):
    """The class, a stable code, the key words; no traceback and no more of the value than a line; the store is as it was."""
    if wrong.only and wrong.only not in seeded.store.url:
        assert wrong.do(seeded) is None  # it works there
        seeded.delete("new")
        return
    before = everything_in(seeded.store)
    began_s = time.thread_time()
    with pytest.raises(ExoflowError) as caught:
        wrong.do(seeded)
    assert time.thread_time() - began_s < wrong.limit_s
    text = str(caught.value)
    assert type(caught.value) is wrong.cls, text
    assert isinstance(caught.value, wrong.base)
    assert caught.value.code == wrong.cls.code != ExoflowError.code
    for words in wrong.words:
        assert words in text
    assert "Traceback" not in text
    assert len(text) < 1000
    assert everything_in(seeded.store) == before


def test_codes_are_unique():
    """Programs go by them."""
    classes = [cls for cls in vars(e).values() if isinstance(cls, type) and issubclass(cls, ExoflowError)]
    own = [cls.__dict__.get("code") for cls in classes]
    assert None not in own
    assert len(set(own)) == len(own)


# settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"thraeds": 1}, "there is no 'thraeds'; did you mean 'threads'?"),
        ({"colour": "red"}, "there is no 'colour'; known are store, threads, "),
        ({"threads": -1}, "threads must be a whole number from 0 (0: as many as suit the machine), got -1"),
        ({"threads": "many"}, "Expected `int`, got `str` - at `$.threads`"),
        ({"lease_s": float("nan")}, "lease_s must be a finite number of seconds > 0, got nan"),
        ({"payload_limit": 0}, "payload_limit must be a whole number from 1, got 0"),
    ],
)
@pytest.mark.parametrize("how", ["argument", "pyproject"])
def test_settings_that_mean_nothing(given, words, how, tmp_path):
    """Where they came from is said as well; nothing is made on the disk."""
    ((name, value),) = given.items()
    if how == "pyproject":
        Path("pyproject.toml").write_text(f"[tool.exoflow]\n{name} = {json.dumps(value) if isinstance(value, str) else value}\n")
    with pytest.raises(e.InvalidOptionError) as caught:
        exoflow.Engine(**given if how == "argument" else {})
    assert words in str(caught.value)
    assert "(from arguments, EXOFLOW_… variables or [tool.exoflow])" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["pyproject.toml"] * (how == "pyproject")


# 25, 26: stores


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"postgre://joe:{SECRET}@db.example/x", ("unknown scheme 'postgre'", "***@db.example", "memory: or sqlite:")),
        (f"http://joe:{SECRET}@h/x?token={SECRET}", ("unknown scheme 'http'",)),
        ("nonsense", ("'nonsense' names no store",)),
        ("sqlite:", ("names no file",)),
        (f"sqlite://joe:{SECRET}@host/x.db", ("SQLite has no host",)),
    ],
)
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_store_urls_that_name_nothing(url, words, how, monkeypatch, tmp_path):
    """25: passwords are masked, and nothing is made on the disk."""
    if how == "environment":
        monkeypatch.setenv("EXOFLOW_STORE", url)
    with pytest.raises(e.StoreConfigError) as caught:
        exoflow.Engine(url if how == "argument" else None)
    text = str(caught.value) + repr(caught.value) + json.dumps(caught.value.fields, default=str)
    assert SECRET not in text
    for word in words:
        assert word in text
    assert list(tmp_path.iterdir()) == []


def not_a_database(path: Path) -> None:
    path.write_bytes(b"This is a letter.\n" * 100)


def of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()


def newer(path: Path) -> None:
    exoflow.Engine(path).close()
    db = apsw.Connection(str(path), vfs="cksmvfs")
    db.pragma("user_version", 999)
    db.close()


def folder(path: Path) -> None:
    path.mkdir()


def open_to_all(path: Path) -> None:
    path.write_bytes(b"")
    path.chmod(0o666)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (not_a_database, "it is not an SQLite database"),
        (of_another_program, "SQLite database of another program"),
        (newer, "its schema 999 is newer than this program's"),
        (folder, "it is not a file"),
        (open_to_all, "others may write to it"),
    ],
)
def test_files_that_are_no_store(tmp_path, prepare, words):
    """26: what is there is left as it is."""
    path = tmp_path / "x.db"
    prepare(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(e.StoreOpenError, match=words) as caught:
        exoflow.Engine(path)
    assert f"store sqlite:{path} cannot be opened" in str(caught.value)
    if prepare is not newer:  # SQLite itself may tidy up a log that it opened
        assert before == (path.read_bytes() if path.is_file() else None)


def test_a_store_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(e.StoreOpenError, match="cannot be opened"):
        exoflow.Engine(tmp_path / "file" / "x.db")


# growth


def circle():
    a, b = one.bind(), one.bind()
    _ = a >> b >> a
    return a


@task
def grows(what):
    return GROWTHS[what][0]()


GROWTHS: dict[str, tuple[Callable[[], object], str]] = {
    "cycle": (circle, "CycleError: task graph has a cycle"),
    "duplicate": (
        lambda: join.bind(one.options(name="x").bind(), same.options(name="x").bind(1)),
        "DuplicateTaskNameError: two tasks are named 'x'",
    ),
    "unsafe": (lambda: same.bind(draw.bind()), "UnsafeWorkflowError: .*commits"),
    "input": (lambda: same.bind(InputNode()), r"SignatureError: the DAG uses InputNode\(\)"),
    "signature": (lambda: join.bind(1), "SignatureError: task 'join': missing a required argument"),
    "executor": (lambda: one.options(executor="spark").bind(), "InvalidOptionError: there is no executor 'spark'"),
    "deep": (lambda: {"a": [[one.bind()]]}, "ResultNotSerializableError: .*return it from a task by itself or directly inside"),
    "many": (lambda: same.bind([one.bind() for _ in range(20)]), r"the DAG has 21 tasks; the limit is 20 \(tasks_max\)"),
}


@pytest.mark.parametrize("what", GROWTHS)
def test_a_dag_that_a_task_returns_may_be_wrong_too(any_url, what):
    """Its task fails with the error that run() would have raised, at once; nothing of the DAG ran."""
    with exoflow.Engine(any_url, tasks_max=20) as engine:
        with pytest.raises(e.TaskFailed, match=GROWTHS[what][1]):
            engine.run(grows.options(retries=2, backoff=0).bind(what), name="w")
        assert engine.get_status("w") == "FAILED"
        assert [t.task for t in engine.get_metadata("w").tasks] == ["grows"]


def test_the_table_is_complete():
    numbers = {case.number.split()[0] for case in CASES}
    assert numbers >= {str(n) for n in (*range(1, 18), 19, 20, 21, 22, 24, 30)}
    assert run_async
