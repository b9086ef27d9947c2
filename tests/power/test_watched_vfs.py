"""The observer below SQLite: it sees exactly what the disk gets, and what it changes or fails is changed or fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from exoflow.errors import StoreUnavailable
from exoflow.store.sqlite import SqliteStore
from exoflow.testing.power.vfs import Call, watched
from exoflow.testing.store_suite import appending, bodies_of, creation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


def fill(path: Path) -> None:
    store = SqliteStore(path)
    store.commit([creation("w", b"1")])
    store.commit([appending("w", b"2" * 10_000)])
    store.close()


def test_what_it_sees_is_what_the_disk_holds(path: Path) -> None:
    disk: dict[str, bytearray] = {}
    calls = []

    def around(call: Call, perform: Callable[[], Any]) -> Any:
        calls.append(call.op)
        result = perform()
        content = disk.setdefault(call.path, bytearray())
        if call.op == "write":
            content.extend(bytes(max(0, call.offset - len(content))))
            content[call.offset : call.offset + len(call.data)] = call.data
        elif call.op == "truncate":
            del content[call.offset :]
        elif call.op == "delete":
            del disk[call.path]
        for each, expected in disk.items():
            assert Path(each).read_bytes() == expected
        return result

    with watched(around):
        fill(path)
    assert list(disk) == [str(path)]
    assert set(calls) == {"open", "write", "truncate", "sync", "delete"}
    store = SqliteStore(path)
    assert len(bodies_of(store)) == 2
    store.close()


def test_it_is_gone_afterwards(path: Path) -> None:
    calls = []
    for _ in range(3):
        before = apsw.vfs_names()[0]
        with watched(lambda call, perform: (calls.append(call.op), perform())[1]):
            SqliteStore(path).close()
        assert apsw.vfs_names()[0] == before
        assert calls
        calls.clear()
        fill(path)
        path.unlink()
    assert not calls
    assert "exoflow-watched" not in apsw.vfs_names()


def test_what_fails_there_fails_in_the_store(path: Path) -> None:
    fill(path)
    failing = False

    def around(call: Call, perform: Callable[[], Any]) -> Any:
        if failing and call.op == "sync":
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        return perform()

    with watched(around):
        store = SqliteStore(path)
        failing = True
        with pytest.raises(StoreUnavailable):
            store.commit([appending("w", b"3")])
        failing = False
        with pytest.raises(StoreUnavailable, match="open it again"):
            store.commit([appending("w", b"4")])
        store.close()
        del store


def test_a_process_that_dies_inside_a_write(path: Path) -> None:
    """Half of the page is written, then the process is gone: what was acknowledged is there, and nothing of the rest."""
    fill(path)
    child = os.fork()
    if child == 0:
        left = 3

        def around(call: Call, perform: Callable[[], Any]) -> Any:
            nonlocal left
            if call.op == "write" and call.path.endswith("-wal"):
                left -= 1
                if left == 0:
                    call.data = call.data[: len(call.data) // 2]
                    perform()
                    os.kill(os.getpid(), signal.SIGKILL)
            return perform()

        with watched(around):
            SqliteStore(path).commit([appending("w", b"3" * 10_000)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    store = SqliteStore(path)
    assert bodies_of(store) == [b"1", b"2" * 10_000]
    assert store.commit([appending("w", b"3")]) == ["applied"]
    store.close()
