"""Engines for tests on Ray, and the end of nodes."""

from __future__ import annotations

import ray

import exoflow
from tests.patience import until


def engine_on(folder, **settings):
    """An engine whose store is in ``folder``."""
    return exoflow.Engine(f"sqlite:{folder}/flow.db", **settings)


def kill_node(cluster, node):
    """As if its plug had been pulled. Returns when Ray has noticed, so that nothing new is sent there."""
    cluster.remove_node(node, allow_graceful=False)
    until(lambda: not any(each["Alive"] for each in ray.nodes() if each["NodeID"] == node.node_id))
