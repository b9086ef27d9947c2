"""An outside world that remembers: a process of its own that writes down what tasks do to it, and a judge of what it wrote.

It is what an engine cannot fake. The ledger keeps one *book* per workflow, an append-only file, flushed before it answers, so that what a
task was told is true whatever is killed afterwards. Three parts:

* :class:`Ledger` starts the process and ends it; :func:`main` is that process.
* Tasks call :func:`note`, :func:`began`, :func:`apply`, :func:`undo`, :func:`standing`. Their values carry provenance (:class:`Traced`):
  which draw of each nondeterministic task they have seen. So a book tells afterwards whether all that survived goes back to one run.
* :class:`Book` reads a book and judges it: each effect stands once, everything that survives agrees on every draw, rollbacks got the very
  values of their tasks, and came in reverse order.

A :class:`Trap` makes the ledger a murderer: it kills a process when a certain entry arrives, before or after writing it down. No moment of
a crash is more telling than "the effect happened, and nobody was told".
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from exoflow.worker.context import current_task

ADDRESS = "EXOFLOW_LEDGER"
"""Environment variable: where the ledger listens."""
LIFE = "EXOFLOW_LEDGER_LIFE"
"""Environment variable: the number of the life that a process belongs to, for the reader of a book."""

_DEADLINE_S = 10.0
_DETERMINISTIC = 0

Op = Literal["note", "began", "apply", "undo", "torn", "killed"]


# --- values that know their past -----------------------------------------------------------------------------------------------


class Traced(msgspec.Struct, frozen=True):
    """A value that says what it comes from: ``seen`` maps each nondeterministic task that it depends on to the draw that it saw.
    ``digest`` stands for the value itself: a function of the task, its draw and its inputs. ``cargo`` makes it as large as a test wants."""

    digest: str
    seen: dict[str, int] = {}
    cargo: bytes = b""


def trace(task: str, inputs: Iterable[Traced], draw: int = _DETERMINISTIC, cargo: bytes = b"") -> Traced:
    """What ``task`` makes of ``inputs``; ``draw`` is 0 for a deterministic task. Raises ValueError if inputs disagree on a draw."""
    given = list(inputs)
    seen = merged(given)
    if draw != _DETERMINISTIC:
        seen[task] = draw
    return Traced(_digest(task, str(draw), *(one.digest for one in given)), dict(sorted(seen.items())), cargo)


def merged(values: Iterable[Traced]) -> dict[str, int]:
    """All that ``values`` have seen. Raises ValueError naming the task on whose draw they disagree."""
    seen: dict[str, int] = {}
    for value in values:
        for task, draw in value.seen.items():
            if seen.setdefault(task, draw) != draw:
                raise ValueError(f"draws {seen[task]} and {draw} of '{task}' meet")
    return seen


def find_traced(value: Any) -> Iterator[Traced]:
    """Every Traced in ``value``, however deep in lists, tuples, dicts and the arguments of exceptions."""
    if isinstance(value, Traced):
        yield value
    elif isinstance(value, BaseException):
        yield from find_traced(value.args)
    elif isinstance(value, dict):
        yield from find_traced(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from find_traced(item)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


# --- what is written and said ----------------------------------------------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a book. ``number`` counts from 1 over all books, so it is also the source of draws. ``what`` names a note or an effect.

    Of an effect: ``key`` is its idempotency key if the outside honours it, ``again`` says that it was known by that key and so nothing
    happened, ``inputs`` is the digest of the arguments, ``seen`` their provenance, ``draw`` the task's own, ``gone`` the numbers of the
    effects that an undo took away.
    """

    op: Op
    book: str
    number: int = 0
    what: str = ""
    task: str = ""
    attempt: int = 0
    epoch: int = 0
    key: str = ""
    again: bool = False
    inputs: str = ""
    seen: dict[str, int] = {}
    draw: int = 0
    gone: tuple[int, ...] = ()
    life: int = 0
    pid: int = 0


