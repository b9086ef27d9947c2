"""A task that says: I sent it, and do not know what became of it."""

from __future__ import annotations

import msgspec
import pytest

import exoflow
from exoflow import task
from exoflow.core import outcomes
from exoflow.core.spec.retry import STRANDED_POLICY
from exoflow.errors import TaskFailed, UnknownOutcomeError, WorkflowInDoubtError
from tests.api.scene import PATIENCE_S, Ledger


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(outcomes, "STRANDED_POLICY", msgspec.structs.replace(STRANDED_POLICY, backoff_s=0.0))


def undo(ledger):
    Ledger(ledger).add("undo")


def send(ledger, losses):
    Ledger(ledger).add("sent")
    if Ledger(ledger).lines().count("sent") <= losses:
        raise UnknownOutcomeError(reason="no answer")
    return "answered"


idempotent = task(send)
neither = idempotent.options(on_unknown="fail")
undoable = idempotent.options(rollback=undo)


def result_of(engine, node, **options):
    return engine.run_async(node, **options).result(PATIENCE_S)


def test_it_is_tried_again_although_no_retries_were_asked_for(memory, ledger):
    assert result_of(memory, idempotent.bind(ledger.path, 5)) == "answered"
    assert ledger.lines() == ["sent"] * 6


def test_what_is_neither_idempotent_nor_undoable_is_in_doubt(engine, ledger):
    with pytest.raises(WorkflowInDoubtError):
        result_of(engine, neither.bind(ledger.path, 1), name="pay")
    assert ledger.lines() == ["sent"]
    assert engine.get_status("pay") is exoflow.Status.IN_DOUBT


def test_what_can_be_undone_is_undone_before_it_is_tried_again(engine, ledger):
    assert result_of(engine, undoable.bind(ledger.path, 1)) == "answered"
    assert ledger.lines() == ["sent", "undo", "sent"]


def test_it_ends_when_it_is_never_known(engine, ledger):
    with pytest.raises(TaskFailed, match=r"8 times.*no answer"):
        result_of(engine, undoable.bind(ledger.path, 99))
    assert ledger.lines() == ["sent", "undo"] * 8
