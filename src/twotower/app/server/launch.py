"""Serves bundles until it is told to stop: by SIGTERM or Ctrl-C, after which what runs is answered, and nothing new is taken."""

from __future__ import annotations

import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn

from twotower.app.server.answering import answer
from twotower.app.server.connections import settings
from twotower.app.server.gate import Gate
from twotower.app.server.gathering import Gatherer
from twotower.app.server.metrics import Metrics
from twotower.app.server.options import ServeOptions, check_options
from twotower.app.server.routes import ROUTES, application, asking
from twotower.app.server.versions import Variants, Watch
from twotower.errors import ConfigError

COLLECTED = (20_000, 20, 20)  # objects made before the youngest are looked through, and how often that happens before older ones are
ENDED = 1.0  # seconds that a thread has to end: whoever waited for it has been answered or let go by then


class Server(uvicorn.Server):
    """uvicorn's, which ends as any command does that has done its work: not by the signal that asked for it."""

    def __init__(self, config: uvicorn.Config, variants: Variants) -> None:
        super().__init__(config)
        self.variants = variants

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def serve(places: Mapping[str, Path], options: ServeOptions, begun: Callable[[str, Variants], None] = lambda *_: None) -> None:
    """Serve bundles by their names until a signal ends it. begun: is told the address, and what is served, once it is loaded.

    Raises ConfigError for options that cannot be meant and an address that is taken, BundleError for a bundle that cannot serve.
    """
    server, listening = prepare(places, options)
    _open_many(options.most_connections)
    # What was loaded stays: collections that go through it again and again would each be a pause of tens of milliseconds.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED)
    begun(address(listening), server.variants)
    server.run(sockets=[listening])


def prepare(places: Mapping[str, Path], options: ServeOptions) -> tuple[Server, socket.socket]:
    """A server that is ready to run, and the socket that it listens on. Raises ConfigError and BundleError."""
    check_options(options)
    listening = _listening(options)
    try:
        variants = Variants(places, threads=options.threads, index=options.index)
        built = _Built(variants, options)
        return Server(uvicorn.Config(built.gate, **settings(options, built.busy, built.turned)), variants), listening
    except BaseException:
        listening.close()
        raise


class _Built:
    """The parts of a server, put together."""

    def __init__(self, variants: Variants, options: ServeOptions) -> None:
        self._variants, self._ready = variants, False
        self._gatherer = Gatherer(
            answer,
            seconds=options.seconds,
            most_waiting=options.most_waiting,
            most_at_once=options.most_at_once,
            told=lambda size: self._metrics.batch(size),
        )
        self._metrics = Metrics(lambda: self._gatherer.waiting)
        self._watch = None if options.watch is None else Watch(variants, options.watch, self._switched)
        for served in variants.now.values():
            self._metrics.serving(served)
        ask = asking(variants, self._gatherer)
        app = application(variants, ask, self._metrics, lambda: self._ready)
        app.router.lifespan_context = self._running
        self.gate = Gate(app, ask, ROUTES, options, self._metrics, self.busy)

    @contextlib.asynccontextmanager
    async def _running(self, _: Any) -> AsyncIterator[None]:
        self._gatherer.start()
        if self._watch is not None:
            self._watch.start()
        self._ready = True
        yield
        self._ready = False
        if self._watch is not None:
            self._watch.stop(ENDED)
        self._gatherer.close(ENDED)

    def busy(self) -> bool:
        """Whether one more request would find the queue full."""
        return self._gatherer.full

    def turned(self, seconds: float) -> None:
        """One was turned away before it became a request."""
        self._metrics.answered("turned away", 503, seconds)

    def _switched(self, variant: str, answers: bool) -> None:
        self._metrics.switched(variant, answers)
        if answers:
            self._metrics.serving(self._variants.now[variant])


def address(listening: socket.socket) -> str:
    """Where it can be called."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _open_many(connections: int) -> None:
    """Let this process hold as many files as there may be connections, as far as the system allows."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + 512
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _listening(options: ServeOptions) -> socket.socket:
    """A socket that listens, before anything is loaded: what is taken is said at once."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((options.host, options.port))
        found.listen(4096)
    except OSError as error:
        found.close()
        raise ConfigError(
            f"{options.host}:{options.port} cannot be listened at: {error.strerror or error}. Another --port may be free; 0 takes one"
        ) from None
    return found
