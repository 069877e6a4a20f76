"""What every request passes before anything is done for it, and every answer on its way out.

In this order: the Host, the key, the route and its method, the form of the body and its size; then the body is read, within its time; then the
rate of the key and the queue. What is refused before the body has cost no more than its head, and who has no key is told nothing of routes. On the
way out an answer gets its request id, and the log and the metrics a line: of sizes, times and statuses, never of what was said.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

from twotower.app.server.metrics import Metrics
from twotower.app.server.options import LOCAL, Keys, ServeOptions
from twotower.app.server.problems import MEDIA, Problem, busy, failed, traced
from twotower.app.server.wire import MOST_BYTES

logger = logging.getLogger("twotower.server")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Ask = Callable[[str, bytes], Awaitable[bytes]]  # the path of a queued route and a body -> the answer as JSON

LENGTH = re.compile(rb"[0-9]{1,18}")
JSON = re.compile(rb'application/json(?:\s*;\s*charset="?utf-8"?)?\s*', re.IGNORECASE)
JSON_MEDIA = b"application/json"
LET_PASS = 8 << 20  # bytes of a body that is refused
LARGE = 1 << 16  # bytes of an answer that are sent without looking at the clock
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
POLICED = b"content-security-policy"
ALWAYS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


WHOLE = "whole"  # in the state of a request whose body has come
GONE = 499  # nobody is there to be answered; as nginx counts them


class Route(NamedTuple):
    """Where something is answered. path: as it is declared; what stands in braces is one part of a path. queries: names that its query string may
    have, None for any. queued: whether it stands in the queue. open: whether it takes no key."""

    method: str
    path: str
    queries: frozenset[str] | None = frozenset()
    queued: bool = False
    open: bool = False


class _Gone(Exception):
    """The caller has hung up."""


class Gate:
    """The application behind its bounds."""

    def __init__(self, app: App, ask: Ask, routes: list[Route], options: ServeOptions, metrics: Metrics, full: Callable[[], bool]) -> None:
        self._app, self._ask, self._options, self._metrics, self._full = app, ask, options, metrics, full
        self._keys = Keys(options.keys)
        listened = f"[{options.host}]" if ":" in options.host else options.host
        self._hosts = {_named(name) for name in (*LOCAL, listened, *options.allow_hosts)}
        self._routes: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._routes.setdefault(route.path.partition("{")[0], {})[route.method] = route
        self._rates = [Rate(options.rate) for _ in range(max(1, len(self._keys)))] if options.rate is not None else []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answering(send, self._options.slow)
        scope.setdefault("state", {})["request_id"] = answer.request_id
        begun, route, size, whole = time.perf_counter(), "none", 0, scope["method"] in ("GET", "HEAD")
        try:
            headers = _headed(scope["headers"])
            found = self._admitted(scope, headers, answer)
            route = found.path
            body = await self._body(found, scope, headers, receive)
            size, whole = len(body), True
            self._afforded(found, scope["key"])
            if found.queued:
                await answer.give(200, JSON_MEDIA, await self._ask(route, body))
                return
            # Routes are found here alone: what stands in the braces of one goes along as it came, whatever a router would make of it. Of what answers
            # HEAD uvicorn leaves the body out.
            inner = {**scope, "method": found.method, "path": found.path.partition("{")[0] + ("-" if scope["rest"] else "")}
            await self._app(inner, _replayed(body, receive), answer.send)
        except Problem as problem:
            await answer.refuse(problem, close=not whole)
        except _Gone:
            answer.status = GONE
        except asyncio.CancelledError:
            answer.status = answer.status or GONE
            raise
        except Exception as error:  # a fault of ours: the log knows where, the caller that there is one
            logger.error("request %s failed: %s", answer.request_id, traced(error))
            await answer.refuse(failed(), close=True)
        finally:
            seconds = time.perf_counter() - begun
            self._metrics.answered(route, answer.status, seconds)
            told = (answer.request_id, scope["method"] if route != "none" else "-", route, answer.status, 1000 * seconds, size, answer.size)
            logger.info("%s %s %s %d in %.1f ms, %d bytes in, %d out", *told)

    def _admitted(self, scope: Scope, headers: Mapping[bytes, list[bytes]], answer: _Answering) -> Route:
        """The route that is asked for, if it may be. Raises Problem."""
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or _named(hosts[0].decode("latin-1")) not in self._hosts:
            raise Problem(421, "this server does not answer by that name; it is to be called by one of those that it was told (--allow-host)")
        routes, rest = self._at(scope)
        key = self._key(headers, scope, free=routes is not None and all(route.open for route in routes.values()))
        if routes is None:
            raise Problem(404, "there is no such route; /openapi.json has them all")
        route = routes.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if route is None:
            raise Problem(405, f"this route takes {' and '.join(routes)}", headers={"allow": ", ".join(routes)})
        answer.head = scope["method"] == "HEAD"
        _check_query(route, scope["query_string"])
        scope["rest"], scope["key"] = rest, key
        return route

    def _afforded(self, route: Route, key: int | None) -> None:
        """Raise Problem for what is too much now. The body has been read by then, so that the connection may stay open and ask again."""
        if self._rates and not route.open and (wait := self._rates[key or 0].taken()):
            raise Problem(429, "this key asks more often than it may", headers={"retry-after": str(max(1, round(wait)))})
        if route.queued and self._full():
            raise busy()

    def _at(self, scope: Scope) -> tuple[dict[str, Route] | None, str]:
        """The routes of a path by their methods, None where there is none, and what stands in their braces."""
        path: str = scope["path"]
        if path in self._routes:
            routes = self._routes[path]
            return (None, "") if any("{" in route.path for route in routes.values()) else (routes, "")
        raw = bytes(scope.get("raw_path") or path.encode()).decode("latin-1")
        start, slash, rest = raw.rpartition("/")
        routes = self._routes.get(start + slash, {})
        if not rest or not routes or not all("{" in route.path for route in routes.values()):
            return None, ""
        return routes, rest

    def _key(self, headers: Mapping[bytes, list[bytes]], scope: Scope, *, free: bool) -> int | None:
        """Which key came with it, None where none is needed. Raises Problem."""
        if free or not len(self._keys):
            return None
        sent = headers.get(b"authorization", [])
        found = self._keys.find(_secret(sent[0])) if len(sent) == 1 else None
        if found is None:
            # A browser that opens the page asks its user; a program is told what to send.
            kind = "Basic" if b"text/html" in b",".join(headers.get(b"accept", [])) else "Bearer"
            raise Problem(401, "a key is needed: the header Authorization: Bearer KEY", headers={"www-authenticate": f'{kind} realm="twotower"'})
        return found

    async def _body(self, route: Route, scope: Scope, headers: Mapping[bytes, list[bytes]], receive: Receive) -> bytes:
        """The body of a request, whole. Raises Problem for what is too long or too slow, or is no JSON by its own account."""
        lengths, chunked = headers.get(b"content-length", []), headers.get(b"transfer-encoding")
        if route.method == "GET":
            if chunked or any(length.strip(b"0") for length in lengths):
                raise Problem(400, "this route takes no body")
            return b""
        kinds = headers.get(b"content-type", [])
        if len(kinds) != 1 or JSON.fullmatch(kinds[0]) is None or headers.get(b"content-encoding", [b"identity"]) != [b"identity"]:
            raise Problem(415, "the body is to be JSON as it is: content-type application/json, in UTF-8, and no content-encoding")
        if lengths and (len(lengths) > 1 or chunked or LENGTH.fullmatch(lengths[0]) is None):
            raise Problem(400, "the length of the body is said in two ways, or in none that can be read")
        if lengths and int(lengths[0]) > LET_PASS:
            raise Problem(413, f"a body has at most {MOST_BYTES:,} bytes")
        if WHOLE in scope["state"]:  # as nearly always, which spares a clock
            return await _read(receive)
        try:
            async with asyncio.timeout(self._options.slow):
                return await _read(receive)
        except TimeoutError:
            raise Problem(408, "the body took too long") from None


class Rate:
    """So many requests a second, and as many at once."""

    def __init__(self, rate: float) -> None:
        self._rate, self._most = rate, max(1.0, rate)
        self._left, self._at = self._most, time.monotonic()

    def taken(self) -> float:
        """0 where one more may come, which is then counted; else the seconds until one may."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0


