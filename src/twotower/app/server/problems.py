"""What a server answers where it cannot do as asked: application/problem+json (RFC 9457), with a request id and never a word of the input.

Messages of the package name what was passed; these do not, so that no text, id or key of a caller comes back or stands in a log. `public`
says the same in words of our own, with the columns and choices that the server itself holds.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

MEDIA = "application/problem+json"


class Fault(NamedTuple):
    """One thing that is wrong in a body. at: where, as k or queries[3]."""

    at: str
    detail: str


class Problem(Exception):
    """An answer that is none. headers: beside those that every answer has, by their lower-case names."""

    def __init__(self, status: int, detail: str, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.faults = status, detail, tuple(faults)
        self.headers = dict(headers or {})

    @property
    def title(self) -> str:
        """What the status says."""
        return HTTPStatus(self.status).phrase

    def body(self, request_id: str) -> bytes:
        """The answer's body."""
        told: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.faults:
            told["errors"] = [fault._asdict() for fault in self.faults]
        return json.dumps(told).encode()


def busy(seconds: int = 1) -> Problem:
    """More is asked than can be answered."""
    return Problem(
        503, "more is asked than this server can answer; ask again after the seconds of Retry-After", headers={"retry-after": str(seconds)}
    )


def failed() -> Problem:
    """A fault of ours: the log knows where."""
    return Problem(500, "this server failed; the request id helps to find out why")


def traced(error: BaseException) -> str:
    """Where an error of ours came from, for a log: its type and the lines it went through, without its message, which may hold what a caller sent."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {' < '.join(f'{Path(frame.filename).name}:{frame.lineno}' for frame in reversed(frames[-8:]))}"
