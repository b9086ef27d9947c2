"""The Refs of one workflow: which outputs hold them, what of them is saved, what has been restored, and who has used what can change.

What follows from a loss is decided in the core, which hears of it as the loss of the outputs that held the Ref. Versions: a Ref to what
never changes has one, its identity. Of what tasks may change, each output that holds it is a version of its own, whose snapshot was asked
for when that output arrived. A task that has used a version may have changed it, so when it runs again it gets another copy of it, from the
snapshot, or, if there is none, from the task that makes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from exoflow.codec import identities
from exoflow.core.journal import KeptRef
from exoflow.errors import CheckpointFailedError, RefLostError
from exoflow.refs.base import RefAdapter, adapter_named, adapter_of, lost_in
from exoflow.runtime.threads import Threads

_log = logging.getLogger("exoflow")

Beside = Callable[[Callable[[], None]], bool]
"""Runs something on another thread, unless that is closed."""
Put = Callable[[str, Any], tuple[bytes, str | None]]
PLAN = ""
"""What holds the Refs in the arguments of the workflow."""


class _Mark:
    """Stands for a Ref in a saved value that is only looked at."""

    def __init__(self, version: str) -> None:
        self.version = version


def marks(kept: Sequence[KeptRef]) -> tuple[_Mark, ...]:
    """What stands for saved Refs where nothing shall be restored: of those in arguments, each has the identity that the Ref had."""
    if kept:
        identities[_Mark] = lambda mark: mark.version
    return tuple(_Mark(each.version) for each in kept)


class _Held(NamedTuple):
    adapter: RefAdapter
    identity: str
    version: str
    ref: Any


class Refs:
    """Methods may be called from any thread."""

    def __init__(self, threads: Threads, beside: Beside | None) -> None:
        self._threads, self._lock, self._beside = threads, threads.lock(), beside
        self._held: dict[Hashable, tuple[_Held, ...]] = {}  # by what holds them: a task, or an attempt whose output does not count yet
        self._holders: dict[str, set[Hashable]] = {}  # by identity
        self._objects: dict[str, Any] = {}  # by identity, of those that are held
        self._snapshots: dict[str, Future[Any]] = {}  # by version: what checkpoint() was asked for, until it is kept
        self._kept: dict[str, KeptRef] = {}  # by version
        self._back: dict[str, tuple[Future[_Held], set[str]]] = {}  # by version: what was restored, and for the output of which tasks
        self._users: dict[str, set[str]] = {}  # by version of what can change
        self._gone: set[str] = set()  # identities of what was lost

    # --- outputs in memory ---------------------------------------------------------------------------------------------------

    def known(self, refs: Iterable[Any]) -> tuple[Any, ...]:
        """``refs``, with the objects that outputs hold already in place of equal ones that came from another process."""
        return tuple(self._objects.get(identities[type(ref)](ref), ref) for ref in refs)

    def arrive(self, task: str, attempt: int, refs: Iterable[Any], *, save: bool) -> None:
        """An output that holds ``refs`` is there. If it is to be saved, snapshots of what tasks may change are asked for now."""
        held = []
        for ref in refs:
            adapter, identity = adapter_of(ref), identities[type(ref)](ref)
            version = _version(adapter, identity, task, attempt)
            if adapter.mutable and save and version not in self._kept:
                self._snapshots[version] = _snapshot(adapter, ref, version)
            held.append(_Held(adapter, identity, version, ref))
        with self._lock:
            self._hold((task, attempt), tuple(held))

    def keep(self, task: str, attempt: int) -> None:
        """That output counts, and not one that the task had before."""
        if not self._held:
            return
        with self._lock:
            before = self._held.get(task, ())
            now = self._held.get((task, attempt), ())
            self._hold(task, now)
            gone = [each for each in before if each.identity not in {other.identity for other in now} and self._let_go(each, task)]
        self._release(gone)
        self.drop((task, attempt))

    def _hold(self, holder: Hashable, held: tuple[_Held, ...]) -> None:
        self._held[holder] = held
        for each in held:
            self._holders.setdefault(each.identity, set()).add(holder)
            self._objects[each.identity] = each.ref
            self._gone.discard(each.identity)

    def drop(self, holder: Hashable) -> None:
        """An output has gone from memory: let go what nobody else holds."""
        if holder not in self._held:
            return
        with self._lock:
            gone = [each for each in self._held.pop(holder, ()) if self._let_go(each, holder)]
        self._release(gone)

    def _let_go(self, each: _Held, holder: Hashable) -> bool:
        holders = self._holders.get(each.identity)
        if holders is None:
            return False
        holders.discard(holder)
        if holders:
            return False
        del self._holders[each.identity], self._objects[each.identity]
        return True

    def _release(self, gone: list[_Held]) -> None:
        def work() -> None:
            for each in gone:
                try:
                    each.adapter.release(each.ref)
                except Exception:  # nothing rests on it
                    _log.exception("Ref %s could not be released", each.identity)

        if gone and not (self._beside is not None and self._beside(work)):
            work()

    def close(self, result: str | None) -> None:
        """The workflow has ended. What the output of its task ``result`` holds is the caller's, and so is what came as an argument."""
        with self._lock:
            mine = [each.identity for each in (*self._held.get(result, ()), *self._held.get(PLAN, ()))]
            mine += [future.result().identity for future, tasks in self._back.values() if result in tasks and _is_there(future)]
            gone = {each.identity: each for held in self._held.values() for each in held if each.identity not in mine}
            self._held.clear()
            self._back.clear()
        self._release(list(gone.values()))

    # --- saving --------------------------------------------------------------------------------------------------------------

    def snapshots(self, task: str, attempt: int, refs: Iterable[Any]) -> list[Future[Any]]:
        """Those that must end before :meth:`save`; asked for now, where they were not before. Raises RefLostError for what has changed
        since that output arrived."""
        waiting = []
        for adapter, version, ref in self._versions(task, attempt, refs):
            if version in self._kept:
                continue
            if version not in self._snapshots:
                if adapter.mutable:
                    raise RefLostError(kind=adapter.kind, ref=adapter.id(ref), reason="no snapshot was taken when the output arrived")
                self._snapshots[version] = _snapshot(adapter, ref, version)
            if not self._snapshots[version].done():
                waiting.append(self._snapshots[version])
        return waiting

    def save(self, task: str, attempt: int, refs: Iterable[Any], put: Put) -> tuple[KeptRef, ...]:
        """What the record of that output says of its Refs. ``put`` stores data that is not yet stored, and says where. Raises what ``put``
        does, CheckpointFailedError, RefLostError."""
        kept = []
        for adapter, version, ref in self._versions(task, attempt, refs):
            snapshot = self._snapshots.get(version)  # looked at first: another thread may just have kept it
            known = self._kept.get(version)
            if known is None:
                assert snapshot is not None
                inline, blob = put(adapter.id(ref), _data(task, adapter, ref, snapshot))
                known = self._kept[version] = KeptRef(kind=adapter.kind, version=version, data=inline, blob=blob)
                self._snapshots.pop(version, None)
            kept.append(known)
        return tuple(kept)

    def _versions(self, task: str, attempt: int, refs: Iterable[Any]) -> list[tuple[RefAdapter, str, Any]]:
        found = []
        for ref in refs:
            adapter, identity = adapter_of(ref), identities[type(ref)](ref)
            found.append((adapter, _version(adapter, identity, task, attempt), ref))
        return found

    # --- restoring -----------------------------------------------------------------------------------------------------------

    def restored(self, task: str, kept: Iterable[KeptRef], read: Callable[[KeptRef], Any], reader: str | None = None) -> tuple[Any, ...]:
        """The Refs of a saved output of ``task``, for ``reader``, each restored once. ``read`` gives what its checkpoint gave."""
        return tuple(self._restored(task, each, read, reader).ref for each in kept)

    def _restored(self, task: str, kept: KeptRef, read: Callable[[KeptRef], Any], reader: str | None) -> _Held:
        with self._lock:
            future, tasks = self._back.get(kept.version, (None, set[str]()))
            if future is not None and reader is not None and reader in self._users.get(kept.version, ()):
                future = None  # this reader may have changed it
            mine = future is None
            if future is None:
                future = Future()
                self._users.pop(kept.version, None)
            tasks.add(task)
            self._back[kept.version] = future, tasks
        if not mine:
            self._threads.wait(future, None)
            return future.result()
        try:
            adapter = adapter_named(kept.kind)
            ref = adapter.restore(read(kept))
            held = _Held(adapter, identities[type(ref)](ref), kept.version, ref)
        except BaseException as error:
            with self._lock:
                self._back.pop(kept.version, None)
            future.set_exception(error)
            raise
        with self._lock:
            if not adapter.mutable:
                self._kept[held.identity] = kept
            self._hold(("back", kept.version, held.identity), (held,))
        future.set_result(held)
        return held

    def forget(self, kept: Iterable[KeptRef]) -> None:
        """What is saved of these is damaged."""
        with self._lock:
            versions = {each.version for each in kept}
            for key in [key for key, each in self._kept.items() if each.version in versions]:
                del self._kept[key]

    def settle(self, is_wanted: Callable[[str], bool]) -> None:
        """Let go what was restored for outputs that nobody wants any more."""
        if not self._back:
            return
        gone = []
        with self._lock:
            for version, (future, tasks) in list(self._back.items()):
                if not any(map(is_wanted, tasks)) and _is_there(future):
                    del self._back[version]
                    gone.append(future.result())
        for each in gone:
            self.drop(("back", each.version, each.identity))

    # --- use and loss --------------------------------------------------------------------------------------------------------

    def require_fresh(self, task: str, reader: str) -> None:
        """Raises RefLostError if the output of ``task`` in memory holds what ``reader`` may have changed when it ran before."""
        for each in self._held.get(task, ()):
            if each.adapter.mutable and reader in self._users.get(each.version, ()):
                reason = f"'{reader}' has used it, and may have changed it"
                raise RefLostError(kind=each.adapter.kind, ref=each.adapter.id(each.ref), reason=reason)

    def use(self, tasks: Iterable[str], reader: str) -> None:
        """``reader`` is about to run on the outputs of ``tasks``."""
        with self._lock:
            wanted = set(tasks)
            versions = [each.version for task in wanted for each in self._held.get(task, ()) if each.adapter.mutable]
            back = [future.result() for future, of in self._back.values() if not wanted.isdisjoint(of) and _is_there(future)]
            for version in versions + [each.version for each in back if each.adapter.mutable]:
                self._users.setdefault(version, set()).add(reader)

    def argument(self, ref: Any, read: Callable[[KeptRef], Any], reader: str) -> Any:
        """A Ref that is in the arguments of a task from the beginning: itself, or what takes its place if it was lost, or if ``reader`` may
        have changed what it stands for."""
        identity = identities[type(ref)](ref)
        if identity not in self._gone and reader not in self._users.get(identity, ()):
            if adapter_of(ref).mutable:
                with self._lock:
                    self._users.setdefault(identity, set()).add(reader)
            return ref
        kept = self._kept.get(identity)
        if kept is None:
            raise RefLostError(kind=adapter_of(ref).kind, ref=adapter_of(ref).id(ref), reason="it was lost before it was saved")
        return self._restored(PLAN, kept, read, reader).ref

    def lost(self, error: BaseException) -> tuple[str, ...] | None:
        """The tasks whose outputs in memory hold what ``error`` says is gone; None if it says so of nothing that this workflow holds, or
        held until somebody else found it lost."""
        gone = lost_in(error)
        if not gone:
            return None
        with self._lock:
            known = {identity: set(self._holders[identity]) for identity in gone if identity in self._holders}
            for version, (future, _) in list(self._back.items()):
                if _is_there(future) and future.result().identity in known:
                    del self._back[version]
            is_ours = bool(known) or not gone.isdisjoint(self._gone)
            self._gone.update(known)
        for holders in known.values():
            for holder in holders:
                if isinstance(holder, tuple) and holder[0] == "back":
                    self.drop(holder)
        return tuple({holder: None for holders in known.values() for holder in holders if isinstance(holder, str)}) if is_ours else None


