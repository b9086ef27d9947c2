"""What a process does between its birth and its death by SIGKILL: it opens an engine on the run's store and runs the workflow, or goes on
with it. ``python -m tests.crash.lives JSON`` is such a life in a fresh interpreter; the supervisor mostly forks them."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec

import exoflow
from exoflow.cli.main import app
from exoflow.client.engine import Engine
from exoflow.core import journal
from exoflow.errors import EnvironmentFault, InvalidStateError, TaskFailed, WorkflowFailed, WorkflowInDoubtError, WorkflowNotFoundError
from exoflow.executors.base import Executor
from exoflow.runtime.ownership import life_of
from exoflow.runtime.run import WorkflowFuture
from exoflow.settings import Settings
from exoflow.store import sqlite_file
from exoflow.testing import ledger
from exoflow.testing.ledger import Traced, Trap
from exoflow.wiring import Parts, executor_for
from tests.crash import workflows
from tests.crash.plants import PLANTS
from tests.crash.points import FAULTS, At, guarded
from tests.crash.workflows import CASES, Case

PATIENCE = 1 + max(0, os.getpriority(os.PRIO_PROCESS, 0))
"""Who is nice gets little of a busy machine."""

LIMIT_S = 45.0 * PATIENCE
"""No workflow here needs a second on an idle machine, so one that has not ended by then never will."""

ON_CLOSING = "on closing"
"""SQLite closes whatever the disk says. apsw then raises what was planted, since it was raised in Python."""

COLLECTIONS = 10

WITHERED = "the engine is no longer what this plant was made for"

WRITES = ("commit", "claim", "beat", "put")

Way = Literal["run", "resume", "resume_all", "command", "collect"]


class Cut(msgspec.Struct, frozen=True):
    """Die at the ``call``-th write to the store: before it, ``after_s`` seconds into it (``during``) or after it; ``instead``: the write
    takes ``after_s`` seconds, while everything else goes on, and never happens."""

    call: int
    when: str
    after_s: float = 0.0


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """A life, from outside.

    ``books``: the ids of the workflows that it runs, all of the same ``case``. ``via``: how it asks for them; ``command`` is the command
    ``exoflow``, and for the first of them only; ``collect`` does not ask, but collects garbage. ``traps`` are completed with the pid.
    ``at``: a crash point to die at, or (``guarded``) only count them. ``pool``: tasks for threads run in worker processes instead.
    ``slow_s``: how long each write to the store takes longer. ``confirms``: look at what is finished instead. ``plant``: a bug to put into
    the engine.
    """

    case: str
    folder: str
    books: tuple[str, ...]
    number: int
    via: Way = "run"
    threads: int = 2
    inline_bytes: int = 65536
    traps: tuple[Trap, ...] = ()
    cut: Cut | None = None
    at: At | None = None
    guarded: bool = False
    pool: bool = False
    slow_s: float = 0.0
    confirms: bool = False
    plant: str = ""

    @property
    def book(self) -> str:
        """Where the life itself is noted."""
        return self.books[0]

    def home(self, book: str) -> Path:
        """Where a workflow keeps what is its own."""
        return Path(self.folder, book)


Ended = dict[str, tuple[str, Any]]
"""What the caller of each workflow got: its status and result."""


class Confirmed(msgspec.Struct, kw_only=True):
    """What the store and a second request say of a finished workflow. ``journal``: (record, task, epoch, attempt, tasks) of each entry.
    ``lost_blobs``: named by the journal, but not there, after whatever no journal names was collected. ``owners``, ``locks`` and
    ``temps``: rows and files left by the dead."""

    status: str
    result: Any
    epoch: int
    journal: list[tuple[str, str, int, int, tuple[str, ...]]]
    integrity: str
    damaged_blobs: list[str]
    lost_blobs: list[str]
    owners: int
    locks: int
    temps: list[str]
    story: str


def live(orders: Orders) -> None:
    """Never returns."""
    code = 3
    try:
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the supervisor has its own way to end
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the supervisor in the background may ignore these two
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ[ledger.LIFE] = str(orders.number)
        os.chdir(orders.folder)
        case = CASES[orders.case]
        if orders.plant and not orders.confirms:
            _plant(orders.plant)
        ledger.enter(orders.book, tuple(msgspec.structs.replace(trap, pid=os.getpid()) for trap in orders.traps))
        for book in orders.books:
            case.prepare(orders.home(book))
        with guarded(orders.folder, orders.number, orders.at) if orders.at or orders.guarded else contextlib.nullcontext():
            if orders.via == "command":
                code = _command(case, orders)
            elif orders.via == "collect":
                _write(orders, _collect(case, orders))
                code = 0
            else:
                _write(orders, _confirm(case, orders) if orders.confirms else _strive_or_fail(case, orders))
                code = 0
    except KeyboardInterrupt:  # before or after the command listens
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


DEATH = "death"
"""The name of the thread that is about to kill this process, and may come after its end."""


def _plant(name: str) -> None:
    try:
        PLANTS[name]()
    except Exception as error:
        raise RuntimeError(WITHERED) from error


def _open(case: Case, orders: Orders) -> Engine:
    store = f"sqlite:{orders.folder}/store.db"
    inline_bytes, lease_s = orders.inline_bytes, case.lease_s * PATIENCE
    parts = Parts(executor_for=_in_pool) if orders.pool else None
    return Engine(store, threads=orders.threads, processes=2, inline_bytes=inline_bytes, drain_s=2.0, lease_s=lease_s, parts=parts)


def _in_pool(name: str, settings: Settings, fds: tuple[int, ...]) -> Executor:
    return executor_for("process" if name == "thread" else name, settings, fds)


def _strive_or_fail(case: Case, orders: Orders) -> tuple[Ended, int] | str:
    """The whole of it, without leaving anything behind. What came of it, and the number of writes to the store; or the code of the error,
    if it was a disk's."""
    files = _files()
    try:
        ended = _strive(case, orders)
    except (EnvironmentFault, apsw.Error) as fault:
        if orders.at is None or orders.at.when not in FAULTS:
            raise
        return getattr(fault, "code", ON_CLOSING)
    gc.collect()
    left = {name: where for name, where in _files().items() if files.get(name) != where}
    if left or any(thread.name != DEATH for thread in threading.enumerate() if thread is not threading.main_thread()):
        raise AssertionError(f"a closed engine left files {left} and threads {threading.enumerate()}")
    return ended


