"""The outside world of a test: an object that remembers what tasks did to it, as a payment provider would, whatever crashes.

Instead of the real thing, a task (or the client that it is given) calls this one::

    effects = Effects()
    effects.apply("charge", value=100, key=current_task().idempotency_key)   # an effect; with a key that is known, nothing happens
    effects.undo("reserve")                                                  # in a rollback: takes back what this task reserved
    bank = effects.wrap(FakeBank(), undo={"refund": "charge"})               # or: each call of a method of a fake is an effect

Outside of :func:`~exoflow.testing.crash_everywhere` it only records. Inside, every effect is also a place where the process may die: right
before it, and right after it, when it has happened and nobody was told.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import itertools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from exoflow import codec, fingerprints
from exoflow.errors import InvalidOptionError
from exoflow.worker.context import inside_task

Role = Literal["task", "rollback", "on_unknown", "outside"]
Op = Literal["apply", "again", "undo"]


class SimulatedCrash(BaseException):
    """The process dies here: nothing that it does from now on has any effect. Not an Exception, so that no task catches it."""


class Caller(msgspec.Struct, frozen=True):
    """Who acts on the outside: a call of a task's function, of its rollback or of its ``on_unknown``. ``call`` counts all calls of a run;
    ``life`` counts engines. ``attempt`` of a rollback is the attempt that it undoes."""

    role: Role = "outside"
    task: str = ""
    attempt: int = 0
    call: int = 0
    life: int = 0


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was done to the outside. ``op``: ``apply`` happened, ``again`` was known by its key and so did not, ``undo`` took
    away the effects ``gone`` (their numbers). ``meaning`` stands for the value, ``place`` counts the effects of one name in one call."""

    number: int
    op: Op
    what: str
    caller: Caller
    key: str | None = None
    value: Any = None
    meaning: str = ""
    place: int = 0
    gone: tuple[int, ...] = ()

    def __str__(self) -> str:
        value = "" if self.value is None else f" {self.value!r:.60}"
        return f"{self.what}{value}"


class Stage(Protocol):
    """Where a run takes place whose processes die."""

    books: list[Book]
    """Those that the run has used."""

    def caller(self) -> Caller:
        """Who is calling. Raises SimulatedCrash if that is dead."""

    def point(self, what: str, when: Literal["before", "after"]) -> None:
        """The process may die here: about to do ``what``, or having done it."""


class _Anything:
    def __repr__(self) -> str:
        return "anything"


_ANYTHING: Any = _Anything()
_stage: Stage | None = None
_before: dict[Book, _Kept] | None = None
_known: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


@contextlib.contextmanager
def on_stage(stage: Stage) -> Iterator[None]:
    """While this is open, whatever happens to any Effects of this process belongs to the run of ``stage``, for which each begins empty.
    Raises InvalidOptionError if there is such a run already."""
    global _stage  # noqa: PLW0603 - there is one world outside, and it is the same for all
    if _stage is not None:
        raise InvalidOptionError(message="crash_everywhere was called inside crash_everywhere; call it outside of tasks, once at a time")
    _stage = stage
    try:
        yield
    finally:
        _stage = None


@contextlib.contextmanager
def set_aside() -> Iterator[None]:
    """Whatever runs on stages inside is forgotten afterwards: each Effects, and each fake, is again as it was."""
    global _before  # noqa: PLW0603 - as the stage
    outer, _before = _before, {}
    try:
        yield
    finally:
        for book, kept in _before.items():
            book.put_back(kept)
        _before = outer


class _Kept(msgspec.Struct, frozen=True):
    """A book as it was."""

    entries: list[Entry]
    answers: dict[tuple[str, str], Any]
    fakes: list[dict[str, Any]]


