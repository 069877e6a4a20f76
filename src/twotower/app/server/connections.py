"""A connection as uvicorn keeps it, with the bounds that it lacks: on the head's size, on how long a caller may take, on how many there are.

uvicorn waits for ever for the first byte, for the end of a head and for a caller who reads no answer. Here a clock looks at each connection now
and then, so an honest request pays nothing for it. And while the queue is full, requests that would stand in it are turned away here, for a
fifth of what it costs to refuse them later; after a moment, since who is refused and asks again at once would take the time of those who wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from twotower.app.server.gate import WHOLE
from twotower.app.server.options import ServeOptions
from twotower.app.server.problems import MEDIA, Problem, busy

MOST_HEAD, MOST_HEADERS = 32 << 10, 100  # bytes, and lines
HELD = 0.01  # seconds before a request that is turned away is told so
MOST_PASSED = 8 << 20  # bytes of its body
KEPT_ALIVE = 75  # seconds without a request
LARGE = Problem(431, f"the head of a request has at most {MOST_HEAD:,} bytes and {MOST_HEADERS} headers")
CROWDED = Problem(503, "more connections are open than this server takes", headers={"retry-after": "1"})
NONE = "-"  # the request id of what never became a request


def written(problem: Problem, *lines: str) -> bytes:
    """A problem as it goes over a connection, for what never became a request."""
    body = problem.body(NONE)
    head = [f"HTTP/1.1 {problem.status} {problem.title}", f"content-type: {MEDIA}", f"content-length: {len(body)}", "cache-control: no-store"]
    return "\r\n".join([*head, *(f"{name}: {value}" for name, value in problem.headers.items()), *lines, "", ""]).encode() + body


TURNED = written(busy())
Busy = Callable[[], bool]
Turned = Callable[[float], None]  # is told how long one waited to be refused


class Joined:
    """A transport that sends what is written in one turn of the event loop as one: head and body of an answer, or answers to several requests.

    A write lets go of the interpreter, and who makes the answers takes it; each that is spared is one time less that a caller waits for that.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send this, before the loop waits again."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    def write_now(self, data: bytes) -> None:
        """Send this behind what is left."""
        if self._parts:
            self.write(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Send what is left, and close."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Send what is left."""
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))


