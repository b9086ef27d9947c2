"""The hot operations of the engine, so set up that each does the same steps in the same order whenever and wherever it runs: on one thread,
with virtual time and ids that are counted. The store is the real one, on a real disk. ``counts`` counts what they do."""

from __future__ import annotations

import gc
import tempfile
from asyncio import _set_running_loop
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import apsw
import msgspec

import exoflow
from exoflow import codec, fingerprints
from exoflow.core import commands, events, journal, replay
from exoflow.core.machine import Machine
from exoflow.core.spec.annotations import Annotations, Checkpoint
from exoflow.core.spec.graph import Graph, TaskSpec
from exoflow.core.state import Status
from exoflow.runtime.threads import Signal, Thread
from exoflow.runtime.values import store_bytes
from exoflow.settings import Settings
from exoflow.store.base import Head, Write
from exoflow.store.memory import MemoryStore
from exoflow.store.sqlite import SqliteStore
from exoflow.testing.crashes.points import Life
from exoflow.testing.crashes.single import OneHost, SingleThread
from exoflow.wiring import Parts
from exoflow.worker import task_runner
from exoflow.worker.attempt import Done, TaskCall

Work = Callable[[], object]
"""What is counted. It can be called again, and does the same again."""


class Observer(Protocol):
    """Told what the work does beside running code."""

    def connected(self, db: apsw.Connection) -> None:
        """The work uses this connection to a database."""

    def woken(self) -> None:
        """A thread of the engine is started, or woken from its sleep."""


class Operation(msgspec.Struct, frozen=True):
    """``prepare`` makes the work of a size. The figures of an operation are what the size ``last`` costs; if ``first`` is not 0, what it
    costs beyond the size ``first``, divided by ``last - first``, so that whatever is paid once drops out. Only code whose path in the
    package begins with ``where`` counts."""

    prepare: Callable[[int, Observer], Iterator[Work]]
    first: int
    last: int
    where: str = ""

    @contextmanager
    def prepared(self, size: int, observer: Observer) -> Iterator[Work]:
        """The work of that size, done once already, so that everything is imported, cached and open."""
        with contextmanager(self.prepare)(size, observer) as work:
            work()
            gc.collect()
            yield work


def _expect(got: object, wanted: object) -> None:
    if got != wanted:
        raise AssertionError(f"the work was not done: {got!r:.80}, not {wanted!r:.80}")


# --- the whole engine ----------------------------------------------------------------------------------------------------------------


@exoflow.task
def commit(x: int) -> int:
    """The default: may have effects, saved."""
    return x + 1


@exoflow.task(can_rollback=True)
def internal(x: int) -> int:
    """Internal and saved."""
    return x + 1


@exoflow.task(deterministic=True, can_rollback=True, checkpoint=False)
def total(xs: list[int]) -> int:
    """Join."""
    return sum(xs)


def _chain(length: int) -> exoflow.Node:
    node = commit.bind(0)
    for _ in range(length - 1):
        node = commit.bind(node)
    return node


def _fan_out(width: int) -> exoflow.Node:
    return total.bind([internal.bind(1) for _ in range(width)])


class _OnDisk(SqliteStore):
    durable = False  # as far as the engine knows: on one thread it cannot show signs of life beside its work


class _Threads(SingleThread):
    """Tells whenever a thread of the engine would have to be woken: in a process that costs more than a thousand instructions."""

    def __init__(self, life: Life, observer: Observer) -> None:
        super().__init__(life, None)
        self._observer = observer

    def signal(self) -> Signal:
        signal = super().signal()
        wake = signal.set

        def wake_and_tell() -> None:
            if not signal.wait(0):  # else whoever waits is on its way already
                self._observer.woken()
            wake()

        signal.set = wake_and_tell  # type: ignore[method-assign]
        return signal

    def start(self, name: str, work: Callable[[], None]) -> Thread:
        self._observer.woken()
        return super().start(name, work)


