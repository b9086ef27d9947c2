"""A settled DataFrame to parquet and back: as the bytes of the files, or, where the session names a folder for it, as their addresses.

Columns are called 0, 1, 2, … in the files, so that any names will do, and each file is one partition, in order. A folder is written once,
under a name of its own. It counts when the Future of the checkpoint has its list of files, so that half a folder is never read, and a file
that went missing is an error.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyspark.errors import PySparkException
from pyspark.sql.types import StructType

from exoflow.errors import InvalidOptionError, PayloadUnreadableError

FOLDER = "spark.exoflow.checkpoints"
"""The option of a session that names a folder which all its executors, and later sessions, can reach."""
_LOCAL = "file://"


def write(frame: Any) -> dict[str, Any]:
    """Save ``frame``: ``names`` of its columns, ``schema`` in the files, and the ``files``, each an address or its content."""
    session, names = frame.sparkSession, frame.columns
    plain = frame.toDF(*map(str, range(len(names))))
    about = {"names": names, "schema": plain.schema.jsonValue()}
    shared = session.conf.get(FOLDER, None)
    if shared is not None:
        folder = f"{shared.rstrip('/')}/{uuid4().hex}"
        files = _write(plain, folder)
        _flush(folder)
        return {**about, "files": files}
    if not session.sparkContext.master.startswith("local"):
        raise InvalidOptionError(message=f"on a cluster, the option {FOLDER} of the Spark session must name a folder that all nodes share")
    with tempfile.TemporaryDirectory(prefix="exoflow-spark-") as temporary:
        files = _write(plain, f"{_LOCAL}{temporary}/frame")
        return {**about, "files": [_mapped(file.removeprefix(_LOCAL)) for file in files]}


def _write(frame: Any, folder: str) -> list[str]:
    frame.write.parquet(folder)
    found = frame.sparkSession.read.schema(frame.schema).parquet(folder).inputFiles()
    return [f"{folder}/{name}" for name in sorted(each.rpartition("/")[2] for each in found)]


def _mapped(file: str) -> pickle.PickleBuffer:
    """The content of a file, which may be deleted then."""
    with open(file, "rb") as opened:
        return pickle.PickleBuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))


def _flush(folder: str) -> None:
    """Flush what was written, if it is a folder that this machine sees as one."""
    path = Path(folder.removeprefix(_LOCAL))
    if path.is_dir():
        for each in (*path.iterdir(), path, path.parent):
            descriptor = os.open(each, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextmanager
def opened(session: Any, value: dict[str, Any]) -> Iterator[Any]:
    """A DataFrame that reads what :func:`write` gave, to be computed before this ends. Raises PayloadUnreadableError if there is a file
    that cannot be read."""
    schema, files = StructType.fromJson(value["schema"]), value["files"]
    with tempfile.TemporaryDirectory(prefix="exoflow-spark-") as temporary:
        for number, file in enumerate(files):
            if not isinstance(file, str):
                Path(temporary, f"{number}.parquet").write_bytes(file)
        paths = [file if isinstance(file, str) else f"{_LOCAL}{temporary}/{number}.parquet" for number, file in enumerate(files)]
        reader = session.read.schema(schema).options(ignoreMissingFiles=False, ignoreCorruptFiles=False)
        try:
            parts = [reader.parquet(path) for path in paths] or [session.createDataFrame([], schema)]
            while len(parts) > 1:  # in pairs, which Spark plans faster than a long chain
                parts = [one.union(parts[at + 1]) if at + 1 < len(parts) else one for at, one in enumerate(parts) if at % 2 == 0]
            yield parts[0].toDF(*value["names"])
        except PySparkException as error:
            raise PayloadUnreadableError(what="a saved DataFrame", reason=str(error)) from error