class Connection(HttpToolsProtocol):
    """One caller's connection."""

    options = ServeOptions()
    busy: Busy = staticmethod(lambda: False)
    turned: Turned = staticmethod(lambda _: None)
    waiting: list[tuple[Connection, bool, float]]  # of all connections, those that are to be turned away

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joined(transport, self.loop))  # type: ignore[arg-type]
        self._since = self.loop.time()  # when it last came from waiting to reading, to answering, or back
        self._heading, self._head = False, 0  # whether a head is being read, and how much of it was
        self._refusal = Problem(400, "this is no HTTP request")
        self._clock: asyncio.TimerHandle | None = None
        self._turning, self._owed, self._passed = False, 0, 0  # whether this request is turned away, how many are yet to be told, and bytes let pass
        self._crowded = len(self.connections) > self.options.most_connections
        if len(self.connections) > 2 * self.options.most_connections:
            transport.abort()
            return
        self._clock = self.loop.call_later(self.options.slow / 2, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._clock is not None:
            self._clock.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._crowded:
            # Told once it has asked: what is sent to a connection that is closed while its request is on the way gets lost.
            self._refuse(CROWDED)
            return
        super().data_received(data)
        if self._heading:
            self._head += len(data)
            if self._head > MOST_HEAD:
                self._refuse(LARGE)

    def eof_received(self) -> bool:  # type: ignore[override]
        # Who has sent all that there is to send may yet wait for the answer.
        self.transport.flush()  # type: ignore[attr-defined]
        if self._running:
            self.cycle.keep_alive = False
        return self._running

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._heading, self._head, self._since = True, 0, self.loop.time()

    def on_headers_complete(self) -> None:
        self._heading, self._since = False, self.loop.time()
        if len(self.headers) > MOST_HEADERS or len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MOST_HEAD:
            self._refusal = LARGE
            raise ValueError("too large a head")
        if not self.url.startswith(b"/"):
            raise ValueError("an address of its own, which is not to stand beside the Host")
        if (self._owed or (not self._running and self.busy())) and self.parser.get_method() == b"POST":
            self._turning, self._passed = True, 0
            if self.expect_100_continue:  # there is nothing to go on with, and the body does not come before that is said
                self._settle()
                self._refuse(busy())
                self.turned(self.loop.time() - self._since)
            return
        self._settle()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._turning:
            super().on_body(body)
            return
        self._passed += len(body)
        if self._passed > MOST_PASSED:
            self.transport.close()

    def on_message_complete(self) -> None:
        if not self._turning:
            super().on_message_complete()
            self.scope["state"][WHOLE] = True
            return
        self._turning, self._owed = False, self._owed + 1
        self.flow.pause_reading()
        keep_alive = self.parser.should_keep_alive()
        if not self.waiting:
            self.loop.call_later(HELD, self._turn_all_away)
        self.waiting.append((self, keep_alive, self._since))

    def _turn_all_away(self) -> None:
        """Tell all who have been turned away of late: each alone would wake the loop, and take the interpreter from who makes the answers."""
        waiting = list(self.waiting)
        self.waiting.clear()
        for connection, keep_alive, since in waiting:
            connection._turn_away(keep_alive, since)

    def _settle(self) -> None:
        """Tell at once what is owed on this connection, before something else is answered on it."""
        if self._owed:
            owed = [entry for entry in self.waiting if entry[0] is self]
            self.waiting[:] = [entry for entry in self.waiting if entry[0] is not self]
            for _, keep_alive, since in owed:
                self._turn_away(keep_alive, since)

    def _turn_away(self, keep_alive: bool, since: float) -> None:
        self._owed -= 1
        if self.transport.is_closing():
            return
        self.transport.write_now(TURNED)  # type: ignore[attr-defined]
        self._since = self.loop.time()
        self.turned(self._since - since)
        if keep_alive:
            self.flow.resume_reading()
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        # As uvicorn has it, but for a timer of its own for each request: `_look` sees connections that are kept and not used.
        self._since = self.loop.time()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal)

    def _refuse(self, problem: Problem) -> None:
        if self.transport.is_closing():
            return
        if self._reading:
            self.cycle.disconnected = True  # nothing more is said on it
        if self._reading or not self._running:
            self.transport.write(written(problem, "connection: close"))
        self.transport.close()

    def _look(self) -> None:
        """Let go of a connection on which nothing happens."""
        if self.transport.is_closing():
            self.transport.abort()  # closed, and its last answer not read since
            return
        waited = self.loop.time() - self._since
        if self._running:
            if waited > self.options.seconds + 3 * self.options.slow:
                self.transport.abort()
        elif self._heading or self._turning:
            if waited > self.options.slow:
                self._refuse(Problem(408, "the head of the request took too long"))
        elif waited > (self.options.slow if self.cycle is None else KEPT_ALIVE):
            self.transport.close()
        self._clock = self.loop.call_later(self.options.slow / 2, self._look)

    @property
    def _reading(self) -> bool:
        """Whether what comes is the body of the one request that there is, to which nothing has been said yet."""
        return self._running and self.cycle.more_body and not self._heading and not self.cycle.response_started and not self.pipeline

    @property
    def _running(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete


def connections(options: ServeOptions, busy: Busy, turned: Turned) -> type[Connection]:
    """Connections within these bounds. busy: whether more would be refused. turned: is told of each that was turned away."""
    return type("Bounded", (Connection,), {"options": options, "busy": staticmethod(busy), "turned": staticmethod(turned), "waiting": []})


def settings(options: ServeOptions, busy: Busy, turned: Turned) -> dict[str, Any]:
    """What uvicorn is told beside."""
    return {
        "http": connections(options, busy, turned),
        "ws": "none",
        "server_header": False,
        "access_log": False,
        "log_config": None,
        "proxy_headers": False,
        "timeout_keep_alive": KEPT_ALIVE,
        "timeout_graceful_shutdown": max(1, round(options.drain)),
        "lifespan": "on",
    }
