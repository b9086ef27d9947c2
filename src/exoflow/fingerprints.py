"""What values and functions mean, as fingerprints: equal for equal ones in every process, whatever the hash seed or the pickle memo did.
(:func:`exoflow.codec.digest` is over bytes and finds damage; this is over meaning and finds change.) No I/O.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
import itertools
import operator
import pickle
import struct
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeGuard

from blake3 import blake3

from exoflow.codec import DIGEST_BYTES, Bytes, NotSerializable, digest, encode, explain, identities


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
        raise explain(value, error) from error
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
    identity = identities.get(type(value))
    if identity is not None:
        put(f"R{identity(value)};".encode())
        return
    meaning = getattr(value, "__exoflow_meaning__", None)
    if meaning is not None:  # what it is made of may differ, and mean the same
        put(b"m")
        _feed(meaning(), put, seen)
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
