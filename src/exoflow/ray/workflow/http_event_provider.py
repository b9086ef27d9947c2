"""Events over HTTP: ``POST /event/send_event/WORKFLOW_ID`` with ``{"event_key": …, "event_payload": …}``.

The answer 200 comes when the event is saved, so that its sender may forget it; 404 if nobody waits for that key (send it again later).
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import ray

from exoflow.ray.workflow.event_listener import EventListener
from exoflow.ray.workflow.status import Event
from exoflow.worker.context import current_task

ADDRESS = "EXOFLOW_RAY_HTTP_EVENTS"
"""Environment variable: ``HOST:PORT`` on which events are taken; read where the first listener runs."""
_ADDRESS_OF_RAY = "127.0.0.1:8000"
_NAME, _NAMESPACE = "ExoflowHttpEvents", "exoflow"
_LISTENERS_MAX = 10_000
_BODY_MAX = 64 * 1024 * 1024
_PATH = "/event/send_event/"
_DEFAULT_KEY = "ray.workflow.api.wait_for_event.locals.get_message"
"""What Ray calls the task that waits, where the listener is given no key."""


class WorkflowEventHandleError(Exception):
    """An event cannot be taken, or acknowledged."""

    def __init__(self, workflow_id: str, what_happened: str) -> None:
        self.workflow_id, self.what_happened = workflow_id, what_happened
        super().__init__(workflow_id, what_happened)

    def __str__(self) -> str:
        return f"Workflow[id={self.workflow_id}]: {self.what_happened}"


class HTTPEventProvider:
    """The server, in an actor. What it knows is gone with it; a workflow that waits then asks anew when it goes on."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._waiting: dict[tuple[str, str], asyncio.Future[Any]] = {}
        self._unsaved: dict[tuple[str, str], asyncio.Future[bool]] = {}
        self._server: asyncio.Server | None = None
        self._starting = asyncio.Lock()

    async def get_event_payload(self, workflow_id: str, event_key: str) -> Event:
        """Wait for the event of that key. A listener that asks again, after a crash, takes the place of the one before, and gets the event
        that the other got, if that is not saved yet."""
        async with self._starting:
            if self._server is None:
                self._server = await asyncio.start_server(self._serve, self._host, self._port)
        key = workflow_id, event_key
        future = self._waiting.get(key)
        if future is None or not future.done() or key not in self._unsaved:
            if future is not None:
                future.cancel()
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
        return event_key, await future

    async def report_checkpointed(self, workflow_id: str, event_key: str, confirmation: bool) -> None:  # noqa: FBT001 - as in Ray
        """The event is saved (or will not be): its sender gets the answer. If there is none any more, nothing happens."""
        self._waiting.pop((workflow_id, event_key), None)
        sender = self._unsaved.get((workflow_id, event_key))
        if sender is not None and not sender.done():
            sender.set_result(confirmation)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            status, answer = await self._answer(reader)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError) as error:
            status, answer = 400, _error(400, f"not a request for an event: {error}")
        body = json.dumps(answer).encode()
        writer.write(b"HTTP/1.1 %d -\r\nContent-Type: application/json\r\nConnection: close\r\n" % status)
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        try:
            await writer.drain()
        except ConnectionError:
            return  # the sender is gone, and will send the event again, to nobody
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if method != "POST" or not path.startswith(_PATH):
            return 404, _error(404, f"events are sent with POST {_PATH}WORKFLOW_ID")
        if not 0 <= length <= _BODY_MAX:
            return 413, _error(413, f"an event has at most {_BODY_MAX} bytes")
        event = json.loads(await reader.readexactly(length))
        workflow_id = path[len(_PATH) :]
        if not isinstance(event, dict) or not {"event_key", "event_payload"} <= event.keys():
            return 404, _error(404, "an event is {'event_key': ..., 'event_payload': ...}")
        key = workflow_id, event["event_key"]
        listener = self._waiting.get(key)
        if listener is None or listener.done():
            return 404, _error(404, f"nobody waits for '{key[1]}' in workflow '{workflow_id}' (yet); send it again later")
        sender = self._unsaved[key] = asyncio.get_running_loop().create_future()
        listener.set_result(event["event_payload"])
        is_saved = await sender
        if self._unsaved.get(key) is sender:
            del self._unsaved[key]
        return (200, {}) if is_saved else (500, _error(500, "the event could not be saved"))


def _error(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


class HTTPListener(EventListener):
    """``wait_for_event(HTTPListener, event_key="…")``: the event is ``(event_key, payload)``."""

    def __init__(self) -> None:
        self._provider = (
            ray.remote(HTTPEventProvider)
            .options(
                name=_NAME,
                namespace=_NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_concurrency=_LISTENERS_MAX,
                max_restarts=-1,
            )
            .remote(os.environ.get(ADDRESS, _ADDRESS_OF_RAY))
        )

    async def poll_for_event(self, event_key: str | None = None) -> Event:
        """Wait for the event of ``event_key`` in this workflow."""
        return await self._provider.get_event_payload.remote(current_task().workflow_id, event_key or _DEFAULT_KEY)

    async def event_checkpointed(self, event: Event) -> None:
        """Have its sender told."""
        await self._provider.report_checkpointed.remote(current_task().workflow_id, event[0], True)
