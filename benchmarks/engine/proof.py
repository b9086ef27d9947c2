"""Whether the work was done: what lies in a store's file after the engine has been closed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import apsw

from benchmarks.reading import require


def require_stored(path: Path, *, workflows: int, records: int, payload_bytes: int = 0) -> None:
    """So many workflows have succeeded, there are so many records in all, and at least so many bytes beside them in blobs.
    Raises RuntimeError."""
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        found = dict[Any, Any](db.execute("SELECT status, count(*) FROM heads GROUP BY status"))
        (count,) = db.execute("SELECT count(*) FROM journal").fetchall()[0]
    require(found, {"SUCCEEDED": workflows}, "workflows on disk")
    require(count, records, "records on disk")
    size = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
    require(size >= payload_bytes, True, f"{size} bytes on disk hold {payload_bytes}")
