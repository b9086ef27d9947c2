"""What is run while it is recorded, and how it is brought to its end on a disk that lost power."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from exoflow.client.engine import Engine
from exoflow.errors import InvalidStateError, WorkflowCancelledError
from exoflow.store import sqlite, sqlite_file
from exoflow.store.base import Head, OwnerRow, Store, Write
from exoflow.store.sqlite import SqliteStore
from exoflow.testing.ledger import Book
from exoflow.testing.notebook import Notebook
from exoflow.testing.power import log
from exoflow.testing.power.dags import DAGS, digest_of
from exoflow.testing.power.judge import Known, Truth
from exoflow.testing.power.log import Log, Request
from exoflow.testing.power.record import RecordedFiles, RecordedStore, Recorder

STORE = "stores/x.db"
"""Where the store is on the disk; its folder is made by the store."""
_LIMIT_S = 60.0
_OPTIONS: dict[str, Any] = {"threads": 2, "drain_s": 0.0, "lease_s": 30.0}


class Scene:
    """What a workload works with: engines and stores on one file, all recorded. ``tweak`` is done to each store when it is opened."""

    def __init__(self, recorder: Recorder, rng: random.Random, files: type[RecordedFiles], tweak: Callable[[SqliteStore], None]) -> None:
        self.rng, self._recorder, self._files, self._tweak = rng, recorder, files, tweak
        self.path = recorder.root / STORE
        self.inline_bytes = rng.choice((0, 500, 65536))

    def store(self) -> RecordedStore:
        """Another handle of the store."""
        store = self._recorder.open_store(self.path, self._files(self._recorder))
        self._tweak(store.inner)
        return store

    def engine(self) -> Engine:
        """Another engine."""
        return Engine(self.store(), inline_bytes=self.inline_bytes, **_OPTIONS)

    def run(self, engine: Engine, *names: str) -> None:
        """Run workflows beside each other, to their ends."""
        self.tell([(name, engine.run_async(DAGS[name.partition("-")[0]][0](), name=name)) for name in names])

    def tell(self, futures: Iterable[tuple[str, Any]]) -> None:
        """Wait for workflows and note that somebody was told of their ends."""
        for name, future in futures:
            self._recorder.note(log.Ended(name, end_of(future)))


# --- workloads --------------------------------------------------------------------------------------------------------------------


def _one_at_a_time(scene: Scene) -> None:
    with scene.engine() as engine:
        for name in scene.rng.sample(("one-1", "chain-1", "synced-1", "saga-1", "unsaved-1", "fan-1"), 3):
            scene.run(engine, name)


def _with_blobs(scene: Scene) -> None:
    scene.inline_bytes = 200
    with scene.engine() as engine:
        scene.run(engine, "blobs-1", "report-1")


def _large(scene: Scene) -> None:
    with scene.engine() as engine:
        scene.run(engine, "large-1")


def _blob_is_there(scene: Scene) -> None:
    """Workflows whose outputs are the same bytes, at the same time and one after the other."""
    scene.inline_bytes = 200
    with scene.engine() as engine:
        scene.run(engine, "shared-1", "shared-2")
    with scene.engine() as engine:
        scene.run(engine, "shared-3")


def _many(scene: Scene) -> None:
    """Group commit."""
    with scene.engine() as engine:
        futures = [engine.run_async(DAGS["chain"][0](), wait_accepted=False) for _ in range(15)]
        scene.run(engine, "one-1", "unsaved-1")
        scene.tell((future.name, future) for future in futures)


def _takeover(scene: Scene) -> None:
    """One engine stops in the middle; another, there from the beginning, goes on with its work."""
    names = ["saga-1", "fan-1", "blobs-1"]
    with scene.engine() as second:
        with scene.engine() as first:
            for name in names:
                first.run_async(DAGS[name.partition("-")[0]][0](), name=name)
            scene.run(second, "chain-1")
        scene.tell(second.resume_all().items())
        scene.run(second, *names)


def _deletion(scene: Scene) -> None:
    """Of workflows that share blobs, and one begun again with the blobs that went; and a collection."""
    scene.inline_bytes = 200
    with scene.engine() as engine:
        scene.run(engine, "shared-1", "shared-2", "blobs-1")
        engine.delete("shared-1")
        engine.delete("blobs-1")
        engine.delete("shared-2")
        scene.run(engine, "shared-3")
        engine.store.blobs.put([b"nobody names this"])
    with scene.engine() as engine:
        engine.store.blobs.collect(grace_s=0)
        scene.run(engine, "shared-4")


def _cancelling(scene: Scene) -> None:
    with scene.engine() as engine:
        engine.run_async(DAGS["saga"][0](), name="saga-1")
        scene.run(engine, "one-1")
        with contextlib.suppress(InvalidStateError):  # it had ended
            engine.cancel("saga-1", rollback=True)
        end = engine.resume_all().get("saga-1", None) or engine.run_async(DAGS["saga"][0](), name="saga-1")
        scene.tell([("saga-1", end)])


def _rotting(scene: Scene) -> None:
    """For ``bitrot.py``: some workflows finish, some are left where they are."""
    scene.inline_bytes = 500
    with scene.engine() as engine:
        scene.run(engine, "report-1", "chain-1", "shared-1")
        scene.run(engine, "saga-1", "shared-2", "unsaved-1", "blobs-1", "report-2")


def _creation(scene: Scene) -> None:
    """The store is made, closed, and opened by two at once."""
    scene.store().close()
    stores = [scene.store(), scene.store()]
    for number, store in enumerate(stores):
        store.commit([_birth(f"w{number}")])
    for store in stores:
        store.close()


def _migration(scene: Scene) -> None:
    """A store of the first schema is opened (see ``age``)."""
    with contextlib.closing(scene.store()) as store:
        store.commit([_birth("new"), _growth("w1", 1, scene.rng)])


def _requests(scene: Scene) -> None:
    """No engine: requests of all kinds by two users of a store, with rows of all sizes."""
    stores = [scene.store(), scene.store()]
    seeds = [scene.rng.getrandbits(32) for _ in stores]
    users = [threading.Thread(target=_use, args=(store, random.Random(seed))) for store, seed in zip(stores, seeds, strict=True)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    for store in stores:
        store.close()


def _use(store: Store, rng: random.Random) -> None:
    owner = f"owner-{rng.getrandbits(16)}"
    for beat in range(rng.randint(4, 16)):
        name = f"w{rng.randrange(4)}"
        head = store.head(name)
        match rng.choice(("create", "append", "append", "blob", "blob", "claim", "delete", "beat", "wish", "collect")):
            case "create":
                store.commit([_birth(f"w{number}") for number in rng.sample(range(4), 2)])
            case "append":
                store.commit([_growth(f"w{number}", head.epoch if head else 1, rng) for number in rng.sample(range(4), 2)])
            case "claim":
                store.claim(name, epoch=head.epoch if head else 1, owner=owner)
            case "delete":
                store.delete(name, epoch=head.epoch if head else 1)
            case "beat":
                store.beat(OwnerRow(owner=owner, host="h", pid=1, lock_path="/l", beat=beat, lease_s=1.0))
            case "wish":
                store.wish(name, rng.choice(("cancel", "pause", "")))
            case "collect":
                store.blobs.collect(grace_s=0)
            case _:
                blob = store.blobs.put([bytes([rng.randrange(4)]) * rng.choice((1, 5000))] * rng.randint(1, 3))
                store.commit([Write(workflow_id=name, epoch=head.epoch if head else 1, entries=((b"blob", None),), blobs=(blob,))])


def _birth(name: str) -> Write:
    head = Head(workflow_id=name, epoch=1, owner=None, status="RUNNING", created_ms=1, updated_ms=1, digest="d")
    return Write(workflow_id=name, epoch=1, entries=((b"born", name.encode()),), head=head, create=True)


def _growth(name: str, epoch: int, rng: random.Random) -> Write:
    entries = tuple((rng.randbytes(rng.choice((1, 50, 900))), rng.choice((None, b"p", rng.randbytes(6000)))) for _ in range(2))
    head = Head(workflow_id=name, epoch=0, owner="o", status=rng.choice("AB"), created_ms=0, updated_ms=9, digest="", note="n")
    return Write(workflow_id=name, epoch=epoch, entries=entries, retire=(rng.randint(1, 5),), head=rng.choice((None, head)))


WORKLOADS: dict[str, Callable[[Scene], None]] = {
    "one at a time": _one_at_a_time,
    "with blobs": _with_blobs,
    "large blobs": _large,
    "blob is there": _blob_is_there,
    "many at once": _many,
    "takeover": _takeover,
    "deletion": _deletion,
    "cancelling": _cancelling,
    "rotting": _rotting,
    "creation": _creation,
    "migration": _migration,
    "requests": _requests,
}
WITHOUT_ENGINE = frozenset({"creation", "migration", "requests"})
"""Workloads whose journals mean nothing to an engine."""


# --- recording one ----------------------------------------------------------------------------------------------------------------


def record(
    workload: str,
    seed: int,
    root: Path,
    *,
    files: type[RecordedFiles] = RecordedFiles,
    tweak: Callable[[SqliteStore], None] = lambda _store: None,
) -> Log:
    """Run a workload in the new folder ``root``. Half of the time the store is there before, and some checkpoint often."""
    root.mkdir(parents=True)
    rng = random.Random(f"{workload} {seed}")
    before = Log(workload=workload, seed=seed, root=str(root))
    if workload == "migration":
        before.requests = [log.Commit((_birth("w1"), _birth("w2")))]
        age(root / STORE, before.requests)
    elif workload != "creation" and rng.random() < 0.5:
        SqliteStore(root / STORE).close()
    return _record(before, WORKLOADS[workload], rng, files, tweak)


def age(path: Path, requests: list[Request]) -> None:
    """Make a store of the first schema, as the first release would have left it."""
    with contextlib.closing(SqliteStore(path)) as store:
        for request in requests:
            log.perform(request, store)
    db = sqlite_file.connect(path, 5.0)
    db.execute("BEGIN; DROP TABLE named; PRAGMA user_version = 1; COMMIT")
    db.close()


def record_recovery(before: Log, seed: int) -> Log:
    """Go on with what lies in ``before.root``, so that recovery can lose power too. ``before`` says what has been promised."""

    def recovery(scene: Scene) -> None:
        with scene.engine() as engine:
            scene.tell(engine.resume_all().items())

    return _record(before, recovery, random.Random(seed), RecordedFiles, lambda _store: None)


def _record(
    before: Log, workload: Callable[[Scene], None], rng: random.Random, files: type[RecordedFiles], tweak: Callable[[SqliteStore], None]
) -> Log:
    recorder = Recorder(Path(before.root))
    with (
        mock.patch.object(sqlite, "_CHECKPOINT_PAGES", 1000 if before.workload == "rotting" else rng.choice((4, 20, 1000))),
        Notebook(before.entries, on_entry=lambda entry: recorder.note(log.Happened(entry))),
        recorder.recording(),
    ):
        workload(Scene(recorder, rng, files, tweak))
    return msgspec.structs.replace(before, disk=recorder.disk, events=recorder.events)


# --- to the end -------------------------------------------------------------------------------------------------------------------


class Finished(msgspec.Struct):
    """What became of a store that an engine worked on: what is wrong, and by workflow (or "" for all) the error that kept it back."""

    violations: list[str] = []
    refused: dict[str, Exception] = {}


def end_of(future: Any) -> str:
    """How a workflow ended, in a few characters."""
    error = future.exception(_LIMIT_S)
    if error is None:
        return digest_of(future.result())
    if isinstance(error, WorkflowCancelledError):
        return "cancelled"
    raise error


def finish(path: Path, truth: Truth, known: Known) -> Finished:
    """Bring everything in the store at ``path`` to its end, submit again what had been submitted, and judge what came of it."""
    created, deleted = _history(truth.requests[: known.asked])
    done = Finished()
    futures: dict[str, Any] = {}
    told: dict[str, str] = {}

    def attempt(name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # to be judged
            done.refused[name] = error

    def work() -> None:
        with Engine(SqliteStore(path), **_OPTIONS) as engine:
            attempt("", lambda: futures.update(engine.resume_all()))
            attempt("", lambda: names.update(head.workflow_id for head in engine.list_all("SUCCEEDED")))
            for name in sorted(names - futures.keys()):
                attempt(name, lambda name=name: futures.update({name: engine.resume(name)}))  # type: ignore[misc]
            for name in created - deleted:
                if name.partition("-")[0] in DAGS:
                    dag = DAGS[name.partition("-")[0]][0]()
                    attempt(name, lambda name=name, dag=dag: futures.update({name: engine.run_async(dag, name=name)}))  # type: ignore[misc]
            for name, future in futures.items():
                attempt(name, lambda name=name, future=future: told.update({name: end_of(future)}))  # type: ignore[misc]

    names = set[str]()
    with Notebook(truth.entries[: known.entries]) as notebook:
        attempt("", work)
    results = {name: futures[name].result() for name, end in told.items() if end != "cancelled"}
    done.violations = [*_judged(notebook.books(), told, results, deleted, known, done.refused)]
    return done


def _judged(
    books: dict[str, Book], told: dict[str, str], results: dict[str, Any], deleted: set[str], known: Known, refused: dict[str, Exception]
) -> Iterator[str]:
    for name, book in books.items():
        result = [results[name]] if name in results else []
        yield from (f"{name}: {line}" for line in book.violations(*result, cancelled=told.get(name) == "cancelled"))
        if not (name in told or name in deleted or name in refused or "" in refused) and book.effects():
            yield f"{name} had external outputs, and is not there"
    for name in results:
        expected = DAGS.get(name.partition("-")[0], DAGS["chain"])[1]
        if (counts := books[name].counts()) != expected:
            yield f"{name}: {counts} stand and not {expected}"
    for name, end in known.ended.items():
        if not (name in deleted or name in refused or "" in refused) and told.get(name) != end:
            yield f"{name}: somebody was told that it ended with '{end}', now it is '{told.get(name)}'"


def _history(requests: list[Request]) -> tuple[set[str], set[str]]:
    """Which workflows were created, and which deleted."""
    created = {write.workflow_id for each in requests if isinstance(each, log.Commit) for write in each.writes if write.create}
    return created, {each.workflow_id for each in requests if isinstance(each, log.Delete)}
