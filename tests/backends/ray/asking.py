"""Engines for tests on Ray."""

from __future__ import annotations

import exoflow


def engine_on(folder, **settings):
    """An engine whose store is in ``folder``."""
    return exoflow.Engine(f"sqlite:{folder}/flow.db", **settings)
