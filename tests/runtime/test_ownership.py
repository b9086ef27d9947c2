"""What owners leave behind when they are killed, and who clears it up."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exoflow.runtime import host
from exoflow.runtime.clock import SystemClock
from exoflow.runtime.host import SYSTEM_HOST
from exoflow.runtime.ownership import Owner
from exoflow.runtime.threads import SYSTEM_THREADS
from exoflow.store.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "s.db")
    yield store
    store.close()


def owner(store: SqliteStore) -> Owner:
    return Owner(store, SystemClock(), SYSTEM_THREADS, SYSTEM_HOST, 10.0, on_wish=lambda *_: None, on_late=lambda: None)


def killed(one: Owner) -> str:
    """As SIGKILL leaves it: its lock is free, and that is all."""
    one._stop.set()
    if one._thread is not None:
        one._thread.join()
    SYSTEM_HOST._living.pop(one.id, None)  # it was of this process only for the sake of the test
    assert one.lock.fd is not None
    host._let_go(one.lock.fd)
    return one.id


def end(one: Owner) -> None:
    one.stop()
    one.leave()


def rows(store: SqliteStore) -> set[str]:
    return {row.owner for row in store.owners()}


def locks(store: SqliteStore) -> set[str]:
    return {path.name for path in (store.directory / "locks").iterdir()}


def test_the_next_engine_clears_up_after_a_dead_one(store: SqliteStore) -> None:
    """Nothing named the dead one any more, so its row and its lock file stayed for ever."""
    dead = owner(store)
    dead.start()
    killed(dead)
    heir = owner(store)
    heir.start()
    assert rows(store) == locks(store) == {heir.id}
    end(heir)
    assert rows(store) == locks(store) == set()


def test_and_after_one_that_died_before_it_began(store: SqliteStore) -> None:
    killed(owner(store))
    heir = owner(store)
    heir.start()
    assert locks(store) == {heir.id}
    end(heir)


def test_the_living_are_left_alone(store: SqliteStore) -> None:
    at_work, about_to_begin = owner(store), owner(store)
    at_work.start()
    newcomer = owner(store)
    newcomer.start()
    assert rows(store) == {at_work.id, newcomer.id}
    assert locks(store) == {at_work.id, about_to_begin.id, newcomer.id}
    assert not newcomer.is_dead(at_work.id)
    for one in (at_work, about_to_begin, newcomer):
        end(one)


def test_an_engine_whose_workers_still_run_is_left_alone(store: SqliteStore) -> None:
    """They inherited its lock, so it counts as alive until the last of them is gone."""
    dead = owner(store)
    dead.start()
    assert dead.lock.fd is not None
    held_by_a_worker = os.dup(dead.lock.fd)
    killed(dead)
    heir = owner(store)
    heir.start()
    assert dead.id in rows(store)
    assert not heir.is_dead(dead.id)
    os.close(held_by_a_worker)
    assert heir.is_dead(dead.id)
    end(heir)


def test_a_process_that_a_task_left_behind_keeps_nobody_alive(store: SqliteStore) -> None:
    """A task forked a server, and nobody could take the workflow over until somebody found and killed it."""
    dead = owner(store)
    dead.start()
    done, tell = os.pipe()
    ready, arrived = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tell)
        os.write(arrived, b"!")
        os.read(done, 1)
        os._exit(0)
    os.read(ready, 1)
    heir = owner(store)
    heir.start()
    assert not SYSTEM_HOST.is_unlocked(dead.lock.path)  # that the child let go of it did not take it from its parent
    killed(dead)
    assert heir.is_dead(dead.id)
    os.close(tell)
    os.waitpid(child, 0)
    for fd in (done, ready, arrived):
        os.close(fd)
    end(heir)


def test_a_lock_file_that_is_cleared_up_while_it_is_made_is_made_again(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making the file and locking it, the newcomer looks like somebody who died before it began."""
    other = owner(store)
    flock, cleared = fcntl.flock, list[str]()

    def late(fd: int, operation: int) -> Any:
        if operation == fcntl.LOCK_EX and not cleared:
            cleared.extend(locks(store) - {other.id})
            other.start()
        return flock(fd, operation)

    monkeypatch.setattr(host.fcntl, "flock", late)
    newcomer = owner(store)
    assert cleared == [newcomer.id]
    assert locks(store) == {other.id, newcomer.id}
    newcomer.start()
    assert not other.is_dead(newcomer.id)
    end(newcomer)
    end(other)


def test_ids_lie_together_in_the_index_of_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written at the same time is read and written as the same few pages, however many workflows there are."""
    made = []
    for ms in (5, 1_795_000_000_000, 1_795_000_000_001, 4_000_000_000_000):
        monkeypatch.setattr(host.SystemClock, "now_ms", lambda _self, ms=ms: ms)
        made.append({SYSTEM_HOST.new_id() for _ in range(100)})
    assert [len(ids) for ids in made] == [100] * 4
    assert sorted(set().union(*made)) == [each for ids in made for each in sorted(ids)]
