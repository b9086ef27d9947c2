"""Values to bytes and back; digests. No I/O.

A value becomes an :class:`Encoded`: one pickle header and any number of out-of-band buffers (pickle protocol 5), so that a large array
is neither copied nor held twice on its way to a file or a pipe. :func:`frame` lays both out as one byte string (64-byte aligned);
:func:`parse` finds them again in a ``memoryview`` without copying. Refs (objects of the types in :data:`identities`) are left out of the
header as well: it says "Ref number i", and ``Encoded.refs`` holds the objects themselves. What becomes of them is not decided here.

:func:`digest` is over bytes and finds damage; :func:`exoflow.fingerprints.fingerprint` is over meaning and finds change.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import struct
import sys
import threading
import types
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar, NoReturn, Self

import msgspec
from blake3 import blake3

Bytes = bytes | bytearray | memoryview

_MAGIC = b"XF1\0"
_ALIGN = 64
_PREFIX = struct.Struct("<4sIQ")  # magic, number of buffers, length of the header
_LENGTH = struct.Struct("<Q")
DIGEST_BYTES = 16


class NotSerializable(Exception):
    """A value cannot be pickled. ``path`` leads from the value to the culprit, for example ``['model'].lock``."""

    def __init__(self, path: str, type_name: str, reason: str) -> None:
        super().__init__(f"at {path} ({type_name}): {reason}")
        self.path, self.type_name, self.reason = path, type_name, reason


class Unreadable(Exception):
    """Sound bytes that cannot be turned into a value in this process."""


class Encoded(msgspec.Struct, frozen=True):
    """A pickled value: ``header`` in protocol 5, its out-of-band ``buffers``, and the ``refs`` it holds, each once. ``size`` is the sum of
    header and buffers in bytes."""

    header: bytes
    buffers: tuple[memoryview, ...] = ()
    refs: tuple[Any, ...] = ()

    @property
    def size(self) -> int:
        return len(self.header) + (sum(view.nbytes for view in self.buffers) if self.buffers else 0)


identities: dict[type, Callable[[Any], str]] = {}
"""The types whose objects are Refs, and what tells whether two of those are the same (``exoflow.refs`` fills it)."""
settlers: dict[type, Callable[[Any], None]] = {}
"""Of those, the types whose objects may not name data yet, and what makes one do so, which may take long."""
_guests = {"pyspark.sql.classic.dataframe": "exoflow.backends.spark.frames"}
"""Modules of others whose types are Refs, and ours that makes them so; it is imported when a program has imported the other."""


def encode(value: Any, *, by_value: bool = False) -> Encoded:
    """Pickle ``value``. With ``by_value``, so that nothing of the main script is needed to load it. Raises :class:`NotSerializable`, or
    whatever a ``__reduce__`` of the user raises wrapped in it."""
    if type(value) in _PLAIN:
        return Encoded(pickle.dumps(value, protocol=5))
    views: list[memoryview] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            views.append(buffer.raw())
        except BufferError:  # not contiguous: pickle copies it in-band
            return True
        return False

    try:
        if not identities and not by_value:
            return Encoded(pickle.dumps(value, protocol=5, buffer_callback=out_of_band), tuple(views))
        header, refs = _without_refs(value, _pickler() if by_value else pickle.Pickler, out_of_band)
    except Exception:
        views.clear()
        try:  # functions and classes without an importable name
            header, refs = _without_refs(value, _pickler(), out_of_band)
        except Exception as error:
            raise explain(value, error) from error
    return Encoded(header, tuple(views), refs)


def _without_refs(
    value: Any,
    pickler: Any,
    out_of_band: Callable[[pickle.PickleBuffer], bool | None] | None,
) -> tuple[bytes, tuple[Any, ...]]:
    """The pickle of ``value``, with each Ref replaced by its number; and the Refs."""
    refs: dict[str, tuple[int, Any]] = {}

    def number(ref: Any) -> int:
        return refs.setdefault(identities[type(ref)](ref), (len(refs), ref))[0]

    return _numbered(value, pickler, out_of_band, number), tuple(ref for _, ref in refs.values())


def _numbered(
    value: Any,
    pickler: Any,
    out_of_band: Callable[[pickle.PickleBuffer], bool | None] | None,
    number: Callable[[Any], int],
) -> bytes:
    def reduce(ref: Any) -> Any:
        return _ref, (number(ref),)

    file = io.BytesIO()
    made = pickler(file, protocol=5, buffer_callback=out_of_band)
    table = copyreg.dispatch_table if pickler is pickle.Pickler else pickler.dispatch_table
    # By the descriptor: a table that is set on the object is not looked at where the class has one.
    pickle.Pickler.dispatch_table.__set__(made, {**table, **dict.fromkeys(identities, reduce)})  # type: ignore[attr-defined]
    made.dump(value)
    return file.getvalue()


class _Decoding(threading.local):
    refs: tuple[Any, ...] = ()


_decoding = _Decoding()


def _ref(index: int) -> Any:
    return _decoding.refs[index]


_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})


def refs_in(value: Any) -> tuple[Any, ...]:
    """The Refs that ``value`` holds, each once, as far as pickling it, or what its containers and attributes hold, shows them."""
    found: dict[str, Any] = {}
    for ref in _objects_in(value, identities):
        found.setdefault(identities[type(ref)](ref), ref)
    return tuple(found.values())


def settle(value: Any) -> None:
    """Make what ``value`` refers to be data: to be called by whoever made it, before anybody else sees it. Raises whatever that raises."""
    for theirs, ours in list(_guests.items()):
        if theirs in sys.modules:
            import_module(ours)
            _guests.pop(theirs, None)
    for each in _objects_in(value, settlers):
        settlers[type(each)](each)


def _objects_in(value: Any, wanted: Mapping[type, Any]) -> Iterable[Any]:
    """The objects of those types, which are types of Refs, that ``value`` holds."""
    if not wanted or type(value) in _PLAIN:
        return ()
    found: dict[int, Any] = {}

    def note(ref: Any) -> int:
        if type(ref) in wanted:
            found.setdefault(id(ref), ref)
        return 0

    try:
        _numbered(value, pickle.Pickler, _left_out, note)
    except Exception:
        try:
            _numbered(value, _pickler(), _left_out, note)
        except Exception:  # then as far as a look shows them
            seen: dict[int, Any] = {}
            stack = [value]
            while stack:
                here = stack.pop()
                if type(here) in wanted:
                    note(here)
                elif id(here) not in seen:
                    seen[id(here)] = here
                    stack += (child for _, child in _children(here))
    return found.values()


def _left_out(_buffer: pickle.PickleBuffer) -> bool:
    return False


class Nested:
    """An encoded value inside another: pickled as it is, and decoded with what surrounds it."""

    def __init__(self, encoded: Encoded) -> None:
        self._encoded = encoded

    def parts(self) -> tuple[bytes, list[pickle.PickleBuffer], tuple[Any, ...]]:
        """Header, buffers and Refs, as pickle takes them."""
        encoded = self._encoded
        return encoded.header, [pickle.PickleBuffer(view) for view in encoded.buffers], encoded.refs

    def __reduce__(self) -> Any:
        return _unnest, self.parts()


def _unnest(header: bytes, buffers: list[Any], refs: tuple[Any, ...]) -> Any:
    return decode(Encoded(header, tuple(memoryview(each) for each in buffers), refs))


_BUNDLE = b"R"  # no pickle begins like this


def bundle(encoded: Encoded) -> Encoded:
    """``encoded`` with its Refs inside, each pickled as its class wants it, to go where :func:`unbundle` takes them out again. Raises
    :class:`NotSerializable` for one that cannot leave this process."""
    if not encoded.refs:
        return encoded
    views = list[memoryview]()
    try:
        header = pickle.dumps(Nested(encoded).parts(), protocol=5, buffer_callback=lambda buffer: views.append(buffer.raw()))
    except Exception as error:
        raise NotSerializable("a Ref", ", ".join(type(ref).__qualname__ for ref in encoded.refs), str(error)) from error
    return Encoded(_BUNDLE + header, tuple(views))


def unbundle(encoded: Encoded) -> Encoded:
    """The inverse of :func:`bundle`; what never was one stays as it is. Raises :class:`Unreadable`."""
    if not encoded.header.startswith(_BUNDLE):
        return encoded
    header, buffers, refs = decode(Encoded(encoded.header[len(_BUNDLE) :], encoded.buffers))
    return Encoded(header, tuple(memoryview(each) for each in buffers), refs)


def encode_by_value(value: Any) -> Encoded:
    """As :func:`encode`, with the functions and classes of the main script inside, all in one piece. Raises what pickling raises."""
    header, refs = _without_refs(value, _pickler(), None)
    return Encoded(header, (), refs)


def encode_with(pickler: Any, value: Any) -> Encoded:
    """As :func:`encode`, by a class of picklers that derives from cloudpickle's. Raises what pickling raises."""
    views: list[memoryview] = []
    header, refs = _without_refs(value, pickler, lambda buffer: views.append(buffer.raw()))
    return Encoded(header, tuple(views), refs)


