"""Refs in values: found, left out of the pickle, put back."""

from __future__ import annotations

import pickle
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from exoflow import codec, fingerprints
from exoflow.errors import RefLostError
from exoflow.refs.base import Ref, RefAdapter, adapter_named, adapter_of, identity, lost_in, register
from exoflow.refs.values import SharedRef, ValueRef, settled


class Named(Ref):
    """Names itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def id(self) -> str:
        return self.name

    def get(self) -> str:
        raise RefLostError(kind=adapter_of(self).kind, ref=self.name, reason="it never was")

    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002
        return settled(self.name)

    @classmethod
    def restore(cls, value: Any) -> Named:
        return cls(value)


class Foreign:
    """A type of somebody else."""

    def __init__(self, number: int) -> None:
        self.number = number


class ForeignLost(Exception):
    """What its backend raises."""


class ForeignAdapter:
    """Lets Foreign count as a Ref."""

    kind = f"{__name__}:FOREIGN"
    mutable = portable = False

    def id(self, ref: Foreign) -> str:
        return str(ref.number)

    def get(self, ref: Foreign) -> int:
        return ref.number

    def checkpoint(self, ref: Foreign, id: str) -> Future[Any]:  # noqa: A002
        return settled(ref.number)

    def restore(self, value: Any) -> Foreign:
        return Foreign(value)

    def lost(self, error: BaseException) -> tuple[str, ...]:
        return (str(error.args[0]),) if isinstance(error, ForeignLost) else ()

    def release(self, ref: Foreign) -> None: ...


FOREIGN: RefAdapter = ForeignAdapter()
register(FOREIGN, Foreign)


class Holder:
    """Has one in an attribute."""

    def __init__(self, ref: Any) -> None:
        self.ref = ref


def test_each_is_found_once_wherever_it_is():
    a, b, foreign = Named("a"), Named("b"), Foreign(7)
    value = {"x": [a, (b, {"y": foreign})], "z": Holder(a), "again": Named("a")}
    encoded = codec.encode(value)
    assert encoded.refs == (a, b, foreign)
    back = codec.decode(encoded)
    assert back["x"][0] is a
    assert back["z"].ref is a
    assert back["again"] is a
    assert back["x"][1][1]["y"] is foreign
    assert codec.refs_in(value) == (a, b, foreign)
    assert codec.refs_in([1, "x", np.arange(3)]) == ()


def test_those_beside_what_needs_pickling_by_value_are_found():
    a = Named("a")
    encoded = codec.encode([a, lambda: 1])
    assert encoded.refs == (a,)
    assert codec.decode(encoded)[0] is a


def test_those_beside_what_cannot_be_pickled_are_found(tmp_path):
    a = Named("a")
    with (tmp_path / "f").open("w") as file:
        assert codec.refs_in({"file": file, "held": [Holder(a)]}) == (a,)


def test_a_value_in_a_ref_in_a_value_keeps_its_own():
    inner, outer = ValueRef([Named("deep")]), Named("top")
    encoded = codec.unbundle(codec.bundle(codec.encode([inner])))
    both = codec.decode(codec.encode([codec.Nested(codec.encode([outer])), outer, encoded.refs[0]]))
    assert both[0][0] is outer
    assert both[1] is outer
    assert both[2] == inner


def test_fingerprints_go_by_identity():
    assert fingerprints.fingerprint([Named("a")]) == fingerprints.fingerprint([Named("a")])
    assert fingerprints.fingerprint([Named("a")]) != fingerprints.fingerprint([Named("b")])


def test_a_value_ref_travels_with_its_arrays_beside():
    ref = ValueRef({"big": np.arange(10_000)})
    sent = codec.bundle(codec.encode(["passed on", ref]))
    assert len(sent.header) < 1000
    assert [view.nbytes for view in sent.buffers] == [80_000]
    arrived = codec.unbundle(codec.Encoded(sent.header, tuple(memoryview(bytes(view)) for view in sent.buffers)))
    assert arrived.refs == (ref,)
    assert arrived.refs[0] is not ref
    assert (arrived.refs[0].get()["big"] == ref.get()["big"]).all()
    assert [view.nbytes for view in codec.bundle(arrived).buffers] == [80_000]  # it goes on
    with pytest.raises(codec.NotSerializable, match="Ref"):
        codec.bundle(codec.encode(Unmoving("x")))


class Unmoving(Named):
    """Cannot go to another process."""

    def __reduce__(self) -> Any:
        raise TypeError("I stay")


def test_shared_memory_cannot_be_written_to():
    ref = SharedRef([np.ones(100_000), "small"])
    array, small = ref.get()
    assert small == "small"
    assert not array.flags.writeable
    assert array.sum() == 100_000
    assert (pickle.loads(pickle.dumps(ref)).get()[0] == array).all()
    assert SharedRef("no arrays").get() == "no arrays"


def test_a_loss_is_found_in_causes_and_groups():
    with pytest.raises(RefLostError) as caught:
        Named("gone").get()
    wrapped = ValueError("in the middle")
    wrapped.__cause__ = ExceptionGroup("several", [caught.value, ForeignLost(3)])
    assert lost_in(wrapped) == {identity(adapter_of(Named("")), "gone"), identity(FOREIGN, "3")}
    assert lost_in(KeyError("no")) == set()


def test_an_adapter_is_found_by_name_in_another_process():
    assert adapter_named(FOREIGN.kind) is FOREIGN
    assert isinstance(adapter_named(adapter_of(Named("")).kind).restore("n"), Named)
    for kind in ("no.such.module:X", f"{__name__}:Holder", f"{__name__}:nothing"):
        with pytest.raises(Exception, match="cannot be loaded"):
            adapter_named(kind)
