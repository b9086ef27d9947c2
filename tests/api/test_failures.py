"""What goes wrong in tasks: exceptions of all kinds, results that cannot be kept, workers that die, functions that lie."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import socket
import sys
import threading
import weakref

import pytest

import exoflow
from exoflow import task
from exoflow.errors import (
    DeterminismViolationError,
    PayloadTooLargeError,
    PoisonTaskError,
    RemoteTaskError,
    ResultNotSerializableError,
    TaskFailed,
    WorkflowBlockedError,
)
from tests.api import plant
from tests.api.damage import blobs, change_payload
from tests.api.plant import mark
from tests.api.scene import PATIENCE_S

# --- exceptions ---


class Picky(Exception):
    """Cannot be made without its arguments."""

    def __init__(self, code, place):
        super().__init__(f"{code} at {place}")
        self.code, self.place = code, place


class Holds(Exception):
    """Holds what cannot be pickled."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("I say nothing")


class Own(BaseException):
    pass


def _long():
    raise ValueError("x" * 50_000_000 + " the end")


def _group():
    raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])


def _chained():
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise RuntimeError("outer") from error


def _raise(error):
    raise error


KINDS = {
    "plain": (lambda: _raise(ValueError("broken")), ValueError, "ValueError: broken"),
    "needs arguments": (lambda: _raise(Picky(404, "home")), Picky, "Picky: 404 at home"),
    "cannot be pickled": (lambda: _raise(Holds("held")), Holds, "Holds: held"),
    "cannot be shown": (lambda: _raise(Mute()), Mute, "Mute: <its text cannot be made: RuntimeError>"),
    "BaseException": (lambda: _raise(Own("mine")), Own, "Own: mine"),
    "SystemExit": (lambda: sys.exit("bye"), SystemExit, "SystemExit: bye"),
    "KeyboardInterrupt": (lambda: _raise(KeyboardInterrupt()), KeyboardInterrupt, "KeyboardInterrupt: "),
    "GeneratorExit": (lambda: _raise(GeneratorExit("over")), GeneratorExit, "GeneratorExit: over"),
    "StopIteration": (lambda: _raise(StopIteration(5)), (StopIteration, RuntimeError), ".*StopIteration"),
    "group": (_group, ExceptionGroup, r"ExceptionGroup: both \(2 sub-exceptions\)"),
    "long": (_long, ValueError, "ValueError: xxx"),
    "chained": (_chained, RuntimeError, "RuntimeError: outer"),
    "MemoryError": (lambda: _raise(MemoryError("full")), MemoryError, "MemoryError: full"),
    "surrogates": (lambda: _raise(ValueError("\udcff\0")), ValueError, "ValueError: "),
}


@task
def raises(kind):
    KINDS[kind][0]()


@task
async def raises_async(kind):
    await asyncio.sleep(0)
    KINDS[kind][0]()


@task(executor="process")
def raises_elsewhere(kind):
    KINDS[kind][0]()


@task
def identity(value, *_):
    return value


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) if kind == "long" else kind for kind in KINDS])
@pytest.mark.parametrize("function", [raises, raises_async], ids=["thread", "async"])
def test_whatever_a_task_raises_its_workflow_fails_and_says_so(engine, ledger, function, kind):
    """What depends on it does not start, what does not is kept, and the engine goes on. The cause is the exception itself. (Fifty
    megabytes of message take a while.)"""
    beside = mark.options(name="beside").bind(ledger.path, "beside")
    failing = function.options(name="bad").bind(kind)
    _ = beside >> failing
    with pytest.raises(TaskFailed, match=f"task 'bad' .attempt 1. of workflow 'w' failed: {KINDS[kind][2]}") as caught:
        engine.run(mark.bind(ledger.path, "after", failing, beside), name="w")
    assert isinstance(caught.value.__cause__, KINDS[kind][1])
    assert len(str(caught.value)) < 200_000
    assert engine.get_status("w") == "FAILED"
    assert ledger.lines() == ["beside"]
    assert engine.get_output("w", task="beside") == "beside"
    assert engine.run(identity.bind(1)) == 1
    with pytest.raises(TaskFailed, match=KINDS[kind][2]):
        engine.get_output("w")


@pytest.mark.slow
def test_whatever_a_task_raises_in_a_process(engine):
    """(Starts worker processes.) The cause is a copy of the exception, or says as data what it was."""
    nodes = [raises_elsewhere.options(catch_exceptions=True).bind(kind) for kind in KINDS]
    for (kind, (_, cls, _)), (value, error) in zip(KINDS.items(), engine.run(identity.bind(nodes)), strict=True):
        assert value is None
        assert isinstance(error, (cls, RemoteTaskError)), kind
        if isinstance(error, RemoteTaskError):
            assert kind in {"cannot be pickled", "cannot be shown", "needs arguments", "long", "StopIteration"}
            assert "Traceback" in error.traceback


