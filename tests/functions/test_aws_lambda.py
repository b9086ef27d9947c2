"""``aws_lambda``, with boto3 and processes of awslambdaric. An effect is a line that a function wrote."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

import exoflow
from exoflow.errors import (
    ArgumentNotJsonError,
    ArgumentsTooLargeError,
    FunctionError,
    FunctionRefusedError,
    FunctionUnavailable,
    PayloadTooLargeError,
    ResultNotSerializableError,
    TaskFailed,
    UnknownOutcomeError,
    WorkflowInDoubtError,
)
from exoflow.testing.functions import Fault

PATIENCE_S = 30
pytestmark = pytest.mark.slow  # each process of awslambdaric takes 0.2 s to start


def fn(name, qualifier=None, **options):
    return exoflow.aws_lambda(name, qualifier, **options)


def result_of(engine, node, **options):
    return engine.run_async(node, **options).result(PATIENCE_S)


def cause_of(engine, node):
    with pytest.raises(TaskFailed) as caught:
        result_of(engine, node)
    return caught.value.__cause__


def lines(ledger):
    return ledger.read_text().split() if ledger.exists() else []


@exoflow.task
def which(order):
    return order


# --- what goes in and what comes out ---------------------------------------------------------------------------------------------


def test_a_function_gets_arguments_by_name_and_who_calls_it(server, engine):
    answer = result_of(engine, fn("told").bind(order=which.bind(7), items=["a", {"b": None}]), name="w")
    assert answer["event"] == {"order": 7, "items": ["a", {"b": None}]}
    told = answer["told"]
    assert (told["workflow"], told["task"], told["attempt"]) == ("w", "told", 1)
    assert len(told["idempotency_key"]) == 40


def test_a_function_gets_one_value_as_its_event(server, engine):
    assert result_of(engine, fn("told").bind([1, 2.5, "ü"]))["event"] == [1, 2.5, "ü"]
    assert result_of(engine, fn("told").bind())["event"] == {}


def test_a_function_outside_a_workflow_is_just_called(server):
    assert fn("told")(order=1) == {"event": {"order": 1}, "told": None}


def test_parameters_that_are_named_may_be_given_in_order(server, engine):
    assert result_of(engine, fn("told", "live", parameters=("order", "amount")).bind(1, amount=2))["event"] == {"order": 1, "amount": 2}


def test_a_function_runs_from_a_worker_process(server, engine):
    for parameters in (None, ("order",)):
        answer = result_of(engine, fn("told", executor="process", parameters=parameters).bind(order=1))
        assert (answer["event"], answer["told"]["attempt"]) == ({"order": 1}, 1)


def test_the_exception_of_a_function_comes_with_its_story(server, engine):
    error = cause_of(engine, fn("fail").bind(order=3))
    assert isinstance(error, FunctionError)
    assert (error.error_type, error.error_message) == ("LookupError", "no order 3")
    assert any("shop.py" in line for line in error.stack_trace)


def test_a_function_that_cannot_be_imported_says_why(server, engine):
    error = cause_of(engine, fn("broken").bind())
    assert isinstance(error, FunctionError)
    assert "no such driver" in error.error_message


def test_an_answer_over_the_limit_fails_and_is_not_asked_for_again(server, engine, ledger):
    node = fn("large", retries=3, backoff=0).bind(ledger=str(ledger), size=7 << 20)
    assert isinstance(cause_of(engine, node), PayloadTooLargeError)
    assert lines(ledger) == ["large"]


# --- what goes wrong -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["start", "before", "after", "end"])
def test_an_idempotent_function_that_is_killed_has_its_effect_once(server, engine, ledger, at):
    server.inject("charge", Fault("kill", at))
    assert result_of(engine, fn("charge").bind(ledger=str(ledger))) == "charged"
    assert len(lines(ledger)) == 1


@pytest.mark.parametrize("fault", [Fault("lose reply"), Fault("error")])
def test_a_lost_reply_is_asked_for_again_with_the_same_key(server, engine, ledger, fault):
    server.inject("charge", fault, fault)
    assert result_of(engine, fn("charge").bind(ledger=str(ledger))) == "charged"
    assert len(lines(ledger)) == 1


@pytest.mark.parametrize(
    ("fault", "effects"),
    [
        (Fault("kill", "start"), 0),
        (Fault("kill", "before"), 0),
        (Fault("kill", "after"), 1),
        (Fault("kill", "end"), 1),
        (Fault("lose reply"), 1),
        (Fault("error"), 1),
    ],
)
def test_what_is_neither_idempotent_nor_undoable_is_in_doubt(server, engine, ledger, fault, effects):
    server.inject("transfer", fault)
    with pytest.raises(WorkflowInDoubtError):
        result_of(engine, fn("transfer", on_unknown="fail").bind(ledger=str(ledger)), name="pay")
    assert lines(ledger) == ["transfer"] * effects
    assert engine.get_status("pay") is exoflow.Status.IN_DOUBT


@pytest.mark.parametrize("fault", [Fault("kill", "before"), Fault("kill", "after"), Fault("lose reply")])
def test_what_can_be_undone_is_undone_by_another_function_first(server, engine, ledger, fault):
    server.inject("book", fault)
    node = fn("book", rollback=fn("cancel")).bind(ledger=str(ledger))
    assert result_of(engine, node) == "booked"
    assert lines(ledger)[-2:] == ["cancel", "book"]
    assert lines(ledger).count("book") - lines(ledger).count("cancel") <= 1


def test_a_rollback_of_this_process_gets_arguments_by_name(server, engine, ledger):
    server.inject("book", Fault("lose reply"))
    node = fn("book", rollback=cancel_here, parameters=("ledger", "seat")).bind(str(ledger), 3)
    assert result_of(engine, node) == "booked"
    assert lines(ledger) == ["book", "cancel-3", "book"]


def cancel_here(ledger, seat):
    with open(ledger, "a", encoding="utf-8") as file:
        file.write(f"cancel-{seat}\n")


def test_a_function_out_of_time_may_have_had_its_effect(server, engine, ledger):
    with pytest.raises(WorkflowInDoubtError):
        result_of(engine, fn("hang", on_unknown="fail").bind(ledger=str(ledger)))
    assert lines(ledger) == ["hang"]


def test_an_answer_that_comes_too_late_is_unknown(server, ledger):
    server.inject("transfer", Fault("delay", seconds=20))
    with pytest.raises(UnknownOutcomeError, match="ReadTimeoutError"):
        fn("transfer", timeout_s=0.3)(ledger=str(ledger))
    assert lines(ledger) == ["transfer"]


def test_a_throttled_function_did_not_run_and_is_tried_again(server, engine, ledger):
    """Also when an unknown outcome would stop the workflow: this one is known."""
    server.inject("transfer", Fault("throttle"), Fault("throttle"))
    node = fn("transfer", on_unknown="fail", backoff=0).bind(ledger=str(ledger))
    assert result_of(engine, node) == "transferred"
    assert lines(ledger) == ["transfer"]


def test_a_function_that_cannot_be_reached_did_not_run(server, engine):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        node = fn("transfer", on_unknown="fail", retries=1, backoff=0, endpoint=f"http://127.0.0.1:{nobody.getsockname()[1]}").bind()
        error = cause_of(engine, node)
    assert isinstance(error, FunctionUnavailable)
    assert "EndpointConnectionError" in error.reason


def test_boto3_does_not_try_again_by_itself(server, ledger):
    server.inject("transfer", Fault("error"))
    with pytest.raises(UnknownOutcomeError, match="500"):
        fn("transfer")(ledger=str(ledger))
    assert lines(ledger) == ["transfer"]


# --- bad input -------------------------------------------------------------------------------------------------------------------


def test_an_unknown_function_is_refused_and_not_tried_again(server, engine):
    error = cause_of(engine, fn("chrage", retries=5, backoff=60).bind())
    assert isinstance(error, FunctionRefusedError)
    assert "chrage" in str(error)
    assert "ResourceNotFoundException" in str(error)
    assert isinstance(cause_of(engine, fn("told", "nobody").bind()), FunctionRefusedError)


def test_an_output_that_is_not_json_is_refused_before_it_is_sent(server, engine):
    error = cause_of(engine, fn("told", retries=5, backoff=60).bind(order=[which.bind({1: 2})]))
    assert isinstance(error, ArgumentNotJsonError)
    assert error.path == "order[0]"


def test_an_output_over_the_limit_is_refused_before_it_is_sent(server, engine):
    error = cause_of(engine, fn("told", retries=5, backoff=60).bind(order=which.bind("x" * (6 << 20))))
    assert isinstance(error, ArgumentsTooLargeError)


# --- many ------------------------------------------------------------------------------------------------------------------------


def test_as_many_processes_as_run_at_once_and_they_are_used_again(server, engine, marks):
    meet = threading.Barrier(4)
    marks.action = lambda _function, _mark: meet.wait(PATIENCE_S)
    process = fn("process")
    nodes = [process.bind(number=n) for n in range(4)]
    first = result_of(engine, gather.bind(nodes))
    assert len(set(first)) == 4
    assert set(result_of(engine, gather.bind(nodes))) == set(first)


def test_more_than_may_run_at_once_are_throttled(server, engine, marks):
    inside, leave = threading.Event(), threading.Event()

    def stay(_function, _mark):
        inside.set()
        leave.wait(PATIENCE_S)

    marks.action = stay
    narrow = fn("narrow", retries=0)
    running = engine.run_async(narrow.bind())
    assert inside.wait(PATIENCE_S)
    with pytest.raises(FunctionUnavailable, match="TooManyRequests"):
        narrow()
    leave.set()
    assert running.result(PATIENCE_S) > 0


@exoflow.task
def gather(values):
    return values


def test_a_reply_that_is_not_json(engine, monkeypatch):
    monkeypatch.setattr("exoflow.functions.aws._Lambda.call", lambda *_: b"<html>")
    with pytest.raises(ResultNotSerializableError, match="not JSON"):
        fn("told")()


def look_it_up(ledger):
    return "looked up" if "transfer" in lines(Path(ledger)) else False


@pytest.mark.parametrize(("at", "result"), [("before", "transferred"), ("after", "looked up")])
def test_a_function_of_ours_is_asked_what_became_of_it(server, engine, ledger, at, result):
    server.inject("transfer", Fault("kill", at))
    node = fn("transfer", on_unknown=look_it_up, parameters=("ledger",)).bind(str(ledger))
    assert result_of(engine, node) == result
    assert lines(ledger) == ["transfer"]