def _files() -> dict[str, str]:
    """What this process has open: descriptor and what it leads to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _command(case: Case, orders: Orders) -> int:
    """The command ``exoflow``. Returns its exit code."""
    os.environ |= {"EXOFLOW_DRAIN_S": "2", "EXOFLOW_THREADS": str(orders.threads), "EXOFLOW_PROCESSES": "2"}
    words = ["run", f"tests.crash.targets:{case.name}", *map(str, case.args(orders.home(orders.book)))]
    words += ["--name", orders.book, "--store", f"sqlite:{orders.folder}/store.db"]
    for name in ("mode", "on_failure"):
        if name in case.options:
            words += [f"--{name.replace('_', '-')}", case.options[name]]
    try:
        app(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _collect(case: Case, orders: Orders) -> list[int]:
    """Throw away what nobody needs, again and again, whatever the others do. How much that was."""
    with _open(case, orders) as engine:
        return [engine.collect_garbage(grace_s=0).removed for _ in range(COLLECTIONS)]


def _strive(case: Case, orders: Orders) -> tuple[Ended, int]:
    """Returns what came of it, and the number of writes to the store."""
    with contextlib.closing(_open(case, orders)) as engine:
        calls = _Calls(engine, orders)
        ledger.note("opened", book=orders.book)
        futures = {book: _begin(case, orders, engine, book) for book in orders.books}
        ledger.note("accepted", book=orders.book)
        if case.cancels:
            _cancel(case, orders, engine, futures[orders.book])
        results = {book: _await(case, engine, future) for book, future in futures.items()}
        ended = {book: (str(engine.get_status(book)), result) for book, result in results.items()}
        if case.errands:
            _run_errands(engine, orders)
        ledger.note("ended", book=orders.book)
    ledger.note("closed", book=orders.book)
    return ended, calls.count


def _run_errands(engine: Engine, orders: Orders) -> None:
    """What somebody who keeps a store in order does: forget what is over."""
    engine.run(workflows.heavy.bind(), name=f"errand-{orders.book}-{orders.number}")
    for head in engine.list_all("SUCCEEDED"):
        if head.workflow_id.startswith("errand-"):
            with contextlib.suppress(WorkflowNotFoundError):  # the one beside us was faster
                engine.delete(head.workflow_id)
    engine.collect_garbage(grace_s=0)


def _begin(case: Case, orders: Orders, engine: Engine, book: str) -> WorkflowFuture:
    if orders.via == "resume_all":
        future = engine.resume_all().get(book)
        if future is not None:
            return future
    if orders.via == "resume":
        with contextlib.suppress(WorkflowNotFoundError, InvalidStateError):
            return engine.resume(book)
    return _ask_for(case, orders, engine, book)


def _ask_for(case: Case, orders: Orders, engine: Engine, book: str) -> WorkflowFuture:
    return engine.run_async(case.build(), *case.args(orders.home(book)), name=book, **case.options)


def _await(case: Case, engine: Engine, future: WorkflowFuture) -> Any:
    """What the caller gets, who is also the person that is asked in doubt, and resumes what failed."""
    book = future.name
    while True:
        try:
            return future.result(LIMIT_S)
        except WorkflowInDoubtError as doubt:
            found = ledger.stands(book, doubt.fields["task"], "wire")
            seen = {**found.seen, found.task: found.draw} if found is not None else {}
            outcome = Traced("told by a person", seen) if found is not None else False
            try:
                future = engine.resume(book, outcomes={doubt.fields["task"]: outcome})
            except InvalidStateError:  # the person beside the other engine was faster
                future = engine.resume(book)
        except TaskFailed as failed:
            if case.ends == "FAILED":
                return str(failed)
            future = engine.resume(book)
        except WorkflowFailed as failed:
            return str(failed)
        except TimeoutError:
            print(engine.story(book), file=sys.stderr)
            faulthandler.dump_traceback()
            raise


def _cancel(case: Case, orders: Orders, engine: Engine, future: WorkflowFuture) -> None:
    future.add_done_callback(lambda _: workflows.booked.set())
    if not workflows.booked.wait(LIMIT_S):
        raise TimeoutError("the workflow never came to where it is to be cancelled")
    try:
        with contextlib.closing(_open(case, orders)) if case.from_elsewhere else contextlib.nullcontext(engine) as canceller:
            canceller.cancel(future.name, rollback=True)
    except InvalidStateError:
        if not future.done():
            raise
    workflows.cancelled()


class _Calls:
    """Counts the writes to the store, and dies at one of them."""

    def __init__(self, engine: Engine, orders: Orders) -> None:
        self.count = 0
        self._cut, self._slow_s = orders.cut, orders.slow_s
        self._lock = threading.Lock()
        for name in WRITES:
            owner: Any = engine.store.blobs if name == "put" else engine.store
            setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self.count += 1
                mine = self._cut is not None and self.count == self._cut.call
            time.sleep(self._slow_s)
            if not mine or self._cut is None:
                return call(*args, **kwargs)
            if self._cut.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self._cut.when == "instead":
                _die_in(self._cut.after_s)
            elif self._cut.when == "during":
                threading.Thread(target=_die_in, args=(self._cut.after_s,), name=DEATH, daemon=True).start()
            result = call(*args, **kwargs)
            if self._cut.when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted


def _die_in(delay_s: float) -> None:
    time.sleep(delay_s)
    os.kill(os.getpid(), signal.SIGKILL)


def _confirm(case: Case, orders: Orders) -> dict[str, Confirmed]:
    """Ask again for what is finished: nothing may run, and the answer must be the same."""
    with _open(case, orders) as engine:
        futures = {book: _ask_for(case, orders, engine, book) for book in orders.books}
        engine.run(workflows.think.bind(), name=f"after-{orders.book}")  # whoever begins to own something clears up after the dead
        engine.collect_garbage(grace_s=0)
        return {book: _confirm_one(orders, engine, future) for book, future in futures.items()}


def _confirm_one(orders: Orders, engine: Engine, future: WorkflowFuture) -> Confirmed:
    try:
        result = future.result(LIMIT_S)
    except WorkflowFailed as failed:
        result = str(failed)
    head = engine.store.head(future.name)
    assert head is not None
    entries = [journal.decode(entry.body) for entry in engine.store.entries(future.name, retired=True)]
    path = Path(orders.folder, "store.db")
    with contextlib.closing(sqlite_file.connect(path, 5.0, read_only=True)) as reader:
        integrity = ", ".join(row[0] for row in reader.execute("PRAGMA integrity_check"))
    named = {stored.blob for record in entries if (stored := getattr(record, "stored", None)) is not None and stored.blob is not None}
    there = set(engine.store.blobs.names())
    return Confirmed(
        status=head.status,
        result=result,
        epoch=life_of(head.epoch),
        journal=[_facts(record) for record in entries],
        integrity=integrity,
        damaged_blobs=[name for name in there if not _reads(engine, name)],
        lost_blobs=sorted(named - there),
        owners=len(engine.store.owners()) - 1,
        locks=len(list(Path(f"{path}-blobs", "locks").iterdir())) - 1,
        temps=[left.name for left in Path(f"{path}-blobs").glob("tmp-*")],
        story=engine.story(future.name),
    )


def _facts(record: journal.Record) -> tuple[str, str, int, int, tuple[str, ...]]:
    def get(name: str, default: Any) -> Any:
        return getattr(record, name, default)

    return (
        type(record).__name__,
        get("task", "") if isinstance(get("task", ""), str) else "",
        get("epoch", 0),
        get("attempt", 0),
        get("tasks", ()),
    )


def _reads(engine: Engine, name: str) -> bool:
    try:
        engine.store.blobs.open(name)
    except (LookupError, ValueError):
        return False
    return True


def _write(orders: Orders, value: Any) -> None:
    """In one piece or not at all."""
    path = Path(orders.folder, f"life-{orders.number}")
    path.with_suffix(".part").write_bytes(pickle.dumps(value))
    path.with_suffix(".part").rename(path)


def main() -> None:
    live(msgspec.json.decode(sys.argv[1], type=Orders))


if __name__ == "__main__":
    assert exoflow.__name__ == "exoflow"
    from tests.crash import lives  # by its own name, so that what it pickles can be read by others

    lives.main()
