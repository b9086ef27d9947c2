"""Worker processes: how they die, what they leave behind, and what can be sent to them."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import math
import multiprocessing.spawn
import os
import pickle
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
from array import array
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import psutil
import pytest

from exoflow.errors import ExecutorUnavailable
from exoflow.executors import process_pool
from exoflow.executors.process_pool import ProcessExecutor
from exoflow.testing.executor_suite import PATIENCE_S, Gate, Ticket, hold, same, spin
from exoflow.worker import places, shared, wire
from exoflow.worker.attempt import Died, InputsLost, LostInputs, Stopped, TaskCall
from exoflow.worker.context import inside_worker
from tests.executors.asking import failure, make_call, submit
from tests.patience import until


@pytest.fixture
def executor():
    executor = ProcessExecutor(2)
    yield executor
    executor.close()


@pytest.fixture
def one():
    """An executor with one worker."""
    executor = ProcessExecutor(1)
    yield executor
    executor.close()


@pytest.fixture
def gate(tmp_path, executor, one):
    gate = Gate(tmp_path)
    yield gate
    gate.close()


@pytest.fixture
def fifo(tmp_path):
    """A FIFO as (path, descriptor for reading). Reading gives b"" when no process holds it open for writing any more."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield str(path), reader
    os.close(reader)


def read(reader):
    assert select.select([reader], [], [], PATIENCE_S)[0], "nothing was written, and nobody closed"
    return os.read(reader, 100_000)


# --- how workers die ---------------------------------------------------------------------------------------------------------


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


def exit_with_9():
    os._exit(9)


def segfault():
    ctypes.string_at(0)


def exit_beside_a_fork(fifo):
    """Die, but leave a forked process that has all our files."""
    with Path(fifo).open("wb", buffering=0) as file:
        if os.fork() == 0:
            signal.pause()
        file.write(b".")
        os._exit(9)


def close_all_files():
    os.closerange(3, 1000)


def start_a_process(fifo, *, end):
    with Path(fifo).open("wb", buffering=0) as file:
        subprocess.Popen(["sleep", "1000"], stdout=file)
        file.write(b".")
    if not end:
        signal.pause()
    return os.getpid()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (kill_myself, r"worker process \d+ was killed by SIGKILL"),
        (exit_with_9, r"worker process \d+ exited with code 9"),
        (segfault, r"worker process \d+ was killed by SIGSEGV"),
        (close_all_files, r"worker process \d+ was killed by SIGKILL"),
    ],
)
def test_a_death_is_told_and_hurts_nobody_else(executor, gate, how, reason):
    bystander = submit(executor, hold, gate.folder)
    gate.wait_for_arrival()
    for _ in range(2):
        outcome = submit(executor, how).wait()
        assert isinstance(outcome, Died)
        assert re.fullmatch(reason, outcome.reason)
    gate.let_go()
    assert bystander.value() == "let go"


def test_a_death_is_noticed_although_a_fork_lives_on_and_the_fork_dies_too(executor, fifo):
    path, reader = fifo
    outcome = submit(executor, exit_beside_a_fork, path).wait()
    assert isinstance(outcome, Died)
    assert read(reader) == b"."
    assert read(reader) == b""


def test_the_death_of_an_idle_worker_is_blamed_on_nobody(one):
    for _ in range(5):
        pid = submit(one, os.getpid).value()
        os.kill(pid, signal.SIGKILL)
        assert submit(one, os.getpid).value() != pid


@pytest.fixture
def sent(one, monkeypatch):
    """A call that is in the socket of a worker who does not read it."""
    workers = []
    start = process_pool._Worker
    monkeypatch.setattr(process_pool, "_Worker", lambda fds: workers.append(start(fds)) or workers[-1])
    pid = submit(one, os.getpid).value()
    os.kill(pid, signal.SIGSTOP)
    ticket = submit(one, os.getpid)
    unread = array("i", [0])
    while not unread[0]:
        fcntl.ioctl(workers[0]._calls._near[1], termios.TIOCOUTQ, unread)
    return pid, ticket


def test_a_call_that_was_sent_but_has_not_begun_goes_to_another_worker(sent):
    pid, ticket = sent
    os.kill(pid, signal.SIGKILL)
    assert ticket.value() != pid


def test_a_stop_before_the_call_begins_says_so(one, sent):
    _, ticket = sent
    one.stop(ticket.key)
    assert ticket.wait() == Stopped(began=False)