class _Answering:
    """An answer on its way out."""

    def __init__(self, send: Send, slow: float) -> None:
        self._send, self._slow = send, slow
        self.request_id = f"{random.getrandbits(64):016x}"  # no secret; one of `secrets` asks the system each time
        self.status, self.size, self.head = 0, 0, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), *ALWAYS, (b"x-request-id", self.request_id.encode())]
            if all(name != POLICED for name, _ in message.get("headers", [])):
                headers.append((POLICED, POLICY))
            await self._send({**message, "headers": headers})
            return
        self.size += len(message.get("body", b""))
        if self.size < LARGE:
            await self._send(message)
            return
        async with asyncio.timeout(self._slow):  # of a caller who does not read
            await self._send(message)

    async def refuse(self, problem: Problem, *, close: bool) -> None:
        """Answer with a problem, unless an answer has begun."""
        if self.status:
            return
        headers = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
        headers += [(b"connection", b"close")] if close else []
        await self.give(problem.status, MEDIA.encode(), b"" if self.head else problem.body(self.request_id), headers)

    async def give(self, status: int, media: bytes, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """A whole answer."""
        told = [(b"content-type", media), (b"content-length", b"%d" % len(body)), *headers]
        await self.send({"type": "http.response.start", "status": status, "headers": told})
        await self.send({"type": "http.response.body", "body": body})


async def _read(receive: Receive) -> bytes:
    """A whole body. One that is somewhat too long is let pass by, so that its sender is there to read why it is refused."""
    parts: list[bytes] = []
    size, more = 0, True
    while more and size <= LET_PASS:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size <= MOST_BYTES:
            parts.append(part)
        else:
            parts.clear()
    if size > MOST_BYTES:
        raise Problem(413, f"a body has at most {MOST_BYTES:,} bytes")
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read already, and then whatever comes."""
    left = [body]

    async def replay() -> Message:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return replay


def _headed(headers: list[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(value)
    return found


def _named(host: str) -> str:
    """The name of a Host header, without its port."""
    name, colon, port = host.strip().casefold().rpartition(":")
    return name if colon and (port.isdigit() or not port) and "]" not in port else host.strip().casefold()


def _secret(header: bytes) -> bytes:
    """The key that an Authorization header holds: a bearer's, or the password that a browser sends."""
    kind, _, rest = header.partition(b" ")
    if kind.lower() == b"bearer":
        return rest.strip()
    if kind.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def _check_query(route: Route, query: bytes) -> None:
    """Raise Problem for a query string that would be passed over."""
    if route.queries is None or not query:
        return
    names = [part.partition(b"=")[0].decode("latin-1") for part in query.split(b"&")]
    if len(set(names)) < len(names) or not set(names) <= route.queries:
        takes = f"at most {', '.join(sorted(route.queries))}, each once" if route.queries else "none"
        raise Problem(422, f"of a query string this route takes {takes}")