class _Executor:
    """Runs the calls that have arrived, one by one, as a thread would. With ``on_loop`` as the event loop does, all of them in one turn,
    in which whoever gets their answers must not block, so that what they save goes into one commit."""

    name, can_kill, is_elsewhere, slots = "counted", False, False, 10_000

    def __init__(self, threads: SingleThread, *, on_loop: bool) -> None:
        self._threads, self._on_loop = threads, on_loop
        self._arrived: deque[tuple[TaskCall, Done]] = deque()

    def submit(self, call: TaskCall, done: Done) -> None:
        if not self._on_loop:
            self._threads.calls.append(lambda: done(task_runner.run(call)))
            return
        if not self._arrived:
            self._threads.calls.append(self._turn)
        self._arrived.append((call, done))

    def _turn(self) -> None:
        arrived, self._arrived = self._arrived, deque()
        _set_running_loop(self)  # type: ignore[arg-type] # the engine only asks whether there is one
        try:
            for call, done in arrived:
                done(task_runner.run(call))
        finally:
            _set_running_loop(None)

    def stop(self, key: str) -> None:
        """Nothing is ever stopped here."""

    def close(self) -> None:
        """There is nothing to release."""


@contextmanager
def _store(observer: Observer) -> Iterator[_OnDisk]:
    with tempfile.TemporaryDirectory(prefix="exoflow-counts-") as folder:
        store = _OnDisk(Path(folder) / "store.db")
        observer.connected(store._writer)
        observer.connected(store._reader)
        try:
            yield store
        finally:
            store.close()


def _run(
    dag: Callable[[int], exoflow.Node], result: Callable[[int], int], *, on_loop: bool = False
) -> Callable[[int, Observer], Iterator[Work]]:
    """A workflow from its submission to its durable result, building the DAG included."""

    def prepare(size: int, observer: Observer) -> Iterator[Work]:
        life = Life(1, None)
        threads = _Threads(life, observer)
        parts = Parts(lambda: threads.clock, threads, OneHost(life), lambda *_: _Executor(threads, on_loop=on_loop), lambda **_: Settings())
        with _store(observer) as store, exoflow.Engine(store, parts=parts) as engine:
            yield lambda: _expect(engine.run(dag(size)), result(size))

    return prepare


# --- the core ------------------------------------------------------------------------------------------------------------------------

_WIDTH = 10
_KINDS = (
    Annotations(checkpoint=Checkpoint.NONE, can_rollback=True),  # drawn anew whenever it runs, and settled by those who read it
    Annotations(can_rollback=True),
    Annotations(checkpoint=Checkpoint.NONE, can_rollback=True, deterministic=True),
    Annotations(),  # commits, once all of the above is stable
)


def _layers(tasks: int) -> Graph:
    """Layers of ``_WIDTH`` tasks, each of which reads two of the layer above; their kinds take turns."""
    specs: list[TaskSpec] = []
    for at in range(tasks):
        layer, place = divmod(at, _WIDTH)
        above = (layer - 1) * _WIDTH
        reads = (f"t{above + place}", f"t{above + (place + 1) % _WIDTH}") if layer else ()
        specs.append(TaskSpec(id=f"t{at}", reads=reads, annotations=_KINDS[layer % len(_KINDS)]))
    specs.append(TaskSpec(id="end", reads=tuple(spec.id for spec in specs[-_WIDTH:])))
    return Graph(tuple(specs), "end")


_INLINE = journal.Stored(5, bytes(codec.DIGEST_BYTES))


def _drive(graph: Graph) -> list[journal.Record]:
    """A machine from its beginning to its end, and its journal. Whatever may run runs before anything that was appended is durable, so that
    every committing task has to be held back first."""
    machine = Machine(replay.new_state("w", 1), graph)
    records: list[journal.Record] = []
    to_run: deque[commands.Run] = deque()
    appended: deque[commands.Append] = deque()
    event: events.Event | None = events.Began(plan=_INLINE)
    while event is not None:
        for command in machine.handle(event):
            if isinstance(command, commands.Run):
                to_run.append(command)
            elif isinstance(command, commands.Append):
                appended.append(command)
        event = None
        if to_run:
            run = to_run.popleft()
            event = events.TaskSucceeded(task=run.task, attempt=run.attempt, stored=_INLINE if run.save else None)
        elif appended:
            append = appended.popleft()
            records += append.records
            event = events.Appended(ticket=append.ticket)
    _expect(machine.state.status, Status.SUCCEEDED)
    return records


