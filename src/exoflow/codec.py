"""Values and functions to bytes and back; digests and fingerprints. No I/O.

A value becomes an :class:`Encoded`: one pickle header and any number of out-of-band buffers (pickle protocol 5), so that a large array
is neither copied nor held twice on its way to a file or a pipe. :func:`frame` lays both out as one byte string (64-byte aligned);
:func:`parse` finds them again in a ``memoryview`` without copying.

Two hashes with different duties: :func:`digest` is over bytes and finds damage; :func:`fingerprint` is over meaning (equal for equal
values in every process, whatever the hash seed or the pickle memo did) and finds change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import inspect
import io
import itertools
import operator
import pickle
import struct
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, NoReturn, Self, TypeGuard

import cloudpickle  # type: ignore[import-untyped]
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


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """A pickled value: ``header`` in protocol 5 and its out-of-band ``buffers``. ``size`` is their sum in bytes."""

    header: bytes
    buffers: tuple[memoryview, ...] = ()

    @property
    def size(self) -> int:
        return len(self.header) + sum(view.nbytes for view in self.buffers)


def encode(value: Any) -> Encoded:
    """Pickle ``value``. Raises :class:`NotSerializable`, or whatever a ``__reduce__`` of the user raises wrapped in it."""
    views: list[memoryview] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            views.append(buffer.raw())
        except BufferError:  # not contiguous: pickle copies it in-band
            return True
        return False

    try:
        return Encoded(pickle.dumps(value, protocol=5, buffer_callback=out_of_band), tuple(views))
    except Exception:
        views.clear()
    try:  # functions and classes without an importable name
        header = _by_value(value, out_of_band)
    except Exception as error:
        raise _explain(value, error) from error
    return Encoded(header, tuple(views))


def _by_value(value: Any, out_of_band: Callable[[pickle.PickleBuffer], bool] | None = None) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol=5, buffer_callback=out_of_band).dump(value)
    return file.getvalue()


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"cannot pickle '{type(value).__name__}' object")


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle, but an open file is refused: it would be read, and become another kind of object on the other side."""

    dispatch_table: ClassVar[Any] = ChainMap({io.TextIOWrapper: _refuse}, cloudpickle.Pickler.dispatch_table)


def decode(encoded: Encoded) -> Any:
    """The value of ``encoded``. Its buffers are shared, not copied. Raises :class:`Unreadable`."""
    try:
        return pickle.loads(encoded.header, buffers=encoded.buffers)  # noqa: S301 - the store is trusted, see docs/semantics.md
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


def _explain(value: Any, error: Exception) -> NotSerializable:
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


# --- meaning, not bytes ------------------------------------------------------------------------------------------------------


def fingerprint(value: Any) -> str:
    """32 hex digits that are equal for equal values in every process and under every hash seed.

    Raises :class:`NotSerializable` for a value that has no state to look at (a lock, a socket, a generator).
    """
    hasher = blake3()
    try:
        _feed(value, hasher.update, {})
    except RecursionError:  # nested deeper than Python's stack: bytes are the best there is
        return digest([encode(value).header]).hex()
    except Exception as error:  # a __reduce__ of the user may raise anything
        raise _explain(value, error) from error
    return hasher.hexdigest(DIGEST_BYTES)


_PLAIN: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"N;",
    bool: lambda v: b"T;" if v else b"F;",
    int: lambda v: b"i%d;" % v,
    float: lambda v: b"f" + struct.pack("<d", v),
    complex: lambda v: b"c" + struct.pack("<dd", v.real, v.imag),
    str: lambda v: b"s%d:" % len(v) + v.encode("utf-8", "surrogatepass"),
    bytes: lambda v: b"b%d:" % len(v) + v,
}


def _feed(value: Any, put: Callable[[Bytes], object], seen: dict[int, int]) -> None:
    cls = type(value)
    plain = _PLAIN.get(cls)
    if plain is not None:
        put(plain(value))
        return
    if id(value) in seen:  # a circle: say where it closes. Values stay alive in the caller, so ids are unique here
        put(b"@%d;" % seen[id(value)])
        return
    seen[id(value)] = len(seen)
    if cls is list or cls is tuple:
        put(b"%s%d:" % (b"l" if cls is list else b"t", len(value)))
        for item in value:
            _feed(item, put, seen)
    elif cls is dict:
        put(b"d%d:" % len(value))
        for key, item in value.items():
            _feed(key, put, seen)
            _feed(item, put, seen)
    elif cls is set or cls is frozenset:
        put(b"%s%d:" % (b"S" if cls is set else b"Z", len(value)))
        for one in sorted(fingerprint(item) for item in value):
            put(one.encode())
    else:
        _feed_object(value, put, seen)
    del seen[id(value)]


