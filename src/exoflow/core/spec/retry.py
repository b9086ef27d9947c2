"""Back-off and give-up as arithmetic: no clock, no randomness."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

DEATHS_MAX = 3
"""Worker deaths of one task before it counts as poison."""
LOSSES_MAX = 20
"""How often in one life of the engine a task may find, while it runs, that what it was given is gone."""
STRANDED_MAX = 8
"""How often in one life of the engine a task may die with its machine, or because of what it had called elsewhere."""
UNDO_TRIES_MAX = 5
"""Failed tries of one rollback before a person must look."""


class RetryPolicy(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``retries`` more attempts after the first. The n-th waits ``backoff_s * factor**(n-1)``, at most ``backoff_max_s`` seconds, of
    which a random part of up to ``jitter`` (0 to 1) is taken away. Only exceptions named in ``retry_on`` count; all, if it is empty."""

    retries: int = 0
    backoff_s: float = 1.0
    factor: float = 2.0
    backoff_max_s: float = 300.0
    jitter: float = 0.5
    retry_on: tuple[str, ...] = ()


UNDO_POLICY = RetryPolicy(retries=UNDO_TRIES_MAX - 1, backoff_s=0.2, backoff_max_s=5.0)
STRANDED_POLICY = RetryPolicy(retries=STRANDED_MAX - 1, backoff_s=0.5, backoff_max_s=8.0)
"""For a cluster may take a quarter of a minute until it notices that a node is gone, and send it work all that time."""


def may_retry(policy: RetryPolicy, failures: int, type_names: Iterable[str]) -> bool:
    """Whether an attempt follows the ``failures``-th failure, which was an exception with these class names (own and bases')."""
    return failures <= policy.retries and (not policy.retry_on or not set(policy.retry_on).isdisjoint(type_names))


def delay_s(policy: RetryPolicy, failures: int, chance: float) -> float:
    """Seconds to wait after the ``failures``-th failure. ``chance`` in [0, 1) comes with the event that reported it."""
    doublings = min(failures - 1, 1000)
    try:
        full = min(policy.backoff_s * policy.factor**doublings, policy.backoff_max_s)
    except OverflowError:
        full = policy.backoff_max_s
    return full * (1.0 - policy.jitter * chance)
