"""Engines for tests on Ray, places where a workflow stands still, and the end of nodes."""

from __future__ import annotations

import threading

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


class Pause:
    """Where a workflow stands still for a test."""

    def __init__(self):
        self.reached, self.over = threading.Event(), threading.Event()

    def __call__(self):
        self.reached.set()
        assert self.over.wait(60)


pauses: dict[str, Pause] = {}


@exoflow.task(can_rollback=True)
def wait_here(name, value):
    """``value``, when the pause of that name is over."""
    if not pauses[name].over.is_set():
        pauses[name]()
    return value