def holder_of(task: str) -> str:
    """What holds the Refs of ``task``, in words."""
    return f"the output of task '{task}'" if task != PLAN else "an argument of the workflow"


def _version(adapter: RefAdapter, identity: str, task: str, attempt: int) -> str:
    return f"{identity} of {task}#{attempt}" if adapter.mutable and task != PLAN else identity


def _snapshot(adapter: RefAdapter, ref: Any, version: str) -> Future[Any]:
    try:
        return adapter.checkpoint(ref, version)
    except Exception as error:  # as if the Future had said so
        failed: Future[Any] = Future()
        failed.set_exception(error)
        return failed


def _data(task: str, adapter: RefAdapter, ref: Any, snapshot: Future[Any]) -> Any:
    try:
        return snapshot.result()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if lost_in(error):
            if task == PLAN and not isinstance(error, RefLostError):  # the caller shall not have to know what the backend raises
                raise RefLostError(kind=adapter.kind, ref=adapter.id(ref), reason=reason) from error
            raise
        raise CheckpointFailedError(what=holder_of(task), ref=adapter.id(ref), reason=reason) from error


def _is_there(future: Future[Any]) -> bool:
    return future.done() and future.exception() is None


def when_all(futures: Sequence[Future[Any]], then: Callable[[], None]) -> None:
    """Call ``then`` when the last of them has ended, one way or another."""
    left = list(range(len(futures)))

    def ended(_future: Future[Any]) -> None:
        if left.pop() == 0:  # each takes one, so this is the last
            then()

    for each in futures:
        each.add_done_callback(ended)