def _machine(size: int, observer: Observer) -> Iterator[Work]:
    graph = _layers(size)
    yield lambda: _drive(graph)


def _fold(size: int, observer: Observer) -> Iterator[Work]:
    graph = Graph(tuple(TaskSpec(id=f"t{at}", reads=(f"t{at - 1}",) if at else ()) for at in range(size)), f"t{size - 1}")
    bodies = [journal.encode(record) for record in _drive(graph)]

    def work() -> None:
        state = replay.fold("w", 1, [journal.decode(body) for body in bodies])
        _expect(sum(task.durable for task in state.tasks.values()), size)

    yield work


def _record(size: int, observer: Observer) -> Iterator[Work]:
    record = journal.OutputSaved(task="t", attempt=1, epoch=1, version=1, basis=1, stored=_INLINE)

    def work() -> None:
        for _ in range(size):
            _expect(journal.decode(journal.encode(record)), record)

    yield work


# --- the store, the codec ------------------------------------------------------------------------------------------------------------


def _group(size: int, observer: Observer) -> Iterator[Work]:
    """A commit of one record each of ``size`` workflows."""
    with _store(observer) as store:
        heads = [
            Head(workflow_id=f"w{number}", epoch=1, owner="me", status="RUNNING", created_ms=1, updated_ms=1, digest="d")
            for number in range(size)
        ]
        entries = ((b"a record", b"a value"),)
        first = [Write(workflow_id=head.workflow_id, epoch=1, entries=entries, head=head, create=True) for head in heads]
        writes = [Write(workflow_id=head.workflow_id, epoch=1, entries=entries, head=head) for head in heads]
        _expect(store.commit(first), ["applied"] * size)
        yield lambda: _expect(store.commit(writes), ["applied"] * size)


_VALUE = {"id": 7, "name": "a small value", "scores": [0.5, 1.5, 2.5], "nested": {"flag": True, "none": None}}


def _value(size: int, observer: Observer) -> Iterator[Work]:
    """A small value to the bytes of a journal's entry, and back."""
    store = MemoryStore()

    def work() -> None:
        for _ in range(size):
            stored, payload = store_bytes(store, codec.encode(_VALUE), inline_bytes=1 << 16, limit_bytes=1 << 20, what="a value")
            _expect(codec.digest((payload or b"",)), stored.digest)
            _expect(codec.decode(codec.parse(payload or b"")), _VALUE)

    yield work


def _meaning(size: int, observer: Observer) -> Iterator[Work]:
    yield lambda: _expect(len({fingerprints.fingerprint(_VALUE) for _ in range(size)}), 1)


OPERATIONS = {
    "one-task workflow": Operation(_run(_chain, lambda size: size), 0, 1),
    "chain of committing tasks, per task": Operation(_run(_chain, lambda size: size), 5, 10),
    "fan-out of saved tasks, per task": Operation(_run(_fan_out, lambda size: 2 * size, on_loop=True), 10, 20),
    "core alone, per task": Operation(_machine, 120, 240, "core/"),
    "commit rule, per task": Operation(_machine, 120, 240, "core/stability.py"),
    "folding a journal, per record": Operation(_fold, 100, 200),
    "record to bytes and back": Operation(_record, 10, 20),
    "commit of 50 writes": Operation(_group, 0, 50),
    "commit, per write": Operation(_group, 50, 100),
    "value to bytes and back": Operation(_value, 10, 20),
    "fingerprint of a value": Operation(_meaning, 10, 20),
}
