"""The one file that imports greenlet, which the package does not need otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from exoflow.errors import MissingExtraError

try:
    from greenlet import getcurrent, greenlet
except ImportError:
    raise MissingExtraError(feature="simulation", extra="sim") from None


class Greenlet(Protocol):
    """A stack of its own. True while it has begun and not ended."""

    def switch(self) -> object:
        """Go on there, until it switches back or ends."""

    def throw(self, kind: type[BaseException], /) -> object:
        """Raise that there."""

    def __bool__(self) -> bool: ...


def new(work: Callable[[], None], parent: Greenlet) -> Greenlet:
    """``work`` on a stack of its own; when it ends, ``parent`` goes on."""
    return cast("Greenlet", greenlet(work, parent))


def current() -> Greenlet:
    """The stack that this runs on."""
    return cast("Greenlet", getcurrent())
