"""What each answer of the Invoke API means, and what each way of having none does."""

from __future__ import annotations

import json

import pytest

import exoflow
from exoflow.errors import (
    FunctionError,
    FunctionRefusedError,
    FunctionUnavailable,
    PayloadTooLargeError,
    ResultNotSerializableError,
    UnknownOutcomeError,
)
from tests.functions.far import answer

pytestmark = pytest.mark.slow  # making the first client of boto3 takes half a second


@pytest.fixture(autouse=True)
def _nobodys_keys(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")


def call(far, *answers, **options):
    far.answers += answers
    return exoflow.aws_lambda("charge", endpoint=far.url.partition("/charge")[0], region="local", **options)(order=7)


def refused(status, code):
    return answer(status, json.dumps({"Message": "because"}), X_Amzn_ErrorType=code)


def failed(**told):
    return answer(200, json.dumps(told), X_Amz_Function_Error="Unhandled")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (refused(429, "TooManyRequestsException"), FunctionUnavailable),
        (refused(429, "SomethingNewException"), FunctionUnavailable),
        (refused(400, "ThrottlingException"), FunctionUnavailable),
        (refused(502, "EC2ThrottledException"), FunctionUnavailable),
        (refused(409, "ResourceConflictException"), FunctionUnavailable),
        (refused(403, "AccessDeniedException"), FunctionRefusedError),
        (refused(404, "ResourceNotFoundException"), FunctionRefusedError),
        (refused(413, "RequestTooLargeException"), FunctionRefusedError),
        (refused(410, "EFSIOException"), UnknownOutcomeError),
        (refused(500, "ServiceException"), UnknownOutcomeError),
        (refused(502, "SomethingNewException"), UnknownOutcomeError),
        (refused(302, "SomethingNewException"), UnknownOutcomeError),
        (failed(errorType="ValueError", errorMessage="no"), FunctionError),
        (failed(errorType="Runtime.ExitError", errorMessage="signal: killed"), UnknownOutcomeError),
        (failed(errorType="Sandbox.Timedout", errorMessage="late"), UnknownOutcomeError),
        (failed(errorMessage="2026-11-26T00:00:00Z 1 Task timed out after 3.00 seconds"), UnknownOutcomeError),
        (failed(errorMessage="what?"), UnknownOutcomeError),
        (answer(200, "not JSON", X_Amz_Function_Error="Unhandled"), UnknownOutcomeError),
        (answer(200, "[1]", X_Amz_Function_Error="Unhandled"), UnknownOutcomeError),
        (failed(errorType="Function.ResponseSizeTooLarge", errorMessage="7 MB"), PayloadTooLargeError),
        (answer(200, "Task timed out after 3.00 seconds"), UnknownOutcomeError),
        (answer(200, "<html>"), ResultNotSerializableError),
        (answer(200, "12345")[:-2], UnknownOutcomeError),
        (b"no HTTP\r\n\r\n", UnknownOutcomeError),
        (None, UnknownOutcomeError),
        ("", UnknownOutcomeError),
    ],
)
def test_what_an_answer_means(far, reply, error):
    with pytest.raises(error):
        call(far, reply, timeout_s=0.2)
    assert len(far.requests) == 1


def test_a_null_is_none(far):
    assert call(far, answer(200, "null")) is None


def test_without_keys_nothing_is_sent(far, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(FunctionRefusedError, match="NoCredentialsError"):
        call(far, timeout_s=7)  # a client of its own: the keys of another are known already
    assert not far.requests


def test_without_a_region_nothing_is_sent(monkeypatch):
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FunctionRefusedError, match="NoRegionError"):
        exoflow.aws_lambda("charge")()


def test_a_profile_that_there_is_not():
    with pytest.raises(FunctionRefusedError, match="ProfileNotFound"):
        exoflow.aws_lambda("charge", profile="nobody")()
