"""Requests that come at once are answered as one batch: a tower costs for sixteen queries little more than for one.

Nobody waits for a batch to fill. While the worker is busy requests queue, and what has queued is the next batch; where none has, one is answered
alone. The queue is bounded, and what finds it full is refused at once, so that those who are answered are answered in time. Work that
nobody waits for any more is not begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twotower.app.server.problems import Problem, busy, failed, traced
from twotower.app.server.versions import Served

logger = logging.getLogger("twotower.server")

LATE = "no answer was ready within the time that this request has"


@dataclass(eq=False)
class Job:
    """Something asked of one version. until: when nobody waits for it any more, by the monotonic clock."""

    served: Served
    asked: Any
    until: float
    answer: asyncio.Future[bytes] = field(repr=False)


Answer = Callable[[Sequence[Job]], Sequence[bytes | Problem]]


class Gatherer:
    """A bounded queue, and the thread that answers what stands in it."""

    def __init__(self, answer: Answer, *, seconds: float, most_waiting: int, most_at_once: int, told: Callable[[int], None] = lambda _: None) -> None:
        """seconds: how long anybody waits for an answer."""
        self._answer, self._told = answer, told
        self._seconds, self._most_waiting, self._most_at_once = seconds, most_waiting, most_at_once
        self._open: dict[Job, None] = {}  # what has no answer yet, the oldest first; of the event loop alone
        self._clock: asyncio.TimerHandle | None = None
        self._waiting: deque[Job] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to answer, for callers on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self, seconds: float) -> None:
        """Answer what stands in the queue, and then no more; that is waited for so long."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join(seconds)

    @property
    def waiting(self) -> int:
        """How many stand in the queue."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether one more would be refused."""
        return len(self._waiting) >= self._most_waiting

    async def ask(self, served: Served, asked: Any) -> bytes:
        """The answer as JSON. Raises Problem: at once where the queue is full, and where it took too long."""
        if self.full:
            raise busy()
        assert self._loop is not None
        job = Job(served, asked, time.monotonic() + self._seconds, self._loop.create_future())
        with self._ready:
            self._waiting.append(job)
            self._ready.notify()
        self._open[job] = None
        if self._clock is None:
            self._clock = self._loop.call_later(self._seconds, self._look)
        try:
            return await job.answer
        finally:
            del self._open[job]

    def _look(self) -> None:
        """Let those go who have waited too long. All have the same time, so the clock of the oldest does for all."""
        now, left = time.monotonic(), None
        for job in self._open:
            if job.until > now:
                left = job.until - now
                break
            if not job.answer.done():
                job.answer.set_exception(Problem(503, LATE, headers={"retry-after": "1"}))
        assert self._loop is not None
        self._clock = None if left is None else self._loop.call_later(left, self._look)

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._waiting and not self._closed:
                    self._ready.wait()
                if not self._waiting:
                    return
                jobs = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most_at_once))]
            now = time.monotonic()
            live = [job for job in jobs if job.until > now and not job.answer.cancelled()]
            if live:
                self._told(len(live))
                self._deliver(live, self._answered(live))

    def _answered(self, jobs: Sequence[Job]) -> Sequence[bytes | Problem]:
        try:
            return self._answer(jobs)
        except Exception as error:  # a fault of ours is told to the log, and to callers only that there is one
            logger.error("a batch of %d could not be answered: %s", len(jobs), traced(error))
            return [failed()] * len(jobs)

    def _deliver(self, jobs: Sequence[Job], answers: Sequence[bytes | Problem]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(_set, jobs, answers)


def _set(jobs: Sequence[Job], answers: Sequence[bytes | Problem]) -> None:
    for job, answer in zip(jobs, answers, strict=True):
        if job.answer.done():
            continue
        if isinstance(answer, Problem):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result(answer)
