"""DataFrames as Refs.

A DataFrame is a plan: whoever asks for its rows computes them, perhaps others each time. A Ref names data. So a DataFrame that a task
returns, or that is an argument, is computed then and there (*settled*), by an eager local checkpoint: executors keep its partitions, in
memory or on disk, and Spark forgets how they came about. What has lost a partition raises from then on, and never computes it again. The
DataFrame stays the same object, with the same columns.

When its session is gone, a DataFrame is made to raise RefLostError: in another Java process, the names of its objects may belong to
others.
"""

from __future__ import annotations

import contextlib
import copyreg
import re
import threading
from concurrent.futures import Future
from typing import Any, NamedTuple, NoReturn
from uuid import uuid4
from weakref import WeakValueDictionary

from exoflow import codec
from exoflow.backends.spark import parquet
from exoflow.backends.spark.sessions import GONE, before_another, is_alive, is_of_spark, spark_session
from exoflow.errors import InvalidOptionError, RefLostError
from exoflow.refs.base import register
from exoflow.refs.values import beside

try:
    from pyspark.sql.classic.dataframe import DataFrame
except ImportError as error:
    raise InvalidOptionError(message=f"DataFrames as Refs need pyspark 4.0 or newer: {error}") from None

KIND = f"{__name__}:FRAMES"
_MARK, _LOCK = "_exoflow_data", "_exoflow_lock"
_BLOCK = re.compile(r"\brdd_(\d+)_\d+")
TRIES = 3
"""So many sessions may die of the loading of one DataFrame."""
_frames: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""The settled DataFrames of this process by id."""


class _Data(NamedTuple):
    """What a settled DataFrame reads: ``blocks`` is its RDD in Java, with the number ``rdd``."""

    id: str
    blocks: Any
    rdd: int


class _Lost:
    """In place of the Java object of a DataFrame whose session is gone."""

    def __init__(self, ref: str) -> None:
        self._ref = ref

    def __getattr__(self, name: str) -> NoReturn:
        raise RefLostError(kind=KIND, ref=self._ref, reason="its Spark session is gone")


class Frames:
    """See the top of this module, and :class:`~exoflow.refs.base.RefAdapter`."""

    kind = KIND
    mutable = False
    portable = False

    def id(self, ref: Any) -> str:
        return _data_of(ref).id

    def get(self, ref: Any) -> Any:
        """The rows as a ``pyarrow.Table``, in the order of partitions."""
        return _checked(ref).toArrow()

    def checkpoint(self, ref: Any, id: str) -> Future[Any]:  # noqa: A002
        return beside(lambda: parquet.write(_checked(ref)), "spark")

    def restore(self, value: Any) -> Any:
        for _ in range(TRIES - 1):
            session = spark_session()
            try:
                return _restored(session, value)
            except Exception:
                if is_alive(session.sparkContext):
                    raise
        return _restored(spark_session(), value)

    def lost(self, error: BaseException) -> tuple[str, ...]:
        if isinstance(error, RefLostError):
            return (error.ref, *(_of_dead_sessions() - {error.ref})) if error.kind == KIND else ()
        return tuple(_of_dead_sessions() | _without_blocks(error)) if is_of_spark(error) else ()

    def release(self, ref: Any) -> None:
        with contextlib.suppress(*GONE):
            _data_of(ref).blocks.unpersist(False)


FRAMES = Frames()


def settle(frame: Any) -> None:
    """Compute ``frame`` unless that has been done, and let it read what came of it. Raises whatever computing raises."""
    known = vars(frame)
    with known.setdefault(_LOCK, threading.Lock()):
        if _MARK in known:
            return
        try:
            if frame.isStreaming:
                raise InvalidOptionError(message="a streaming DataFrame has no end, so it cannot be passed between tasks")
            made = frame.localCheckpoint(eager=True)
            blocks = made._jdf.queryExecution().analyzed().rdd()
            data = _Data(uuid4().hex, blocks, blocks.id())
        except Exception as error:
            if is_alive(frame.sparkSession.sparkContext):
                raise
            message = "a DataFrame of a Spark session that is gone: make it again, in exoflow.spark_session()"
            raise InvalidOptionError(message=message) from error
        frame._jdf = made._jdf
        known.pop("rdd", None)  # pyspark keeps it, and it would compute
        known[_MARK] = data
        _frames[data.id] = frame


def _restored(session: Any, value: Any) -> Any:
    with parquet.opened(session, value) as frame:
        settle(frame)
    return frame


def _data_of(frame: Any) -> _Data:
    settle(frame)
    return vars(frame)[_MARK]  # type: ignore[no-any-return]


def _checked(frame: Any) -> Any:
    """``frame``; raises RefLostError if its session is gone."""
    data = _data_of(frame)
    if not is_alive(frame.sparkSession.sparkContext):
        _of_dead_sessions()
        raise RefLostError(kind=KIND, ref=data.id, reason="its Spark session is gone")
    return frame


def _of_dead_sessions() -> set[str]:
    """The ids of the DataFrames whose sessions are gone. They are made to say so themselves."""
    alive: dict[Any, bool] = {}
    found = set()
    for ref, frame in list(_frames.items()):
        context = frame.sparkSession.sparkContext
        if context not in alive:
            alive[context] = is_alive(context)
        if not alive[context]:
            frame._jdf = _Lost(ref)
            vars(frame).pop("rdd", None)
            found.add(ref)
    return found


def _without_blocks(error: BaseException) -> set[str]:
    """The ids of the DataFrames of whose partitions ``error`` says that they are gone."""
    with contextlib.suppress(*GONE):
        text = str(error)
        if "CHECKPOINT_RDD_BLOCK_ID_NOT_FOUND" in text:
            rdds = {int(number) for number in _BLOCK.findall(text)}
            return {ref for ref, frame in list(_frames.items()) if vars(frame)[_MARK].rdd in rdds}
    return set()


def _refuse(_frame: Any) -> NoReturn:
    raise TypeError("a DataFrame cannot leave the process that has its Spark session; run this task on executor 'thread'")


register(FRAMES, DataFrame)
copyreg.pickle(DataFrame, _refuse)  # pyspark refuses as well, and speaks of something else
codec.settlers[DataFrame] = settle
before_another.append(_of_dead_sessions)