@pytest.mark.slow
def test_the_reason_of_a_failure_can_be_read_by_others(url):
    """Another engine tells it as an exception of the same class where it can be copied, and in words where not. (Of each kind, the one
    with fifty megabytes of message included.)"""
    with exoflow.Engine(url) as engine:
        for kind in KINDS:
            with pytest.raises(TaskFailed):
                engine.run(raises.bind(kind), name=f"w-{kind.replace(' ', '-')}")
    with exoflow.Engine(url) as engine:
        for kind, (_, cls, text) in KINDS.items():
            with pytest.raises(TaskFailed, match=text) as caught:
                engine.get_output(f"w-{kind.replace(' ', '-')}")
            assert isinstance(caught.value.__cause__, (cls, RemoteTaskError))
            if kind in {"plain", "BaseException", "group", "chained"}:
                assert isinstance(caught.value.__cause__, cls)


def test_a_traceback_begins_in_the_code_of_the_user(engine):
    with pytest.raises(TaskFailed) as caught:
        engine.run(raises.bind("plain"))
    trace = caught.value.__cause__.__traceback__
    assert trace.tb_frame.f_code.co_name == "raises"


# --- results that cannot be kept ---


class Refuses:
    def __reduce__(self):
        raise ZeroDivisionError("cannot be reduced")


class Model:
    def __init__(self):
        self.name = "m"
        self.lock = threading.Lock()


def _deep():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    return deep


UNPICKLABLE = {
    "lock": (threading.Lock, "at the value itself (_thread.lock)"),
    "generator": (lambda: (n for n in range(3)), "at the value itself (builtins.generator)"),
    "socket": (lambda: opened(socket.socket()), "at the value itself (socket.socket)"),
    "file": (lambda: opened(open(os.devnull)), "at the value itself (_io.TextIOWrapper)"),  # noqa: SIM115 - closed by a fixture
    "reduce": (Refuses, "test_failures.Refuses): cannot be reduced"),
    "inside": (lambda: {"model": [1, Model()]}, "at ['model'][1].lock (_thread.lock)"),
    "set": (lambda: {1, threading.Lock()}, "at {…} (_thread.lock)"),
    "deep": (_deep, "at "),
}
_opened = []


def opened(thing):
    _opened.append(thing)
    return thing


@pytest.fixture(autouse=True)
def _close():
    yield
    while _opened:
        _opened.pop().close()


calls = itertools.count()


@task(retries=5, backoff=0)
def makes(kind):
    next(calls)
    return UNPICKLABLE[kind][0]()


@task(retries=5, backoff=0, executor="process")
def makes_elsewhere(kind):
    return UNPICKLABLE[kind][0]()


@pytest.mark.parametrize("kind", UNPICKLABLE)
def test_a_result_that_cannot_be_pickled_fails_its_task(engine, kind):
    """At once, without retries, and with the way to the culprit."""
    before = next(calls)
    with pytest.raises(TaskFailed, match="ResultNotSerializableError: result of 'makes'") as caught:
        engine.run(makes.bind(kind), name="w")
    assert UNPICKLABLE[kind][1] in str(caught.value)
    assert isinstance(caught.value.__cause__, ResultNotSerializableError)
    assert next(calls) == before + 2, "it ran once"


@pytest.mark.slow
def test_a_result_that_cannot_be_pickled_in_a_process(engine):
    """(Starts worker processes.)"""
    nodes = [makes_elsewhere.options(catch_exceptions=True).bind(kind) for kind in UNPICKLABLE if kind != "file"]
    for value, error in engine.run(identity.bind(nodes)):
        assert value is None
        assert isinstance(error, ResultNotSerializableError)


@task(deterministic=True, can_rollback=True, checkpoint=False)
def opens_unsaved():
    return threading.Lock()


@task
def uses(lock):
    with lock:
        return "used"


def test_what_is_not_saved_need_not_be_picklable(engine):
    assert engine.run(uses.bind(opens_unsaved.bind())) == "used"


@task
def circle():
    ring = [1]
    ring.append(ring)
    return {"ring": ring}


def test_a_result_may_hold_itself(url):
    with exoflow.Engine(url) as engine:
        engine.run(circle.bind(), name="w")
    with exoflow.Engine(url) as engine:
        ring = engine.get_output("w")["ring"]
        assert ring[1] is ring


@task
def large(size):
    return b"x" * size


