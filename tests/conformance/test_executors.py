"""Every executor keeps the promises of executors/base.py."""

from __future__ import annotations

import pytest

from exoflow.executors.inline import InlineExecutor
from exoflow.executors.loop import LoopExecutor
from exoflow.executors.process_pool import ProcessExecutor
from exoflow.executors.threads import ThreadExecutor
from exoflow.testing.executor_suite import ExecutorSuite


class TestInline(ExecutorSuite):
    @pytest.fixture
    def make_executor(self):
        return InlineExecutor


class TestLoop(ExecutorSuite):
    async_only = True

    @pytest.fixture
    def make_executor(self):
        return LoopExecutor


class TestThread(ExecutorSuite):
    @pytest.fixture
    def make_executor(self):
        return lambda: ThreadExecutor(2)


class TestProcess(ExecutorSuite):
    @pytest.fixture
    def make_executor(self):
        return lambda: ProcessExecutor(2)
