"""One small Ray for all tests here that need no cluster of their own."""

from __future__ import annotations

import os
import sys

import pytest
import ray

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture(scope="session")
def local_ray():
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # where test modules are
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