def _by_value(value: Any) -> bytes:
    return encode_by_value(value).header


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"cannot pickle '{type(value).__name__}' object")


@functools.cache
def _pickler() -> Any:
    """cloudpickle, but an open file is refused: it would be read, and become another kind of object on the other side."""
    import cloudpickle  # type: ignore[import-untyped]

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table: ClassVar[Any] = ChainMap({io.TextIOWrapper: _refuse}, cloudpickle.Pickler.dispatch_table)

    return Pickler


def decode(encoded: Encoded) -> Any:
    """The value of ``encoded``. Its buffers and Refs are shared, not copied. Raises :class:`Unreadable`."""
    try:
        if not encoded.refs:
            return pickle.loads(encoded.header, buffers=encoded.buffers)  # noqa: S301 - the store is trusted, see docs/semantics.md
        outer, _decoding.refs = _decoding.refs, encoded.refs
        try:
            return pickle.loads(encoded.header, buffers=encoded.buffers)  # noqa: S301
        finally:
            _decoding.refs = outer
    except Exception as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


class _Absent:
    """Stands for whatever a sketch leaves out."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        return super().__new__(cls)

    def __setstate__(self, _state: Any) -> None: ...

    def __setitem__(self, _key: Any, _value: Any) -> None: ...

    def append(self, _item: Any) -> None: ...


class _Sketcher(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if module.startswith("exoflow.") else None
        return found if isinstance(found, type) else _Absent


def sketch(encoded: Encoded) -> Any:
    """The value of ``encoded`` as far as this package's own classes and plain data go, with placeholders for the rest: no other code is
    imported or called. Raises :class:`Unreadable`."""
    try:
        return _Sketcher(io.BytesIO(encoded.header), buffers=encoded.buffers).load()
    except Exception as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def frame(encoded: Encoded) -> list[Bytes]:
    """``encoded`` as a list of byte pieces whose concatenation :func:`parse` reads. Buffers are not copied."""
    prefix = _PREFIX.pack(_MAGIC, len(encoded.buffers), len(encoded.header))
    if not encoded.buffers:
        return [prefix + encoded.header]
    lengths = b"".join(_LENGTH.pack(view.nbytes) for view in encoded.buffers)
    pieces: list[Bytes] = [prefix + lengths + encoded.header]
    at = len(pieces[0])
    for view in encoded.buffers:
        pieces += [bytes(-at % _ALIGN), view]
        at += -at % _ALIGN + view.nbytes
    return pieces


def parse(framed: Bytes) -> Encoded:
    """The inverse of :func:`frame`, on views into ``framed``. Raises ValueError if it is not such a string."""
    view = memoryview(framed)
    if len(view) < _PREFIX.size:
        raise ValueError("not a framed value: too short")
    magic, count, header_length = _PREFIX.unpack_from(view)
    at = _PREFIX.size + count * _LENGTH.size
    if magic != _MAGIC or at + header_length > len(view):
        raise ValueError("not a framed value: wrong prefix")
    lengths = [_LENGTH.unpack_from(view, _PREFIX.size + i * _LENGTH.size)[0] for i in range(count)]
    header = bytes(view[at : at + header_length])
    at += header_length
    buffers = []
    for length in lengths:
        at += -at % _ALIGN
        if at + length > len(view):
            raise ValueError("not a framed value: cut off")
        buffers.append(view[at : at + length])
        at += length
    return Encoded(header, tuple(buffers))


def digest(pieces: Iterable[Bytes]) -> bytes:
    """16 bytes of BLAKE3 over the concatenation of ``pieces``."""
    hasher = blake3()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest(DIGEST_BYTES)


def seal(body: bytes) -> bytes:
    """``body`` with its digest in front, for :func:`unseal`."""
    return blake3(body).digest(DIGEST_BYTES) + body


def unseal(sealed: bytes) -> bytes:
    """The body of a sealed record. Raises ValueError if a byte of it has changed."""
    body = sealed[DIGEST_BYTES:]
    if blake3(body).digest(DIGEST_BYTES) != sealed[:DIGEST_BYTES]:
        raise ValueError("record fails its digest")
    return body


# --- which part cannot be pickled --------------------------------------------------------------------------------------------


def explain(value: Any, error: Exception) -> NotSerializable:
    """Which part of ``value`` it is that cannot be pickled."""
    path, culprit = "", value
    seen: set[int] = set()
    while id(culprit) not in seen and len(seen) < 100:
        seen.add(id(culprit))
        for step, child in _children(culprit):
            if not _pickles(child):
                path, culprit = path + step, child
                break
        else:
            break
    reason = str(error) or type(error).__name__
    if culprit is not value:
        try:
            _by_value(culprit)
        except Exception as inner:
            reason = str(inner) or type(inner).__name__
    cls = type(culprit)
    return NotSerializable(path or "the value itself", f"{cls.__module__}.{cls.__qualname__}", reason)


def _pickles(value: Any) -> bool:
    try:
        _by_value(value)
    except Exception:
        return False
    return True


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from (("{…}", item) for item in value)
    elif hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType)) and not _reduces_itself(type(value)):
        yield from ((f".{name}", item) for name, item in vars(value).items())


def _reduces_itself(cls: type) -> bool:
    """Whether a class says by itself what of it is pickled (or that nothing is)."""
    return any("__reduce__" in vars(base) or "__reduce_ex__" in vars(base) for base in cls.__mro__[:-1])
