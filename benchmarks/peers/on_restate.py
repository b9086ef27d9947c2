"""Restate as a contestant: its server, and a service of ours that it calls. Runs where both are installed."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.killing import after_kill
from benchmarks.peers.installed import footprint
from benchmarks.reading import CHAIN, Reading, Readings, Sizes, elapsed_s, median_ms, require, serve

CLIENTS = 64
LIMIT_S = 60.0
_HOST = "127.0.0.1"


class Restate:
    """A server with its data in ``folder``, and the service. Started anew on the same folder, it goes on."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        note = folder / "ports.json"
        if not note.exists():
            note.write_text(json.dumps(_free_ports(4)), "ascii")
        self.ingress, self._admin, node, self._service = json.loads(note.read_text("ascii"))
        server = next(Path(sys.prefix).glob("node_modules/@restatedev/*/bin/restate-server"))
        settings = {
            "RESTATE_INGRESS__BIND_ADDRESS": f"{_HOST}:{self.ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"{_HOST}:{self._admin}",
            "RESTATE_BIND_ADDRESS": f"{_HOST}:{node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://{_HOST}:{node}",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_BASE_DIR": str(folder / "data"),
            "RESTATE_NODE_NAME": "bench",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RUST_LOG": "warn",
        }
        app = [sys.executable, "-m", "hypercorn", "--bind", f"{_HOST}:{self._service}", "benchmarks.peers.restate_app:app"]
        self._processes = [_started([str(server), "--no-logo"], folder, os.environ | settings), _started(app, folder, dict(os.environ))]

    def register(self) -> None:
        """Tell the server of the service, and wait until it answers."""
        _patiently(lambda: socket.create_connection((_HOST, self._service), 1).close())
        deployment = {"uri": f"http://{_HOST}:{self._service}", "force": True}
        _patiently(lambda: _post(self._admin, "/deployments", deployment, {}))
        _patiently(lambda: require(self.call("one_task", 1), 2, "result"))

    def call(self, handler: str, argument: object, key: str | None = None) -> Any:
        """The result of a handler; with a key, of the invocation that has it."""
        return _post(self.ingress, f"/bench/{handler}", argument, {"idempotency-key": key} if key else {})

    def kill(self, how: int = signal.SIGKILL) -> None:
        for process in self._processes:
            os.killpg(process.pid, how)
        for process in self._processes:
            process.wait(LIMIT_S)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((_HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _started(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """In a process group of its own, so that all of it can be killed."""
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _post(port: int, path: str, argument: object, headers: dict[str, str]) -> Any:
    connection = http.client.HTTPConnection(_HOST, port, timeout=LIMIT_S)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(argument), {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        body = answer.read()
    if answer.status not in (200, 201, 202):
        raise ConnectionError(f"{path}: {answer.status} {body[:200]!r}")
    return json.loads(body)


def _patiently(action: Callable[[], object]) -> None:
    """Until the servers are up."""
    until = time.monotonic() + LIMIT_S
    while True:
        try:
            action()
        except (OSError, http.client.HTTPException):
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Restate]:
    restate = Restate(folder / "restate")
    try:
        restate.register()
        yield restate
    finally:
        restate.kill(signal.SIGTERM)


def latency(folder: Path, sizes: Sizes) -> Readings:
    with running(folder) as restate:
        taken = _kept_alive_ms(restate, "one_task", 1, 2, sizes.calls)
    return {"one-task workflow": Reading(taken, "ms", "durable")}


def chains(folder: Path, sizes: Sizes) -> Readings:
    """It knows one kind of step, which is compared with both of ours."""
    with running(folder) as restate:
        taken = _kept_alive_ms(restate, "chain", CHAIN, CHAIN, sizes.chains) / CHAIN
    return {name: Reading(taken, "ms/task", "durable") for name in ("committing tasks", "internal tasks")}


def _kept_alive_ms(restate: Restate, handler: str, argument: int, wanted: int, times: int) -> float:
    """Calls on one connection."""
    connection = http.client.HTTPConnection(_HOST, restate.ingress, timeout=LIMIT_S)

    def call() -> None:
        connection.request("POST", f"/bench/{handler}", json.dumps(argument), {"content-type": "application/json"})
        require(json.loads(connection.getresponse().read()), wanted, "result")

    with contextlib.closing(connection):
        call()
        return median_ms(call, times)


def workflows(folder: Path, sizes: Sizes) -> Readings:
    """By several clients at once, each on a connection of its own."""
    count = sizes.rival_crowd
    with running(folder) as restate:
        start = time.perf_counter()
        results = asyncio.run(_many(restate.ingress, count))
        taken = time.perf_counter() - start
    require(sum(results), sum(range(1, count + 1)), "results")
    return {"workflows at once": Reading(count / taken, "/s", "durable")}


async def _many(port: int, count: int) -> list[int]:
    left, results = iter(range(count)), list[int]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection(_HOST, port)
        for x in left:
            body = str(x).encode()
            head = (
                f"POST /bench/one_task HTTP/1.1\r\nhost: {_HOST}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            size = next(int(line.partition(b":")[2]) for line in answer if line.startswith(b"content-length"))
            results.append(json.loads(await reader.readexactly(size)))
        writer.close()

    await asyncio.gather(*[client() for _ in range(min(CLIENTS, count))])
    return results


def tasks(folder: Path, sizes: Sizes) -> Readings:
    count = sizes.rival_crowd
    with running(folder) as restate:
        taken = elapsed_s(lambda: require(restate.call("fan_out", count), sum(range(1, count + 1)), "result"))
    return {"saved tasks": Reading(count / taken, "/s", "durable")}


class RestateLife:
    """The chain, in a server and a service that are killed together."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        again = (folder / "marks").exists()
        self._restate = Restate(folder / "restate")
        self._order = {"folder": str(folder), "steps": str(sizes.steps), "step_s": str(sizes.step_s)}
        self._steps = sizes.steps
        if not again:
            try:
                self._restate.register()
                _post(self._restate.ingress, "/bench/slow_chain/send", self._order, {"idempotency-key": "chain"})
            except BaseException:
                self.kill()
                raise

    def kill(self) -> None:
        self._restate.kill()

    def finish(self) -> None:
        """The server goes on by itself; asking again under the same key gives the result."""
        _patiently(lambda: require(self._restate.call("slow_chain", self._order, "chain"), self._steps, "result"))

    def close(self) -> None:
        self._restate.kill(signal.SIGTERM)


def recovery(folder: Path, sizes: Sizes) -> Readings:
    return after_kill(folder, sizes, lambda: RestateLife(folder, sizes))


def start(folder: Path) -> None:
    """Print a first durable result, then wait for a line."""
    with running(folder) as restate:
        print(restate.call("one_task", 1), flush=True)
        sys.stdin.readline()


def room(folder: Path, sizes: Sizes) -> Readings:
    places = [folder / str(number) for number in range(sizes.starts)]
    for place in places:
        place.mkdir()
    commands = [[sys.executable, "-m", "benchmarks.peers.on_restate", "start", str(place)] for place in places]
    return footprint("restate", commands, "durable")


GROUPS = {"P1": latency, "P2": chains, "P3": workflows, "P4": tasks, "P11": recovery, "P12": room}

if __name__ == "__main__":
    if sys.argv[1] == "start":
        start(Path(sys.argv[2]))
    else:
        serve(GROUPS)