@pytest.mark.parametrize(("interpreter", "reason"), [("/bin/false", "exited with code 1 before it took a call"), ("/none", "No such file")])
def test_workers_that_cannot_start_make_the_executor_unavailable(one, monkeypatch, interpreter, reason):
    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing.spawn, "get_executable", lambda: interpreter)
        info = failure(submit(one, same, 1))
    assert info.type_name == f"{ExecutorUnavailable.__module__}.ExecutorUnavailable"
    assert reason in info.text
    assert submit(one, same, 1).value() == 1


# --- stopping ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [True, False])
def test_what_a_task_started_ends_with_the_worker(one, fifo, stop):
    path, reader = fifo
    ticket = submit(one, start_a_process, path, end=not stop)
    assert read(reader) == b"."
    if stop:
        one.stop(ticket.key)
        assert ticket.wait() == Stopped()
    else:
        os.kill(ticket.value(), signal.SIGKILL)
        assert submit(one, same, 1).value() == 1
    assert read(reader) == b""


def test_a_stop_meant_for_a_finished_task_does_not_hit_the_next(one, gate):
    first = submit(one, same, 1)
    first.wait()
    second = submit(one, hold, gate.folder)
    gate.wait_for_arrival()
    one.stop(first.key)
    gate.let_go()
    assert second.value() == "let go"


def test_a_call_never_waits_behind_another_while_a_worker_is_idle(executor, gate):
    submit(executor, hold, gate.folder)
    gate.wait_for_arrival()
    assert [submit(executor, same, number).value() for number in range(20)] == list(range(20))


def test_ctrl_c_is_for_the_engine(one):
    assert submit(one, os.kill, 0, signal.SIGINT).value() is None  # to the whole process group of the worker
    assert submit(one, same, 1).value() == 1


# --- the engine dies ---------------------------------------------------------------------------------------------------------

ENGINE = """
import os, sys, threading
from exoflow.executors.process_pool import ProcessExecutor
from exoflow.testing.executor_suite import spin
from tests.executors.asking import submit
from tests.executors.test_process_pool import hog
path, fork = sys.argv[1:]
executor = ProcessExecutor(2)
submit(executor, spin, path)
submit(executor, hog, path)
if fork == "fork":
    os.fork()
threading.Event().wait()
"""


def hog(fifo):
    """Keep the interpreter busy in C code that does not let go of the GIL."""
    with Path(fifo).open("wb", buffering=0) as file:
        file.write(b".")
        re.match(r"(a+)+$", "a" * 60 + "b")


@pytest.mark.parametrize("fork", ["fork", "no fork"])
def test_no_worker_outlives_the_engine(fifo, fork):
    path, reader = fifo
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, path, fork], cwd=Path(__file__).parents[2], start_new_session=True)
    try:
        arrived = b""
        while len(arrived) < 2:
            arrived += read(reader)
        engine.kill()
        assert read(reader) == b""
    finally:
        os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()


KEEPS = """
import os, sys, threading
import numpy as np
from exoflow.executors.process_pool import ProcessExecutor
from exoflow.testing.executor_suite import same
from tests.executors.asking import submit
from tests.executors.test_process_pool import keep_and_wait
executor = ProcessExecutor(2)
made = submit(executor, np.ones, 5_000_000).value()
back = submit(executor, same, made).value()
for _ in range(2):
    submit(executor, keep_and_wait, sys.argv[1], made, np.ones(1_000_000))
threading.Event().wait()
"""


def keep_and_wait(fifo, *arrays):
    global memories
    memories = [np.ones(1_000_000), *arrays]
    with Path(fifo).open("wb", buffering=0) as file:
        file.write(b".")
        signal.pause()


