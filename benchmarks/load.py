"""A load of HTTP requests: bytes made beforehand, sent over connections that stay open, answers counted by status and time.

It shares the machine with the server, so it does little for a request. In a closed loop each connection sends its next request when it has
its answer. In an open one requests are due at a rate whatever comes back, and their time counts from when they were due, not from when a
connection was free: a server that stalls is not spared the requests that would have come meanwhile.

    python -m benchmarks.load '{"host": "127.0.0.1", "port": 8080, "bodies": [{"query": "x"}], "connections": 16, "seconds": 5}'
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

END = b"\r\n\r\n"
LENGTH = b"content-length: "
Told = Callable[[int, float, bytes], None]  # of each answer its status, its seconds and its body


class Caller(asyncio.Protocol):
    """One connection, which sends one request at a time."""

    def __init__(self, told: Told, free: Callable[[Caller], None], lost: Callable[[Caller], None]) -> None:
        self._told, self._free, self._lost = told, free, lost
        self._due = 0.0
        self._parts = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due then."""
        self._due = due
        assert self.transport is not None
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parts += data
        head = self._parts.find(END)
        if head < 0:
            return
        place = self._parts.find(LENGTH, 0, head)
        length = int(self._parts[place + len(LENGTH) : self._parts.find(b"\r\n", place)])
        if len(self._parts) < head + 4 + length:
            return
        status, body = int(self._parts[9:12]), bytes(self._parts[head + 4 : head + 4 + length])
        self._parts.clear()
        self._told(status, time.perf_counter() - self._due, body)
        self._due = 0.0
        self._free(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._due:
            self._told(0, time.perf_counter() - self._due, b"")
        self._lost(self)


class Load:
    """Requests to one server, in turn, and what came back."""

    def __init__(self, host: str, port: int, requests: Sequence[bytes], check: Told | None = None) -> None:
        self._host, self._port, self._requests, self._check = host, port, requests, check
        self._taken: dict[int, list[float]] = {}
        self._inside: dict[int, int] = {}  # answers of each status within the time; the rest came when nobody asked any more
        self._free: deque[Caller] = deque()
        self._due: deque[float] = deque()
        self._callers: set[Caller] = set()
        self._number, self._until, self._closed = 0, 0.0, True

    async def run(self, seconds: float, connections: int, rate: float | None = None) -> dict[str, Any]:
        """Ask for so long, in a closed loop or at a rate; how many answers there were of each status, and how long they took in milliseconds."""
        for _ in range(connections):
            _, caller = await asyncio.get_running_loop().create_connection(
                lambda: Caller(self._told, self._ready, self._lost), self._host, self._port
            )
            self._callers.add(caller)
            self._free.append(caller)
        self._closed, self._until = rate is None, time.perf_counter() + seconds
        if rate is None:
            for caller in [self._free.popleft() for _ in range(len(self._free))]:
                self._go(caller, time.perf_counter())
            await asyncio.sleep(seconds)
        else:
            await self._at_rate(rate)
        patience = time.perf_counter() + 15
        while (len(self._free) < len(self._callers) or self._due) and time.perf_counter() < patience:
            await asyncio.sleep(0.01)
        missing = len(self._due) + len(self._callers) - len(self._free)
        for caller in list(self._callers):
            if caller.transport is not None:
                caller.transport.abort()
        return counted(self._taken, self._inside, seconds, missing)

    async def _at_rate(self, rate: float) -> None:
        """Requests come by chance, so many a second on average."""
        generator, at = np.random.default_rng(0), time.perf_counter()
        while at < self._until:
            now = time.perf_counter()
            while at <= now:
                if self._free:
                    self._go(self._free.popleft(), at)
                else:
                    self._due.append(at)
                at += float(generator.exponential(1 / rate))
            # A loop of libuv counts in milliseconds; less would be none, and this process would spin for the core that the server needs.
            await asyncio.sleep(max(0.001, min(at, self._until) - time.perf_counter()))

    def _go(self, caller: Caller, at: float) -> None:
        self._number += 1
        caller.send(self._requests[self._number % len(self._requests)], at)

    def _ready(self, caller: Caller) -> None:
        if self._closed and time.perf_counter() < self._until:
            self._go(caller, time.perf_counter())
        elif self._due:
            self._go(caller, self._due.popleft())
        else:
            self._free.append(caller)

    def _lost(self, caller: Caller) -> None:
        self._callers.discard(caller)
        if caller in self._free:
            self._free.remove(caller)

    def _told(self, status: int, took: float, body: bytes) -> None:
        self._taken.setdefault(status, []).append(took)
        self._inside[status] = self._inside.get(status, 0) + (time.perf_counter() <= self._until)
        if self._check is not None:
            self._check(status, took, body)


def counted(taken: dict[int, list[float]], inside: dict[int, int], seconds: float, missing: int) -> dict[str, Any]:
    """Answers of each status, a second and in all, and their times in milliseconds."""
    found: dict[str, Any] = {"missing": missing}
    for status, times in sorted(taken.items()):
        milliseconds = 1000 * np.array(times)
        p50, p90, p99, p999 = np.percentile(milliseconds, [50, 90, 99, 99.9]).round(2).tolist()
        found[str(status)] = {"count": len(times), "rate": inside[status] / seconds, "p50": p50, "p90": p90, "p99": p99, "p999": p999}
        found[str(status)]["most"] = float(milliseconds.max().round(2))
    return found


def request(path: str, body: Any, host: str = "localhost", **headers: str) -> bytes:
    """The bytes of a POST of JSON."""
    text = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json", f"content-length: {len(text)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + END + text


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """One load, as a process of its own is told."""
    requests = [request(asked.get("path", "/search"), body) for body in asked["bodies"]]
    import uvloop

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    return uvloop.run(Load(asked["host"], asked["port"], requests).run(asked["seconds"], asked["connections"], asked.get("rate")))


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1] if len(sys.argv) > 1 else sys.stdin.read()))))
