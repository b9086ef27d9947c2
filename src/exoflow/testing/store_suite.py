"""``store/base.py`` as tests. A store passes if a class that inherits from here passes::

    class TestMyStore(DurableStoreSuite):
        @pytest.fixture
        def store(self, tmp_path): ...
        def reopen(self, store): ...
        def damage_blob(self, store, name): ...  # unless its blobs are FileBlobs in ``directory``

:class:`StoreSuite` is for all stores; :class:`DurableStoreSuite` adds what must survive closing.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from exoflow.errors import ClosedError, ForkedHandleError, InvalidIdError, InvalidOptionError
from exoflow.store.base import Collected, Entry, Head, OwnerRow, Store, Verdict, Write
from exoflow.testing.blob_suite import BlobSuite, naming, together

ODD_TEXT = "zwölf \"quotes\" 'and' \\ \0 \n \x7f \u202e \U0001f9ea"
ALL_BYTES = bytes(range(256))


def a_head(workflow_id: str = "w", **fields: Any) -> Head:
    """A head with something in every field."""
    given: dict[str, Any] = {
        "epoch": 1,
        "owner": "engine-1",
        "status": "RUNNING",
        "created_ms": 1_700_000_000_000,
        "updated_ms": 1_700_000_000_001,
        "digest": "d" * 32,
        "note": "",
    }
    return Head(workflow_id=workflow_id, **given | fields)


def creation(workflow_id: str = "w", *bodies: bytes, **fields: Any) -> Write:
    """A write that creates a workflow with one entry per body."""
    head = a_head(workflow_id, **fields)
    return Write(workflow_id=workflow_id, epoch=head.epoch, entries=tuple((body, None) for body in bodies), head=head, create=True)


def appending(workflow_id: str = "w", *bodies: bytes, epoch: int = 1, **fields: Any) -> Write:
    """A write that appends one entry per body."""
    return Write(workflow_id=workflow_id, epoch=epoch, entries=tuple((body, None) for body in bodies), **fields)


def bodies_of(store: Store, workflow_id: str = "w", *, retired: bool = False) -> list[bytes]:
    """The bodies of a journal, after checking that it is numbered as promised."""
    entries = store.entries(workflow_id, retired=retired)
    seqs = [entry.seq for entry in entries]
    assert seqs == sorted(set(seqs))
    assert not retired or seqs == list(range(1, len(seqs) + 1))
    return [entry.body for entry in entries]


def content(store: Store) -> dict[str, tuple[Head, list[Entry], list[Entry]]]:
    """All workflows with everything that is kept of them."""
    heads = store.heads(limit=1_000_000)
    return {head.workflow_id: (head, store.entries(head.workflow_id), store.entries(head.workflow_id, retired=True)) for head in heads}


class StoreSuite(BlobSuite):
    """What every store must do. Override the fixture ``store`` and, unless its blobs are files, :meth:`damage_blob`."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """A new, empty store, closed afterwards."""
        raise NotImplementedError

    # --- create, append, fence -----------------------------------------------------------------------------------------------------

    def test_a_new_workflow_is_stored_as_given(self, store: Store) -> None:
        head = a_head(owner=None, epoch=7, created_ms=-1, updated_ms=2**62, note="n")
        assert store.commit([Write(workflow_id="w", epoch=7, entries=((b"one", b"payload"),), head=head, create=True)]) == ["applied"]
        assert store.head("w") == head
        assert store.entries("w") == [Entry(1, b"one", b"payload")]

    def test_what_is_not_there_is_not_there(self, store: Store) -> None:
        assert store.head("nobody") is None
        assert store.head("") is None
        assert store.entries("nobody") == store.entries("nobody", retired=True) == []
        assert store.heads() == []
        assert store.owners() == []
        assert list(store.blobs.names()) == []
        assert store.commit([appending("nobody", b"x")]) == ["missing"]
        assert store.commit([]) == []
        assert store.claim("nobody", epoch=1, owner="e") is None
        assert store.delete("nobody", epoch=1) is False
        assert content(store) == {}

    def test_an_id_is_taken_once(self, store: Store) -> None:
        store.commit([creation("w", b"first")])
        before = content(store)
        assert store.commit([creation("w", b"second", status="OTHER", epoch=9)]) == ["exists"]
        assert content(store) == before

    @pytest.mark.parametrize("epoch", [0, 4, 6, 2**40])
    def test_a_write_of_another_epoch_changes_nothing(self, store: Store, epoch: int) -> None:
        store.commit([creation("w", b"first", epoch=5)])
        before = content(store)
        assert store.commit([appending("w", b"late", epoch=epoch, retire=(1,), head=a_head(status="DONE"))]) == ["fenced"]
        assert content(store) == before

    def test_a_refused_write_does_not_disturb_the_others(self, store: Store) -> None:
        store.commit([creation("a", b"a1"), creation("b", b"b1", epoch=2)])
        verdicts: list[Verdict] = store.commit(
            [appending("a", b"a2"), appending("b", b"b2", epoch=1), creation("a", b"!"), appending("none", b"!"), creation("c", b"c1")]
        )
        assert verdicts == ["applied", "fenced", "exists", "missing", "applied"]
        assert [bodies_of(store, each) for each in "abc"] == [[b"a1", b"a2"], [b"b1"], [b"c1"]]

    def test_writes_of_one_commit_see_each_other(self, store: Store) -> None:
        writes = [
            appending("w", b"too early"),
            creation("w", b"1"),
            creation("w", b"again"),
            appending("w", b"2", b"3", head=a_head(status="X")),
            appending("w", b"4", head=a_head(status="Y"), retire=(2,)),
        ]
        assert store.commit(writes) == ["missing", "applied", "exists", "applied", "applied"]
        assert bodies_of(store) == [b"1", b"3", b"4"]
        assert bodies_of(store, retired=True) == [b"1", b"2", b"3", b"4"]
        head = store.head("w")
        assert head is not None
        assert head.status == "Y"

    def test_a_head_changes_only_where_it_may(self, store: Store) -> None:
        store.commit([creation("w")])
        new = Head(workflow_id="v", epoch=99, owner=None, status="DONE", created_ms=0, updated_ms=5, digest="other", note="n")
        assert store.commit([Write(workflow_id="w", epoch=1, head=new)]) == ["applied"]
        assert store.head("w") == a_head(owner=None, status="DONE", updated_ms=5, note="n")
        assert store.head("v") is None

    def test_a_malformed_creation_is_refused_with_all_of_its_commit(self, store: Store) -> None:
        for workflow_id in ("", " ", "../etc/passwd", "a/b", "x" * 201, "nul\0", "ä", "-rf"):
            with pytest.raises(InvalidIdError):
                store.commit([creation("good"), creation(workflow_id)])
        for head in (None, a_head("other")):
            with pytest.raises(InvalidOptionError):
                store.commit([creation("good"), Write(workflow_id="w", epoch=1, create=True, head=head)])
        assert content(store) == {}

    # --- journals ------------------------------------------------------------------------------------------------------------------

    def test_entries_keep_their_order_over_commits(self, store: Store) -> None:
        store.commit([creation("w", b"0"), creation("other", b"x")])
        for number in range(1, 20):
            store.commit([appending("w", b"%d" % number, b"%d'" % number), appending("other", b"x")])
        assert bodies_of(store) == [b"0"] + [b"%d%b" % (number, mark) for number in range(1, 20) for mark in (b"", b"'")]
        assert len(bodies_of(store, "other")) == 20

    def test_any_bytes_come_back(self, store: Store) -> None:
        payloads = [None, b"", b"\0", ALL_BYTES, b"N", b"\1", bytes(70_000)]
        pairs = tuple((body, payload) for body in (b"", b"\0", ALL_BYTES, b"0" * 5000) for payload in payloads)
        store.commit([Write(workflow_id="w", epoch=1, entries=pairs, head=a_head(), create=True)])
        assert [(entry.body, entry.payload) for entry in store.entries("w")] == list(pairs)

    def test_any_text_comes_back(self, store: Store) -> None:
        head = a_head(owner=ODD_TEXT, status=ODD_TEXT, digest=ODD_TEXT, note=ODD_TEXT)
        store.commit([creation("w"), Write(workflow_id="v", epoch=1, create=True, head=msgspec.structs.replace(head, workflow_id="v"))])
        store.commit([Write(workflow_id="w", epoch=1, head=head)])
        assert store.head("w") == msgspec.structs.replace(head, digest="d" * 32)
        assert store.heads(status=[ODD_TEXT, "'"]) == [store.head("v"), store.head("w")]
        assert store.heads(status=["'"]) == []
        assert store.claim("w", epoch=1, owner=ODD_TEXT) == 2

    def test_retired_entries_are_history(self, store: Store) -> None:
        store.commit([creation("w", *(b"%d" % number for number in range(1, 8)))])
        assert store.commit([appending("w", b"8", retire=(1, 3, 3, 7))]) == ["applied"]
        assert bodies_of(store) == [b"2", b"4", b"5", b"6", b"8"]
        assert store.commit([Write(workflow_id="w", epoch=1, retire=(3, 8))]) == ["applied"]
        assert [entry.seq for entry in store.entries("w")] == [2, 4, 5, 6]
        assert bodies_of(store, retired=True) == [b"%d" % number for number in range(1, 9)]
        store.commit([appending("w", b"9")])
        assert store.entries("w")[-1] == Entry(9, b"9")

    def test_seqs_go_on_when_everything_is_retired(self, store: Store) -> None:
        store.commit([creation("w", b"1", b"2")])
        store.commit([Write(workflow_id="w", epoch=1, retire=(1, 2))])
        store.commit([appending("w", b"3", retire=(3,)), appending("w", b"4")])
        assert store.entries("w") == [Entry(4, b"4")]
        assert bodies_of(store, retired=True) == [b"1", b"2", b"3", b"4"]

    def test_retiring_what_is_not_there_is_no_error(self, store: Store) -> None:
        store.commit([creation("v", b"v1"), creation("w", b"1"), creation("x", b"x1")])
        verdicts = store.commit([Write(workflow_id="w", epoch=1, retire=(0, -1, 2, 2**31, 2**33 + 1, 2**62)), appending("w", b"2")])
        assert verdicts == ["applied", "applied"]
        assert [bodies_of(store, each) for each in "vwx"] == [[b"v1"], [b"1", b"2"], [b"x1"]]

    def test_entries_by_their_numbers(self, store: Store) -> None:
        store.commit([creation("v", b"v1", b"v2"), creation("w", *(b"%d" % number for number in range(1, 8))), creation("x", b"x1")])
        store.commit([Write(workflow_id="w", epoch=1, retire=(2, 5))])
        for retired in (False, True):
            assert [entry.body for entry in store.entries("w", retired=retired, seqs=(6, 2, 2, 3, 99))] == [b"2", b"3", b"6"]
        assert store.entries("w", seqs=[5]) == [Entry(5, b"5")]
        assert store.entries("w", seqs=range(1, 8)) == store.entries("w", retired=True)
        assert store.entries("w", seqs=(0, -1, 8, 2**32, 2**33 + 1, -(2**33) + 1, 2**62)) == []
        assert store.entries("nobody", seqs=(1,)) == []

    def test_much_at_once(self, store: Store) -> None:
        count = 5_000
        ids = [f"w{number:05}" for number in range(count)]
        assert store.commit([creation(each, each.encode()) for each in ids]) == ["applied"] * count
        changes = [appending(each, b"next", head=a_head(status="DONE"), retire=(1,)) for each in reversed(ids)]
        assert store.commit(changes) == ["applied"] * count
        assert [head.workflow_id for head in store.heads(status=["DONE"], limit=count + 1)] == ids
        assert store.entries("w00000") == [Entry(2, b"next")]
        store.commit([appending("w00001", *(b"%d" % number for number in range(count)))])
        assert bodies_of(store, "w00001", retired=True) == [b"w00001", b"next"] + [b"%d" % number for number in range(count)]
        large = random.Random(1).randbytes(5_000_000)
        store.commit([Write(workflow_id="w00002", epoch=1, entries=((large, large), (b"after", None)))])
        assert store.entries("w00002")[1:] == [Entry(3, large, large), Entry(4, b"after")]

    # --- heads ---------------------------------------------------------------------------------------------------------------------

    def test_heads_come_in_the_order_of_ids_page_by_page(self, store: Store) -> None:
        ids = ["b", "a", "Z", "10", "9", "a.1", "a-1", "a:1", "a_1", "A", "aa"]
        store.commit([creation(each) for each in ids])
        assert [head.workflow_id for head in store.heads()] == sorted(ids)
        assert store.heads(limit=0) == []
        for size in (1, 2, 3, 100):
            seen: list[str] = []
            while page := store.heads(after=seen[-1] if seen else "", limit=size):
                assert len(page) <= size
                seen += [head.workflow_id for head in page]
            assert seen == sorted(ids)

    def test_heads_of_some_statuses(self, store: Store) -> None:
        store.commit([creation(f"w{number:02}", status="ABC"[number % 3]) for number in range(30)])
        assert [head.status for head in store.heads(status=["A", "C"], limit=5)] == ["A", "C", "A", "C", "A"]
        assert [head.workflow_id for head in store.heads(status=["B"], after="w20", limit=2)] == ["w22", "w25"]
        assert len(store.heads(status=["A", "B", "A"])) == 20
        assert store.heads(status=["D", ""]) == []
        store.commit([Write(workflow_id="w01", epoch=1, head=a_head(status="D"))])
        assert [head.workflow_id for head in store.heads(status=["D"])] == ["w01"]
        assert len(store.heads(status=["B"])) == 9

    # --- claim and delete ------------------------------------------------------------------------------------------------------------

    def test_a_claim_moves_the_epoch_and_fences_the_owner_before(self, store: Store) -> None:
        store.commit([creation("w", b"1")])
        assert store.claim("w", epoch=1, owner="engine-2") == 2
        assert store.head("w") == a_head(epoch=2, owner="engine-2")
        assert store.claim("w", epoch=1, owner="engine-3") is None
        assert store.claim("w", epoch=3, owner="engine-3") is None
        assert store.commit([appending("w", b"late"), appending("w", b"2", epoch=2)]) == ["fenced", "applied"]
        assert store.claim("w", epoch=2, owner=None) == 3
        assert store.head("w") == a_head(epoch=3, owner=None)
        assert bodies_of(store) == [b"1", b"2"]

    def test_one_of_many_claims_wins(self, store: Store) -> None:
        store.commit([creation("w")])
        for epoch in range(1, 11):
            results = together(*(lambda e=epoch, n=number: store.claim("w", epoch=e, owner=f"e{n}") for number in range(8)))
            winners = [number for number, result in enumerate(results) if result is not None]
            assert len(winners) == 1
            assert store.head("w") == a_head(epoch=epoch + 1, owner=f"e{winners[0]}")

    def test_delete_forgets_everything_of_one_workflow(self, store: Store) -> None:
        store.commit([creation(each, b"1", b"2") for each in "abc"])
        store.commit([Write(workflow_id="b", epoch=1, retire=(1,))])
        assert store.delete("b", epoch=2) is False
        assert len(bodies_of(store, "b", retired=True)) == 2
        assert store.delete("b", epoch=1) is True
        assert store.delete("b", epoch=1) is False
        assert list(content(store)) == ["a", "c"]
        assert store.commit([appending("b", b"late")]) == ["missing"]
        store.delete("c", epoch=1)
        assert store.commit([creation("b", b"new"), creation("d", b"d1")]) == ["applied", "applied"]
        assert bodies_of(store, "b", retired=True) == [b"new"]
        assert [bodies_of(store, each, retired=True) for each in "acd"] == [[b"1", b"2"], [], [b"d1"]]

    # --- owners --------------------------------------------------------------------------------------------------------------------

    def test_owners_come_beat_and_go(self, store: Store) -> None:
        one = OwnerRow(owner="e1", host=ODD_TEXT, pid=2**22, lock_path="/x y/ü.lock", beat=1, lease_s=0.1)
        two = OwnerRow(owner="e2", host="h", pid=1, lock_path="", beat=2**60, lease_s=1e9)
        store.beat(one)
        store.beat(two)
        assert sorted(store.owners(), key=lambda row: row.owner) == [one, two]
        later = msgspec.structs.replace(one, beat=2)
        store.beat(later)
        store.beat(None, owner="nobody")
        store.beat(None, owner="e2")
        assert store.owners() == [later]

    def test_a_wish_reaches_whoever_drives_the_workflow(self, store: Store) -> None:
        one, two = (OwnerRow(owner=each, host="h", pid=1, lock_path="", beat=1, lease_s=1.0) for each in ("e1", "e2"))
        store.commit([creation("w", owner="e1"), creation("v", owner="e1"), creation("u", owner=None)])
        assert store.beat(one) == []
        before = content(store)
        assert store.wish("nobody", "cancel") is False
        assert store.wish("w", "pause") is store.wish("w", ODD_TEXT) is store.wish("u", "cancel") is True
        assert content(store) == before
        assert store.beat(one) == store.beat(one) == [("w", ODD_TEXT)]
        assert store.beat(two) == []
        assert store.wish("v", "cancel") is True
        assert sorted(store.beat(one)) == [("v", "cancel"), ("w", ODD_TEXT)]
        store.claim("w", epoch=1, owner="e2")
        assert store.beat(one) == [("v", "cancel")]
        assert store.beat(two) == [("w", ODD_TEXT)]
        store.claim("u", epoch=1, owner="e2")
        assert sorted(store.beat(two)) == [("u", "cancel"), ("w", ODD_TEXT)]

    def test_a_wish_is_gone_when_the_head_is_written(self, store: Store) -> None:
        row = OwnerRow(owner="e1", host="h", pid=1, lock_path="", beat=1, lease_s=1.0)
        head = a_head(owner="e1")
        store.commit([creation("w", owner="e1"), creation("v", owner="e1")])
        store.wish("w", "cancel")
        assert store.commit([appending("w", b"1"), appending("w", b"late", epoch=9, head=head)]) == ["applied", "fenced"]
        assert store.beat(row) == [("w", "cancel")]
        store.commit([appending("v", head=head)])
        assert store.beat(row) == [("w", "cancel")]
        store.commit([appending("w", head=head)])
        assert store.beat(row) == []
        store.wish("w", "cancel")
        store.delete("w", epoch=1)
        store.commit([creation("w", owner="e1")])
        assert store.beat(row) == []

    # --- threads, close, fork --------------------------------------------------------------------------------------------------------

    def test_eight_threads_commit(self, store: Store) -> None:
        store.commit([creation("shared"), *(creation(f"own{thread}") for thread in range(8))])

        def work(thread: int) -> None:
            for number in range(25):
                body = b"%d.%d" % (thread, number)
                assert store.commit([appending("shared", body), appending(f"own{thread}", body)]) == ["applied", "applied"]

        together(*(lambda n=thread: work(n) for thread in range(8)))
        shared = bodies_of(store, "shared", retired=True)
        assert len(shared) == 200
        for thread in range(8):
            mine = [b"%d.%d" % (thread, number) for number in range(25)]
            assert [body for body in shared if body.startswith(b"%d." % thread)] == mine
            assert bodies_of(store, f"own{thread}") == mine

    def test_a_reader_never_sees_half_a_write(self, store: Store) -> None:
        store.commit([creation("w")])
        done = threading.Event()

        def write() -> None:
            for number in range(100):
                store.commit([appending("w", b"a%d" % number), appending("w", b"b", head=a_head(note=str(number)))])
            done.set()

        def read() -> int:
            seen = 0
            while not done.is_set():
                count = len(bodies_of(store))
                assert count % 2 == 0
                assert count >= seen
                seen = count
                assert len(store.heads()) == 1
            return seen

        together(write, read, read)
        assert len(bodies_of(store)) == 200

    def every_method(self, store: Store) -> list[Callable[[], object]]:
        """A call of each method that a closed or forked handle must refuse."""
        row = OwnerRow(owner="e", host="h", pid=1, lock_path="", beat=1, lease_s=1.0)
        return [
            lambda: store.commit([creation("v")]),
            lambda: store.commit([]),
            lambda: store.claim("w", epoch=1, owner="e"),
            lambda: store.head("w"),
            store.heads,
            lambda: store.heads(status=["RUNNING"]),
            lambda: store.entries("w"),
            lambda: store.delete("w", epoch=1),
            lambda: store.beat(row),
            lambda: store.beat(None, owner="e"),
            lambda: store.wish("w", "cancel"),
            lambda: store.entries("w", seqs=(1,)),
            store.owners,
        ]

    def test_a_closed_store_refuses_every_call(self, store: Store) -> None:
        store.commit([creation("w", b"1")])
        view = store.blobs.open(store.blobs.put([b"kept"]))
        store.close()
        store.close()
        for call in self.every_method(store):
            with pytest.raises(ClosedError):
                call()
        assert bytes(view) == b"kept"

    def test_a_child_made_by_fork_cannot_use_the_store(self, store: Store) -> None:
        store.commit([creation("w", b"1")])
        calls = self.every_method(store)
        child = os.fork()
        if child == 0:  # nothing of pytest may run here
            refused = 0
            for call in (*calls, store.close):
                try:
                    call()
                except ForkedHandleError:
                    refused += 1
            os._exit(len(calls) + 1 - refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.commit([appending("w", b"2")]) == ["applied"]
        assert bodies_of(store) == [b"1", b"2"]


class DurableStoreSuite(StoreSuite):
    """What a store that says ``durable`` must do besides. Override :meth:`reopen` too."""

    def reopen(self, store: Store) -> Store:
        """Close ``store`` and open it again by its ``url``; whoever calls this closes the result."""
        raise NotImplementedError

    def test_everything_survives_closing(self, store: Store) -> None:
        assert store.durable
        store.commit([creation("w", b"1", b"2", b"3"), creation("v", note=ODD_TEXT)])
        store.commit([Write(workflow_id="w", epoch=1, retire=(2,), entries=((ALL_BYTES, b""),), head=a_head(status="DONE"))])
        store.claim("v", epoch=1, owner=None)
        row = OwnerRow(owner="e", host="h", pid=1, lock_path="/l", beat=1, lease_s=1.0)
        store.beat(row)
        store.claim("v", epoch=2, owner="e")
        store.wish("v", "cancel")
        name = store.blobs.put([ALL_BYTES])
        before, owners = content(store), store.owners()
        again = self.reopen(store)
        try:
            assert content(again) == before
            assert again.owners() == owners
            assert again.beat(row) == [("v", "cancel")]
            assert bytes(again.blobs.open(name)) == ALL_BYTES
            assert again.commit([appending("v", b"late"), appending("w", b"5")]) == ["fenced", "applied"]
            assert again.entries("w")[-1] == Entry(5, b"5")
        finally:
            again.close()

    def test_a_save_that_crashed_leaves_a_blob_that_is_collected(self, store: Store) -> None:
        kept, lost = store.blobs.put([b"kept"]), store.blobs.put([b"lost" * 10])
        store.commit([naming("w", kept)])
        again = self.reopen(store)
        try:
            assert again.blobs.collect(grace_s=3600) == Collected(removed=0, size_bytes=0, spared=1)
            assert again.blobs.collect(grace_s=0) == Collected(removed=1, size_bytes=40, spared=0)
            assert bytes(again.blobs.open(kept)) == b"kept"
            with pytest.raises(LookupError):
                again.blobs.open(lost)
            again.delete("w", epoch=1)
            assert list(again.blobs.names()) == []
        finally:
            again.close()
