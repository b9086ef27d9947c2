"""What a mutant is."""

from __future__ import annotations

import msgspec


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """A bug.

    Attributes:
        breaks: what it would do, in a user's words.
        old, new: in the source of ``module``, the one is replaced by the other.
        ring: what should find it.
        suite: for the ring ``suites``, its tests; for ``kills``, the only workflow that it can show in.
    """

    name: str
    breaks: str
    module: str
    old: str
    new: str
    ring: str = "machine"
    suite: str = ""
