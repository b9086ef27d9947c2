"""The default engine behind ``exoflow.run`` and its siblings: opened when first needed, closed when the process ends."""

from __future__ import annotations

import atexit
import os
from typing import Any

from exoflow.client.engine import Engine
from exoflow.client.intake import Dag, Mode, OnExisting, OnFailure, refuse_import
from exoflow.client.report import WorkflowReport
from exoflow.core.state import Status
from exoflow.runtime.recover import OnCodeChange
from exoflow.runtime.run import WorkflowFuture
from exoflow.runtime.threads import SYSTEM_THREADS
from exoflow.store.base import Collected, Head

_lock = SYSTEM_THREADS.lock()
_engine: Engine | None = None
_opened_in = 0


def default_engine() -> Engine:
    """The engine on EXOFLOW_STORE, or on ``.exoflow/exoflow.db`` of the working directory. A forked child gets one of its own.

    Raises WrongContextError while a script is imported for its tasks only."""
    global _engine, _opened_in  # noqa: PLW0603 - there is one per process
    refuse_import()
    with _lock:
        if _engine is None or _opened_in != os.getpid():
            _engine = Engine()
            _opened_in = os.getpid()
            atexit.register(_engine.close)
        return _engine


def run(dag: Dag, /, *args: Any, name: str | None = None, **kwargs: Any) -> Any:
    """:meth:`Engine.run` on the default engine."""
    return default_engine().run(dag, *args, name=name, **kwargs)


def run_async(
    dag: Dag,
    /,
    *args: Any,
    name: str | None = None,
    workflow_id: str | None = None,
    mode: Mode = "strict",
    on_existing: OnExisting = "attach",
    on_failure: OnFailure = "keep",
    on_code_change: OnCodeChange = "fail",
    **kwargs: Any,
) -> WorkflowFuture:
    """:meth:`Engine.run_async` on the default engine."""
    return default_engine().run_async(
        dag,
        *args,
        name=name,
        workflow_id=workflow_id,
        mode=mode,
        on_existing=on_existing,
        on_failure=on_failure,
        on_code_change=on_code_change,
        **kwargs,
    )


def resume(name: str, **options: Any) -> WorkflowFuture:
    """:meth:`Engine.resume` on the default engine."""
    return default_engine().resume(name, **options)


def resume_all(**options: Any) -> dict[str, WorkflowFuture]:
    """:meth:`Engine.resume_all` on the default engine."""
    return default_engine().resume_all(**options)


def wait(name: str, timeout: float | None = None) -> Any:
    """:meth:`Engine.wait` on the default engine."""
    return default_engine().wait(name, timeout)


def get_status(name: str) -> Status:
    """:meth:`Engine.get_status` on the default engine."""
    return default_engine().get_status(name)


def get_output(name: str, *, task: str | None = None) -> Any:
    """:meth:`Engine.get_output` on the default engine."""
    return default_engine().get_output(name, task=task)


def get_metadata(name: str) -> WorkflowReport:
    """:meth:`Engine.get_metadata` on the default engine."""
    return default_engine().get_metadata(name)


def story(name: str, task: str | None = None) -> str:
    """:meth:`Engine.story` on the default engine."""
    return default_engine().story(name, task)


def list_all(*statuses: str) -> list[Head]:
    """:meth:`Engine.list_all` on the default engine."""
    return default_engine().list_all(*statuses)


def cancel(name: str, *, rollback: bool = False) -> None:
    """:meth:`Engine.cancel` on the default engine."""
    default_engine().cancel(name, rollback=rollback)


def delete(name: str) -> None:
    """:meth:`Engine.delete` on the default engine."""
    default_engine().delete(name)


def collect_garbage(*, grace_s: float = 3600.0, dry_run: bool = False) -> Collected:
    """:meth:`Engine.collect_garbage` on the default engine."""
    return default_engine().collect_garbage(grace_s=grace_s, dry_run=dry_run)