def blocks_of(pid):
    """Which blocks of shared memory a process has open or mapped."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        open_ones = {
            str(os.stat(f"/proc/{pid}/fd/{fd}").st_ino) for fd in os.listdir(f"/proc/{pid}/fd") if "memfd:exoflow" in link(fd, pid)
        }
    except OSError:  # it has ended, or is not ours
        return set()
    return open_ones | {line.split()[4] for line in lines if "memfd:exoflow" in line}


def test_an_engine_that_is_killed_leaves_no_memory_behind(fifo):
    """Neither under a name, for there is none, nor in any process."""
    path, reader = fifo
    named = set(os.listdir("/dev/shm"))
    engine = subprocess.Popen([sys.executable, "-c", KEEPS, path], cwd=Path(__file__).parents[2], start_new_session=True)
    try:
        arrived = b""
        while len(arrived) < 2:
            arrived += read(reader)
        processes = [engine.pid, *(child.pid for child in psutil.Process(engine.pid).children(recursive=True))]
        blocks = set.union(*map(blocks_of, processes))
        assert len(processes) == 3
        assert len(blocks) >= 3
        engine.kill()
        assert read(reader) == b""
    finally:
        engine.kill()
        engine.wait()
    until(lambda: not any(map(psutil.pid_exists, processes)))
    assert not blocks & set().union(*map(blocks_of, psutil.pids()))
    assert not [name for name in set(os.listdir("/dev/shm")) - named if "exoflow" in name]


def test_a_fork_of_the_engine_cannot_harm_its_workers(one, gate):
    ticket = submit(one, hold, gate.folder)
    gate.wait_for_arrival()
    child = os.fork()
    if child == 0:
        try:
            one.close()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    gate.let_go()
    assert ticket.value() == "let go"


def test_a_lock_of_the_engine_is_held_as_long_as_a_worker_lives(tmp_path, fifo):
    path, reader = fifo
    owner, rival = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    fcntl.flock(owner, fcntl.LOCK_EX)
    executor = ProcessExecutor(1, inherit_fds=[owner])
    submit(executor, spin, path)
    assert read(reader) == b"."
    os.close(owner)
    with pytest.raises(BlockingIOError):
        fcntl.flock(rival, fcntl.LOCK_EX | fcntl.LOCK_NB)
    executor.close()
    fcntl.flock(rival, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(rival)


def daemonize(fifo):
    """Leave a process behind that the end of the worker does not end."""
    with Path(fifo).open("wb", buffering=0) as file:
        if os.fork() == 0:
            os.setsid()
            file.write(b"%d" % os.getpid())
            signal.pause()


def test_but_not_as_long_as_a_process_that_a_function_forked(tmp_path, fifo):
    """Nobody could take the workflows over until somebody found and killed it."""
    path, reader = fifo
    owner, rival = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    fcntl.flock(owner, fcntl.LOCK_EX)
    executor = ProcessExecutor(1, inherit_fds=[owner])
    submit(executor, daemonize, path).wait()
    daemon = int(read(reader))
    try:
        os.close(owner)
        executor.close()
        os.kill(daemon, 0)
        fcntl.flock(rival, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(daemon, signal.SIGKILL)
        os.close(rival)


# --- nothing leaks -----------------------------------------------------------------------------------------------------------


def test_after_close_no_process_thread_or_file_is_left(tmp_path):
    submit(executor := ProcessExecutor(2), same, 1).wait()
    executor.close()  # what Python itself keeps after a first time is kept now
    threads, files = threading.active_count(), os.listdir("/proc/self/fd")
    children = psutil.Process().children(recursive=True)  # of engines that other tests of this process left open
    executor = ProcessExecutor(2)
    gate = Gate(tmp_path)
    held = submit(executor, hold, gate.folder)
    gate.wait_for_arrival()
    done = [submit(executor, same, bytes(size)) for size in (10, 100_000, 10_000_000)]
    assert [len(ticket.value()) for ticket in done] == [10, 100_000, 10_000_000]
    waiting = [submit(executor, hold, gate.folder) for _ in range(5)]
    gate.wait_for_arrival()
    executor.close()
    gate.close()
    assert [ticket.outcomes for ticket in [held, *waiting]] == [[Stopped()]] * 2 + [[Stopped(began=False)]] * 4
    done.clear()
    assert psutil.Process().children(recursive=True) == children
    assert threading.active_count() == threads
    assert os.listdir("/proc/self/fd") == files


def test_an_idle_worker_may_clean_up_when_the_executor_closes(tmp_path):
    executor = ProcessExecutor(1)
    submit(executor, clean_up_at_exit, str(tmp_path / "clean")).wait()
    executor.close()
    assert (tmp_path / "clean").exists()


def clean_up_at_exit(path):
    import atexit

    atexit.register(Path(path).touch)


# --- large values ------------------------------------------------------------------------------------------------------------


def add_one(an_array):
    return an_array + 1


original_add_one = add_one


def add_one_in_place(an_array):
    an_array += 1
    return an_array


def where(an_array):
    return an_array.__array_interface__["data"][0]


@pytest.mark.parametrize("size", [10, 12_500_000])
def test_an_array_goes_and_comes_and_neither_side_can_write_to_it(one, size):
    sent = np.arange(size, dtype=np.int64)
    back = submit(one, add_one, sent).value()
    assert (back == np.arange(1, size + 1)).all()
    assert sent[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 7
    info = failure(submit(one, add_one_in_place, sent))
    assert info.type_name == "builtins.ValueError"
    assert "change a copy (array.copy())" in info.traceback
    assert back.copy().flags.writeable


@pytest.mark.parametrize("size", [0, 1, wire.INLINE_BYTES_MAX - 1000, wire.INLINE_BYTES_MAX + 1, 3_000_000])
def test_any_size_comes_back_as_it_went(one, size):
    sent = np.random.default_rng(size).integers(0, 255, size, dtype=np.uint8)
    back = submit(one, same, {"in": [sent, bytes(size), sent[: size // 2]]}).value()["in"]
    assert (back[0] == sent).all()
    assert back[1] == bytes(size)
    assert (back[2] == sent[: size // 2]).all()
    assert not back[0].flags.writeable


def test_a_task_that_hands_on_what_it_got_writes_nothing(one):
    made = submit(one, np.ones, 1_000_000).value()
    before = len(os.listdir("/proc/self/fd"))
    back = submit(one, same, [made, "and more"]).value()[0]
    assert where(back) == where(made)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_small_part_does_not_keep_the_whole(one):
    made = submit(one, np.ones, 1_000_000).value()
    part = submit(one, take, made, 100_000).value()
    assert not where(made) <= where(part) < where(made) + made.nbytes
    assert (part == 1).all()


def take(an_array, count):
    return an_array[:count]


def test_values_of_several_sources_go_in_one_message(one):
    arrays = [submit(one, np.full, 100_000, number).value() for number in range(wire.FILES_MAX + 5)]
    back = submit(one, same, [*arrays, np.full(100_000, -1)]).value()
    assert [array[0] for array in back] == [*range(wire.FILES_MAX + 5), -1]


def test_what_a_dead_worker_made_is_still_there(executor):
    made = submit(executor, np.arange, 1_000_000).value()
    for _ in range(2):
        submit(executor, kill_myself).wait()
    assert submit(executor, take, made, 1_000_000).value().sum() == made.sum() == sum(range(1_000_000))


def test_memory_that_nobody_reads_any_more_is_written_again_and_no_other(one):
    """Arrays that go and come in any order, some kept, some not: what was kept never changes."""
    kept = []
    for number in range(30):
        made = submit(one, np.full, 100_000, number).value()
        if number % 3 == 0:
            kept.append((number, made))
        if number % 5 == 0:
            submit(one, remember, made).wait()
        del made
    assert all((array == number).all() for number, array in kept)
    assert submit(one, recall).value() == [(number, number) for number in range(0, 30, 5)]
    assert submit(one, blocks_here).value() <= 16  # what is kept somewhere, and two in turns


memories = []


def remember(an_array):
    memories.append(an_array)


def recall():
    return [(int(array[0]), int(array[-1])) for array in memories]


def blocks_here():
    return len(blocks_of("self"))


def link(fd, pid="self"):
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except FileNotFoundError:
        return ""


def test_many_large_values_do_not_use_up_the_files(one):
    submit(one, same, 1).wait()
    before = len(os.listdir("/proc/self/fd"))
    size = wire.INLINE_BYTES_MAX + 1
    values = [submit(one, np.full, size, number, dtype=np.uint8).value() for number in range(shared.MAPPINGS_MAX + 20)]
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * shared.MAPPINGS_MAX + 10
    assert all((value == number).all() for number, value in enumerate(values))
    assert not values[-1].flags.writeable
    values.clear()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_without_room_for_a_file_a_large_value_goes_through_the_socket(one, monkeypatch):
    submit(one, run_out_of_room).wait()
    monkeypatch.setattr(os, "write", no_room)
    assert (submit(one, add_one, np.ones(1_000_000)).value() == 2).all()


def no_room(*_):
    raise OSError(28, "No space left on device")


def run_out_of_room():
    os.write = no_room


def test_without_files_in_memory_the_temporary_folder_does(one, monkeypatch):
    submit(one, forget_files_in_memory).wait()
    monkeypatch.delattr(os, "memfd_create")
    assert (submit(one, add_one, np.ones(1_000_000)).value() == 2).all()


def forget_files_in_memory():
    del os.memfd_create


def test_an_answer_that_cannot_be_taken_in_is_a_death_that_says_why(one, monkeypatch):
    monkeypatch.setattr(shared, "opened", no_memory)
    outcome = submit(one, np.ones, 1_000_000).wait()
    assert isinstance(outcome, Died)
    assert "could not be taken in (MemoryError())" in outcome.reason
    monkeypatch.undo()
    assert submit(one, same, 1).value() == 1


def no_memory(*_):
    raise MemoryError


# --- what can be sent --------------------------------------------------------------------------------------------------------


class TaskLike:
    """As a decorator leaves it in place of the function."""

    def __init__(self, function):
        self.function = function


@TaskLike
def wrapped_in_a_task(number):
    return number + 1


def decorate(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args) * 100

    return wrapper


@decorate
def wrapped_in_a_function(number):
    return number + 1


@TaskLike
@decorate
def wrapped_twice(number):
    return number + 1


class Adder:
    def __init__(self, number):
        self.number = number

    def add(self, number):
        return self.number + number

    @staticmethod
    def add_one(number):
        return number + 1

    @classmethod
    def add_two(cls, number):
        return number + 2


OFFSET = 10


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (wrapped_in_a_task.function, 2),
        (wrapped_in_a_function, 200),
        (wrapped_in_a_function.__wrapped__, 2),
        (wrapped_twice.function, 200),
        (wrapped_twice.function.__wrapped__, 2),
        (Adder(5).add, 6),
        (Adder.add_one, 2),
        (Adder.add_two, 3),
        (functools.partial(pow, 2), 2),
        (lambda number: number + OFFSET, 11),
        (math.sqrt, 1.0),
        (int, 1),
    ],
)
def test_any_function_can_be_sent(one, function, value):
    assert submit(one, function, 1).value() == value


@pytest.mark.parametrize("function", [wrapped_in_a_task.function, wrapped_twice.function.__wrapped__, Adder.add_one, same])
def test_an_importable_function_is_sent_by_its_name(function):
    module, path = places.place_of(function)
    assert module == function.__module__
    assert path.startswith(function.__qualname__)


def test_a_closure_is_sent_as_it_is_now(one):
    state = 1

    def closure():
        return state

    assert submit(one, closure).value() == 1
    state = 2
    assert submit(one, closure).value() == 2


def test_a_large_closure_is_sent(one):
    data = np.ones(1_000_000)
    assert submit(one, data.sum).value() == 1_000_000


class RefusesToBePickled:
    def __reduce__(self):
        raise KeyError("never")


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: {"model": {"lock": threading.Lock()}}, "['model']['lock']"),
        (lambda: (number for number in ()), "the value itself"),
        (socket.socket, "the value itself"),
        (RefusesToBePickled, "the value itself"),
    ],
)
def test_a_result_that_cannot_be_pickled_is_a_failure_that_says_where(one, make, path):
    error = pickle.loads(failure(submit(one, make)).pickled)
    assert type(error).__name__ == "ResultNotSerializableError"
    assert error.path == path
    assert error.task.startswith("call-")
    assert error.type_name
    assert error.reason


class DiesWhenPickled:
    def __reduce__(self):
        raise SystemExit(3)


def test_not_even_an_exit_while_pickling_costs_the_answer(one):
    assert failure(submit(one, DiesWhenPickled)).type_name == "builtins.SystemExit"
    assert failure(submit(one, same, DiesWhenPickled())).type_name == "builtins.SystemExit"
    assert submit(one, same, 1).value() == 1


@pytest.mark.parametrize(
    ("args", "kwargs", "path"), [([1, threading.Lock()], {}, "args[1]"), ([], {"it": [threading.Lock()]}, "kwargs['it'][0]")]
)
def test_an_argument_that_cannot_be_pickled_is_a_failure_that_says_where(one, args, kwargs, path):
    error = failure(submit(one, same, *args, **kwargs))
    assert error.type_name == "exoflow.errors.ArgumentNotSerializableError"
    assert f"at {path} (_thread.lock)" in error.text


def test_a_function_that_cannot_be_pickled_is_a_failure(one):
    lock = threading.Lock()
    info = failure(submit(one, lambda: lock))
    assert info.type_name == "exoflow.errors.ArgumentNotSerializableError"
    assert "at the function" in info.text


def test_a_mock_in_the_place_of_a_function_is_no_endless_chain(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "add_one", MagicMock())
    assert places.place_of(original_add_one) == ("", "")


def test_an_argument_that_cannot_be_loaded_there_is_a_failure(one):
    error = failure(submit(one, same, UnknownThere()))
    assert error.type_name == "exoflow.errors.PayloadUnreadableError"
    assert "not here" in error.text


class UnknownThere:
    def __reduce__(self):
        return not_here, ()


def not_here():
    if inside_worker():
        raise ImportError("not here")


def test_inputs_that_the_engine_lost_never_reach_a_worker(one):
    call = make_call(kill_myself)
    ticket = Ticket(call.key)

    def load():
        raise LostInputs(("a",), "gone")

    one.submit(TaskCall(key=call.key, function=call.function, load=load, context=call.context), ticket)
    assert ticket.wait() == InputsLost(("a",), "gone")


def test_a_worker_knows_that_it_is_one(one):
    assert submit(one, inside_worker).value() is True
    assert inside_worker() is False


# --- the user's main script --------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from exoflow import codec
from exoflow.executors.process_pool import ProcessExecutor
from exoflow.worker.context import inside_worker
from tests.executors.asking import submit

class Thing:
    class Part: pass
    def __init__(self, it): self.it = it

class Trouble(Exception): pass

class Task:
    def __init__(self, function): self.function = function

@Task
def task(thing):
    assert inside_worker()
    print("in the worker", thing.it)
    return [Thing(thing.it + 1), Thing.Part()]

def fail(): raise Trouble("as expected")

def main():
    executor = ProcessExecutor(1)
    ticket = submit(executor, task.function, Thing(1))
    assert type(ticket.value()[0]) is Thing
    assert type(ticket.value()[1]) is Thing.Part
    assert b"__mp_main__" not in ticket.wait().value.header
    import pickle
    info = submit(executor, fail).wait().info
    assert info.type_name == "__main__.Trouble", info
    assert type(pickle.loads(info.pickled)) is Trouble
    assert submit(executor, lambda: Thing(5).it).value() == 5
    print("all well", ticket.value()[0].it, sys.argv[-1], flush=True)
    import os
    os._exit(0)  # without closing anything
"""