class Trap(msgspec.Struct, frozen=True, kw_only=True):
    """Kill when the ``hit``-th entry from now on arrives that fits: of this life, and of this ``op``, ``what`` and ``task`` (empty: any).

    ``victim``: the process ``pid`` (``engine``), it and all its descendants (``family``), or whoever sent the entry unless that is
    ``pid`` (``worker``). ``when``: before the entry is written, and then it is lost unless its sender survives; or after, unanswered.
    """

    life: int
    pid: int
    hit: int
    op: Literal["", "note", "began", "apply", "undo"] = ""
    what: str = ""
    task: str = ""
    victim: Literal["engine", "family", "worker"] = "engine"
    when: Literal["before", "after"] = "after"

    def fits(self, entry: Entry) -> bool:
        """Whether ``entry`` counts."""
        return (
            entry.life == self.life
            and self.op in ("", entry.op)
            and self.what in ("", entry.what)
            and self.task in ("", entry.task)
            and (self.victim != "worker" or (bool(entry.task) and entry.pid != self.pid))
        )


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client sends: an entry to write, with traps to set for its book or a question about a task's effect; or a book to shut."""

    entry: Entry | None = None
    traps: tuple[Trap, ...] = ()
    standing: tuple[str, str] | None = None
    shut: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``count`` is how many entries of that task with that ``op`` and ``what`` there are now. ``found`` answers ``standing``."""

    number: int = 0
    count: int = 0
    again: bool = False
    found: Entry | None = None


_encode = msgspec.json.encode
_decode_entry = msgspec.json.Decoder(Entry).decode
_decode_question = msgspec.json.Decoder(Question).decode
_decode_reply = msgspec.json.Decoder(Reply).decode


answerers: list[Callable[[Question], Reply]] = []
"""Whoever answers in this process, instead of the one at :data:`ADDRESS`; the last one counts. See ``notebook.py``."""

# --- for tasks -------------------------------------------------------------------------------------------------------------------


class LedgerError(Exception):
    """The ledger is not there, or refused."""


def note(what: str, *, book: str = "") -> int:
    """Write ``what`` down, inside a task or (with ``book``) outside. Returns how often this task has noted that, this time included."""
    return _ask(Question(entry=_entry("note", what, book))).count


def began(what: str = "") -> tuple[int, int]:
    """To be called first in each task: that it runs. Returns a number that nobody else ever gets (a draw for nondeterministic tasks), and
    how often this task began, this time included."""
    reply = _ask(Question(entry=_entry("began", what)))
    return reply.number, reply.count


def torn(why: str) -> None:
    """Two inputs of this task disagree: something that must never happen, and counts as a violation."""
    _ask(Question(entry=_entry("torn", why)))


def apply(what: str, inputs: Sequence[Traced], *, draw: int = _DETERMINISTIC, once: bool = False) -> bool:
    """The external output of this task. ``once``: the outside honours idempotency keys. Returns whether it happened now (False: the key
    was known)."""
    key = current_task().idempotency_key if once else ""
    seen = merged(inputs)
    entry = msgspec.structs.replace(_entry("apply", what), key=key, inputs=_inputs(inputs), seen=seen, draw=draw)
    return not _ask(Question(entry=entry)).again


def undo(what: str, inputs: Sequence[Traced]) -> None:
    """Take this task's external output back, if it stands. For rollback functions; ``inputs`` are what the rollback got."""
    _ask(Question(entry=msgspec.structs.replace(_entry("undo", what), inputs=_inputs(inputs))))


def standing(what: str) -> Entry | None:
    """The external output of this task that stands, or None. For ``on_unknown`` functions."""
    context = current_task()
    return stands(context.workflow_id, context.task_id, what)


def stands(book: str, task: str, what: str) -> Entry | None:
    """The same, for a person who looks from outside."""
    return _ask(
        Question(entry=Entry(op="note", book=book, task=task, what="looked", life=_life(), pid=os.getpid()), standing=(task, what))
    ).found


def enter(book: str, traps: tuple[Trap, ...] = ()) -> None:
    """A process begins a life (see :data:`LIFE`) and, to test, sets traps for itself."""
    _ask(Question(entry=_entry("note", "life", book), traps=traps))


