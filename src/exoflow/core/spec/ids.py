"""Names: their grammar, and how tasks of a sub-workflow get theirs."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence

from exoflow.errors import InvalidIdError

ID_LENGTH_MAX = 200
_ALLOWED = re.compile(r"[A-Za-z0-9._:-]")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")
_HINT = "1-200 of A-Z a-z 0-9 . _ : -, beginning with a letter or digit"

UNEXECUTED = 0
"""Version of a task that has not run."""
UNKNOWN = -1
"""Version of a task that ran in an earlier life of the workflow and left no record: something durable was built on it."""


def check_id(value: object, what: str = "workflow_id") -> str:
    """``value`` if it is a well-formed id. Raises InvalidIdError naming the first character that is not allowed."""
    if not isinstance(value, str):
        raise InvalidIdError(message=f"{what} must be str, got {type(value).__name__} ({value!r:.40}); use str(...)")
    if not value.strip():
        raise InvalidIdError(message=f"{what} is empty; omit it to get a generated id, or pass {_HINT}")
    if len(value) > ID_LENGTH_MAX:
        raise InvalidIdError(message=f"{what} has {len(value)} characters; the limit is {ID_LENGTH_MAX}")
    if _ID.fullmatch(value) and ".." not in value:
        return value
    for position, char in enumerate(value):
        if not _ALLOWED.match(char):
            import unicodedata

            shown = f"'{char}'" if char.isprintable() and char.isascii() else f"U+{ord(char):04X}"
            name = unicodedata.name(char, "a control character")
            raise InvalidIdError(message=f"{what} contains {shown} ({name}) at position {position}; allowed are {_HINT}")
    raise InvalidIdError(message=f"{what} {value!r:.60} is malformed: {_HINT}, and no '..'")


def child_scope(parent: str, *, tail: bool) -> str:
    """The prefix of the tasks of the sub-workflow that ``parent`` returned.

    A task in tail position (its output is its own parent's output) reuses its parent's prefix with a generation number, so that a
    loop written as recursion has names of constant length: ``f``, ``f/f``, ``f~2/f``, ``f~3/f``, …
    """
    if tail:
        prefix = parent.rpartition("/")[0]
        base, mark, generation = prefix.rpartition("~")
        return f"{base}~{int(generation) + 1}" if mark and generation.isdigit() else f"{prefix}~2"
    if len(parent) > ID_LENGTH_MAX:
        return "deep." + hashlib.blake2b(parent.encode(), digest_size=12).hexdigest()
    return parent


def basis_of(versions: Sequence[int]) -> int:
    """One number for the versions of all inputs, in order: equal exactly when they are (63 bits of BLAKE2b)."""
    return _number(struct.pack(f"<{len(versions)}q", *versions)) if versions else _BASIS_OF_NOTHING


def derived_version(task: str, basis: int) -> int:
    """The version that a deterministic task makes of inputs with this basis: a function of both, in every process."""
    return _number(struct.pack("<q", basis) + task.encode())


def drawn_version(task: str, epoch: int, attempt: int) -> int:
    """The version that this attempt of a nondeterministic task makes. Epochs only grow, so no other attempt of any task ever makes it."""
    return _number(struct.pack("<qq", epoch, attempt) + task.encode())


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1 | 1


_BASIS_OF_NOTHING = _number(b"")
