"""``aws_lambda``: a function of AWS Lambda as a task. The one file that imports boto3, when a function is first called."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from exoflow.define.task import Task
from exoflow.errors import (
    ExoflowError,
    FunctionError,
    FunctionRefusedError,
    FunctionUnavailable,
    InvalidOptionError,
    MissingExtraError,
    PayloadTooLargeError,
    UnknownOutcomeError,
)
from exoflow.functions.remote import remote_task, require_seconds, web_address

REQUEST_BYTES_MAX = 6 * 1024 * 1024
"""What AWS takes in a synchronous invocation."""
_NAME = re.compile(r"[A-Za-z0-9:_-]{1,170}")
_QUALIFIER = re.compile(r"\$LATEST|[A-Za-z0-9_-]{1,128}")

_NOT_NOW = frozenset({
    "CodeArtifactUserPendingException", "EC2ThrottledException", "EFSMountTimeoutException", "ENILimitReachedException",
    "ResourceConflictException", "ResourceNotReadyException", "SnapStartNotReadyException", "SubnetIPAddressLimitReachedException",
    "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip
"""Errors of the Invoke API that say: not started, and may be later."""
_MAYBE_RAN = frozenset({"EFSIOException"})
"""A 4xx which the function's own work can cause."""
_DIED = frozenset({"Runtime.ExitError", "Runtime.OutOfMemory", "Runtime.Unknown", "Sandbox.Failure", "Sandbox.Timedout"})
"""Error types in an answer that come from the service, when the function's process ended in the middle of its work."""
_TOO_LARGE = "Function.ResponseSizeTooLarge"
_TIMED_OUT = "Task timed out after"


def aws_lambda(
    function: str,
    /,
    qualifier: str | None = None,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    profile: str | None = None,
    timeout_s: float = 910.0,
    connect_timeout_s: float = 10.0,
    config: Mapping[str, Any] | None = None,
    parameters: Sequence[str] | None = None,
    **options: Any,
) -> Task[..., Any]:
    """A function of AWS Lambda as a task: ``charge = exoflow.aws_lambda("charge", "live")``, then ``charge.bind(order=7)``.

    Args:
        function: its name or ARN. qualifier: a version or an alias.
        endpoint, region, profile: as boto3 takes them; by default it finds them in the environment and its own files.
        timeout_s: without an answer for so long, the outcome is unknown. The default is more than any function may take.
        connect_timeout_s: without a connection for so long, the function did not run.
        config: more settings for ``botocore.config.Config``, but ``retries``: those are the engine's.
        parameters: names of the arguments, if they are to be checked, given in order, or picked by a rollback by name.
        options: as of any task (:class:`~exoflow.define.options.TaskOptions`). Without ``retries`` and ``retry_on``, only a call that did
            not reach the function is tried again.

    The function gets the arguments by name as its event, or the one argument without a name, and in ``client_context.custom["exoflow"]``
    the ``idempotency_key``, ``attempt``, ``epoch``, ``workflow`` and ``task``. docs/functions.md says what counts as which outcome.
    Raises InvalidOptionError, DuplicateRegistrationError, and MissingExtraError without the extra 'lambda'.
    """
    if find_spec("boto3") is None:
        raise MissingExtraError(feature="aws_lambda", extra="lambda")
    given: Any = function
    if not isinstance(given, str) or not _NAME.fullmatch(given):
        raise InvalidOptionError(message=f"the first argument must be the name of a function of AWS Lambda, got {function!r:.60}")
    if qualifier is not None and not _QUALIFIER.fullmatch(str(qualifier)):
        raise InvalidOptionError(message=f"qualifier must be a version or an alias, got {qualifier!r:.60}")
    if endpoint is not None:
        web_address("endpoint", endpoint)
    require_seconds(timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)
    more = {**(config or {}), "read_timeout": timeout_s, "connect_timeout": connect_timeout_s}
    if "retries" in more:
        raise InvalidOptionError(
            message="config must not hold 'retries': boto3 would run the function again unseen; use the task's retries="
        )
    client = _Client(endpoint, region, profile, tuple(sorted({"max_pool_connections": 64, "tcp_keepalive": True, **more}.items())))
    remote = _Lambda(function if qualifier is None else f"{function}:{qualifier}", function, qualifier, client)
    return remote_task(remote, "aws_lambda", parameters, options, sys._getframe(1))  # noqa: SLF001 - where the user made it


