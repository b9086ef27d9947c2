"""This process's Spark session: given to whoever asks, and made anew when it is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from exoflow.errors import MissingExtraError
from exoflow.refs.base import deaths

try:
    from py4j.protocol import Py4JError, Py4JNetworkError
    from pyspark import SparkContext
    from pyspark.sql import SparkSession
except ImportError:
    raise MissingExtraError(feature="Spark", extra="spark") from None

GONE = (Py4JError, OSError)
"""What calls of a Java process raise that is not there, or no longer has what is called."""

before_another: list[Callable[[], object]] = []
"""Called when a session is found gone, before another is made."""
_lock = threading.RLock()
_session: SparkSession | None = None
_make: Callable[[], SparkSession] = SparkSession.builder.getOrCreate


def spark_factory(make: Callable[[], SparkSession]) -> Callable[[], SparkSession]:
    """Let ``make`` make this process's Spark sessions from now on; to be used as a decorator, before the first is asked for. By default,
    ``SparkSession.builder.getOrCreate()`` does."""
    global _make  # noqa: PLW0603 - it is a fact about the process
    with _lock:
        _make = make
    return make


def spark_session() -> SparkSession:
    """This process's Spark session. If there is none, or the one that was there is gone (stopped, or its Java process died), it is made,
    which takes some seconds. Ask in each task: a session must not be kept. Raises whatever making it raises."""
    global _session  # noqa: PLW0603 - it is a fact about the process
    with _lock:
        if _session is None or not is_alive(_session.sparkContext):
            for each in before_another:
                each()
            _bury()
            _session = _make()
        return _session


def is_alive(context: Any) -> bool:
    """Whether the SparkContext ``context`` can still be used."""
    java = context._jsc
    try:
        return java is not None and not java.sc().isStopped()
    except GONE:
        return False


def is_of_spark(error: BaseException) -> bool:
    """Whether ``error`` comes from a call of Spark's."""
    trace = error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__")).startswith(("py4j.", "pyspark.")):
            return True
        trace = trace.tb_next
    return type(error).__module__.startswith(("py4j.", "pyspark."))


def _died(error: BaseException) -> bool:
    """Whether ``error`` comes of the end of a session."""
    if not is_of_spark(error):
        return False
    session = _session
    return isinstance(error, (Py4JNetworkError, OSError)) or (session is not None and not is_alive(session.sparkContext))


def _bury() -> None:
    """Make pyspark forget a session that is gone: by itself it would go on calling a Java process that does not answer."""
    context = SparkContext._active_spark_context
    if context is not None and not is_alive(context):
        context._jsc = None  # there is nothing to stop on the other side
        context.stop()
        SparkSession._instantiatedSession = SparkSession._activeSession = None
    gateway = SparkContext._gateway
    if gateway is not None and not _answers(gateway):
        SparkContext._gateway = SparkContext._jvm = None
        gateway.shutdown()


def _answers(gateway: Any) -> bool:
    try:
        gateway.jvm.java.lang.System.nanoTime()
    except GONE:
        return False
    return True


deaths.append(_died)
