"""Damage as a disk does it: below everything that guards a store."""

from __future__ import annotations

from pathlib import Path

import apsw
import apsw.sqlite_extra

from exoflow.store.sqlite import _NUMBER, _RETIRED


def change_payload(url: str, workflow_id: str, *, seq: int, at: int = -1) -> None:
    """Change one byte of an inline value. (Row by row through SQLite, so that the page checksums are right: the digest must find it.)"""
    db = apsw.Connection(url.removeprefix("sqlite:"), vfs="cksmvfs")
    db.set_busy_timeout(5000)  # an engine that is open shows life meanwhile
    try:
        (number,) = next(db.execute("SELECT number FROM heads WHERE workflow_id = ?", (workflow_id,)))
        rows = (number * _NUMBER + seq, number * _NUMBER + _RETIRED + seq)
        (payload,) = next(db.execute("SELECT payload FROM journal WHERE id IN (?, ?)", rows))
        changed = bytearray(payload)
        changed[at] ^= 1
        db.execute("UPDATE journal SET payload = ? WHERE id IN (?, ?)", (bytes(changed), *rows))
    finally:
        db.close()


def blobs(url: str) -> list[Path]:
    """The files of the blobs of a store."""
    path = Path(url.removeprefix("sqlite:"))
    return sorted(file for file in path.with_name(path.name + "-blobs").glob("??/*") if file.is_file())


def change_file(path: Path, at: int = -1) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
