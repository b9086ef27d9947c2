"""``exoflow audit`` for tests."""

from __future__ import annotations

from exoflow.client.audit import Audited
from exoflow.client.audit import audit as audit_tasks
from exoflow.client.engine import Engine
from exoflow.store.base import Store

__all__ = ["Audited", "audit"]


def audit(engine_or_store: Engine | Store, name: str, task: str | None = None) -> list[Audited]:
    """Run the tasks of workflow ``name`` that are annotated deterministic again, on their recorded inputs, and compare what they give.

    ``assert not [each for each in audit(engine, "order-17") if each.verdict == "lies"]``. Writes nothing, and runs no task that may have
    effects. See :class:`Audited`; raises what :func:`exoflow.client.audit.audit` raises.
    """
    store = engine_or_store.store if isinstance(engine_or_store, Engine) else engine_or_store
    return audit_tasks(store, name, task)
