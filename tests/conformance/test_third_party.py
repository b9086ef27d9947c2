"""What authors of other packages are shown: the store and the executor of examples/third_party, and an engine that runs on them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

import exoflow
from exoflow.errors import ClosedError, StoreCorruptError, StoreOpenError
from exoflow.executors.base import Executor
from exoflow.settings import Settings
from exoflow.testing.executor_suite import ExecutorSuite
from exoflow.testing.store_suite import DurableStoreSuite
from exoflow.wiring import Parts, executor_for


def imported(name):
    path = Path(__file__).parents[2] / f"examples/third_party/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


log_store, each_executor = imported("log_store"), imported("each_executor")


class TestLogStore(DurableStoreSuite):
    @pytest.fixture
    def store(self, tmp_path):
        store = log_store.LogStore(tmp_path / "x.log")
        yield store
        store.close()

    def reopen(self, store):
        store.close()
        return log_store.open_store(store.url)


class TestEachExecutor(ExecutorSuite):
    @pytest.fixture
    def make_executor(self):
        return each_executor.EachExecutor


@exoflow.task(executor="each")
def double(number):
    return 2 * number


def test_an_engine_runs_on_both_and_finds_its_work_again(tmp_path):
    def either(name: str, settings: Settings, fds: tuple[int, ...]) -> Executor:
        return each_executor.EachExecutor() if name == "each" else executor_for(name, settings, fds)

    path = tmp_path / "x.log"
    for _ in range(2):
        with exoflow.Engine(log_store.LogStore(path), parts=Parts(executor_for=either)) as engine:
            assert engine.run(double.bind(double.bind(1)), name="w") == 4
            assert [task.attempts for task in engine.get_metadata("w").tasks] == [1, 1]


def test_a_log_that_a_crash_cut_off_is_read_to_there(tmp_path):
    path = tmp_path / "x.log"
    store = log_store.LogStore(path)
    store.wish("nobody", "anything")
    store.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        log_store.LogStore(path).close()
        assert path.stat().st_size <= cut
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StoreCorruptError, match="its log at byte"):
        log_store.LogStore(path)


def test_one_process_at_a_time(tmp_path):
    store = log_store.LogStore(tmp_path / "x.log")
    with pytest.raises(StoreOpenError, match="another process"):
        log_store.LogStore(tmp_path / "x.log")
    store.close()
    store.close()
    with pytest.raises(ClosedError):
        store.wish("w", "x")
    log_store.LogStore(tmp_path / "x.log").close()
