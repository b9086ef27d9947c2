"""``refs/base.py`` as tests: what the Refs of every kind must do. Inherit RefSuite and give it ``make`` and ``destroy``."""

from __future__ import annotations

import os
import subprocess
import sys
from abc import ABC, abstractmethod
from typing import Any

import pytest

from exoflow import codec
from exoflow.client.engine import Engine
from exoflow.core.journal import OutputSaved
from exoflow.core.journal import decode as decode_record
from exoflow.define.task import task
from exoflow.refs.base import adapter_named, adapter_of, lost_in

WAIT_S = 60.0


class RefSuite(ABC):
    """What the Refs of one kind must do. ``value`` and ``other`` are two different data."""

    value: Any = "some data"
    other: Any = "other data"
    can_be_lost = True

    @abstractmethod
    def make(self, value: Any) -> Any:
        """A Ref to ``value``."""

    def destroy(self, ref: Any) -> None:
        """Lose the data behind ``ref``, behind the back of everybody. Where ``can_be_lost``."""
        raise NotImplementedError

    def read(self, ref: Any) -> Any:
        """The data as a value that can be compared."""
        return adapter_of(ref).get(ref)

    def change(self, ref: Any, value: Any) -> None:
        """Where tasks may change the data: make it ``value``."""
        raise NotImplementedError

    def loss(self, ref: Any) -> BaseException:
        """What using a lost Ref raises."""
        with pytest.raises(Exception) as caught:  # noqa: PT011 - of any type; what it says is looked at
            self.read(ref)
        return caught.value

    # --- the seam ------------------------------------------------------------------------------------------------------------

    def test_identity(self) -> None:
        ref, other = self.make(self.value), self.make(self.other)
        adapter = adapter_of(ref)
        assert adapter.id(ref) == adapter.id(ref)
        assert adapter.id(ref) != adapter.id(other)
        assert adapter.id(ref).isprintable()
        assert adapter_named(adapter.kind) is adapter

    def test_it_is_found_once_and_put_back(self) -> None:
        ref = self.make(self.value)
        encoded = codec.encode({"a": [ref], "b": (ref, 1)})
        assert len(encoded.refs) == 1
        back = codec.decode(encoded)
        assert back["a"][0] is ref
        assert back["b"][0] is ref

    def test_what_was_saved_comes_back_after_a_loss(self) -> None:
        ref = self.make(self.value)
        adapter = adapter_of(ref)
        saved = codec.encode(adapter.checkpoint(ref, "v1").result(WAIT_S))
        assert not saved.refs
        kept = b"".join(codec.frame(saved))
        if self.can_be_lost:
            self.destroy(ref)
        restored = adapter.restore(codec.decode(codec.parse(bytearray(kept))))
        assert adapter_of(restored) is adapter
        assert self.read(restored) == self.value

    def test_restoring_twice_gives_two_that_work(self) -> None:
        ref = self.make(self.value)
        adapter = adapter_of(ref)
        kept = b"".join(codec.frame(codec.encode(adapter.checkpoint(ref, "v1").result(WAIT_S))))
        first, second = (adapter.restore(codec.decode(codec.parse(bytearray(kept)))) for _ in range(2))
        assert self.read(first) == self.read(second) == self.value

    def test_a_loss_says_what_is_gone(self) -> None:
        if not self.can_be_lost:
            return
        ref, other = self.make(self.value), self.make(self.other)
        adapter = adapter_of(ref)
        self.destroy(ref)
        error = self.loss(ref)
        assert lost_in(error) == {f"{adapter.kind} {adapter.id(ref)}"}
        wrapped = RuntimeError("from elsewhere")
        wrapped.__cause__ = error
        assert lost_in(wrapped) == lost_in(error)
        assert lost_in(ValueError("something else")) == set()
        assert self.read(other) == self.other

    def test_a_checkpoint_of_what_is_lost_is_an_error(self) -> None:
        if not self.can_be_lost:
            return
        ref = self.make(self.value)
        self.destroy(ref)
        with pytest.raises(Exception) as caught:  # noqa: PT011
            adapter_of(ref).checkpoint(ref, "v1").result(WAIT_S)
        assert lost_in(caught.value)

    def test_a_snapshot_shows_the_moment_when_it_was_asked_for(self) -> None:
        ref = self.make(self.value)
        adapter = adapter_of(ref)
        if not adapter.mutable:
            assert type(self).change is RefSuite.change, "what can be changed must say so"
            return
        future = adapter.checkpoint(ref, "v1")
        self.change(ref, self.other)
        kept = codec.encode(future.result(WAIT_S))
        assert self.read(adapter.restore(codec.decode(kept))) == self.value

    def test_release_lets_go(self) -> None:
        ref, other = self.make(self.value), self.make(self.other)
        adapter_of(ref).release(ref)
        assert self.read(other) == self.other

    def test_in_another_process(self) -> None:
        """A portable Ref can be read there; of any other nothing is promised."""
        ref = self.make(self.value)
        if not adapter_of(ref).portable:
            return
        sent = codec.bundle(codec.encode([ref]))
        code = (
            "import sys; from exoflow import codec; e = codec.parse(sys.stdin.buffer.read()); "
            "r = codec.decode(codec.unbundle(e))[0]; from exoflow.refs.base import adapter_of; "
            "sys.stdout.buffer.write(b''.join(codec.frame(codec.encode((adapter_of(r).id(r), adapter_of(r).kind)))))"
        )
        path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        got = subprocess.run(  # noqa: S603 - our own interpreter and our own code
            [sys.executable, "-c", code], input=b"".join(codec.frame(sent)), capture_output=True, check=True, env=path
        )
        assert codec.decode(codec.parse(bytearray(got.stdout))) == (adapter_of(ref).id(ref), adapter_of(ref).kind)

    # --- in an engine --------------------------------------------------------------------------------------------------------

    def test_a_consumer_that_finds_it_lost_gets_it_again(self) -> None:
        """From the checkpoint, without running its producer again."""
        if not self.can_be_lost:
            return
        suite, made, seen = self, list[Any](), list[Any]()

        @task(checkpoint="sync", can_rollback=True)
        def produce() -> Any:
            made.append(suite.make(suite.value))
            return {"ref": made[-1]}

        @task(can_rollback=True)
        def consume(given: Any) -> str:
            if not seen:
                seen.append("lost")
                suite.destroy(given["ref"])
            seen.append(suite.read(given["ref"]))
            return "done"

        with Engine("memory:") as engine:
            assert engine.run(consume.bind(produce.bind()), name="w") == "done"
            entries = [decode_record(entry.body) for entry in engine.store.entries("w")]
        assert seen == ["lost", suite.value]
        assert len(made) == 1
        saved = next(record for record in entries if isinstance(record, OutputSaved) and record.task == "produce")
        assert [ref.kind for ref in saved.stored.refs] == [adapter_of(made[0]).kind]

    def test_a_producer_that_is_not_saved_runs_again(self) -> None:
        if not self.can_be_lost:
            return
        suite, made, seen = self, list[Any](), list[Any]()

        @task(checkpoint=False, deterministic=True, can_rollback=True)
        def produce() -> Any:
            made.append(suite.make(suite.value))
            return [made[-1]]

        @task(can_rollback=True)
        def consume(given: Any) -> Any:
            if not seen:
                suite.destroy(given[0])
            seen.append("read")
            return suite.read(given[0])

        with Engine("memory:") as engine:
            assert engine.run(consume.bind(produce.bind())) == suite.value
        assert len(made) == 2