def run_script(*arguments, folder, stdin=None):
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": root},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("how", ["script", "module", "package", "stdin", "command"])
def test_what_the_main_script_defines_can_be_used(tmp_path, how):
    text = SCRIPT + 'if __name__ == "__main__": main()\n'
    (tmp_path / "mine").mkdir()
    for name in ("script.py", "mine/__main__.py"):
        (tmp_path / name).write_text(text)
    arguments = {"script": ["script.py"], "module": ["-m", "script"], "package": ["-m", "mine"], "stdin": ["-"], "command": ["-c", text]}[
        how
    ]
    done = run_script(*arguments, "argument", folder=tmp_path, stdin=text if how == "stdin" else None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["in the worker 1", "all well 2 argument"]


@pytest.mark.parametrize("reason", ['raise WrongContextError(message="no engine in a worker")', "sys.exit(3)"])
def test_a_main_script_without_a_guard_is_a_failure_that_says_what_to_do(tmp_path, reason):
    (tmp_path / "script.py").write_text(
        SCRIPT
        + f"""
from exoflow.errors import WrongContextError
if inside_worker():
    print("imported", flush=True)
    {reason}
executor = ProcessExecutor(1)
for _ in range(3):
    print(submit(executor, fail).wait().info.text, flush=True)
executor.close()
"""
    )
    done = run_script("script.py", folder=tmp_path)
    lines = done.stdout.splitlines()
    assert lines.pop(0) == "imported", done.stderr
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("a worker process could not import the main script: ")
        assert 'if __name__ == "__main__":' in line


def test_a_main_script_that_no_call_needs_is_not_imported(tmp_path):
    (tmp_path / "script.py").write_text(
        """
print("imported", flush=True)
from exoflow.executors.process_pool import ProcessExecutor
from exoflow.testing.executor_suite import same
from tests.executors.asking import submit
executor = ProcessExecutor(1)
print(submit(executor, same, 1).value(), flush=True)
executor.close()
"""
    )
    done = run_script("script.py", folder=tmp_path)
    assert done.stdout.splitlines() == ["imported", "1"], done.stderr
