"""What any Executor must pass: the promises of ``executors/base.py`` as tests.

Inherit :class:`ExecutorSuite` in a test module and give it its one fixture::

    class TestMyExecutor(ExecutorSuite):
        @pytest.fixture
        def make_executor(self):
            return MyExecutor

The tests never sleep. A task that must be running, and stay so, waits at a :class:`Gate`: two FIFOs, which work in any process of this
machine. Whether the executor crosses a process shows in its answers (:class:`~exoflow.codec.Encoded`), whether it can end a function
that does not want to end it says itself (``can_kill``).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Never

import pytest

from exoflow import codec
from exoflow.errors import ClosedError, UnknownOutcomeError
from exoflow.executors.base import Executor
from exoflow.worker.attempt import Died, InputsLost, LostInputs, Outcome, Raised, Returned, Stopped, TaskCall
from exoflow.worker.context import TaskContext, current_task

PATIENCE_S = 30.0
"""How long a test waits for what must come; only a failing test ever waits that long."""

_numbers = itertools.count(1)
_variable: ContextVar[str] = ContextVar("variable", default="untouched")


class Ticket:
    """The answers to one call. It is the ``done`` of that call."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.outcomes: list[Outcome] = []
        self.submitter: threading.Thread | None = None
        self._answered = threading.Event()

    def __call__(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._answered.set()

    def wait(self) -> Outcome:
        """The answer, once it is there."""
        assert self._answered.wait(PATIENCE_S), f"no answer for {self.key}"
        if self.submitter is not None:
            self.submitter.join(PATIENCE_S)
        return self.outcomes[0]

    def value(self) -> Any:
        """What the function returned, on whichever side of a process it ran."""
        outcome = self.wait()
        assert isinstance(outcome, Returned), outcome
        return codec.decode(outcome.value) if isinstance(outcome.value, codec.Encoded) else outcome.value


class Gate:
    """Where tasks wait until the test lets them go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        for name in ("arrived", "leave"):
            os.mkfifo(folder / name)
        # Both ends of both are held open here, so that no task has to wait in open().
        self._arrived, self._leave = (os.open(folder / name, os.O_RDWR) for name in ("arrived", "leave"))

    def wait_for_arrival(self) -> None:
        """Return when one more task is at the gate."""
        assert select.select([self._arrived], [], [], PATIENCE_S)[0], "nobody came to the gate"
        os.read(self._arrived, 1)

    def let_go(self, tasks: int = 1) -> None:
        """Let so many tasks go on, now or when they come."""
        os.write(self._leave, b"." * tasks)

    def close(self) -> None:
        """Let everybody go on for ever."""
        os.close(self._arrived)
        os.close(self._leave)


# --- tasks -------------------------------------------------------------------------------------------------------------------


def same(value: Any) -> Any:
    """Return ``value`` itself."""
    return value


def lose_the_answer() -> None:
    """Have sent something, and never hear of it."""
    raise UnknownOutcomeError(reason="no answer from the bank")


def _arrive(folder: str) -> None:
    with Path(folder, "arrived").open("wb", buffering=0) as arrived:
        arrived.write(b".")


def hold(folder: str) -> str:
    """Wait at the gate."""
    _arrive(folder)
    with Path(folder, "leave").open("rb", buffering=0) as leave:
        leave.read(1)
    return "let go"


async def hold_async(folder: str) -> str:
    """Wait at the gate without holding up the event loop."""
    _arrive(folder)
    fd = os.open(Path(folder, "leave"), os.O_RDONLY | os.O_NONBLOCK)
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                os.read(fd, 1)
                break
            except BlockingIOError:  # another task took it
                continue
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return "let go"


def spin(fifo: str) -> None:
    """Hold ``fifo`` open for writing, say so by one byte, and never end."""
    with Path(fifo).open("wb", buffering=0) as file:
        file.write(b".")
        while True:
            pass


def die() -> None:
    """Take the worker down."""
    os.kill(os.getpid(), signal.SIGKILL)


def whoami() -> list[Any]:
    """What the running task can learn about itself."""
    context = current_task()
    return [context.workflow_id, context.task_id, context.attempt, context.epoch, context.idempotency_key]


def leave_a_mark() -> str:
    """What the variable was, which is then changed."""
    before = _variable.get()
    _variable.set("touched")
    return before


class NeedsArguments(Exception):
    """Cannot be made again from its text."""

    def __init__(self, first: int, *, second: int) -> None:
        super().__init__(f"{first} and {second}")


class HoldsALock(Exception):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class HasNoText(Exception):
    """Fails when it is asked for its text."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


def _raise_needs_arguments() -> Never:
    raise NeedsArguments(1, second=2)


def _raise_group() -> Never:
    raise ExceptionGroup("two", [ValueError("one"), HoldsALock()])


def _raise_cause() -> Never:
    raise KeyError("outer") from HoldsALock()


ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "SystemExit": (lambda: _throw(SystemExit(3)), "builtins.SystemExit"),
    "KeyboardInterrupt": (lambda: _throw(KeyboardInterrupt()), "builtins.KeyboardInterrupt"),
    "GeneratorExit": (lambda: _throw(GeneratorExit()), "builtins.GeneratorExit"),
    "StopIteration": (lambda: _throw(StopIteration(1)), "builtins.StopIteration"),
    "a group": (_raise_group, "builtins.ExceptionGroup"),
    "a cause": (_raise_cause, "builtins.KeyError"),
    "arguments": (_raise_needs_arguments, f"{__name__}.NeedsArguments"),
    "a lock": (lambda: _throw(HoldsALock()), f"{__name__}.HoldsALock"),
    "no text": (lambda: _throw(HasNoText()), f"{__name__}.HasNoText"),
    "50 MB of text": (lambda: _throw(ValueError("x" * 50_000_000)), "builtins.ValueError"),
    "half a character": (lambda: _throw(ValueError("\ud800")), "builtins.ValueError"),
}
"""Exceptions that are hard to carry, and the name under which each must arrive."""


