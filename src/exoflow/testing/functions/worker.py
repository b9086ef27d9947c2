"""A process that runs a function, one invocation at a time: ``python -m awslambdaric``, and the Runtime API that it talks to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import msgspec

RESPONSE_BYTES_MAX = 6 * 1024 * 1024 + 100
INIT_S = 10.0
"""How long a process may take until it asks for its first invocation."""
_API = "/2018-06-01/runtime"


class Function(msgspec.Struct, frozen=True):
    """What runs: ``handler`` is ``module.function`` in ``folder``. One invocation may take ``timeout_s``, and ``concurrency`` processes may
    run at once; more are throttled. ``qualifiers``: versions and aliases besides ``$LATEST``, all the same code."""

    handler: str
    folder: str
    timeout_s: float = 3.0
    concurrency: int = 10
    environment: Mapping[str, str] = {}
    qualifiers: tuple[str, ...] = ()


class Fault(msgspec.Struct, frozen=True):
    """What shall go wrong with one invocation.

    ``"throttle"``: it is refused. ``"kill"``: the process is killed ``at`` ``"start"`` (before it gets the event), ``"end"`` (its answer is
    thrown away), or where the function says so, with a POST of nothing to ``http://$AWS_LAMBDA_RUNTIME_API/mark/NAME``. After it has run:
    ``"lose reply"`` closes the connection, ``"error"`` answers with a 500, ``"delay"`` answers ``seconds`` later.
    """

    kind: Literal["throttle", "kill", "lose reply", "error", "delay"]
    at: str = "start"
    seconds: float = 0.0


class Invocation(msgspec.Struct):
    """One call of a function. ``failed``: ``answer`` tells of an error."""

    id: str
    event: bytes
    client_context: str | None = None
    fault: Fault | None = None
    answer: bytes | None = None
    failed: bool = False

    def end(self, answer: bytes, *, failed: bool) -> None:
        self.answer, self.failed = answer, failed

    def fail(self, kind: str, text: str) -> None:
        self.end(json.dumps({"errorType": kind, "errorMessage": text}).encode(), failed=True)


class Worker:
    """See the top of this module. ``on_mark`` is called with the name of each mark that the function passes."""

    def __init__(self, name: str, function: Function, on_mark: Callable[[str], None]) -> None:
        self.function, self._on_mark = function, on_mark
        self._changed = threading.Condition()
        self._invocation: Invocation | None = None
        self._taken = False  # the process has the invocation
        self._spent = False  # the process is of no use any more
        self._exit: int | None = None
        self._init_error: bytes | None = None
        self._api = Api(self._handler())
        environment = {
            **os.environ,
            "AWS_LAMBDA_RUNTIME_API": self._api.address,
            "AWS_LAMBDA_FUNCTION_NAME": name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
            "LAMBDA_TASK_ROOT": function.folder,
            "PYTHONPATH": function.folder,
            **function.environment,
        }
        command = [sys.executable, "-m", "awslambdaric", function.handler]
        self._process = subprocess.Popen(  # noqa: S603 - running code of the user is the point
            command, cwd=function.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._watch = threading.Thread(target=self._wait, name=f"function-{name}", daemon=True)
        self._watch.start()

    @property
    def alive(self) -> bool:
        return self._exit is None

    def run(self, invocation: Invocation) -> None:
        """Give ``invocation`` an answer. Whatever goes wrong is one."""
        with self._changed:
            self._invocation = invocation
            self._changed.notify_all()
            self._until(lambda: self._taken, INIT_S)
            if self._taken and not self._until(lambda: False, self.function.timeout_s):
                text = f"RequestId: {invocation.id} Error: Task timed out after {self.function.timeout_s:.2f} seconds"
                invocation.fail("Sandbox.Timedout", text)
                self._spent = True
            elif invocation.answer is None and self._init_error is not None:
                invocation.end(self._init_error, failed=True)
            elif invocation.answer is None:
                how = {None: "it never began", -signal.SIGKILL: "signal: killed"}.get(self._exit, f"exit status {self._exit}")
                invocation.fail("Runtime.ExitError", f"RequestId: {invocation.id} Error: Runtime exited with error: {how}")
                self._spent = True
            self._invocation = None
            if self._spent:
                self.kill()
                self._changed.wait_for(lambda: self._exit is not None)

    def _until(self, good: Callable[[], bool], limit_s: float) -> bool:
        """Whether that came true in time, or the invocation or the process ended."""
        invocation = self._invocation
        assert invocation is not None
        return self._changed.wait_for(lambda: good() or invocation.answer is not None or self._exit is not None, limit_s)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        self._watch.join()
        self._api.close()

    def _wait(self) -> None:
        code = self._process.wait()
        with self._changed:
            self._exit = code
            self._changed.notify_all()

    # --- what the process says -------------------------------------------------------------------------------------------------

    def take(self) -> Invocation | None:
        """The next invocation; None if there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._exit is not None or (self._invocation is not None and self._invocation.answer is None))
            if self._invocation is None or not self.passes("start"):
                return None
            self._taken = True
            self._changed.notify_all()
            return self._invocation

    def passes(self, place: str) -> bool:
        """False if the process was killed here."""
        fault = self._invocation.fault if self._invocation is not None else None
        if fault is None or fault.kind != "kill" or fault.at != place:
            return True
        self.kill()
        return False

    def mark(self, name: str) -> bool:
        self._on_mark(name)
        return self.passes(name)

    def answered(self, invocation_id: str, body: bytes, *, failed: bool) -> bool:
        """False if nobody wants the answer any more, or it cannot be taken."""
        with self._changed:
            invocation = self._invocation
            if invocation is None or invocation.id != invocation_id or not self.passes("end"):
                return False
            self._taken = False
            if len(body) > RESPONSE_BYTES_MAX:
                self._spent = True
                text = f"Response payload size exceeded maximum allowed payload size ({RESPONSE_BYTES_MAX} bytes)."
                invocation.fail("Function.ResponseSizeTooLarge", text)
            else:
                invocation.end(body, failed=failed)
            self._changed.notify_all()
            return len(body) <= RESPONSE_BYTES_MAX

    def never_began(self, body: bytes) -> None:
        with self._changed:
            self._init_error = body

    def _handler(self) -> type[Handler]:
        worker = self

        class Runtime(Handler):
            def do_GET(self) -> None:
                invocation = worker.take()
                if invocation is None:
                    self.hang_up()
                    return
                headers = {
                    "Lambda-Runtime-Aws-Request-Id": invocation.id,
                    "Lambda-Runtime-Deadline-Ms": str(int((time.time() + worker.function.timeout_s) * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:local:000000000000:function:local",
                }
                if invocation.client_context is not None:
                    headers["Lambda-Runtime-Client-Context"] = invocation.client_context
                self.answer(200, invocation.event, headers)

            def do_POST(self) -> None:
                body = self.body()
                if self.path == f"{_API}/init/error":
                    worker.never_began(body)
                    good = True
                elif self.path.startswith("/mark/"):
                    good = worker.mark(self.path.removeprefix("/mark/"))
                else:
                    _, invocation_id, what = self.path.removeprefix(f"{_API}/").split("/")
                    good = worker.answered(invocation_id, body, failed=what == "error")
                if worker.alive:
                    self.answer(202 if good else 413, b'{"status":"OK"}')
                else:
                    self.hang_up()

        return Runtime


class Handler(BaseHTTPRequestHandler):
    """A request of HTTP/1.1."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # it has gone
            self.wfile.write(body)
            self.wfile.flush()

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Nothing is logged."""


class Api(ThreadingHTTPServer):
    """A server on a free port of this machine, in threads of its own."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, name="functions-api", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that broke is nothing to talk about."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]
