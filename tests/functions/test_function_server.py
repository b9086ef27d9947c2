"""The server of functions, asked by boto3 alone; and workflows through it, whatever goes wrong."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections import Counter

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

import exoflow
from exoflow.testing.functions import Fault, Function, FunctionServer
from tests.functions.conftest import FOLDER

PATIENCE_S = 60
pytestmark = pytest.mark.slow  # each process of awslambdaric takes 0.2 s to start


@pytest.fixture
def client(server):
    client = boto3.client("lambda", config=Config(retries={"total_max_attempts": 1}))
    yield client
    client.close()


def code_of(call, **request):
    with pytest.raises(ClientError) as caught:
        call(**request)
    return caught.value.response["Error"]["Code"]


@pytest.mark.parametrize(
    "name",
    ["told", "told:live", "arn:aws:lambda:eu-central-1:123456789012:function:told", "123456789012:function:told:live"],
)
def test_a_function_has_several_names(client, name):
    assert json.loads(client.invoke(FunctionName=name, Payload=b"1")["Payload"].read())["event"] == 1


def test_versions_that_there_are(client):
    assert client.invoke(FunctionName="told", Qualifier="live")["ExecutedVersion"] == "live"
    assert client.invoke(FunctionName="told")["ExecutedVersion"] == "$LATEST"
    assert code_of(client.invoke, FunctionName="told", Qualifier="old") == "ResourceNotFoundException"
    assert code_of(client.invoke, FunctionName="tald") == "ResourceNotFoundException"
    assert code_of(client.get_function, FunctionName="told") == "501"


def test_a_request_over_the_limit(client):
    assert code_of(client.invoke, FunctionName="told", Payload=json.dumps("x" * (6 << 20))) == "RequestTooLargeException"


def test_an_event_is_taken_and_runs_later(client, marks):
    ran = threading.Event()
    marks.action = lambda function, _mark: function == "process" and ran.set()
    assert client.invoke(FunctionName="process", InvocationType="Event")["StatusCode"] == 202
    assert ran.wait(PATIENCE_S)


def test_a_dry_run_runs_nothing(client):
    assert client.invoke(FunctionName="broken", InvocationType="DryRun")["StatusCode"] == 204


def test_errors_look_as_those_of_aws(client, server, ledger):
    def failed(name, **event):
        response = client.invoke(FunctionName=name, Payload=json.dumps({"ledger": str(ledger), **event}))
        assert response["FunctionError"] == "Unhandled"
        told = json.loads(response["Payload"].read())
        return told["errorType"], told["errorMessage"]

    assert failed("fail", order=1) == ("LookupError", "no order 1")
    assert failed("broken")[0] == "Runtime.ImportModuleError"
    assert failed("hang")[1].endswith("Task timed out after 0.30 seconds")
    assert failed("large", size=7 << 20)[0] == "Function.ResponseSizeTooLarge"
    server.inject("told", Fault("kill"))
    kind, text = failed("told")
    assert kind == "Runtime.ExitError"
    assert text.endswith("signal: killed")


def test_a_reply_is_lost(client, server):
    server.inject("told", Fault("lose reply"))
    with pytest.raises(ConnectionClosedError):
        client.invoke(FunctionName="told")


def test_when_a_server_closes_its_processes_end(server, monkeypatch):
    inside = threading.Event()
    other = FunctionServer({"process": Function("shop.process", FOLDER)}, on_mark=lambda *_: (inside.set(), leave.wait(PATIENCE_S)))
    leave = threading.Event()
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", other.url)
    client = boto3.client("lambda", config=Config(retries={"total_max_attempts": 1}))
    calling = threading.Thread(target=lambda: client.invoke(FunctionName="process"))
    before = {child.pid for child in psutil.Process().children()}
    calling.start()
    assert inside.wait(PATIENCE_S)
    began = [child for child in psutil.Process().children() if child.pid not in before]
    assert len(began) == 1
    other.close()
    leave.set()
    calling.join(PATIENCE_S)
    assert not any(child.is_running() for child in began)
    other.close()
    client.close()


def test_functions_do_not_outlive_a_server_that_is_killed(tmp_path):
    program = (
        "import boto3, os, sys\n"
        "from exoflow.testing.functions import *\n"
        f"server = FunctionServer({{'process': Function('shop.process', {FOLDER!r})}})\n"
        "os.environ.update(server.environment())\n"
        "print(boto3.client('lambda').invoke(FunctionName='process')['Payload'].read().decode(), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    if psutil.pid_exists(int(killed.stdout)):
        psutil.Process(int(killed.stdout)).wait(PATIENCE_S)


# --- whatever goes wrong ---------------------------------------------------------------------------------------------------------


@exoflow.task(can_rollback=True)
def order(number):
    return number


@exoflow.task(can_rollback=True)
def both(charged, seat):
    return charged, seat > 0


PROGRAM = """
import sys
import exoflow

charge = exoflow.aws_lambda("charge")

if __name__ == "__main__":
    with exoflow.Engine(sys.argv[1]) as engine:
        print(engine.run(charge.bind(ledger=sys.argv[2]), name="w"))
"""


@pytest.mark.parametrize("place", ["before", "after"])
def test_an_engine_is_killed_while_its_function_runs(server, marks, ledger, tmp_path, place):
    """The function goes on without anybody waiting for it. The next engine finds the task again, and calls with the same key."""
    program = tmp_path / "flow.py"
    program.write_text(PROGRAM, "utf-8")
    command = [sys.executable, str(program), str(tmp_path / "x.db"), str(ledger)]
    passed = threading.Event()
    first = subprocess.Popen(command)

    def kill_engine(_function, mark):
        if mark == place:
            first.kill()
            first.wait()
        if mark == "after":
            passed.set()

    marks.action = kill_engine
    assert first.wait(PATIENCE_S) == -9
    assert passed.wait(PATIENCE_S)
    marks.action = None
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "charged\n"
    assert len(ledger.read_text().split()) == 1


FAULTS = [Fault("kill", at) for at in ("start", "before", "after", "end")] + [Fault("lose reply"), Fault("error"), Fault("throttle")]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_goes_wrong_each_effect_stands_once(server, engine, ledger, seed):
    """Two functions of each workflow, one with a key and one with a rollback, each with up to two faults in a row."""
    chance = random.Random(seed)
    charge = exoflow.aws_lambda("charge", backoff=0)
    take = exoflow.aws_lambda("take", backoff=0, rollback=exoflow.aws_lambda("give_back"))
    for number in range(5):
        for name in ("charge", "take"):
            server.inject(name, *chance.sample(FAULTS, chance.randrange(3)))
        known = order.bind(number)
        node = both.bind(charge.bind(ledger=str(ledger), order=known), take.bind(ledger=str(ledger), order=known))
        assert engine.run_async(node, name=f"w{number}").result(PATIENCE_S) == ("charged", True)
    entries = Counter(ledger.read_text().split())
    charged = [line for line in entries if line.startswith("charge:")]
    taken = [line.removeprefix("take:") for line in entries if line.startswith("take:")]
    assert (len(charged), len(taken)) == (5, 5)
    assert all(entries[line] == 1 for line in charged)
    assert all(entries[f"take:{key}"] - entries[f"back:{key}"] == 1 for key in taken)
