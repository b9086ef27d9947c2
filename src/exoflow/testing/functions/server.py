"""The Invoke API of AWS Lambda, as far as ``invoke`` of an SDK uses it."""

from __future__ import annotations

import base64
import collections
import itertools
import json
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from exoflow.errors import MissingExtraError
from exoflow.testing.functions.worker import Api, Fault, Function, Handler, Invocation, Worker

REQUEST_BYTES_MAX = 6 * 1024 * 1024
_BEFORE, _AFTER = "/2015-03-31/functions/", "/invocations"


class FunctionServer:
    """Serves ``functions`` by name at ``url``, from a process of its own for each invocation that runs at the same time; a process whose
    invocation has ended takes the next. ``on_mark`` is called with a function's name and the name of each mark that it passes (see
    :class:`~exoflow.testing.functions.worker.Fault`), before the function goes on.

    Raises MissingExtraError without the package awslambdaric, which comes with the extra 'lambda-local'.
    """

    def __init__(self, functions: Mapping[str, Function], *, on_mark: Callable[[str, str], None] | None = None) -> None:
        if find_spec("awslambdaric") is None:
            raise MissingExtraError(feature="FunctionServer", extra="lambda-local")
        self._functions = dict(functions)
        self._on_mark = on_mark or (lambda _function, _mark: None)
        self._lock = threading.Lock()
        self._idle: dict[str, list[Worker]] = {name: [] for name in functions}
        self._busy: dict[str, set[Worker]] = {name: set() for name in functions}
        self._faults: dict[str, collections.deque[Fault]] = {name: collections.deque() for name in functions}
        self._numbers = itertools.count(1)
        self._closing = threading.Event()
        self._api = Api(self._handler())
        self.url = f"http://{self._api.address}"

    def inject(self, function: str, *faults: Fault) -> None:
        """The next invocations of ``function`` go wrong, one by each fault."""
        with self._lock:
            self._faults[function] += faults

    def environment(self) -> dict[str, str]:
        """Variables with which boto3 finds this server, and keys that are as good as any."""
        keys = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
        return {"AWS_ENDPOINT_URL_LAMBDA": self.url, "AWS_DEFAULT_REGION": "local", **keys}

    def close(self) -> None:
        """Kill all processes. Calling it twice is no error."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._api.close()
        with self._lock:
            workers = [worker for group in (*self._idle.values(), *self._busy.values()) for worker in group]
        for worker in workers:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- an invocation ---------------------------------------------------------------------------------------------------------

    def _fault(self, name: str) -> Fault | None:
        with self._lock:
            return self._faults[name].popleft() if self._faults[name] else None

    def _invoke(self, name: str, invocation: Invocation) -> bool:
        """False if too many run already, or the server closes."""
        with self._lock:
            function, idle, busy = self._functions[name], self._idle[name], self._busy[name]
            gone = [worker for worker in idle if not worker.alive]
            idle[:] = [worker for worker in idle if worker.alive]
            if len(busy) >= function.concurrency or self._closing.is_set():
                return False
            worker = idle.pop() if idle else Worker(name, function, lambda mark: self._on_mark(name, mark))
            busy.add(worker)
        worker.run(invocation)
        with self._lock:
            busy.remove(worker)
            (idle if worker.alive else gone).append(worker)
        for each in gone:
            each.close()
        return True

    def _handler(self) -> type[Handler]:
        server = self

        class Invoke(Handler):
            def do_POST(self) -> None:  # noqa: N802 - its name in the base class
                body = self.body()
                if server._closing.is_set():
                    self.hang_up()
                    return
                parts = urlsplit(self.path)
                if not parts.path.startswith(_BEFORE) or not parts.path.endswith(_AFTER):
                    self._refuse(404, "UnknownOperationException", f"no such operation: {self.path}")
                    return
                name, qualifier = _parsed(unquote(parts.path.removeprefix(_BEFORE).removesuffix(_AFTER)))
                qualifier = parse_qs(parts.query).get("Qualifier", [qualifier])[0]
                function = server._functions.get(name)
                if function is None or qualifier not in ("$LATEST", *function.qualifiers):
                    self._refuse(404, "ResourceNotFoundException", f"Function not found: {name}:{qualifier}")
                elif len(body) > REQUEST_BYTES_MAX:
                    self._refuse(413, "RequestTooLargeException", f"{len(body)} bytes exceed {REQUEST_BYTES_MAX}")
                else:
                    self._run(name, qualifier, body)

            def _run(self, name: str, qualifier: str, body: bytes) -> None:
                context, fault = self.headers.get("X-Amz-Client-Context"), server._fault(name)
                decoded = base64.b64decode(context).decode() if context else None
                invocation = Invocation(f"00000000-0000-0000-0000-{next(server._numbers):012d}", body or b"{}", decoded, fault)
                kind = self.headers.get("X-Amz-Invocation-Type", "RequestResponse")
                if kind == "DryRun":
                    self.answer(204, b"")
                elif fault is not None and fault.kind == "throttle":
                    self._refuse(429, "TooManyRequestsException", "Rate Exceeded.")
                elif kind == "Event":
                    threading.Thread(target=server._invoke, args=(name, invocation), daemon=True).start()
                    self.answer(202, b"")
                elif not server._invoke(name, invocation):
                    self._refuse(429, "TooManyRequestsException", "Rate Exceeded.")
                else:
                    self._tell(invocation, qualifier)

            def _tell(self, invocation: Invocation, qualifier: str) -> None:
                fault = invocation.fault
                if fault is not None and fault.kind == "delay":
                    server._closing.wait(fault.seconds)
                if fault is not None and fault.kind == "lose reply":
                    self.hang_up()
                elif fault is not None and fault.kind == "error":
                    self._refuse(500, "ServiceException", "Internal failure")
                else:
                    headers = {"X-Amz-Executed-Version": qualifier, "X-Amzn-RequestId": invocation.id}
                    if invocation.failed:
                        headers["X-Amz-Function-Error"] = "Unhandled"
                    self.answer(200, invocation.answer or b"null", headers)

            def _refuse(self, status: int, code: str, text: str) -> None:
                self.answer(status, json.dumps({"Message": text}).encode(), {"X-Amzn-ErrorType": code})

        return Invoke


def _parsed(name: str) -> tuple[str, str]:
    """Name and qualifier, from one of the forms that AWS takes: a name, an ARN, part of one, each with a qualifier or without."""
    words = name.split(":")
    if "function" in words[:-1]:
        words = words[words.index("function") + 1 :]
    return words[0], words[1] if len(words) > 1 else "$LATEST"
