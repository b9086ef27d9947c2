"""Submitting calls in tests."""

from __future__ import annotations

import itertools

from exoflow.testing.executor_suite import Ticket
from exoflow.worker.attempt import Raised, TaskCall
from exoflow.worker.context import TaskContext

_numbers = itertools.count(1)


def make_call(function, *args, **kwargs) -> TaskCall:
    key = f"call-{next(_numbers)}"
    context = TaskContext(workflow_id="w", task_id=key, attempt=1, epoch=1, basis=1)
    return TaskCall(key=key, function=function, load=lambda: (args, kwargs), context=context)


def submit(executor, function, *args, **kwargs) -> Ticket:
    call = make_call(function, *args, **kwargs)
    ticket = Ticket(call.key)
    executor.submit(call, ticket)
    return ticket


def failure(ticket: Ticket):
    """The ErrorInfo of a call that must have raised."""
    outcome = ticket.wait()
    assert isinstance(outcome, Raised), outcome
    return outcome.info
