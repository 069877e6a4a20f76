"""What a server counts, for Prometheus: requests, how long they took, batches, the queue, and which version answers.

Labels are ours alone - routes as they are declared, status codes, names of variants - so no caller can add to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from twotower.app.server.versions import Served

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
MEDIA = CONTENT_TYPE_LATEST


class Metrics:
    """The counts of one server."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter("twotower_requests", "Requests by route and status.", ["route", "status"], registry=self._registry)
        self._seconds = Histogram("twotower_request_seconds", "From the head to the last byte.", ["route"], buckets=SECONDS, registry=self._registry)
        self._batches = Histogram("twotower_batch_size", "Requests answered together.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self._registry)
        self._switches = Counter(
            "twotower_switches", "Newer versions that answer, or that were refused.", ["variant", "answers"], registry=self._registry
        )
        self._version = Gauge("twotower_version", "1 for what answers.", ["variant", "model", "version"], registry=self._registry)
        self._items = Gauge("twotower_items", "Items of the catalogue.", ["variant"], registry=self._registry)
        Gauge("twotower_waiting", "Requests in the queue.", registry=self._registry).set_function(waiting)
        self._serving: dict[str, tuple[str, str, str]] = {}  # of each variant the labels of what answers
        self._known: dict[tuple[str, int], tuple[Any, Any]] = {}

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One request has its answer."""
        known = self._known.get((route, status))
        if known is None:
            known = self._known[route, status] = (self._requests.labels(route, str(status)), self._seconds.labels(route))
        known[0].inc()
        known[1].observe(seconds)

    def batch(self, size: int) -> None:
        """Some were answered together."""
        self._batches.observe(size)

    def switched(self, variant: str, answers: bool) -> None:
        """A newer version was found, and answers now or was refused."""
        self._switches.labels(variant, str(answers).lower()).inc()

    def serving(self, served: Served) -> None:
        """This answers now."""
        labels = (served.variant, served.model, served.version)
        before = self._serving.get(served.variant)
        if before is not None and before != labels:
            self._version.remove(*before)
        self._serving[served.variant] = labels
        self._version.labels(*labels).set(1)
        self._items.labels(served.variant).set(len(served.retriever))

    def text(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self._registry)
