"""Values on their way to a task: bytes that nobody opens before it runs, with holes where outputs of other tasks go."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import ray

import exoflow.backends.ray.objects  # noqa: F401 - from here on, Ray's references are Refs
from exoflow import codec
from exoflow.codec import Encoded
from exoflow.errors import PayloadUnreadableError

_numbers: ContextVar[dict[int, int] | None] = ContextVar("exoflow_ray_numbers", default=None)
_fill: ContextVar[Callable[[int], Any] | None] = ContextVar("exoflow_ray_fill", default=None)


class Hole:
    """Stands for the output of a task, ``index``, somewhere in the arguments of another. A parcel numbers its holes from 0."""

    def __init__(self, index: int) -> None:
        self.index = index

    def number(self) -> int:
        numbers = _numbers.get()
        return self.index if numbers is None else numbers.setdefault(self.index, len(numbers))

    def __reduce__(self) -> Any:
        return _filled, (self.number(),)


class Whole(Hole):
    """A hole that is an argument of its own, not a part of one: the task gets the value, not a reference to it."""

    def __reduce__(self) -> Any:
        return Whole, (self.number(),)


def _filled(index: int) -> Any:
    fill = _fill.get()
    return Hole(index) if fill is None else fill(index)


def encode(value: Any) -> Encoded:
    """``value`` pickled; functions and classes of the main script go along, since workers of Ray do not have it. Raises NotSerializable."""
    encoded = codec.encode(value)
    return codec.encode(value, by_value=True) if b"__main__" in encoded.header else encoded


class Parcel:
    """A pickled value (see :func:`encode`). References to objects of Ray that it holds are Refs for the engine, as if it were open.
    ``reads`` is what its holes stand for.

    Raises :class:`~exoflow.codec.NotSerializable`."""

    def __init__(self, value: Any) -> None:
        numbers: dict[int, int] = {}
        token = _numbers.set(numbers)
        try:
            self._encoded = encode(value)
        finally:
            _numbers.reset(token)
        self.reads = tuple(numbers)

    def __reduce_ex__(self, protocol: Any) -> Any:
        header, buffers, refs = codec.Nested(self._encoded).parts()
        pieces = buffers if protocol >= 5 else [bytes(each) for each in buffers]
        return _parcel, (header, pieces, refs, self.reads)

    def __exoflow_meaning__(self) -> Any:
        return self.open()

    def open(self, fill: Callable[[int], Any] | None = None) -> Any:
        """The value, made anew each time, with ``fill(number)`` in each hole. Raises PayloadUnreadableError."""
        token = _fill.set(fill)
        try:
            return codec.decode(self._encoded)
        except codec.Unreadable as error:
            raise PayloadUnreadableError(what="arguments", reason=str(error)) from error
        finally:
            _fill.reset(token)

    def nested(self) -> codec.Nested:
        """What arrives as the value itself, wherever it is pickled to."""
        return codec.Nested(self._encoded)

    def digest(self) -> bytes:
        """Equal for parcels of the same bytes."""
        return codec.digest(codec.frame(self._encoded))


def _parcel(header: bytes, buffers: list[Any], refs: tuple[Any, ...], reads: tuple[int, ...]) -> Parcel:
    parcel = object.__new__(Parcel)
    parcel._encoded = Encoded(header, tuple(memoryview(each) for each in buffers), refs)
    parcel.reads = reads
    return parcel


def given(parcel: Parcel, inputs: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, as Ray would give them: an output that is an argument comes as a value; one inside an argument as a
    reference, the same for the same output; a reference that is an argument is resolved, one inside is not."""
    args, kwargs = parcel.open(functools.cache(lambda index: ray.put(inputs[index])))

    def resolved(value: Any) -> Any:
        if isinstance(value, Whole):
            return inputs[value.index]
        return ray.get(value) if isinstance(value, ray.ObjectRef) else value

    return [resolved(each) for each in args], {name: resolved(each) for name, each in kwargs.items()}
