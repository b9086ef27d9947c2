"""The process dies at any operation of making or migrating a store: whoever opens it next finishes the work."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exoflow.store.blobs import Files
from exoflow.store.sqlite import SqliteStore
from exoflow.testing.power import log
from exoflow.testing.power.vfs import Call, watched
from exoflow.testing.power.workloads import age
from exoflow.testing.store_suite import appending, bodies_of, creation


class Death:
    """Kills this process before the n-th operation on the disk, or in the middle of it if it is a write."""

    def __init__(self, left: int, *, inside: bool) -> None:
        self.left, self.inside = left, inside

    def come_closer(self) -> bool:
        self.left -= 1
        if self.left == 0 and not self.inside:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.left == 0

    def around(self, call: Call, perform: Callable[[], Any]) -> Any:
        if self.come_closer():
            call.data = call.data[: len(call.data) // 2]
            perform()
            os.kill(os.getpid(), signal.SIGKILL)
        return perform()


class DeadlyFiles(Files):
    def __init__(self, death: Death) -> None:
        for name in ("make_folder", "make_file", "open_temp", "write", "flush", "rename", "flush_folder", "unlink"):
            setattr(self, name, self.deadly(getattr(self, name), death))

    @staticmethod
    def deadly(operation: Callable[..., Any], death: Death) -> Callable[..., Any]:
        def die_or(*given: Any) -> Any:
            if death.come_closer():
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*given)

        return die_or


def open_and_die(path: Path, death: Death) -> bool:
    """Whether a child that opens the store lived to the end of it."""
    child = os.fork()
    if child == 0:
        with watched(death.around):
            SqliteStore(path, files=DeadlyFiles(death)).close()
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True], ids=["before", "inside"])
@pytest.mark.parametrize("is_old", [False, True], ids=["new", "of the first schema"])
def test_a_process_dies_while_a_store_comes_into_being(tmp_path: Path, is_old: bool, inside: bool) -> None:
    """Slow because it forks at each operation."""
    with contextlib.closing(SqliteStore(tmp_path / "complete.db")) as store:
        newest = store._reader.pragma("user_version")
    for number in range(1, 1000):
        path = tmp_path / str(number) / "x.db"
        if is_old:
            age(path, [log.Commit((creation("w", b"1"),))])
        if open_and_die(path, Death(number, inside=inside)):
            break
        for count in (1, 2):  # the next one, and the one after that
            with contextlib.closing(SqliteStore(path)) as store:
                assert store._reader.pragma("integrity_check") == "ok"
                assert store._reader.pragma("user_version") == newest
                assert store.commit([appending("w", b"2") if is_old or count == 2 else creation("w", b"1")]) == ["applied"]
        with contextlib.closing(SqliteStore(path)) as store:
            assert bodies_of(store) == [b"1", b"2", b"2"][: 3 if is_old else 2]
    assert number > (10 if is_old else 25)
