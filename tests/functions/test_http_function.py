"""``http_function``, with a server that answers what a test wants."""

from __future__ import annotations

import json
import socket
import threading

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

PATIENCE_S = 30


class Far:
    """A server: each connection gets the next answer, as it stands; None closes it, "" keeps silent."""

    def __init__(self):
        self.answers, self.requests = [], []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open = []
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/charge?shop=1"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            connection, _ = self._socket.accept()
            head = b""
            while b"\r\n\r\n" not in head and (more := connection.recv(65536)):
                head += more
            if not head:
                connection.close()
                return
            head, _, body = head.partition(b"\r\n\r\n")
            line, *rest = head.decode().split("\r\n")
            headers = dict(each.split(": ", 1) for each in rest)
            while len(body) < int(headers.get("Content-Length", 0)):
                body += connection.recv(65536)
            self.requests.append((line, headers, json.loads(body)))
            answer = self.answers.pop(0)
            if answer:
                connection.sendall(answer)
            if answer == "":
                self._open.append(connection)
            else:
                connection.close()

    def close(self):
        socket.create_connection(self._socket.getsockname()).close()
        self._thread.join()
        for each in (self._socket, *self._open):
            each.close()


def answer(status, body="", **headers):
    lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body)}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@pytest.fixture
def far():
    far = Far()
    yield far
    far.close()


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
