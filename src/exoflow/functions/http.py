"""``http_function``: whatever speaks HTTP as a task, by a small protocol that docs/functions.md spells out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from exoflow.define.task import Task
from exoflow.errors import FunctionRefusedError, FunctionUnavailable, UnknownOutcomeError
from exoflow.functions.remote import remote_task, require_seconds, web_address

_HEADERS = {
    "idempotency_key": "Idempotency-Key",
    "attempt": "Exoflow-Attempt",
    "epoch": "Exoflow-Epoch",
    "workflow": "Exoflow-Workflow",
    "task": "Exoflow-Task",
}


def http_function(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
    connect_timeout_s: float = 10.0,
    parameters: Sequence[str] | None = None,
    **options: Any,
) -> Task[..., Any]:
    """A function behind HTTP as a task: ``charge = exoflow.http_function("https://pay.example/charge")``, then ``charge.bind(order=7)``.

    Args:
        url: where to POST. headers: sent with each call, besides ``Idempotency-Key`` and ``Exoflow-Attempt``, ``-Epoch``, ``-Workflow`` and
            ``-Task``.
        timeout_s: without an answer for so long, the outcome is unknown.
        connect_timeout_s: without a connection for so long, it did not run.
        parameters, options: as of :func:`~exoflow.functions.aws.aws_lambda`.

    The body is JSON as for aws_lambda. 2xx: the body is the output. 429, and 503 with Retry-After: it did not run, and may later. Other 4xx
    and 3xx: it failed for good, and had no effect. Anything else, and no answer: unknown. Raises InvalidOptionError,
    DuplicateRegistrationError.
    """
    parts = web_address("url", url)
    require_seconds(timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    remote = _Endpoint(url, parts.scheme, str(parts.hostname), parts.port, target, dict(headers or {}), timeout_s, connect_timeout_s)
    return remote_task(remote, "http_function", parameters, options, sys._getframe(1))  # noqa: SLF001 - where the user made it


@dataclasses.dataclass(frozen=True)
class _Endpoint:
    """See :class:`~exoflow.functions.remote.Remote`. A connection is made for each call, so that what went wrong before it stood is known
    not to have reached anybody."""

    name: str
    scheme: str
    host: str
    port: int | None
    target: str
    headers: dict[str, str]
    timeout_s: float
    connect_timeout_s: float
    limit_bytes: None = None

    def call(self, payload: bytes, told: dict[str, Any] | None) -> bytes:
        import http.client  # not at the top: it would make every import of exoflow slower

        headers = {**self.headers, "Content-Type": "application/json", "Accept": "application/json"}
        headers |= {_HEADERS[what]: str(value) for what, value in (told or {}).items()}
        make = http.client.HTTPSConnection if self.scheme == "https" else http.client.HTTPConnection
        connection = make(self.host, self.port, timeout=self.connect_timeout_s)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise FunctionUnavailable(function=self.name, reason=f"{type(error).__name__}: {error}") from error
            connection.sock.settimeout(self.timeout_s)
            try:
                connection.request("POST", self.target, payload, headers)
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise UnknownOutcomeError(reason=f"{self.name}: {type(error).__name__}: {error}") from error
        finally:
            connection.close()
        status, reason = response.status, f"{response.status} {response.reason}: {body[:200].decode(errors='replace')}"
        if 200 <= status < 300:
            return body
        if status == 429 or (status == 503 and response.getheader("Retry-After")):
            raise FunctionUnavailable(function=self.name, reason=reason)
        if 300 <= status < 500:
            raise FunctionRefusedError(function=self.name, reason=reason)
        raise UnknownOutcomeError(reason=f"{self.name}: {reason}")
