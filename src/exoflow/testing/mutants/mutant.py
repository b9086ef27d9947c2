"""What a mutant is."""

from __future__ import annotations

import msgspec


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """A bug. ``breaks`` says in a user's words what it would do. In ``module``, ``old`` is replaced by ``new``. ``ring`` should find it."""

    name: str
    breaks: str
    module: str
    old: str
    new: str
    ring: str = "machine"
