"""``aws_lambda`` against two servers that we did not write: Amazon's own emulator of its runtime, and ministack.

    python -m tests.functions.emulators

Not part of the test run: it installs both into environments of their own (once, 60 MB, in the cache folder of the benchmarks). Prints what
each function came to, and ends with 1 if that is not what is expected. Neither is as exact as the service: see docs/functions.md.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import exoflow
from benchmarks.peers import environments
from exoflow.errors import TaskFailed, WorkflowInDoubtError

HANDLERS = Path(__file__).parent / "handlers"
STARTS_S, PATIENCE_S = 20, 60
IN_DOUBT = "in doubt"
KEYS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "us-east-1"}

EXPECTED = {
    ("Amazon's emulator", "told"): "7, with a key",
    ("Amazon's emulator", "die"): IN_DOUBT,
    ("Amazon's emulator", "hang"): IN_DOUBT,
    ("ministack", "told"): "7, without a key",  # it drops the client context
    ("ministack", "fail"): "FunctionError: no order 7",
    ("ministack", "die"): "FunctionError: Worker process died",  # it reports that as if the function had said so
    ("ministack", "hang"): IN_DOUBT,
    ("ministack", "nothing"): "FunctionRefusedError",
}


def installed(*packages: str) -> Path:
    """The environment that has ``packages``."""
    folder = environments.cache() / "functions"
    mark = folder / "complete"
    if not mark.exists():
        print(f"installing {', '.join(packages)} into {folder} (once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        python = str(folder / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        # what is wanted of this one is a file in its wheel, not the hundred packages that it needs
        subprocess.run([python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "aws-sam-cli"], check=True)
        name = f"samcli/local/rapid/aws-lambda-rie-{'arm64' if platform.machine() in ('arm64', 'aarch64') else 'x86_64'}"
        with zipfile.ZipFile(next(folder.glob("aws_sam_cli*.whl"))) as wheel:
            (folder / "bin" / "aws-lambda-rie").write_bytes(wheel.read(name))
        (folder / "bin" / "aws-lambda-rie").chmod(0o755)
        mark.touch()
    return folder / "bin"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def process(port: int, command: list[str], **environment: str):
    """Runs while inside; ``port`` is where it listens."""
    quiet = subprocess.DEVNULL
    running = subprocess.Popen(command, env={**os.environ, **environment}, cwd=HANDLERS, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        limit = time.monotonic() + STARTS_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > limit or running.poll() is not None:
                    raise
        yield f"http://127.0.0.1:{port}"
    finally:
        running.kill()
        running.wait()


def outcome(function: str, url: str, ledger: str) -> str:
    task = exoflow.aws_lambda(function, endpoint=url, on_unknown="fail")
    with exoflow.Engine("memory:") as engine:
        try:
            answer = engine.run_async(task.bind(order=7, ledger=ledger)).result(PATIENCE_S)
        except WorkflowInDoubtError:
            return IN_DOUBT
        except TaskFailed as failed:
            error = failed.__cause__
            return f"{type(error).__name__}{f': {error.error_message}' if hasattr(error, 'error_message') else ''}"
    return f"{answer['event']['order']}, {'with' if answer['told'] else 'without'} a key"


def with_amazons(binaries: Path, handler: str, ledger: str) -> str:
    """It has one function, called so."""
    outside, inside = free_port(), free_port()
    addresses = ["--runtime-interface-emulator-address", f"127.0.0.1:{outside}", "--runtime-api-address", f"127.0.0.1:{inside}"]
    command = [str(binaries / "aws-lambda-rie"), *addresses, sys.executable, "-m", "awslambdaric", f"shop.{handler}"]
    with process(outside, command, AWS_LAMBDA_FUNCTION_TIMEOUT="1", PYTHONPATH=str(HANDLERS)) as url:
        return outcome("function", url, ledger)


def with_ministack(binaries: Path, handlers: list[str], ledger: str) -> dict[str, str]:
    import boto3

    port = free_port()
    settings = {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "LAMBDA_EXECUTOR": "local",
    }
    with process(port, [str(binaries / "ministack")], PATH=f"{binaries}:{os.environ['PATH']}", **settings) as url:
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.write(HANDLERS / "shop.py", "shop.py")
        client = boto3.client("lambda", endpoint_url=url)
        for handler in handlers:
            if handler != "nothing":
                what = {
                    "Runtime": f"python3.{sys.version_info[1]}",
                    "Role": "arn:aws:iam::000000000000:role/x",
                    "Handler": f"shop.{handler}",
                }
                client.create_function(FunctionName=handler, Code={"ZipFile": code.getvalue()}, Timeout=1, **what)
        client.close()
        return {handler: outcome(handler, url, ledger) for handler in handlers}


def main() -> int:
    os.environ.update(KEYS)
    binaries = installed("ministack")
    with tempfile.TemporaryDirectory() as folder:
        ledger = f"{folder}/ledger"
        wanted = {server: [handler for name, handler in EXPECTED if name == server] for server, _ in EXPECTED}
        found = {("Amazon's emulator", handler): with_amazons(binaries, handler, ledger) for handler in wanted["Amazon's emulator"]}
        found |= {("ministack", handler): text for handler, text in with_ministack(binaries, wanted["ministack"], ledger).items()}
    for (server, handler), text in found.items():
        print(f"{server:18}{handler:10}{text}{'' if text == EXPECTED[server, handler] else '    EXPECTED ' + EXPECTED[server, handler]}")
    return found != EXPECTED


if __name__ == "__main__":
    sys.exit(main())
