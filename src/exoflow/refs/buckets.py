"""Refs to objects in a bucket: S3, Google Cloud Storage, Azure, or a folder, by way of obstore. The one module that imports it."""

from __future__ import annotations

import functools
import os
from concurrent.futures import Future
from typing import Any, Self

from exoflow.errors import MissingExtraError, RefLostError
from exoflow.refs.base import Ref
from exoflow.refs.values import beside

try:
    import obstore
    from obstore.store import from_url
except ImportError:
    raise MissingExtraError(feature="BucketRef", extra="refs") from None


class BucketRef(Ref):
    """A Ref to the object ``path`` in the bucket at ``url`` (``s3://bucket/prefix``, ``gs://…``, ``az://…``, ``file:///folder``), which
    nobody may change. ``get()`` gives its bytes; ``BucketRef.put`` stores bytes under a path of their own.

    In a bucket its checkpoint is the address; in a folder (``file:``, ``memory:``), whose writes are not flushed, the bytes. What ``put``
    has stored is deleted when no task can want it any more, unless a checkpoint refers to it: then it is yours to delete (a lifecycle rule
    of the bucket does it). Credentials and endpoint come from the environment, as obstore reads it.
    """

    portable = True

    def __init__(self, url: str, path: str) -> None:
        self.url, self.path = url, path
        self._owned = self._kept = False

    @classmethod
    def put(cls, url: str, data: bytes | memoryview, *, prefix: str = "exoflow/") -> Self:
        """Store ``data`` under a new path, and refer to it."""
        ref = cls(url, f"{prefix}{os.urandom(12).hex()}")
        obstore.put(_bucket(url), ref.path, data, mode="create" if not url.startswith("file:") else "overwrite")
        ref._owned = True
        return ref

    def address(self) -> dict[str, str]:
        """Where it is, as a function elsewhere is told: ``{"exoflow:ref": {"url": …, "path": …}}`` in its event, or in its answer."""
        return {"url": self.url, "path": self.path}

    def id(self) -> str:
        return f"{self.url}#{self.path}"

    def get(self) -> bytes:
        """Its bytes. Raises RefLostError if it is gone."""
        try:
            return bytes(obstore.get(_bucket(self.url), self.path).bytes())
        except FileNotFoundError as error:
            raise self._lost() from error

    def _lost(self) -> RefLostError:
        return RefLostError(kind=f"{__name__}:BucketRef", ref=self.id(), reason="there is no such object")

    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002
        volatile = self.url.startswith(("file:", "memory:"))
        return beside((lambda: (self.url, None, self.get())) if volatile else self._address, "bucket-ref")

    def _address(self) -> tuple[str, str, None]:
        self._kept = True  # before the look: what is released in between must not be deleted
        try:
            obstore.head(_bucket(self.url), self.path)
        except FileNotFoundError as error:
            raise self._lost() from error
        return self.url, self.path, None

    @classmethod
    def restore(cls, value: Any) -> Self:
        url, path, data = value
        return cls.put(url, data) if path is None else cls(url, path)

    def release(self) -> None:
        if self._owned and not self._kept:
            obstore.delete(_bucket(self.url), self.path)


@functools.cache
def _bucket(url: str) -> Any:
    return from_url(url)