@pytest.mark.parametrize("options", [{}, pytest.param({"executor": "process"}, marks=pytest.mark.slow)], ids=["thread", "process"])
def test_a_result_above_the_limit_fails_its_task(any_url, options):
    """Found before anything of it is written."""
    with exoflow.Engine(any_url, payload_limit=100_000) as engine:
        assert len(engine.run(large.options(**options).bind(90_000))) == 90_000
        with pytest.raises(TaskFailed, match=r"PayloadTooLargeError: result of 'large' is 10\d\d\d\d bytes; the limit is 100000") as caught:
            engine.run(large.options(retries=3, backoff=0, **options).bind(100_000), name="w")
        assert isinstance(caught.value.__cause__, PayloadTooLargeError)
        assert engine.get_metadata("w").tasks[0].failures == 0
    if any_url != "memory:":
        assert len(blobs(any_url)) == 1


def test_arguments_above_the_limit_are_refused(any_url):
    with exoflow.Engine(any_url, payload_limit=100_000) as engine:
        with pytest.raises(PayloadTooLargeError, match=r"the definition and arguments of 'w' is .* bytes; the limit is 100000"):
            engine.run(identity.bind(b"x" * 100_000), name="w")
        assert engine.list_all() == []


# --- workers that die ---


@task(executor="process")
def pid_of(*_):
    return os.getpid()


@pytest.mark.slow
def test_a_task_that_kills_its_worker_each_time_is_given_up(engine, ledger):
    """Exactly three starts, then PoisonTaskError; tasks and workflows beside it do not notice. (Starts worker processes.)"""
    beside = engine.run_async(identity.bind([pid_of.bind(n) for n in range(6)]), name="beside")
    text = "PoisonTaskError: it killed its worker 3 times, last: worker process .* exited with code 7"
    with pytest.raises(TaskFailed, match=text) as caught:
        engine.run(identity.bind([plant.dies_always.bind(ledger.path, "start"), pid_of.bind()]), name="w")
    assert isinstance(caught.value.__cause__, PoisonTaskError)
    assert ledger.lines() == ["start"] * 3
    assert len(beside.result(PATIENCE_S)) == 6
    assert engine.get_status("w") == "FAILED"
    assert engine.get_output("w", task="pid_of")


@task(executor="process")
def dies_first(ledger):
    plant.Ledger(ledger).add("start")
    if len(plant.Ledger(ledger).lines()) == 1:
        os.kill(os.getpid(), 9)
    return "alive"


@pytest.mark.slow
def test_a_worker_that_is_killed_once_costs_one_attempt(engine, ledger):
    """It is no failure of the task, so no retry is needed for it. (Starts worker processes.)"""
    assert engine.run(dies_first.bind(ledger.path), name="w") == "alive"
    assert ledger.lines() == ["start", "start"]
    assert "killed its worker" in engine.story("w")


# --- functions that lie ---


@task(deterministic=True)
def liar(*_):
    return random.SystemRandom().random()


@task(deterministic=True)
def honest(n):
    return n + 1


@task(can_rollback=True)
def needs(ledger, *inputs):
    if "repaired" not in plant.Ledger(ledger).lines():
        raise RuntimeError("not yet")
    return inputs


def failed_after(url, ledger, node):
    """Run it up to a failure behind ``node``, and lose what ``node`` saved."""
    with exoflow.Engine(url) as engine:
        with pytest.raises(TaskFailed):
            engine.run(needs.bind(ledger.path, node), name="w")
        seq = next(e.seq for e in engine.store.entries("w") if b"saved" in e.body)
    change_payload(url, "w", seq=seq)
    ledger.add("repaired")


def test_a_task_that_only_says_that_it_is_deterministic_is_caught(url, ledger):
    """Its saved output was damaged, so it ran again and gave another: what was built on the first may be wrong. A person must look."""
    failed_after(url, ledger, liar.bind())
    with exoflow.Engine(url) as engine:
        with pytest.raises(WorkflowBlockedError, match=r"workflow 'w' is BLOCKED: task 'liar': .* before, .* now") as caught:
            engine.resume("w").result(PATIENCE_S)
        assert isinstance(caught.value.__cause__, DeterminismViolationError)
        assert engine.get_status("w") == "BLOCKED"


def test_a_deterministic_task_whose_output_was_damaged_makes_it_again(url, ledger):
    failed_after(url, ledger, honest.bind(1))
    with exoflow.Engine(url) as engine:
        assert engine.resume("w").result(PATIENCE_S) == (2,)
        assert "its saved output is damaged and counts as lost" in engine.story("w", "honest")
        assert engine.get_output("w", task="honest") == 2


def test_what_failed_is_forgotten(memory):
    """Its exception holds the frames in which it was raised, and those hold the call: the collector must see all of that circle."""

    class Large:
        pass

    kept = weakref.WeakSet()

    @task
    def fails(x):
        large = Large()
        kept.add(large)
        raise ValueError(x)

    for number in range(3):
        with pytest.raises(TaskFailed):
            memory.run(fails.bind(number))
    gc.collect()
    assert not kept