class Book:
    """What happened to one outside world, and the fakes that are part of it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.answers: dict[tuple[str, str], Any] = {}
        self.fakes: list[tuple[Any, dict[str, Any]]] = []
        self._run: Stage | None = None

    def caller(self) -> Caller:
        """Who is calling. For the first call in a run, everything begins anew. Raises SimulatedCrash if the caller is dead."""
        if _stage is None:
            here = inside_task()
            return Caller() if here is None else Caller("task", here.task_id, here.attempt)
        caller = _stage.caller()
        if self._run is not _stage:
            self._run = _stage
            if _before is not None and self not in _before:
                _before[self] = _Kept(self.entries, self.answers, [dict(vars(fake)) for fake, _ in self.fakes])
            self.reset()
            _stage.books.append(self)
        return caller

    def enter(self, what: str) -> Caller:
        """Somebody is about to do ``what``."""
        caller = self.caller()
        if _stage is not None:
            _stage.point(what, "before")
        return caller

    def leave(self, what: str) -> None:
        """It is done, and nobody has been told."""
        if _stage is not None:
            _stage.point(what, "after")

    def apply(self, caller: Caller, what: str, key: str | None, value: object) -> bool:
        """An effect; False if its key is known."""
        known = key is not None and any(entry.key == key for entry in self.standing(what))
        self._note(caller, "again" if known else "apply", what, key=key, value=value)
        return not known

    def undo(self, caller: Caller, what: str, key: str | None = None, value: object = _ANYTHING) -> list[Entry]:
        """Take effects back, and give them."""
        gone = self.chosen(caller, what, key, value)
        shown = None if value is _ANYTHING else value
        self._note(caller, "undo", what, key=key, value=shown, gone=tuple(entry.number for entry in gone))
        for entry in gone:
            self.answers.pop((what, entry.key or ""), None)
        return gone

    def chosen(self, caller: Caller, what: str, key: str | None, value: object) -> list[Entry]:
        """The effects that stand and have this key or value, or else those of the caller's task."""
        found = self.standing(what)
        if key is not None:
            return [entry for entry in found if entry.key == key]
        if value is not _ANYTHING:
            meaning = meaning_of(value)
            return [entry for entry in found if entry.meaning == meaning]
        return [entry for entry in found if entry.caller.task == caller.task]

    def _note(self, caller: Caller, op: Op, what: str, *, value: object, **fields: Any) -> None:
        place = sum(entry.caller == caller and entry.what == what and entry.op != "undo" for entry in self.entries)
        number, meaning = next(_numbers), meaning_of(value)
        self.entries.append(Entry(number=number, op=op, what=what, caller=caller, value=value, meaning=meaning, place=place, **fields))

    def standing(self, what: str | None = None) -> list[Entry]:
        """The effects (of that name) that happened and were not undone, in order."""
        gone = {number for entry in self.entries for number in entry.gone}
        return [entry for entry in self.entries if entry.op == "apply" and entry.number not in gone and what in (None, entry.what)]

    def state(self) -> dict[str, tuple[str, str]]:
        """Each attribute of each fake: its meaning, and how it looks."""
        return {
            f"{type(fake).__name__}.{name}": (meaning_of(value), f"{value!r:.120}")
            for fake, _ in self.fakes
            for name, value in vars(fake).items()
        }

    def reset(self) -> None:
        """Begin anew; fakes get the attributes that they had when they were wrapped."""
        self.entries, self.answers = [], {}
        for fake, state in self.fakes:
            _put(fake, copy.deepcopy(state))

    def put_back(self, kept: _Kept) -> None:
        """Be as it was, but for fakes that have come since."""
        self.entries, self.answers = kept.entries, kept.answers
        for (fake, _), state in zip(self.fakes, kept.fakes, strict=False):
            _put(fake, state)


def _put(fake: Any, state: dict[str, Any]) -> None:
    vars(fake).clear()
    vars(fake).update(state)


def meaning_of(value: object) -> str:
    """Equal for equal values; that of a value without a meaning is how it looks."""
    try:
        return fingerprints.fingerprint(value)
    except codec.NotSerializable:
        return repr(value)


