"""The seam to data that a backend holds: what a Ref must promise.

A Ref names data; tasks pass it on without touching the data. The engine never looks inside. (The paper, section 3.1.) The promises:

1. **Identity.** Two Refs with the same :meth:`RefAdapter.id` name the same data, in every process. Data that is not ``mutable`` never
   changes under its id.
2. **A checkpoint is the data, or where it durably is.** ``checkpoint`` answers with a Future of a value from which ``restore`` makes a Ref
   to equal data in any later process: the data itself, which the engine then stores, or the address of data that is durable by then. An
   error is an error of the save.
3. **The moment counts.** For what is ``mutable``, the checkpoint shows the state at the moment of the call, whatever happens before the
   Future ends.
4. **Loss is loud.** Using a Ref whose data is gone raises :class:`~exoflow.errors.RefLostError`, or an error in which ``lost`` finds what
   is gone. Never other data, never an empty value.
5. **Release.** After ``release`` nothing asks for that data again, except through what its checkpoint gave.

A class of one's own derives from :class:`Ref`. A type of somebody else gets a :class:`RefAdapter`, which :func:`register` makes known.
``testing/ref_suite.py`` is this page as tests.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from importlib import import_module
from typing import Any, ClassVar, Protocol, Self

from exoflow.codec import identities
from exoflow.errors import PayloadUnreadableError, RefLostError


class RefAdapter(Protocol):
    """What the engine asks of the Refs of one kind. See the top of this module for the promises. Methods are called from any thread."""

    kind: str
    """``module:name`` under which a later process finds this adapter, to restore what was saved."""
    mutable: bool
    """Whether tasks may change the data behind a Ref. Each task that returns such a Ref returns a version of its own."""
    portable: bool
    """Whether a Ref can be pickled and used in another process."""

    def id(self, ref: Any) -> str:
        """What names the data, as printable text."""

    def get(self, ref: Any) -> Any:
        """The data. Raises RefLostError if it is gone."""

    def checkpoint(self, ref: Any, id: str) -> Future[Any]:  # noqa: A002 - the paper's name
        """Begin to save the data as version ``id``. The Future gives what :meth:`restore` takes. Must not block for long."""

    def restore(self, value: Any) -> Any:
        """A Ref to data equal to what was saved."""

    def lost(self, error: BaseException) -> tuple[str, ...]:
        """The ids of the Refs that this exception of the backend (not its causes) says are gone."""

    def release(self, ref: Any) -> None:
        """Nobody wants the data any more."""


class Ref(ABC):
    """A name for data that lives elsewhere; derive from it to bring a kind of your own.

    ``mutable`` and ``portable`` as in :class:`RefAdapter`. Equal Refs name the same data.
    """

    mutable: ClassVar[bool] = False
    portable: ClassVar[bool] = False

    @abstractmethod
    def id(self) -> str:
        """What names the data, as printable text: equal for Refs to the same data, different for all others of this class."""

    @abstractmethod
    def get(self) -> Any:
        """The data. Raises RefLostError if it is gone."""

    @abstractmethod
    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002 - the paper's name
        """Begin to save the data (as version ``id``, if it is mutable). The Future gives the data, or the address of data that is
        durable by then; any value that can be pickled, for :meth:`restore`."""

    @classmethod
    @abstractmethod
    def restore(cls, value: Any) -> Self:
        """A Ref to data equal to what was saved; ``value`` is what the Future of :meth:`checkpoint` gave."""

    def release(self) -> None:  # noqa: B027 - most have nothing to do
        """Nobody wants the data any more (what its checkpoint gave, aside). Nothing happens unless a class says so."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not inspect.isabstract(cls):
            register(_Own(cls), cls)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.id() == self.id()

    def __hash__(self) -> int:
        return hash(self.id())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id()!r})"


class _Own:
    """The adapter of a class that derives from Ref."""

    def __init__(self, cls: type[Ref]) -> None:
        self._cls = cls
        self.kind = f"{cls.__module__}:{cls.__qualname__}".replace("__mp_main__", "__main__")
        self.mutable, self.portable = cls.mutable, cls.portable

    def id(self, ref: Ref) -> str:
        return ref.id()

    def get(self, ref: Ref) -> Any:
        return ref.get()

    def checkpoint(self, ref: Ref, id: str) -> Future[Any]:  # noqa: A002
        return ref.checkpoint(id)

    def restore(self, value: Any) -> Ref:
        return self._cls.restore(value)

    def lost(self, error: BaseException) -> tuple[str, ...]:
        return (error.ref,) if isinstance(error, RefLostError) and error.kind == self.kind else ()

    def release(self, ref: Ref) -> None:
        ref.release()


_adapters: dict[type, RefAdapter] = {}


def register(adapter: RefAdapter, *types: type) -> None:
    """Let objects of exactly these ``types`` count as Refs."""
    for each in types:
        _adapters[each] = adapter
        identities[each] = lambda ref: identity(adapter, adapter.id(ref))


def identity(adapter: RefAdapter, ref_id: str) -> str:
    """What names a Ref among those of all kinds."""
    return f"{adapter.kind} {ref_id}"


def adapter_of(ref: Any) -> RefAdapter:
    """The adapter of a Ref."""
    return _adapters[type(ref)]


def adapter_named(kind: str) -> RefAdapter:
    """The adapter with which a Ref was saved. Raises PayloadUnreadableError if this process does not have it."""
    for known in _adapters.values():
        if known.kind == kind:
            return known
    module, _, path = kind.partition(":")
    try:
        found: Any = import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise PayloadUnreadableError(what=f"a Ref of kind {kind}", reason=str(error)) from error
    if isinstance(found, type) and issubclass(found, Ref) and found in _adapters:
        return _adapters[found]
    if getattr(found, "kind", None) != kind:
        raise PayloadUnreadableError(what=f"a Ref of kind {kind}", reason="there is something else of that name")
    return found  # type: ignore[no-any-return]


deaths: list[Callable[[BaseException], bool]] = []
"""For backends that tasks of this process use: each says whether an exception (not its causes) comes of the end of the backend."""


def is_death(error: BaseException) -> bool:
    """Whether ``error`` of a task says that a backend died under it, so that nobody knows what the task did."""
    return bool(deaths) and any(died(each) for each in causes(error) for died in deaths)


def lost_in(error: BaseException) -> set[str]:
    """The identities of all Refs of which ``error`` or one of its causes says that they are gone."""
    adapters = {id(each): each for each in _adapters.values()}.values()
    return {identity(adapter, ref_id) for each in causes(error) for adapter in adapters for ref_id in adapter.lost(each)}


def causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and all that it comes of."""
    seen: set[int] = set()
    stack: list[BaseException | None] = [error]
    while stack:
        here = stack.pop()
        if here is None or id(here) in seen:
            continue
        seen.add(id(here))
        yield here
        cause = getattr(here, "cause", None)  # of exceptions that a backend wraps
        stack += [here.__cause__, here.__context__, cause if isinstance(cause, BaseException) else None]
        stack += here.exceptions if isinstance(here, BaseExceptionGroup) else ()
