"""The Ray executor: the common suite on a real Ray."""

from __future__ import annotations

import pytest

from exoflow.backends.ray.executor import RayExecutor
from exoflow.testing.executor_suite import ExecutorSuite


class TestRayExecutor(ExecutorSuite):
    @pytest.fixture
    def make_executor(self, local_ray):
        return lambda: RayExecutor(slots=4)