class Effects:
    """See the top of this module. It may be given to tasks as an argument, too: it is not copied."""

    def __init__(self) -> None:
        self._book = Book()
        self._id = next(_numbers)
        _known[self._id] = self

    # --- for tasks and clients -------------------------------------------------------------------------------------------------

    def apply(self, what: str, *, key: str | None = None, value: object = None) -> bool:
        """The effect ``what`` happens. With a ``key`` that was used for it before, nothing happens and the answer is False."""
        caller = self._book.enter(what)
        happened = self._book.apply(caller, what, key, value)
        self._book.leave(what)
        return happened

    def undo(self, what: str, *, key: str | None = None, value: object = _ANYTHING) -> int:
        """Take back the effects ``what``: those with this key or value, or else those that this task has made. Returns how many stood."""
        caller = self._book.enter(f"undo of {what}")
        gone = self._book.undo(caller, what, key, value)
        self._book.leave(f"undo of {what}")
        return len(gone)

    def stands(self, what: str, *, key: str | None = None, value: object = _ANYTHING) -> bool:
        """Whether such an effect stands, chosen as by :meth:`undo`: what an ``on_unknown`` function asks."""
        return bool(self._book.chosen(self._book.caller(), what, key, value))

    def wrap(
        self, fake: Any, *, undo: Mapping[str, str] | None = None, reads: Sequence[str] = (), key: str | None = "idempotency_key"
    ) -> Any:
        """``fake``, with each call of a method being an effect that is named after the method and has the arguments as its value.

        Args:
            undo: methods that take back what another did for the same task: ``{"refund": "charge"}``.
            reads: methods that only look.
            key: the parameter that holds an idempotency key. A call with a known one gets the first answer again, and does not reach the
                fake. None: the fake sees to that itself, or nobody does.
        The attributes of the fake are what they were at the start in every run of crash_everywhere. Raises InvalidOptionError.
        """
        state = getattr(fake, "__dict__", None)
        if isinstance(state, dict) and not inspect.ismodule(fake) and not inspect.isclass(fake):
            try:
                self._book.fakes.append((fake, copy.deepcopy(state)))
            except Exception as error:
                reason = f"its attributes cannot be copied, so it could not begin anew in each run ({type(error).__name__}: {error})"
                raise InvalidOptionError(message=f"cannot wrap {fake!r:.60}: {reason}") from error
        return Wrapped(self._book, fake, dict(undo or {}), tuple(reads), key)

    # --- for tests -------------------------------------------------------------------------------------------------------------

    @property
    def entries(self) -> list[Entry]:
        """All that happened, in order."""
        return list(self._book.entries)

    def standing(self, what: str | None = None) -> list[Entry]:
        """The effects (of that name) that happened and were not undone, in order."""
        return self._book.standing(what)

    def count(self, what: str) -> int:
        """How many effects of that name stand."""
        return len(self._book.standing(what))

    def reset(self) -> None:
        """Forget everything; wrapped fakes get the attributes that they had when they were wrapped."""
        self._book.reset()

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self._id,)


def _find(number: int) -> Any:
    """Unpickling: not a copy, but the one that this process has."""
    found = _known.get(number)
    if found is None:
        raise LookupError("an Effects, or what it wraps, belongs to the process that made it; tasks in other processes cannot use it")
    return found


def _local(function: Any) -> Any:
    """``function`` belongs to one Wrapped and is not what an import of its name would give: as a task or rollback it must get a name of its
    own."""
    function.__qualname__ = f"<effects>.{function.__name__}"
    return function


class Wrapped:
    """What :meth:`Effects.wrap` gives."""

    def __init__(self, book: Book, fake: Any, undo: dict[str, str], reads: tuple[str, ...], key: str | None) -> None:
        unknown = [name for name in (*undo, *undo.values(), *reads) if not callable(getattr(fake, name, None))]
        if unknown:
            raise InvalidOptionError(message=f"cannot wrap {fake!r:.60}: it has no method '{unknown[0]}'")
        self._book, self._fake, self._undo, self._reads, self._key = book, fake, undo, reads, key
        self._id = next(_numbers)
        _known[self._id] = self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._book.caller()
        found = getattr(self._fake, name)
        if not callable(found) or name in self._reads:
            return found
        if inspect.iscoroutinefunction(found):

            @functools.wraps(found)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                call = self._begin(name, found, args, kwargs)
                return call.known() if call.is_known else call.tell(await found(*args, **kwargs))

            return _local(call_async)

        @functools.wraps(found)
        def call_now(*args: Any, **kwargs: Any) -> Any:
            call = self._begin(name, found, args, kwargs)
            return call.known() if call.is_known else call.tell(found(*args, **kwargs))

        return _local(call_now)

    def _begin(self, name: str, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _FakeCall:
        caller = self._book.enter(name)
        bound = inspect.signature(method).bind(*args, **kwargs).arguments
        key = bound.pop(self._key, None) if self._key is not None else None
        return _FakeCall(self._book, caller, name, self._undo.get(name), None if key is None else str(key), dict(bound))

    def __repr__(self) -> str:
        return f"<exoflow.testing effects of {self._fake!r:.60}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self._id,)


class _FakeCall:
    """One call of a fake's method. If that raises, nothing has happened."""

    def __init__(self, book: Book, caller: Caller, name: str, undoes: str | None, key: str | None, value: dict[str, Any]) -> None:
        self._book, self._caller, self._name, self._undoes, self._key, self._value = book, caller, name, undoes, key, value
        self.is_known = key is not None and (name, key) in book.answers

    def known(self) -> Any:
        return self.tell(self._book.answers[self._name, self._key or ""])

    def tell(self, answer: Any) -> Any:
        if self._undoes is not None:
            self._book.undo(self._caller, self._undoes)
        else:
            self._book.apply(self._caller, self._name, self._key, self._value)
            if self._key is not None:
                self._book.answers[self._name, self._key] = answer
        self._book.leave(self._name)
        return answer
