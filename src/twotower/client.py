"""Asks a server (`twotower serve`) from Python; needs nothing but the standard library.

client = Client("http://localhost:8080")
client.search("waterproof boots", k=5, where="price < 50")["results"]
"""

from __future__ import annotations

import json
import threading
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from twotower.errors import ConfigError, TwotowerError

MOST_WAIT = 30.0  # seconds that Retry-After may ask for


class Unanswered(TwotowerError):
    """A server did not answer as asked. status: of HTTP, 0 where none came. request_id: by which its log knows the request."""

    def __init__(self, message: str, status: int = 0, request_id: str | None = None) -> None:
        super().__init__(message)
        self.status, self.request_id = status, request_id


class Client:
    """A server, asked over connections that stay open, one a thread. Safe to share between threads.

    key: what the server asks for, where it does. seconds: that each try may wait. tries: how often a request is sent that finds the server busy, or
    its connection lost.
    """

    def __init__(self, url: str, key: str | None = None, *, seconds: float = 10.0, tries: int = 4) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.username is not None:
            raise ConfigError("an address has no key in it: Client(url, key)")
        if parts.scheme not in ("http", "https") or not parts.hostname or not _port_fits(parts) or parts.query or parts.fragment:
            raise ConfigError(f"{url.split('?')[0]!r} is no address of a server; one is like http://localhost:8080")
        key = None if key is None else key.strip()  # a file ends with a line break
        if key is not None and not (key and key.isascii() and key.isprintable()):
            raise ConfigError("the key is empty, or holds what no key may: one is a line of ASCII")
        self._parts, self._seconds, self._tries = parts, seconds, max(1, tries)
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key is not None else {})
        self._open = threading.local()

    def search(self, query: Any = None, **options: Any) -> dict[str, Any]:
        """The answer of /search: to one query, or with `queries=[...]` to several; the options are those of `Retriever.search`."""
        return self.ask("/search", ({} if query is None else {"query": query}) | options)

    def similar(self, item: Any, **options: Any) -> dict[str, Any]:
        """The answer of /similar: items like one, or like several where `item` is a list."""
        return self.ask("/similar", {"items" if isinstance(item, list) else "item": item} | options)

    def score(self, query: Any, items: list[Any], **options: Any) -> list[float]:
        """The similarity of a query with each of some items, ids or rows."""
        return list(self.ask("/score", {"query": query, "items": items} | options)["scores"])

    def embed(self, query: Any = None, **options: Any) -> list[Any]:
        """The vector of a query, or with `queries=`, `item=` or `items=` what that gives."""
        told = self.ask("/embed", ({} if query is None else {"query": query}) | options)
        return list(told["vector"] if "vector" in told else told["vectors"])

    def item(self, item_id: Any) -> dict[str, Any]:
        """One item, by its id."""
        return self.ask(f"/items/{quote(str(item_id), safe='')}")

    def info(self) -> dict[str, Any]:
        """What is served."""
        return self.ask("/info")

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of a route. Raises Unanswered, which says what the server says."""
        sent = None if body is None else json.dumps(body, allow_nan=False).encode()
        for tried in range(1, self._tries + 1):
            try:
                status, headers, came = self._once("GET" if body is None else "POST", path, sent)
            except (OSError, HTTPException) as error:
                self._close()
                if tried == self._tries:
                    raise Unanswered(f"{self._parts.netloc} does not answer: {error or type(error).__name__}") from None
                time.sleep(0.05 * 2**tried)
                continue
            if status == 200:
                return _answered(came)
            if status not in (429, 503) or tried == self._tries:
                raise _unanswered(status, came)
            time.sleep(_wait(headers.get("retry-after", "1")))
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, body: bytes | None) -> tuple[int, dict[str, str], bytes]:
        connection = getattr(self._open, "connection", None)
        if connection is None:
            kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
            connection = self._open.connection = kind(str(self._parts.hostname), self._parts.port, timeout=self._seconds)
        connection.request(method, self._parts.path.rstrip("/") + path, body, self._headers if body is not None else _without_type(self._headers))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def _close(self) -> None:
        connection = getattr(self._open, "connection", None)
        if connection is not None:
            connection.close()
            self._open.connection = None


def _without_type(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "content-type"}


def _port_fits(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def _wait(told: str) -> float:
    """The seconds that Retry-After asks for; a second where a proxy names a date."""
    try:
        return min(MOST_WAIT, max(0.0, float(told)))
    except ValueError:
        return 1.0


def _answered(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise Unanswered("what answers there is no twotower server: it sent something else than a JSON object", 200)
    return told


def _unanswered(status: int, body: bytes) -> Unanswered:
    try:
        told = json.loads(body)
        wrong = "; ".join(f"{fault['at']}: {fault['detail']}" for fault in told.get("errors", []))
        return Unanswered(f"{told['detail']}{f' ({wrong})' if wrong else ''}", status, told.get("request_id"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Unanswered(f"the server answered {status}", status)
