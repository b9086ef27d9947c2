"""A disk that loses power: from a log of file operations, everything that it may hold afterwards.

What is assumed of a file system and a disk. It is what POSIX promises and no more, so harsher than ext4 or XFS in their usual modes:

* **Flushing a file** (``fsync``) makes its content and its size durable, as they are then. It says nothing about its name.
* **Flushing a folder** makes the names in it durable: those made, those removed, those moved in or out. It says nothing about content.
* **Anything else may or may not be there after a power loss, each operation for itself and in any order:** a later write without an
  earlier one, a name without the content of its file, a file moved in without having been moved out, or moved out and not yet in.
* **Writes tear.** Of one that was not flushed, each sector (512 or 4096 bytes) may hold what it held before, the new bytes, zeros, or
  garbage. A file may have got its new length without the data: then it holds zeros or garbage there.
* **What nobody wrote to stays as it is.** A torn write does no harm to bytes beside it ("power-safe overwrite", on which SQLite relies),
  and flushed data does not rot (that is for ``bitrot.py``).
* **A flush that returned is true.** Disks that lie about it are beyond any program.

Lock files are not part of it: they mean something only while a process holds them. Nor is SQLite's ``-shm`` file: it is made anew after a
crash.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import msgspec

from exoflow.testing.power import log
from exoflow.testing.power.log import Event

LOST, WHOLE, SECTORS, PAGES = 0, 1, 512, 4096
"""What may become of an operation that was not flushed; the last two: a write of which each piece of that size has a fate of its own."""
_ALL_SUBSETS_UP_TO = 10
_RANDOM_SUBSETS = 64
_RANDOM_TEARS = 48

Tree = dict[str, bytes | None]
"""What is on a disk: the content of files by path, None for a folder."""


class Choice(msgspec.Struct, frozen=True):
    """What became of the operations that were not flushed: one fate each, in their order. ``seed`` decides how writes are torn; with
    ``longer``, files may have a length for which they lack the data."""

    kind: str
    fates: tuple[int, ...]
    seed: int = 0
    longer: bool = False


class _Pending(msgspec.Struct):
    """An operation on a file (``event``), or on a name in a folder (``name`` now stands for ``target``, or nothing)."""

    at: int
    node: int
    event: log.Wrote | log.Resized | None = None
    name: str = ""
    target: int | None = None


class _Node(msgspec.Struct):
    """A file or folder: what of it is durable, and which operations are not."""

    is_folder: bool
    content: bytes = b""
    names: dict[str, int] = {}
    pending: list[_Pending] = []


class Disk:
    """Follows a log. At any moment it can say what is not flushed, and what there is if some of that is lost."""

    def __init__(self, tree: Tree) -> None:
        self._nodes = [_Node(is_folder=True)]
        self._now: dict[str, int] = {"": 0}
        self._count = 0
        for path, content in tree.items():  # a folder comes before what is in it
            node = len(self._nodes)
            self._nodes.append(_Node(is_folder=content is None, content=content or b""))
            folder, name = _split(path)
            self._nodes[self._now[folder]].names[name] = node
            self._now[path] = node

    def follow(self, event: Event) -> None:
        """Take in what happened next."""
        self._count += 1
        match event:
            case log.Made():
                assert event.node == len(self._nodes)
                self._nodes.append(_Node(is_folder=event.is_folder))
                self._name(event.path, event.node)
            case log.Wrote() | log.Resized():
                self._nodes[event.node].pending.append(_Pending(self._count, event.node, event))
            case log.Renamed():
                node = self._now[event.path]
                self._name(event.target, node)
                self._name(event.path, None)
            case log.Removed():
                self._name(event.path, None)
            case log.Flushed():
                node_flushed = self._nodes[event.node]
                if node_flushed.is_folder:
                    node_flushed.names = _names(node_flushed.names, node_flushed.pending)
                else:
                    node_flushed.content = _content(node_flushed.content, node_flushed.pending, None)
                node_flushed.pending = []
            case _:
                pass

    def _name(self, path: str, target: int | None) -> None:
        folder, name = _split(path)
        node = self._now[folder]
        self._nodes[node].pending.append(_Pending(self._count, node, None, name, target))
        if target is None:
            del self._now[path]
        else:
            self._now[path] = target

    def pending(self) -> list[_Pending]:
        """What is not flushed, in the order in which it happened."""
        return sorted((each for node in self._nodes for each in node.pending), key=lambda each: each.at)

    def tree(self, choice: Choice) -> Tree:
        """What is on the disk if ``choice`` is what became of ``pending()``."""
        chosen: dict[int, list[tuple[_Pending, int]]] = {}
        for pending, fate in zip(self.pending(), choice.fates, strict=True):
            chosen.setdefault(pending.node, []).append((pending, fate))
        found: Tree = {}
        self._grow(found, "", 0, chosen, choice)
        return found

    def _grow(self, tree: Tree, path: str, number: int, chosen: dict[int, list[tuple[_Pending, int]]], choice: Choice) -> None:
        node, fates = self._nodes[number], chosen.get(number, [])
        if not node.is_folder:
            rng = random.Random(choice.seed * 1_000_003 + number)
            survived = [pending for pending, fate in fates if fate != LOST]
            torn = {pending.at: fate for pending, fate in fates if fate > WHOLE}
            content = _content(node.content, survived, _Tearing(rng, torn)) if survived else node.content
            if choice.longer:
                content = _longer(content, [pending for pending, _ in fates], rng)
            tree[path] = content
            return
        if path:
            tree[path] = None
        for name, target in sorted(_names(node.names, [pending for pending, fate in fates if fate != LOST]).items()):
            self._grow(tree, f"{path}/{name}" if path else name, target, chosen, choice)


def choices(pending: list[_Pending], seed: int) -> Iterator[Choice]:
    """What may have become of ``pending``: all of it lost; the first so many survived; every subset, if there are few, or else some; and
    some in which writes are torn and files have lengths without data."""
    count = len(pending)
    rng = random.Random(seed)
    yield Choice("flushed only", (LOST,) * count)
    for survived in range(1, count + 1):
        yield Choice("up to a moment", (WHOLE,) * survived + (LOST,) * (count - survived))
    if count <= _ALL_SUBSETS_UP_TO:
        for bits in range(1 << count):
            yield Choice("subset", tuple(bits >> place & 1 for place in range(count)))
    else:
        for _ in range(_RANDOM_SUBSETS):
            share = rng.random()
            yield Choice("subset", tuple(int(rng.random() < share) for _ in range(count)))
    for _ in range(_RANDOM_TEARS if count else 0):
        yield _torn(pending, rng)


def _torn(pending: list[_Pending], rng: random.Random) -> Choice:
    lost, size = rng.random(), rng.choice((SECTORS, PAGES))
    fates = []
    for each in pending:
        fate = LOST if rng.random() < lost else WHOLE
        if isinstance(each.event, log.Wrote) and rng.random() < 0.5:
            fate = size
        fates.append(fate)
    return Choice("torn", tuple(fates), rng.getrandbits(32), longer=rng.random() < 0.5)


class _Tearing(msgspec.Struct):
    """How the writes of one file tear: the size of the pieces by operation."""

    rng: random.Random
    torn: dict[int, int]

    def pieces(self, pending: _Pending, wrote: log.Wrote) -> Iterator[tuple[int, bytes]]:
        """What reached the disk of a write, and where."""
        size = self.torn.get(pending.at)
        if size is None:
            yield wrote.offset, wrote.data
            return
        for sector in range(wrote.offset // size, math.ceil((wrote.offset + len(wrote.data)) / size)):
            begin = max(sector * size, wrote.offset)
            end = min((sector + 1) * size, wrote.offset + len(wrote.data))
            fate = self.rng.random()
            if fate < 0.4:
                yield begin, wrote.data[begin - wrote.offset : end - wrote.offset]
            elif fate < 0.55:
                yield begin, bytes(end - begin)
            elif fate < 0.7:
                yield begin, self.rng.randbytes(end - begin)


def _content(content: bytes, survived: list[_Pending], tearing: _Tearing | None) -> bytes:
    buffer = bytearray(content)
    for pending in survived:
        event = pending.event
        if isinstance(event, log.Resized):
            del buffer[event.size :]
            buffer.extend(bytes(event.size - len(buffer)))
        elif event is not None:
            for offset, data in tearing.pieces(pending, event) if tearing else ((event.offset, event.data),):
                if offset > len(buffer):
                    buffer.extend(bytes(offset - len(buffer)))
                buffer[offset : offset + len(data)] = data
    return bytes(buffer)


def _longer(content: bytes, pending: list[_Pending], rng: random.Random) -> bytes:
    """The file may be as long as any write would have made it."""
    sizes = [pending.event.offset + len(pending.event.data) for pending in pending if isinstance(pending.event, log.Wrote)]
    missing = max(sizes, default=0) - len(content)
    if missing <= 0 or rng.random() < 0.3:
        return content
    return content + (bytes(missing) if rng.random() < 0.5 else rng.randbytes(missing))


def _names(names: dict[str, int], survived: list[_Pending]) -> dict[str, int]:
    names = dict(names)
    for pending in survived:
        if pending.target is None:
            names.pop(pending.name, None)
        else:
            names[pending.name] = pending.target
    return names


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name