def _entry(op: Op, what: str, book: str = "") -> Entry:
    if book:
        return Entry(op=op, book=book, what=what, life=_life(), pid=os.getpid())
    here = current_task()
    return Entry(
        op=op,
        book=here.workflow_id,
        what=what,
        task=here.task_id,
        attempt=here.attempt,
        epoch=here.epoch,
        life=_life(),
        pid=os.getpid(),
    )


def _life() -> int:
    return int(os.environ.get(LIFE, "0"))


def _inputs(values: Sequence[Traced]) -> str:
    return _digest(*(value.digest for value in values))


def _ask(question: Question) -> Reply:
    """A connection for each question: nothing is shared between threads or over a fork, and nothing is left half-said."""
    if answerers:
        return answerers[-1](question)
    address = os.environ.get(ADDRESS)
    if not address:
        raise LedgerError(f"{ADDRESS} is not set: no ledger was started")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_DEADLINE_S)
        try:
            sock.connect(address)
            sock.sendall(_encode(question) + b"\n")
            answer = _line(sock)
        except OSError as error:
            raise LedgerError(f"the ledger at {address} does not answer: {error}") from error
    if not answer:
        raise LedgerError(f"the ledger at {address} refused")
    return _decode_reply(answer)


def _line(sock: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        more = sock.recv(65536)
        if not more:
            return b""
        received += more
    return bytes(received)


# --- the process -----------------------------------------------------------------------------------------------------------------


class Account:
    """What stands in a book, kept while it is written."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, str], int] = {}
        self.keys: set[tuple[str, str]] = set()
        self.stand: dict[tuple[str, str], list[Entry]] = {}

    def take(self, entry: Entry) -> Entry:
        """What is to be written: what the outside world makes of what it was told."""
        here = (entry.task, entry.what)
        if entry.op == "apply":
            again = bool(entry.key) and (entry.task, entry.key) in self.keys
            entry = msgspec.structs.replace(entry, again=again)
            if not again:
                self.stand.setdefault(here, []).append(entry)
                self.keys.add((entry.task, entry.key))
        elif entry.op == "undo":
            gone = self.stand.pop(here, [])
            entry = msgspec.structs.replace(entry, gone=tuple(one.number for one in gone))
        counted = (entry.op, *here)
        self.counts[counted] = self.counts.get(counted, 0) + 1
        return entry

    def reply(self, entry: Entry, standing: tuple[str, str] | None) -> Reply:
        """What to say to whoever sent ``entry``, after it was taken."""
        count = self.counts[entry.op, entry.task, entry.what]
        return Reply(number=entry.number, count=count, again=entry.again, found=self.stand.get(standing, [None])[0] if standing else None)


class _Page(Account):
    """A book while it is written, and who is to be killed at which entry."""

    def __init__(self, path: Path, written: Iterable[Entry]) -> None:
        super().__init__()
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.traps: list[tuple[Trap, int]] = []
        for entry in written:
            self.take(entry)

    def sprung(self, entry: Entry) -> Trap | None:
        """The trap that this entry springs, if any."""
        for index, (trap, hits) in enumerate(self.traps):
            if trap.fits(entry):
                if hits + 1 >= trap.hit:
                    del self.traps[index]
                    return trap
                self.traps[index] = (trap, hits + 1)
        return None


class _Clerk:
    """Answers one question at a time, in the order in which they come."""

    def __init__(self, folder: Path, *, flush: bool) -> None:
        self.folder, self.flush = folder, flush
        self.pages: dict[str, _Page] = {}
        self.number = 0

    def serve(self, sock: socket.socket) -> None:
        """Take one question from ``sock`` and answer it."""
        sock.settimeout(_DEADLINE_S)
        line = _line(sock)
        if line:
            reply = self.answer(_decode_question(line))
            if reply is not None:
                sock.sendall(_encode(reply) + b"\n")

    def answer(self, question: Question) -> Reply | None:
        """What to say; None if whoever asked is dead."""
        entry = question.entry
        if entry is None:
            self._shut(question.shut)
            return Reply()
        page = self.pages.get(entry.book) or self._open(entry.book)
        trap = page.sprung(entry)
        page.traps += [(new, 0) for new in question.traps]
        asker_dies = trap is not None and (trap.victim != "engine" or trap.pid == entry.pid)
        if trap is not None and trap.when == "before":
            self._kill(page, trap, entry)
            if asker_dies:
                return None
        written = self._write(page, entry)
        if trap is not None and trap.when == "after":
            self._kill(page, trap, entry)
        if asker_dies:
            return None
        return page.reply(written, question.standing)

    def _open(self, book: str) -> _Page:
        path = self.folder / f"{book}.jsonl"
        written = Book.read(path).entries
        page = self.pages[book] = _Page(path, written)
        self.number = max([self.number, *(entry.number for entry in written)])
        if self.flush:
            fd = os.open(self.folder, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        return page

    def _shut(self, book: str) -> None:
        page = self.pages.pop(book, None)
        if page is not None:
            os.close(page.file)

    def _write(self, page: _Page, entry: Entry) -> Entry:
        self.number += 1
        entry = page.take(msgspec.structs.replace(entry, number=self.number))
        os.write(page.file, _encode(entry) + b"\n")
        if self.flush:
            os.fsync(page.file)
        return entry

    def _kill(self, page: _Page, trap: Trap, entry: Entry) -> None:
        told = f"{trap.victim} by a trap, {trap.when} {entry.op} {entry.what} of {entry.task}"
        self._write(page, Entry(op="killed", book=entry.book, what=told, life=trap.life, pid=trap.pid))
        if trap.victim == "worker":
            _kill(entry.pid)
        elif trap.victim == "engine":
            _kill(trap.pid)
        else:
            for pid in (trap.pid, *descendants(trap.pid)):
                _kill(pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, from /proc; parents first."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_text("ascii").split()]
    return found + [below for child in found for below in descendants(child)]


def main(folder: str, address: str, flush: str) -> None:
    """Serve until standard input closes."""
    clerk = _Clerk(Path(folder), flush=flush == "flush")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen(128)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            for ready, _ in selector.select():
                if ready.fileobj == 0:
                    return
                sock, _ = listener.accept()
                with sock, contextlib.suppress(OSError):  # whoever asked was killed meanwhile
                    clerk.serve(sock)


class Ledger:
    """A ledger with its books in ``folder``. A context manager; while it is open, tasks of this process and its children find it."""

    def __init__(self, folder: Path, *, flush: bool = True) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._nook = tempfile.mkdtemp(prefix="exo-")  # the address of a socket must be short
        address = str(Path(self._nook, "ledger"))
        command = [sys.executable, "-m", "exoflow.testing.ledger", str(folder), address, "flush" if flush else "loose"]
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise LedgerError(f"the ledger did not start (exit code {self._process.wait()})")
        self.pid = self._process.pid
        self._before = os.environ.get(ADDRESS)
        os.environ[ADDRESS] = address

    def shut(self, name: str) -> None:
        """Nothing more is expected in this book; it is opened again if something comes."""
        _ask(Question(shut=name))

    def book(self, name: str) -> Book:
        """The book of a workflow, as it stands now."""
        return Book.read(self.folder / f"{name}.jsonl")

    def close(self) -> None:
        """End the process. Twice is no error."""
        if self._process.stdin is None or self._process.stdin.closed:
            return
        self._process.communicate()
        shutil.rmtree(self._nook, ignore_errors=True)
        if self._before is None:
            os.environ.pop(ADDRESS, None)
        else:
            os.environ[ADDRESS] = self._before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- the judge -------------------------------------------------------------------------------------------------------------------


class Book:
    """What was written of one workflow, and what follows from it."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)

    @classmethod
    def read(cls, path: Path) -> Book:
        """The book in ``path``; an empty one if there is none. A last line that is not whole is left out: nobody was told of it."""
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return cls(_decode_entry(line) for line in lines)

    def effects(self) -> list[Entry]:
        """Those that stand: happened, and were not undone."""
        gone = {number for entry in self.entries for number in entry.gone}
        return [entry for entry in self.entries if entry.op == "apply" and not entry.again and entry.number not in gone]

    def counts(self) -> dict[str, int]:
        """How many effects of each name stand."""
        counted: dict[str, int] = {}
        for entry in self.effects():
            counted[entry.what] = counted.get(entry.what, 0) + 1
        return counted

    def violations(self, *results: Any, cancelled: bool = False) -> list[str]:
        """What contradicts exactly-once, one line each. ``results`` are what the caller got: they must agree with the effects. If the
        workflow was ``cancelled`` with rollback, what was committed stays, whatever it was built on."""
        found = [f"{entry.task} (entry {entry.number}): {entry.what}" for entry in self.entries if entry.op == "torn"]
        return [*found, *self._misapplied(), *self._misundone(cancelled=cancelled), *self._disagreements(*results)]

    def _misapplied(self) -> Iterator[str]:
        """An effect without a key must not happen while it stands; one with a key must always have the same key and inputs."""
        up: dict[tuple[str, str], Entry] = {}
        keyed: dict[tuple[str, str], Entry] = {}
        for entry in self.entries:
            here = (entry.task, entry.what)
            if entry.op == "undo":
                up.pop(here, None)
            elif entry.op == "apply" and not entry.key:
                if here in up:
                    yield f"'{entry.what}' of {entry.task} was applied at {up[here].number} and, not undone, again at {entry.number}"
                up[here] = entry
            elif entry.op == "apply":
                first = keyed.setdefault(here, entry)
                if first.key != entry.key:
                    yield f"'{entry.what}' of {entry.task} was committed under two keys, at {first.number} and {entry.number}"
                elif (first.inputs, first.seen) != (entry.inputs, entry.seen):
                    yield f"'{entry.what}' of {entry.task} came with one key and two inputs, at {first.number} and {entry.number}"

    def _misundone(self, *, cancelled: bool) -> Iterator[str]:
        """A rollback gets what its task got, and comes after those of everything that has seen the task's draw."""
        up: dict[int, Entry] = {}
        for entry in self.entries:
            if entry.op == "apply" and not entry.again:
                up[entry.number] = entry
            for number in entry.gone:
                effect = up.pop(number)
                if effect.inputs != entry.inputs:
                    yield f"the rollback of {entry.task} at {entry.number} got other values than the task at {number}"
                if effect.attempt != entry.attempt:
                    yield f"the rollback of {entry.task} at {entry.number} is of attempt {entry.attempt}, the effect of {effect.attempt}"
                if effect.draw == _DETERMINISTIC:
                    continue  # it may be made again, the same
                for other in up.values():
                    if other.seen.get(effect.task) == effect.draw and not (cancelled and other.key):
                        yield f"{entry.task} was undone at {entry.number} while '{other.what}' of {other.task}, which saw it, stood"

    def _disagreements(self, *results: Any) -> Iterator[str]:
        """All that survives must have seen one draw of each task."""
        truth: dict[str, tuple[int, str]] = {}
        survivors = [(f"'{entry.what}' of {entry.task} (entry {entry.number})", _whole(entry)) for entry in self.effects()]
        survivors += [("the result", value.seen) for value in find_traced(results)]
        for who, seen in survivors:
            for task, draw in seen.items():
                known, other = truth.setdefault(task, (draw, who))
                if known != draw:
                    yield f"{other} saw draw {known} of {task}, but {who} saw draw {draw}"

    def story(self) -> str:
        """The book in words, for people."""
        return "\n".join(_in_words(entry) for entry in self.entries)


def _whole(entry: Entry) -> dict[str, int]:
    return entry.seen if entry.draw == _DETERMINISTIC else {**entry.seen, entry.task: entry.draw}


def _in_words(entry: Entry) -> str:
    who = f"{entry.task} (epoch {entry.epoch}, attempt {entry.attempt}) " if entry.task else ""
    text = f"{entry.number:>7}  life {entry.life:<2} {who}{entry.op} {entry.what}"
    for name in ("key", "inputs"):
        if value := getattr(entry, name):
            text += f" {name}={value[:8]}"
    if entry.draw:
        text += f" draw={entry.draw}"
    if entry.seen:
        text += f" saw {entry.seen}"
    if entry.gone:
        text += f" (took back {', '.join(map(str, entry.gone))})"
    return text + (" (known, nothing happened)" if entry.again else "")


if __name__ == "__main__":
    main(*sys.argv[1:4])
