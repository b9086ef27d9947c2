"""Every store keeps the promises of store/base.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exoflow.store.base import Store
from exoflow.store.memory import MemoryBlobs, MemoryStore
from exoflow.store.registry import open_store
from exoflow.store.sqlite import SqliteStore
from exoflow.testing.simulation.store import Disk, SimStore
from exoflow.testing.store_suite import DurableStoreSuite, StoreSuite


class TestMemory(StoreSuite):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        store = MemoryStore()
        yield store
        store.close()

    def damage_blob(self, store: Store, name: str) -> None:
        blobs = store.blobs
        assert isinstance(blobs, MemoryBlobs)
        data = bytearray(blobs._blobs[name])
        data[len(data) // 2] ^= 1
        blobs._blobs[name] = bytes(data)


class TestSqlite(DurableStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = SqliteStore(tmp_path / "x.db")
        yield store
        store.close()

    def reopen(self, store: Store) -> Store:
        store.close()
        return open_store(store.url)


class TestSimulated(DurableStoreSuite):
    """The store of simulations, without faults."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        store = SimStore(Disk())
        yield store
        store.close()

    def reopen(self, store: Store) -> Store:
        assert isinstance(store, SimStore)
        store.close()
        return SimStore(store.disk)

    def damage_blob(self, store: Store, name: str) -> None:
        assert isinstance(store, SimStore)
        store.disk.damage_blob(name, 0.5)
