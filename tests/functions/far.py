"""A far end that answers what a test wants."""

from __future__ import annotations

import json
import socket
import threading


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