def _feed_object(value: Any, put: Callable[[Bytes], object], seen: dict[int, int]) -> None:
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        put(f"g{_home_of(value)};".encode())
        if isinstance(value, types.FunctionType) and "<" in value.__qualname__:
            put(code_fingerprint(value).encode())
        return
    if isinstance(value, enum.Enum):
        put(f"e{_home_of(type(value))}.{value.name};".encode())
        return
    if isinstance(value, (bytearray, memoryview, pickle.PickleBuffer)):
        raw = memoryview(value).cast("B")
        put(b"B%d:" % raw.nbytes)
        put(raw)
        return
    reduced = value.__reduce_ex__(5)
    if isinstance(reduced, str):
        put(b"r" + reduced.encode() + b";")
        return
    put(b"o")
    for part in reduced:
        _feed(list(part) if isinstance(part, Iterator) else part, put, seen)


def _home_of(value: Any) -> str:
    return f"{value.__module__}:{value.__qualname__}".replace("__mp_main__", "__main__")


# --- what code does ----------------------------------------------------------------------------------------------------------

_FOLLOWED_MAX = 1000
_NOT_CODE = frozenset({"__doc__", "__firstlineno__", "__static_attributes__"})
_KINDS = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)


class Code:
    """What a function does, looked at again only when something that this depends on has become another object."""

    __slots__ = ("_fingerprint", "_function", "_seen")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._seen: list[tuple[Any, list[Any]]] | None = None
        self._fingerprint = ""

    def fingerprint(self) -> str:
        """As ``cp311:<hex>``: its instructions, constants and defaults, what its closure holds as far as that is plain data that it does
        not change, and all of that of the functions and classes of its module that it refers to by name, and so on. Without file, line,
        comment, docstring, annotations of types, or data of the module; without what comes from other modules.

        Two fingerprints with different prefixes cannot be compared (another Python made them).
        """
        if self._seen is None or not all(_is_unchanged(thing, before) for thing, before in self._seen):
            self._look()
        return self._fingerprint

    def _look(self) -> None:
        self._seen = None
        prefix = f"cp{sys.version_info[0]}{sys.version_info[1]}:"
        inner = function_in(self._function)
        if not isinstance(inner, types.FunctionType):  # a callable object or a C function: its name is all there is
            name = f"{getattr(inner, '__module__', '')}:{getattr(inner, '__qualname__', type(inner).__qualname__)}"
            self._fingerprint = prefix + fingerprint(name)
            return
        home = _module_of(inspect.unwrap(inner))
        while _module_of(inner) != home and hasattr(inner, "__wrapped__"):  # a decorator of a library
            inner = inner.__wrapped__
        found: list[Any] = [inner]  # in an order that depends on the code alone
        parts = list[Any]()
        for thing in found:
            parts.append(_class_part(thing) if isinstance(thing, type) else _function_part(thing))
            for each in map(function_in, _named_by(thing)):
                if isinstance(each, (types.FunctionType, type)) and _module_of(each) == home and not any(each is other for other in found):
                    found.append(each)
            if len(parts) == _FOLLOWED_MAX:
                break
        self._fingerprint = prefix + fingerprint(tuple(parts))
        if all(isinstance(thing, type) or _has_plain_defaults(thing) for thing in found):
            self._seen = [(thing, _depends_on(thing)) for thing in found[: len(parts)]]


def code_fingerprint(function: Callable[..., Any]) -> str:
    """See :meth:`Code.fingerprint`."""
    return Code(function).fingerprint()


def _is_unchanged(thing: Any, before: list[Any]) -> bool:
    now = _depends_on(thing)
    return len(now) == len(before) and all(map(operator.is_, now, before))


