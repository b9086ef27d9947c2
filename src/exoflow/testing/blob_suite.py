"""The part of ``store/base.py`` that concerns blobs, as tests: what they are, and which of them may be collected when."""

from __future__ import annotations

import array
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from exoflow.store.base import Collected, Head, Store, Write


def naming(workflow_id: str, *blobs: str) -> Write:
    """A write that creates a workflow of epoch 1 with an entry that names ``blobs``."""
    head = Head(workflow_id=workflow_id, epoch=1, owner=None, status="RUNNING", created_ms=0, updated_ms=0, digest="")
    return Write(workflow_id=workflow_id, epoch=1, entries=((b"names", None),), blobs=blobs, head=head, create=True)


def together(*jobs: Callable[[], Any]) -> list[Any]:
    """The results of jobs that run at the same time, each in a thread, all let go at once."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> Any:
        barrier.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs))


class BlobSuite:
    """What the blobs of every store must do; a part of StoreSuite, which has the fixture ``store``."""

    def damage_blob(self, store: Store, name: str) -> None:
        """Change one byte of a stored blob behind the store's back. As it is, for stores whose blobs are ``FileBlobs`` in ``directory``."""
        path = Path(store.directory, name[:2], name)  # type: ignore[attr-defined]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def test_a_blob_is_named_by_its_content(self, store: Store) -> None:
        blobs = store.blobs
        name = blobs.put([b"hello ", b"world"])
        assert blobs.put([b"hello world"]) == name
        assert blobs.put(memoryview(bytes([byte])) for byte in b"hello world") == name
        assert blobs.put([b"", bytearray(b"hello"), b"", b" world", b""]) == name
        other = blobs.put([b"hello World"])
        assert other != name
        assert sorted(blobs.names()) == sorted([name, other])
        assert bytes(blobs.open(name)) == b"hello world"
        numbers = array.array("d", [1.0, 2.0])
        assert bytes(blobs.open(blobs.put([memoryview(numbers)]))) == numbers.tobytes()

    @pytest.mark.parametrize("size", [0, 1, 63, 64, 4096, 1_000_000, 3_000_001])
    def test_blobs_of_many_sizes(self, store: Store, size: int) -> None:
        data = random.Random(1).randbytes(size)
        name = store.blobs.put([data[:10], data[10:]])
        view = store.blobs.open(name)
        assert bytes(view) == data
        assert view.format == "B"
        assert not view.readonly
        view[:1] = bytes(min(size, 1))  # the view is the caller's own: an array built on it may be written to
        assert bytes(store.blobs.open(name)) == data

    def test_a_view_outlives_its_blob(self, store: Store) -> None:
        data = random.Random(1).randbytes(2_000_000)
        name, kept = store.blobs.put([data]), store.blobs.put([b"kept"])
        store.commit([naming("w", name)])
        view = store.blobs.open(name)
        assert store.delete("w", epoch=1)
        with pytest.raises(LookupError):
            store.blobs.open(name)
        assert list(store.blobs.names()) == [kept]
        assert bytes(view) == data
        assert store.blobs.put([data]) == name
        assert bytes(store.blobs.open(name)) == data

    @pytest.mark.parametrize(
        "name", ["0" * 32, "", "0", "0" * 31, "0" * 33, "../../../etc/passwd", "A" * 32, "0" * 32 + "\n", "0" * 31 + "\0"]
    )
    def test_a_blob_that_is_not_there(self, store: Store, name: str) -> None:
        store.blobs.put([b"something"])
        with pytest.raises(LookupError):
            store.blobs.open(name)

    @pytest.mark.parametrize("size", [1, 100, 2_000_000])
    def test_a_damaged_blob_is_never_returned_and_can_be_repaired(self, store: Store, size: int) -> None:
        data = random.Random(1).randbytes(size)
        name = store.blobs.put([data])
        self.damage_blob(store, name)
        with pytest.raises(ValueError, match=name):
            store.blobs.open(name)
        assert store.blobs.put([data]) == name
        assert bytes(store.blobs.open(name)) == data

    def test_a_source_that_fails_leaves_nothing(self, store: Store) -> None:
        def pieces() -> Iterator[bytes]:
            yield b"x" * 100_000
            raise RuntimeError("no more")

        with pytest.raises(RuntimeError, match="no more"):
            store.blobs.put(pieces())
        assert list(store.blobs.names()) == []

    def test_eight_threads_put_the_same_blobs(self, store: Store) -> None:
        contents = [b"%d" % number * 1000 for number in range(10)]
        results = together(*(lambda: [store.blobs.put([each]) for each in contents] for _ in range(8)))
        assert all(result == results[0] for result in results)
        assert sorted(store.blobs.names()) == sorted(results[0])
        assert [bytes(store.blobs.open(name)) for name in results[0]] == contents

    # --- collecting ------------------------------------------------------------------------------------------------------------------

    def test_a_blob_goes_with_the_last_workflow_that_names_it(self, store: Store) -> None:
        shared, own = store.blobs.put([b"shared"]), store.blobs.put([b"own" * 1000])
        store.commit([naming("v", own, shared), naming("w", store.blobs.put([b"shared"]), shared)])
        assert store.blobs.collect(grace_s=0) == Collected(removed=0, size_bytes=0, spared=0)
        assert store.delete("v", epoch=2) is False
        assert len(list(store.blobs.names())) == 2
        assert store.delete("v", epoch=1) is True
        assert list(store.blobs.names()) == [shared]
        assert bytes(store.blobs.open(shared)) == b"shared"
        store.delete("w", epoch=1)
        assert list(store.blobs.names()) == []

    def test_what_a_retired_entry_names_is_kept(self, store: Store) -> None:
        name = store.blobs.put([b"old"])
        store.commit([naming("w", name), Write(workflow_id="w", epoch=1, retire=(1,))])
        assert store.blobs.collect(grace_s=0).removed == 0
        assert bytes(store.blobs.open(name)) == b"old"

    def test_a_blob_whose_write_is_on_its_way_is_spared(self, store: Store) -> None:
        name = store.blobs.put([b"new"])
        assert store.blobs.collect(grace_s=0) == Collected(removed=0, size_bytes=0, spared=1)
        assert store.commit([naming("w", name)]) == ["applied"]
        assert store.blobs.collect(grace_s=0) == Collected(removed=0, size_bytes=0, spared=0)
        assert store.blobs.put([b"new"]) == name  # on its way a second time
        store.delete("w", epoch=1)
        assert bytes(store.blobs.open(name)) == b"new"
        assert store.commit([naming("w", name)]) == ["applied"]
        store.delete("w", epoch=1)
        assert list(store.blobs.names()) == []

    def test_each_of_two_writes_on_their_way_spares_the_blob_they_share(self, store: Store) -> None:
        name = store.blobs.put([b"shared"])
        assert store.blobs.put([b"shared"]) == name
        store.commit([naming("v", name)])
        store.delete("v", epoch=1)
        assert store.blobs.collect(grace_s=0) == Collected(removed=0, size_bytes=0, spared=1)
        store.commit([naming("w", name)])
        assert bytes(store.blobs.open(name)) == b"shared"

    def test_what_a_refused_write_names_is_garbage(self, store: Store) -> None:
        names = [store.blobs.put([b"%d" % number]) for number in range(3)]
        store.commit([naming("w")])
        late = Write(workflow_id="w", epoch=9, entries=((b"late", None),), blobs=(names[0],))
        missing = Write(workflow_id="nobody", epoch=1, entries=((b"lost", None),), blobs=(names[1],))
        assert store.commit([late, missing, naming("w", names[2])]) == ["fenced", "missing", "exists"]
        assert store.blobs.collect(grace_s=0, dry_run=True) == Collected(removed=3, size_bytes=3, spared=0)
        assert sorted(store.blobs.names()) == sorted(names)
        assert store.blobs.collect(grace_s=0) == Collected(removed=3, size_bytes=3, spared=0)
        assert list(store.blobs.names()) == []

    def test_no_blob_that_is_put_named_and_deleted_is_ever_missed_while_others_collect(self, store: Store) -> None:
        done = threading.Event()

        def work(number: int) -> None:
            for turn in range(30):
                data = b"%d" % (turn % 3)  # the same few, so that they come again while they go
                name = store.blobs.put([data])
                workflow = f"w{number}"
                assert store.commit([naming(workflow, name)]) == ["applied"]
                assert bytes(store.blobs.open(name)) == data
                assert store.delete(workflow, epoch=1)

        def collect() -> int:
            removed = 0
            while not done.is_set():
                removed += store.blobs.collect(grace_s=0).removed
            return removed

        def all_work() -> None:
            try:
                together(*(lambda n=number: work(n) for number in range(3)))
            finally:
                done.set()

        together(all_work, collect, collect)
        store.blobs.collect(grace_s=0)
        assert list(store.blobs.names()) == []
