"""Refs to what is kept in a key-value store under a key."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Any, Protocol, Self

from exoflow.errors import RefLostError
from exoflow.refs.base import Ref
from exoflow.refs.values import beside


class KeyValueStore(Protocol):
    """A key-value store: a client of one's own around Redis, DynamoDB, a table. Must survive pickling, to be used in other processes."""

    url: str
    """Names it: two with the same hold the same."""
    durable: bool
    """Whether what ``put`` has stored survives the loss of every process that uses it."""

    def get(self, key: str) -> Any:
        """What is stored under ``key``. Raises KeyError."""

    def __contains__(self, key: str) -> bool:
        """Whether there is anything under ``key``."""

    def put(self, key: str, value: Any) -> None:
        """Store ``value`` under ``key``."""

    def delete(self, key: str) -> None:
        """Forget ``key``; no error if it is not there."""


class KeyRef(Ref):
    """A Ref to what is in ``store`` under ``key``, which nobody may change. ``KeyRef.put`` stores a value under a key of its own.

    In a durable store its checkpoint is the key; otherwise, the value. What ``put`` has stored is deleted when no task can want it any
    more, unless a checkpoint refers to it: then it is yours to delete.
    """

    portable = True

    def __init__(self, store: KeyValueStore, key: str) -> None:
        self._store, self._key = store, key
        self._owned = self._kept = False

    @classmethod
    def put(cls, store: KeyValueStore, value: Any, *, prefix: str = "exoflow/") -> Self:
        """Store ``value`` under a new key, and refer to it."""
        ref = cls(store, f"{prefix}{os.urandom(12).hex()}")
        store.put(ref._key, value)
        ref._owned = True
        return ref

    @property
    def key(self) -> str:
        return self._key

    def id(self) -> str:
        return f"{self._store.url}#{self._key}"

    def get(self) -> Any:
        """What is stored there. Raises RefLostError if there is nothing."""
        try:
            return self._store.get(self._key)
        except KeyError as error:
            raise self._lost() from error

    def _lost(self) -> RefLostError:
        return RefLostError(kind=f"{__name__}:KeyRef", ref=self.id(), reason="there is no such key")

    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002
        return beside(self._address if self._store.durable else lambda: (self._store, None, self.get()), "key-ref")

    def _address(self) -> tuple[KeyValueStore, str, None]:
        self._kept = True  # before the look: what is released in between must not be deleted
        if self._key not in self._store:
            raise self._lost()
        return self._store, self._key, None

    @classmethod
    def restore(cls, value: Any) -> Self:
        store, key, data = value
        return cls.put(store, data) if key is None else cls(store, key)

    def release(self) -> None:
        if self._owned and not self._kept:
            self._store.delete(self._key)