@dataclasses.dataclass(frozen=True)
class _Client:
    """How to reach AWS. Clients of boto3 are made when first needed, one for each process and way, and are used by many threads."""

    endpoint: str | None
    region: str | None
    profile: str | None
    config: tuple[tuple[str, Any], ...]

    def open(self) -> Any:
        """Raises BotoCoreError: no region, no such profile."""
        key = (os.getpid(), repr(self))
        with _opening:
            if key not in _opened:
                import boto3
                from botocore.config import Config

                session = boto3.session.Session(profile_name=self.profile, region_name=self.region)
                config = Config(**dict(self.config), retries={"total_max_attempts": 1, "mode": "standard"})
                _opened[key] = session.client("lambda", endpoint_url=self.endpoint, config=config)
            return _opened[key]


_opened: dict[tuple[int, str], Any] = {}
_opening = threading.Lock()


@dataclasses.dataclass(frozen=True)
class _Lambda:
    """See :class:`~exoflow.functions.remote.Remote`."""

    name: str
    function: str
    qualifier: str | None
    client: _Client
    limit_bytes: int = REQUEST_BYTES_MAX

    def call(self, payload: bytes, told: dict[str, Any] | None) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError

        request: dict[str, Any] = {"FunctionName": self.function, "InvocationType": "RequestResponse", "Payload": payload}
        if self.qualifier is not None:
            request["Qualifier"] = self.qualifier
        if told is not None:
            request["ClientContext"] = base64.b64encode(json.dumps({"custom": {"exoflow": told}}).encode()).decode()
        try:
            response = self.client.open().invoke(**request)
            body: bytes = response["Payload"].read()
        except ClientError as error:
            raise self._answered(error.response) from error
        except BotoCoreError as error:
            raise self._broken(error) from error
        if "FunctionError" in response:
            raise self._failed(body)
        if body.startswith(_TIMED_OUT.encode()):  # as the emulator of AWS says it
            raise UnknownOutcomeError(reason=f"function '{self.name}': {body[:200].decode(errors='replace')}")
        return body

    def _answered(self, response: dict[str, Any]) -> ExoflowError:
        """What an error of the Invoke API means."""
        code, status = response["Error"].get("Code", ""), response["ResponseMetadata"]["HTTPStatusCode"]
        reason = f"{code} ({status}): {response['Error'].get('Message', '')}"[:500]
        if code in _NOT_NOW or status == 429:
            return FunctionUnavailable(function=self.name, reason=reason)
        if code in _MAYBE_RAN or not 400 <= status < 500:
            return UnknownOutcomeError(reason=f"function '{self.name}': {reason}")
        return FunctionRefusedError(function=self.name, reason=reason)

    def _broken(self, error: Exception) -> ExoflowError:
        """What it means that there is no answer."""
        from botocore import exceptions as known

        reason = f"{type(error).__name__}: {error}"[:500]
        if isinstance(error, (known.ConnectTimeoutError, known.EndpointConnectionError, known.ProxyConnectionError)):
            return FunctionUnavailable(function=self.name, reason=reason)
        before_sending = (
            known.CredentialRetrievalError,
            known.NoCredentialsError,
            known.NoRegionError,
            known.ParamValidationError,
            known.PartialCredentialsError,
            known.ProfileNotFound,
        )
        if isinstance(error, before_sending):
            return FunctionRefusedError(function=self.name, reason=reason)
        return UnknownOutcomeError(reason=f"function '{self.name}': {reason}")

    def _failed(self, body: bytes) -> ExoflowError:
        """What an answer with the mark FunctionError means."""
        try:
            told = json.loads(body)
        except ValueError:
            told = None
        told = told if isinstance(told, dict) else {}
        kind, text = str(told.get("errorType", "")), str(told.get("errorMessage", ""))
        if kind == _TOO_LARGE:
            return PayloadTooLargeError(message=f"function '{self.name}': {text}")
        if not kind or kind in _DIED or _TIMED_OUT in text[-60:]:  # not said by the function itself
            return UnknownOutcomeError(reason=f"function '{self.name}': {kind or 'no error type'}: {text or body[:200]!r}")
        trace = tuple(str(line) for line in told.get("stackTrace") or ())
        return FunctionError(function=self.name, error_type=kind, error_message=text, stack_trace=trace)
