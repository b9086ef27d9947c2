"""What can be said of a task, and what follows from it."""

from __future__ import annotations

import pytest

from exoflow import task
from exoflow.core.spec.annotations import Checkpoint, Kind
from exoflow.define.options import TaskOptions
from exoflow.errors import InvalidOptionError


def undo(x):
    """Undoes nothing."""


@pytest.mark.parametrize(
    ("given", "kind", "checkpoint"),
    [
        ({}, Kind.COMMITTING, Checkpoint.ASYNC),
        ({"checkpoint": True}, Kind.COMMITTING, Checkpoint.ASYNC),
        ({"checkpoint": "async"}, Kind.COMMITTING, Checkpoint.ASYNC),
        ({"checkpoint": "sync"}, Kind.COMMITTING, Checkpoint.SYNC),
        ({"checkpoint": False}, Kind.COMMITTING, Checkpoint.NONE),
        ({"checkpoint": "auto"}, Kind.COMMITTING, Checkpoint.NONE),
        ({"can_rollback": True}, Kind.INTERNAL, Checkpoint.ASYNC),
        ({"can_rollback": False}, Kind.COMMITTING, Checkpoint.ASYNC),
        ({"rollback": undo}, Kind.UNDOABLE, Checkpoint.ASYNC),
        ({"rollback": undo, "can_rollback": True}, Kind.UNDOABLE, Checkpoint.ASYNC),
    ],
)
def test_the_three_kinds_of_task(given, kind, checkpoint):
    """The default is the safe worst case: committing, not deterministic, saved."""
    annotations = TaskOptions.make(None, given).annotations()
    assert (annotations.kind, annotations.checkpoint, annotations.deterministic) == (kind, checkpoint, False)


def test_on_unknown():
    assert TaskOptions.make(None, {}).annotations().on_unknown == "retry"
    assert TaskOptions.make(None, {"on_unknown": "fail"}).annotations().on_unknown == "fail"
    assert TaskOptions.make(None, {"on_unknown": undo}).annotations().on_unknown == "ask"


def test_a_retry_policy_names_its_exceptions():
    policy = TaskOptions.make(None, {"retries": 2, "backoff": 1, "retry_on": (OSError, KeyError)}).retry_policy()
    assert policy.retries == 2
    assert policy.backoff_s == 1.0
    assert policy.retry_on == ("builtins.OSError", "builtins.KeyError")
    assert TaskOptions.make(None, {"retry_on": OSError}).retry_policy().retry_on == ("builtins.OSError",)


@pytest.mark.parametrize(
    "rollback",
    [
        lambda: None,
        lambda x: None,
        lambda y: None,
        lambda x, y: None,
        lambda x, other=3: None,
        lambda **all_of_them: None,
        lambda x, *rest: None,
    ],
)
def test_rollbacks_that_fit(rollback):
    """Any of the task's parameters, by name; parameters of its own need a default."""

    @task(rollback=rollback)
    def f(x, y=2):
        return x

    assert f(1) == 1


def test_a_rollback_may_be_a_task():
    @task
    def cancel(x):
        return x

    @task(rollback=cancel)
    def f(x):
        return x

    assert f.rollback_key


@pytest.mark.parametrize("function", [max, print, dict, str, int])
def test_functions_of_c(function):
    """Refused when they are declared, where Python cannot say their signature; tasks like any other elsewhere."""
    import inspect

    try:
        inspect.signature(function)
    except ValueError:
        with pytest.raises(InvalidOptionError, match="does not tell its signature; call it in a function of your own"):
            task(function)
    else:
        assert task(function).bind("1") is not None


def test_what_is_no_function():
    for wrong in (3, "f", None.__class__.__name__, [1]):
        with pytest.raises(InvalidOptionError, match=r"@exoflow\.task is for functions, got"):
            task(wrong)
