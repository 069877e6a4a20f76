"""A server for tests: a real one, on a free port of this machine, in a thread of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

from twotower.app.server import launch
from twotower.app.server.launch import address, prepare
from twotower.app.server.options import ServeOptions

DRAINED = 20  # seconds


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Held:
    """A worker that answers nothing until it is let go. sizes: of the batches that it has begun."""

    def __init__(self, monkeypatch: Any) -> None:
        self.begun, self._free, self.sizes = threading.Event(), threading.Event(), list[int]()
        answer = launch.answer

        def waiting(jobs: Any) -> Any:
            self.sizes.append(len(jobs))
            self.begun.set()
            self._free.wait(DRAINED)
            return answer(jobs)

        monkeypatch.setattr(launch, "answer", waiting)

    def let_go(self) -> None:
        """Answer what waits, and all that comes."""
        self._free.set()


class Called:
    """A server, and requests to it, each by a connection of its own."""

    def __init__(self, url: str, server: Any) -> None:
        self.url, self.server = url, server
        self.host, _, port = url.removeprefix("http://").rpartition(":")
        self.port = int(port)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; a body that is no bytes is sent as JSON."""
        connection = HTTPConnection(self.host, self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, sent, ({"content-type": "application/json"} if body is not None else {}) | named)
            came = connection.getresponse()
            return Answer(came.status, {name.lower(): value for name, value in came.getheaders()}, came.read())
        finally:
            connection.close()

    def raw(self, *parts: bytes, wait: float = 5.0) -> bytes:
        """All that comes back for some bytes, until the server hangs up or is silent."""
        found = b""
        with socket.create_connection((self.host, self.port), timeout=wait) as connection, contextlib.suppress(OSError):
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                found += part
        return found

    def post(self, path: str, **body: Any) -> Any:
        """The answer to a request that is to be answered."""
        answer = self.ask("POST", path, body)
        assert answer.status == 200, (answer.status, answer.body)
        return answer.json


@contextlib.contextmanager
def serving(*places: Path, **options: Any) -> Iterator[Called]:
    """A server of one bundle, or of several called a, b, c ..., that ends with the block."""
    names = ["default"] if len(places) == 1 else list("abcdef")[: len(places)]
    server, listening = prepare(dict(zip(names, places, strict=True)), ServeOptions(**{"port": 0, **options}))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    url = address(listening)
    thread.start()
    try:
        yield Called(url, server)
    finally:
        server.should_exit = True
        thread.join(DRAINED)
        assert not thread.is_alive(), "the server did not end"
