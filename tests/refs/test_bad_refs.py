"""Refs that cannot be used: of another store, of a workflow that is gone, of data that is gone before anybody could save it."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exoflow
from exoflow import Engine, FileRef, KeyRef, Ref, ValueRef
from exoflow.errors import CheckpointFailedError, RefLostError, TaskFailed, WorkflowNotFoundError

DRAWERS: dict[str, Any] = {}
ASIDE: list[Any] = []
"""What tasks have put aside, which they should not."""


@pytest.fixture(autouse=True)
def _empty() -> None:
    DRAWERS.clear()
    ASIDE.clear()


class Desk:
    """A key-value store of this process. All desks with one ``url`` have the same drawers."""

    def __init__(self, url: str, *, durable: bool) -> None:
        self.url, self.durable = url, durable

    def get(self, key: str) -> Any:
        return DRAWERS[self.url + key]

    def __contains__(self, key: str) -> bool:
        return self.url + key in DRAWERS

    def put(self, key: str, value: Any) -> None:
        DRAWERS[self.url + key] = value

    def delete(self, key: str) -> None:
        DRAWERS.pop(self.url + key, None)


class Unsaveable(Ref):
    """Has no checkpoint worth the name."""

    def id(self) -> str:
        return "u"

    def get(self) -> Any:
        return 1

    def checkpoint(self, id: str) -> Future[Any]:  # noqa: A002
        raise NotImplementedError("this kind cannot be saved")

    @classmethod
    def restore(cls, value: Any) -> Unsaveable:
        return cls()


@exoflow.task(can_rollback=True)
def read(given: Any) -> Any:
    return given["ref"].get()


def refused(ref: Any, error: type[Exception], text: str) -> None:
    """As an argument it is refused, and nothing is written."""
    with Engine("memory:") as engine:
        with pytest.raises(error, match=text):
            engine.run(read.bind({"ref": ref}), name="w")
        with pytest.raises(WorkflowNotFoundError):
            engine.get_status("w")


@pytest.mark.parametrize("durable", [True, False])
def test_a_key_of_another_store(durable):
    here, elsewhere = Desk("here", durable=durable), Desk("elsewhere", durable=durable)
    key = KeyRef.put(elsewhere, "x").key
    refused(KeyRef(here, key), RefLostError, "there is no such key")


def test_a_file_that_is_gone(tmp_path):
    path = tmp_path / "f"
    path.write_text("x")
    ref = FileRef(path)
    path.unlink()
    refused(ref, RefLostError, "there is nothing of that name")


def test_an_argument_that_cannot_be_saved():
    refused(Unsaveable(), CheckpointFailedError, "an argument of the workflow cannot be saved, because .* this kind cannot be saved")


@exoflow.task(can_rollback=True)
def make(url: str) -> Any:
    ref = KeyRef.put(Desk(url, durable=False), "x")
    ASIDE.append(ref)
    return {"ref": ref}


def test_a_ref_that_was_put_aside_and_used_after_its_workflow_was_deleted():
    with Engine("memory:") as engine:
        assert engine.run(read.bind(make.bind("desk")), name="w") == "x"
        engine.delete("w")
    with pytest.raises(RefLostError, match="there is no such key"):
        ASIDE[0].get()
    refused(ASIDE[0], RefLostError, "there is no such key")


@exoflow.task(can_rollback=True)
def large(value: float) -> Any:
    return {"ref": ValueRef(np.full(200_000, value))}


def test_the_refs_of_a_result_outlive_its_workflow_and_its_store(tmp_path):
    """Its file is a blob of the first store. The second has one of its own, for those who come later."""
    with Engine(tmp_path / "a.db") as engine:
        engine.run(large.bind(2.0), name="w")
    with Engine(tmp_path / "a.db") as engine:
        result = engine.get_output("w")
        engine.delete("w")
        engine.collect_garbage()
    with Engine(tmp_path / "b.db") as engine, pytest.raises(TaskFailed):
        engine.run(fails_at_first.bind(Path(tmp_path, "tried"), result), name="v")
    for each in tmp_path.glob("a.db*"):
        each.rename(each.with_name("gone" + each.name))
    with Engine(tmp_path / "b.db") as engine:
        assert engine.resume("v").result(20) == 400_000


@exoflow.task(can_rollback=True)
def fails_at_first(mark: Path, given: Any) -> float:
    if not mark.exists():
        mark.touch()
        raise ValueError("not yet")
    return float(given["ref"].get().sum())


@exoflow.task(can_rollback=True)
def return_what_is_gone() -> Any:
    ASIDE.append("again")
    return {"ref": KeyRef(Desk("desk", durable=False), "none")}


@pytest.mark.parametrize("checkpoint", [True, "sync"])
def test_a_task_that_returns_what_is_gone_does_not_run_for_ever(checkpoint):
    with Engine("memory:") as engine, pytest.raises(TaskFailed, match="lost 20 times before it was saved") as caught:
        engine.run(return_what_is_gone.options(checkpoint=checkpoint).bind())
    assert isinstance(caught.value.__cause__, CheckpointFailedError)
    assert len(ASIDE) == 20
