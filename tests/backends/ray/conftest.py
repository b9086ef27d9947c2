"""One small Ray for all tests here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from exoflow.testing.ledger import Ledger

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Processes and sockets that Ray leaves to the garbage collector are reported in whichever test runs then."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="session")
def books(tmp_path_factory):
    """A ledger that the workers of the cluster find, too: it begins before them."""
    with Ledger(tmp_path_factory.mktemp("books"), flush=False) as ledger:
        yield ledger


@pytest.fixture(scope="session")
def cluster(books):
    """A head node with two CPUs, to which this process is connected. Whoever adds nodes takes them away again."""
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # where test modules are
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 8}
    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 200_000_000, "_system_config": quick}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def local_ray(cluster):
    """For tests that need no more than the head node."""