def _throw(error: BaseException) -> Never:
    raise error


def raise_odd(kind: str) -> Any:
    """Raise the exception of this name in :data:`ODD`."""
    return ODD[kind][0]()


class Data:
    """Bytes that travel out of band, as those of arrays do."""

    def __init__(self, content: Any) -> None:
        self.content = memoryview(content)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return Data, (pickle.PickleBuffer(self.content),)


def reverse(data: Data) -> Data:
    """A new value."""
    return Data(bytearray(data.content[::-1]))


async def in_a_coroutine(function: Callable[..., Any], *args: Any) -> Any:
    """``function`` as ``async def``."""
    await asyncio.sleep(0)
    return function(*args)


# --- the suite ---------------------------------------------------------------------------------------------------------------


class ExecutorSuite:
    """See the top of this module. ``async_only`` is for an executor that takes no functions but ``async def``."""

    async_only = False

    @pytest.fixture
    def make_executor(self) -> Callable[[], Executor]:
        """What opens a new executor: the one thing to be given."""
        raise NotImplementedError

    @pytest.fixture
    def executor(self, make_executor: Callable[[], Executor]) -> Iterator[Executor]:
        """An open executor."""
        executor = make_executor()
        yield executor
        executor.close()

    @pytest.fixture
    def gate(self, tmp_path: Path, executor: Executor) -> Iterator[Gate]:
        """A closed gate, which opens for ever before the executor is closed."""
        gate = Gate(tmp_path)
        yield gate
        gate.close()

    def call(self, function: Callable[..., Any], *args: Any) -> TaskCall:
        """A call with a key of its own."""
        if self.async_only and not asyncio.iscoroutinefunction(function):
            function, args = (hold_async, args) if function is hold else (in_a_coroutine, (function, *args))
        key = f"call-{next(_numbers)}"
        context = TaskContext(workflow_id="order-17", task_id=key, attempt=2, epoch=3, basis=4)
        return TaskCall(key=key, function=function, load=lambda: (args, {}), context=context)

    def start(self, executor: Executor, function: Callable[..., Any], *args: Any) -> Ticket:
        """Submit a call from a thread of its own, since ``inline`` comes back only when the function has ended."""
        call = self.call(function, *args)
        ticket = Ticket(call.key)
        ticket.submitter = threading.Thread(target=executor.submit, args=(call, ticket), daemon=True)
        ticket.submitter.start()
        return ticket

    # --- what a function does is told as it is ---

    def test_it_says_what_it_is(self, executor: Executor) -> None:
        assert isinstance(executor.name, str)
        assert isinstance(executor.can_kill, bool)
        assert executor.slots >= 1

    def test_the_value_comes_back(self, executor: Executor) -> None:
        assert self.start(executor, same, {"a": [1, 2]}).value() == {"a": [1, 2]}

    def test_nothing_is_copied_within_a_process(self, executor: Executor) -> None:
        thing = ["the very object"]
        outcome = self.start(executor, same, thing).wait()
        assert isinstance(outcome, Returned)
        assert outcome.value is thing or isinstance(outcome.value, codec.Encoded)

    @pytest.mark.parametrize("size", [0, 10, 100_000, 1_000_000, 10_000_000])
    def test_what_crosses_a_process_cannot_be_written_to_on_either_side(self, executor: Executor, size: int) -> None:
        sent = Data(bytearray((bytes(range(251)) * (size // 251 + 1))[:size]))
        ticket = self.start(executor, same, sent)
        back = ticket.value()
        assert back is sent or (back.content.readonly and back.content == sent.content)
        again = self.start(executor, same, back).value()  # to a worker, which hands it on
        other = self.start(executor, reverse, again).value()
        assert bytes(other.content) == bytes(sent.content)[::-1]
        assert bytes(again.content) == bytes(sent.content)

    def test_an_output_is_there_although_its_worker_died(self, executor: Executor) -> None:
        if not executor.can_kill:
            return
        content = bytes(range(250)) * 4_000
        made = self.start(executor, reverse, Data(content)).value()
        for _ in range(executor.slots):
            self.start(executor, die).wait()
        assert bytes(self.start(executor, reverse, made).value().content) == content

    def test_a_coroutine_is_run_to_its_end(self, executor: Executor) -> None:
        assert self.start(executor, in_a_coroutine, same, 7).value() == 7

    def test_a_task_knows_who_it_is(self, executor: Executor) -> None:
        ticket = self.start(executor, whoami)
        context = TaskContext(workflow_id="order-17", task_id=ticket.key, attempt=2, epoch=3, basis=4)
        assert ticket.value() == ["order-17", ticket.key, 2, 3, context.idempotency_key]

    def test_a_task_leaves_no_mark_on_the_next(self, executor: Executor) -> None:
        assert [self.start(executor, leave_a_mark).value() for _ in range(10)] == ["untouched"] * 10

    def test_an_exception_is_told_with_type_bases_text_and_place(self, executor: Executor) -> None:
        outcome = self.start(executor, raise_odd, "a cause").wait()
        assert isinstance(outcome, Raised)
        assert outcome.info.type_name == "builtins.KeyError"
        assert outcome.info.bases == ("builtins.LookupError", "builtins.Exception", "builtins.BaseException")
        assert outcome.info.text == "'outer'"
        assert "_raise_cause" in outcome.info.traceback
        assert "HoldsALock: locked" in outcome.info.traceback

    @pytest.mark.parametrize("kind", ODD)
    def test_any_exception_can_be_told(self, executor: Executor, kind: str) -> None:
        outcome = self.start(executor, raise_odd, kind).wait()
        assert isinstance(outcome, Raised)
        wrapped = kind == "StopIteration" and "RuntimeError" in outcome.info.type_name  # what a coroutine makes of it
        assert outcome.info.type_name == ODD[kind][1] or wrapped
        assert len(outcome.info.text.encode()) <= 64 * 1024
        assert len(outcome.info.traceback.encode()) <= 64 * 1024
        assert self.start(executor, same, "still at work").value() == "still at work"

    def test_a_function_that_cannot_know_what_it_did_counts_as_dead(self, executor: Executor) -> None:
        assert self.start(executor, lose_the_answer).wait() == Died(
            "nobody knows whether it had its effect: no answer from the bank", stranded=True
        )
        assert self.start(executor, same, "still at work").value() == "still at work"

    def test_lost_inputs_are_told(self, executor: Executor) -> None:
        outcome = self._with_load(executor, LostInputs(("a", "b"), "the node is gone"))
        assert outcome == InputsLost(("a", "b"), "the node is gone")

    def test_inputs_that_cannot_be_loaded_are_told(self, executor: Executor) -> None:
        outcome = self._with_load(executor, OSError("no such file"))
        assert isinstance(outcome, Raised)
        assert outcome.info.type_name == "builtins.OSError"

    def _with_load(self, executor: Executor, error: Exception) -> Outcome:
        call = self.call(in_a_coroutine, die)  # it must not be called
        ticket = Ticket(call.key)
        executor.submit(TaskCall(key=call.key, function=call.function, load=lambda: _throw(error), context=call.context), ticket)
        return ticket.wait()

    # --- exactly one answer ---

    def test_calls_from_many_threads_are_answered_once_each(self, executor: Executor) -> None:
        tickets: list[Ticket] = []

        def submit(first: int) -> None:
            for number in range(first, first + 50):
                call = self.call(same, number)
                tickets.append(Ticket(call.key))
                executor.submit(call, tickets[-1])

        threads = [threading.Thread(target=submit, args=(first,)) for first in range(0, 400, 50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(ticket.value() for ticket in tickets) == list(range(400))
        executor.close()
        assert [len(ticket.outcomes) for ticket in tickets] == [1] * 400

    def test_a_stop_for_nobody_is_ignored(self, executor: Executor) -> None:
        executor.stop("nobody")
        ticket = self.start(executor, same, 1)
        assert ticket.value() == 1
        executor.stop(ticket.key)
        assert self.start(executor, same, 2).value() == 2
        assert len(ticket.outcomes) == 1

    def test_a_stop_races_with_the_end(self, executor: Executor) -> None:
        rounds = 30 if executor.can_kill else 300
        tickets = []
        for number in range(rounds):
            ticket = self.start(executor, same, number)
            tickets.append(ticket)
            if number % 3:
                tickets[number - 1].wait()
            executor.stop(ticket.key)
        for number, ticket in enumerate(tickets):
            outcome = ticket.wait()
            assert isinstance(outcome, Stopped) or ticket.value() == number
        executor.close()
        assert [len(ticket.outcomes) for ticket in tickets] == [1] * rounds

    def test_close_answers_what_is_open_and_refuses_more(self, executor: Executor, gate: Gate) -> None:
        tickets = [self.start(executor, hold, gate.folder)]
        gate.wait_for_arrival()
        for _ in range(20):
            call = self.call(hold, gate.folder)
            tickets.append(Ticket(call.key))
            threading.Thread(target=_submit_unless_closed, args=(executor, call, tickets[-1]), daemon=True).start()
        gate.let_go(30)  # those that nobody can stop may end
        executor.close()
        executor.close()
        assert isinstance(tickets[0].wait(), (Stopped, Returned))
        for ticket in tickets:
            ticket.wait()
            assert len(ticket.outcomes) == 1
        with pytest.raises(ClosedError):
            executor.submit(self.call(same, 1), Ticket("late"))

    # --- the answer comes after the end ---

    def test_a_stopped_task_has_ended_when_its_answer_comes(self, executor: Executor, gate: Gate) -> None:
        if executor.can_kill:
            self._stop_what_never_ends(executor, Path(gate.folder, "alive"))
            return
        ticket = self.start(executor, hold, gate.folder)
        gate.wait_for_arrival()
        executor.stop(ticket.key)
        gate.let_go()
        assert isinstance(ticket.wait(), Stopped) or ticket.value() == "let go"
        assert self.start(executor, same, 1).value() == 1
        assert len(ticket.outcomes) == 1

    def _stop_what_never_ends(self, executor: Executor, fifo: Path) -> None:
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            ticket = self.start(executor, spin, str(fifo))
            assert select.select([reader], [], [], PATIENCE_S)[0]
            os.read(reader, 1)
            executor.stop(ticket.key)
            assert ticket.wait() == Stopped(began=True)
            assert os.read(reader, 1) == b""  # nobody holds the other end any more; if somebody did, this would raise
        finally:
            os.close(reader)

    # --- isolation of death ---

    def test_a_death_is_told_for_the_task_that_died_only(self, executor: Executor, gate: Gate) -> None:
        if not executor.can_kill:  # then a task that dies takes the engine along, and there is nobody to tell
            return
        bystander = self.start(executor, hold, gate.folder)
        gate.wait_for_arrival()
        outcome = self.start(executor, die).wait()
        assert isinstance(outcome, Died)
        assert "SIGKILL" in outcome.reason
        gate.let_go()
        assert bystander.value() == "let go"
        assert self.start(executor, same, 1).value() == 1

    def test_no_death_is_told_for_a_task_that_waits_for_the_same_worker(self, executor: Executor) -> None:
        if not executor.can_kill:
            return
        dead = range(5, 24, 6)
        tickets = [self.start(executor, *((die,) if number in dead else (same, number))) for number in range(24)]
        assert all(isinstance(tickets[number].wait(), Died) for number in dead)
        assert [ticket.value() for number, ticket in enumerate(tickets) if number not in dead] == [n for n in range(24) if n not in dead]

    # --- nothing leaks ---

    def test_close_leaves_no_thread_and_no_file(self, make_executor: Callable[[], Executor]) -> None:
        self._use_and_close(make_executor())  # what Python itself keeps after a first time
        threads, files = set(threading.enumerate()), set(os.listdir("/dev/fd"))
        self._use_and_close(make_executor())
        assert set(threading.enumerate()) <= threads
        assert set(os.listdir("/dev/fd")) == files

    def _use_and_close(self, executor: Executor) -> None:
        for ticket in [self.start(executor, same, bytes(1_000_000)) for _ in range(4)]:
            assert ticket.value() == bytes(1_000_000)
        executor.close()


def _submit_unless_closed(executor: Executor, call: TaskCall, ticket: Ticket) -> None:
    try:
        executor.submit(call, ticket)
    except ClosedError:
        ticket(Stopped(began=False))
