"""Refs that go to a process where they mean nothing: their data goes, under their identity."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Self

from exoflow.codec import Encoded, bundle, identities
from exoflow.errors import ArgumentNotSerializableError
from exoflow.refs.base import Ref, adapter_of
from exoflow.refs.values import settled


class CarriedRef(Ref):
    """Stands in another process for a Ref that means nothing there. It holds the data; back in its own process it is that Ref again."""

    portable = True

    def __init__(self, identity: str, value: Any) -> None:
        self._identity, self._value = identity, value

    def id(self) -> str:
        return self._identity

    def get(self) -> Any:
        return self._value

    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002
        return settled(self._value)

    @classmethod
    def restore(cls, value: Any) -> Self:
        return cls("", value)


identities[CarriedRef] = CarriedRef.id


def bundled_for_elsewhere(encoded: Encoded, task: str) -> Encoded:
    """The arguments of ``task``, with their Refs inside, for another process, as :func:`for_elsewhere` makes them."""
    return bundle(for_elsewhere(encoded, task))


def for_elsewhere(encoded: Encoded, task: str, native: tuple[type, ...] = ()) -> Encoded:
    """The arguments of ``task`` for another process: a Ref that means nothing there goes as its data, under its old identity; those of
    ``native`` types do mean something there. Raises ArgumentNotSerializableError for what can change and cannot go there, and whatever
    getting the data raises."""
    refs = list[Any]()
    for ref in encoded.refs:
        if isinstance(ref, native):
            refs.append(ref)
            continue
        adapter = adapter_of(ref)
        if adapter.mutable and not adapter.portable:
            reason = "it can only be used in the process that has it; give this task another executor"
            raise ArgumentNotSerializableError(task=task, path="a Ref", type_name=type(ref).__qualname__, reason=reason)
        refs.append(ref if adapter.portable else CarriedRef(identities[type(ref)](ref), adapter.get(ref)))
    return Encoded(encoded.header, encoded.buffers, tuple(refs))
