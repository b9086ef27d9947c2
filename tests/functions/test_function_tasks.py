"""What is known of a function elsewhere before anything is sent."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import exoflow
from exoflow.errors import (
    ArgumentNotJsonError,
    ArgumentsTooLargeError,
    DuplicateRegistrationError,
    InvalidOptionError,
    MissingExtraError,
    SignatureError,
    TaskFailed,
    UnresumableTaskError,
)
from exoflow.functions.aws import REQUEST_BYTES_MAX

charge = exoflow.aws_lambda("charge")
refund = exoflow.http_function("http://127.0.0.1:9/refund", rollback=charge, headers={"Authorization": "x"})
in_order = exoflow.aws_lambda("ordered", "live", parameters=("order", "amount"))


@exoflow.task
def made_here():
    return 1


circle = []
circle.append(circle)


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        (b"x", "order", "not made of"),
        ({"a": [1, {2}]}, "order.a[1]", "not made of"),
        ({1: 2}, "order", "the key 1"),
        ({None: 2}, "order", "the key None"),
        (float("nan"), "order", "nan"),
        ([1.0, float("-inf")], "order[1]", "-inf"),
        (circle, "order", "holds itself"),
        ("\ud800", "a text", "surrogates"),
        ([made_here.bind(), object()], "order[1]", "not made of"),
    ],
)
@pytest.mark.parametrize("function", [charge, refund])
def test_what_is_not_json_is_refused_at_submission(engine, function, value, path, reason):
    with pytest.raises(ArgumentNotJsonError, match=reason) as caught:
        engine.run_async(function.bind(order=value))
    assert caught.value.path.startswith(path)
    assert engine.list_all() == []


def test_an_input_of_the_workflow_is_looked_at_too(engine):
    with pytest.raises(ArgumentNotJsonError):
        engine.run_async(charge.bind(order=exoflow.InputNode()), {1, 2})


def test_an_item_of_a_map_is_looked_at_before_any_is_sent(engine):
    with pytest.raises(TaskFailed) as caught:
        engine.run_async(charge.map([1, b"x"])).result(30)
    assert isinstance(caught.value.__cause__, ArgumentNotJsonError)


def test_more_than_one_request_may_hold_is_refused_at_submission(engine):
    with pytest.raises(ArgumentsTooLargeError, match=str(REQUEST_BYTES_MAX)):
        engine.run_async(charge.bind("x" * (REQUEST_BYTES_MAX - 1)))


def test_arguments_must_fit():
    with pytest.raises(SignatureError):
        in_order.bind(1)
    with pytest.raises(SignatureError):
        charge.bind(1, 2)
    with pytest.raises(SignatureError, match="not both"):
        exoflow.check(charge.bind({"order": 1}, order=1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: exoflow.aws_lambda("has space"),
        lambda: exoflow.aws_lambda(""),
        lambda: exoflow.aws_lambda(None),
        lambda: exoflow.aws_lambda("charge", "a b"),
        lambda: exoflow.aws_lambda("charge", config={"retries": {"total_max_attempts": 3}}),
        lambda: exoflow.aws_lambda("charge", parameters=("a", "a")),
        lambda: exoflow.aws_lambda("charge", parameters=("not a name",)),
        lambda: exoflow.aws_lambda("charge", colour="red"),
        lambda: exoflow.aws_lambda("charge", rollback=lambda seat: seat),
        lambda: exoflow.aws_lambda("charge", endpoint="localhost:9001"),
        lambda: exoflow.aws_lambda("charge", timeout_s="soon"),
        lambda: exoflow.http_function(None),
        lambda: exoflow.http_function("ftp://host/x"),
        lambda: exoflow.http_function("no url"),
        lambda: exoflow.http_function("http://host:port/x"),
        lambda: exoflow.http_function("http://user:secret@host/x"),
        lambda: exoflow.http_function("http://host/x#y"),
        lambda: exoflow.http_function("http://host/a b"),
        lambda: exoflow.http_function("http://host/x", timeout_s=0),
        lambda: exoflow.http_function("http://host/x", connect_timeout_s=float("inf")),
    ],
)
def test_a_definition_that_means_nothing_is_refused(make):
    with pytest.raises(InvalidOptionError):
        make()


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("exoflow.functions.aws.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"exoflow-engine\[lambda\]"):
        exoflow.aws_lambda("charge")
    monkeypatch.setattr("exoflow.testing.functions.server.find_spec", lambda _name: None)
    from exoflow.testing.functions import FunctionServer

    with pytest.raises(MissingExtraError, match=r"exoflow-engine\[lambda-local\]"):
        FunctionServer({})


@pytest.mark.slow  # starts an interpreter
def test_importing_exoflow_imports_no_library_of_an_extra():
    code = "import sys, exoflow; exoflow.aws_lambda('f'); print({'boto3', 'botocore', 'http.client'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "set()"


def test_a_function_made_inside_a_function_cannot_be_found_again(tmp_path):
    with exoflow.Engine(f"sqlite:{tmp_path}/x.db") as engine, pytest.raises(UnresumableTaskError):
        engine.run_async(exoflow.aws_lambda("charge").bind())


def test_functions_at_the_top_of_a_module_are_found_again():
    assert charge.key == f"{__name__}:aws_lambda.charge"
    assert in_order.key == f"{__name__}:aws_lambda.ordered:live"
    assert pickle.loads(pickle.dumps(charge)).function is charge.function
    other = pickle.loads(pickle.dumps(refund.options(timeout=3)))
    assert (other.function, other.task_options.timeout) == (refund.function, 3)


def test_two_definitions_of_one_function_need_two_names():
    definition = "import exoflow\na = exoflow.aws_lambda('f', region='x')\nb = exoflow.aws_lambda('f', region='y'{})"
    with pytest.raises(DuplicateRegistrationError, match=r"aws_lambda\.f"):
        exec(compile(definition.format(""), "shop.py", "exec"), {"__name__": "shop"})
    exec(compile(definition.format(", name='f-y'"), "shop.py", "exec"), {"__name__": "shop"})


def test_where_a_function_is_reached_is_not_part_of_its_code():
    one, other = (exoflow.aws_lambda("charge", endpoint=f"http://127.0.0.1:{port}") for port in (1, 2))
    assert one.function.__qualname__ == other.function.__qualname__
    assert one.code.fingerprint() == other.code.fingerprint()