def _depends_on(thing: Any) -> list[Any]:
    """The objects from which the part of a function or class is made, as long as its defaults are plain."""
    if isinstance(thing, type):
        return [*thing.__bases__, *itertools.chain.from_iterable(vars(thing).items())]
    return [thing.__code__, thing.__defaults__, *(thing.__kwdefaults__ or ()), *_named_by(thing)]


def _has_plain_defaults(function: types.FunctionType) -> bool:
    return all(map(_is_plain, (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())))


def function_in(thing: Any) -> Any:
    """The function in whatever wraps it: a method, a task, a cache. (Objects are not asked for attributes: they may invent any.)"""
    while not isinstance(thing, (types.FunctionType, type)):
        if isinstance(thing, (types.MethodType, staticmethod, classmethod)):
            thing = thing.__func__
            continue
        inner = thing.__dict__.get("__wrapped__") if type(thing).__dictoffset__ else None
        if inner is None:
            break
        thing = inner
    return thing


def _module_of(thing: Any) -> str:
    """Where it is written: decorators say otherwise of the functions that they make."""
    name = thing.__module__ if isinstance(thing, type) else thing.__globals__.get("__name__")
    return "__main__" if name == "__mp_main__" else str(name)


class _Instructions(NamedTuple):
    digest: str
    names: tuple[str, ...]  # of globals that are read
    rebound: frozenset[str]  # variables of closures that are written


@functools.lru_cache(maxsize=4096)
def _instructions(code: types.CodeType) -> _Instructions:
    """Resolved, not as bytes: a docstring shifts the numbers of all other constants."""
    import dis  # not cheap, and whoever only looks at workflows needs none of it

    steps, names, rebound = list[Any](), dict[str, None](), set[str]()
    for step in dis.get_instructions(code):
        argument = step.argval
        if isinstance(argument, types.CodeType):
            inner = _instructions(argument)
            argument, names, rebound = inner.digest, names | dict.fromkeys(inner.names), rebound | inner.rebound
        elif step.opname == "STORE_NAME" and argument in _NOT_CODE:
            steps.pop()  # what was stored
            continue
        elif step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
            names[argument] = None
        elif step.opname in {"STORE_DEREF", "DELETE_DEREF"}:
            rebound.add(argument)
        steps.append((step.opname, argument))
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _KINDS
    digest = fingerprint((steps, code.co_varnames, counts, code.co_exceptiontable))
    return _Instructions(digest, tuple(names), frozenset(rebound))


def _named_by(thing: Any) -> list[Any]:
    """What a function or class refers to, or has."""
    if isinstance(thing, type):
        named = list[Any](thing.__bases__)
        for value in vars(thing).values():
            named += _owned_by(value)
        return named
    known = thing.__globals__
    named = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values(), *(value for _, value in _closure(thing))]
    named += [known[name] for name in _instructions(thing.__code__).names if name in known]
    named.append(getattr(thing, "__wrapped__", None))
    return named


def _closure(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not there yet
            yield name, cell.cell_contents


def _function_part(function: types.FunctionType) -> tuple[Any, ...]:
    """What is in a function itself."""
    looked = _instructions(function.__code__)
    try:
        default_part = fingerprint((function.__defaults__ or (), function.__kwdefaults__ or {}))
    except NotSerializable:
        default_part = ""
    held = {name: fingerprint(value) for name, value in _closure(function) if name not in looked.rebound and _is_plain(value)}
    return looked.digest, default_part, held


def _class_part(cls: type) -> tuple[Any, ...]:
    """What is in a class itself."""
    members = {name: repr(member.value) for name, member in cls.__members__.items() if _is_plain(member.value)} if _is_enum(cls) else {}
    methods = [
        name for name, value in vars(cls).items() if any(isinstance(function_in(each), types.FunctionType) for each in _owned_by(value))
    ]
    return methods, members


def _owned_by(member: Any) -> tuple[Any, ...]:
    """The functions of a member of a class."""
    return (member.fget, member.fset, member.fdel) if isinstance(member, property) else (member, getattr(member, "func", None))


def _is_enum(cls: type) -> TypeGuard[type[enum.Enum]]:
    return issubclass(cls, enum.Enum)


def _is_plain(value: Any) -> bool:
    return type(value) in _PLAIN or (type(value) in (tuple, frozenset) and all(map(_is_plain, value)))
