"""``http_function``, with a server that answers what a test wants."""

from __future__ import annotations

import socket

import pytest

import exoflow
from exoflow.errors import (
    FunctionRefusedError,
    FunctionUnavailable,
    ResultNotSerializableError,
    TaskFailed,
    UnknownOutcomeError,
    WorkflowInDoubtError,
)
from tests.functions.far import answer

PATIENCE_S = 30


def call(far, *answers, **options):
    far.answers += answers
    return exoflow.http_function(far.url, **options)(order=7)


def test_what_is_sent(far, engine):
    far.answers += [answer(200, '{"paid": true}')]
    function = exoflow.http_function(far.url, headers={"Authorization": "Bearer x"})
    assert engine.run_async(function.bind(order=[7, "ü"]), name="w").result(PATIENCE_S) == {"paid": True}
    (line, headers, body) = far.requests[0]
    assert line == "POST /charge?shop=1 HTTP/1.1"
    assert body == {"order": [7, "ü"]}
    assert headers["Authorization"] == "Bearer x"
    assert headers["Content-Type"] == "application/json"
    assert len(headers["Idempotency-Key"]) == 40
    told = [headers[f"Exoflow-{name}"] for name in ("Workflow", "Attempt", "Epoch")]
    assert told == ["w", "1", "1"]


def test_an_answer_without_a_body_is_none(far):
    assert call(far, answer(204)) is None
    assert "Idempotency-Key" not in far.requests[0][1]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answer(400, "no such order"), FunctionRefusedError),
        (answer(404), FunctionRefusedError),
        (answer(302, Location="http://elsewhere/"), FunctionRefusedError),
        (answer(429), FunctionUnavailable),
        (answer(503, Retry_After="2"), FunctionUnavailable),
        (answer(503), UnknownOutcomeError),
        (answer(500), UnknownOutcomeError),
        (answer(502), UnknownOutcomeError),
        (answer(200, "<html>"), ResultNotSerializableError),
        (answer(200, "12345")[:-2], UnknownOutcomeError),
        (b"no HTTP\r\n\r\n", UnknownOutcomeError),
        (None, UnknownOutcomeError),
        ("", UnknownOutcomeError),
    ],
)
def test_what_an_answer_means(far, reply, error):
    with pytest.raises(error):
        call(far, reply, timeout_s=0.1)


def test_a_refused_connection_did_not_run(engine):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        function = exoflow.http_function(f"http://127.0.0.1:{nobody.getsockname()[1]}/", retries=1, backoff=0, on_unknown="fail")
        with pytest.raises(TaskFailed) as caught:
            engine.run_async(function.bind()).result(PATIENCE_S)
    assert isinstance(caught.value.__cause__, FunctionUnavailable)


def test_what_did_not_run_is_tried_again_and_the_key_stays(far, engine):
    far.answers += [answer(429), answer(503, Retry_After="1"), None, answer(200, "1")]
    assert engine.run_async(exoflow.http_function(far.url, backoff=0).bind()).result(PATIENCE_S) == 1
    assert len({headers["Idempotency-Key"] for _, headers, _ in far.requests}) == 1
    assert [headers["Exoflow-Attempt"] for _, headers, _ in far.requests] == ["1", "2", "3", "4"]


def test_a_lost_answer_of_what_is_not_idempotent_is_in_doubt(far, engine):
    far.answers += [answer(429), None]
    with pytest.raises(WorkflowInDoubtError):
        engine.run_async(exoflow.http_function(far.url, backoff=0, on_unknown="fail").bind()).result(PATIENCE_S)
    assert len(far.requests) == 2


def test_a_refusal_is_final(far, engine):
    far.answers += [answer(403, "not yours")]
    with pytest.raises(TaskFailed, match="not yours"):
        engine.run_async(exoflow.http_function(far.url, retries=5, backoff=60).bind()).result(PATIENCE_S)
    assert len(far.requests) == 1
