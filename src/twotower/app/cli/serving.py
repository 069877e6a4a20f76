"""Verbs that put a model to work: publish, serve."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twotower.app.cli.application import BundlePath, app, examples, loading
from twotower.errors import ConfigError, MissingExtra, choices

if TYPE_CHECKING:
    from twotower.app.server.versions import Variants

NAMED = re.compile(r"([A-Za-z0-9_-]{1,64})=(.+)")
LEVELS = {"requests": logging.INFO, "warnings": logging.WARNING, "errors": logging.ERROR}


@app.command(epilog=examples("twotower publish runs/second served", "twotower serve served --watch", "twotower rollback served --model"))
def publish(
    model: BundlePath,
    into: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder that servers follow.", show_default=False)],
    keep: Annotated[int, typer.Option(help="How many models stay there, the one in use among them.")] = 2,
) -> None:
    """Bring a model to a folder that servers follow.

    It is checked, copied, and put in use in one step; the one before stays. Wherever a bundle is asked for, the folder stands for the one in use.
    """
    with loading():
        from twotower.bundle import publish as bring

        done = bring(model, into, keep=keep)
    what = "is in use" if done.copied else "was there already, with the catalogue that it has there, and is in use"
    back = f". Go back to {done.before}: twotower rollback {shlex.quote(str(into))} --model" if done.before else ""
    print(f"model {done.name} {what} in {into}{back}", file=sys.stderr)


@app.command(
    epilog=examples(
        "twotower serve runs/first",
        "twotower serve runs/first --watch --port 8000",
        "twotower serve a=runs/first b=runs/second",
        "twotower serve runs/first --host 0.0.0.0 --key-file keys.txt --allow-host search.example.com",
        """curl -s localhost:8080/search -H 'content-type: application/json' -d '{"query": "waterproof boots", "k": 5}'""",
    )
)
def serve(
    models: Annotated[list[str], typer.Argument(metavar="RUN|BUNDLE...", help="What to serve; several as NAME=BUNDLE.", show_default=False)],
    host: Annotated[str, typer.Option(help="The address to listen at; one that others can call needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen at; 0 takes a free one.")] = 8080,
    watch: Annotated[bool, typer.Option("--watch", help="Take newer versions as they are published, without a pause.")] = False,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keys that callers must name, one a line; or in the variable TWOTOWER_KEYS, parted by commas.")
    ] = None,
    allow_host: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A name by which it may be called. May be repeated.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second that each key has; more are answered by 429.")] = None,
    index: Annotated[str, typer.Option(help="auto, exact, hnsw, ivf, int8 or pq, as for tt.load.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads of the towers; by default one for every two cores.")] = None,
    queue: Annotated[int, typer.Option(help="Requests that may wait; more are answered by 503.")] = 1024,
    seconds: Annotated[float, typer.Option(help="The time in which a request is answered, or by 503.")] = 10.0,
    drain: Annotated[float, typer.Option(help="The seconds that running requests have when it is told to end.")] = 30.0,
    log: Annotated[str, typer.Option(help="What goes to stderr: requests, warnings or errors; never what was asked.")] = "requests",
) -> None:
    """Serve a model over HTTP, with a page for people at its address. Ctrl-C or SIGTERM ends it.

    POST /search, /similar, /score, /embed; GET /items/ID, /info, /metrics, /livez, /readyz, /openapi.json (docs/serving.md).
    """
    places = _places(models)
    if log not in LEVELS:
        raise ConfigError(f'there is no log of "{log}"; {choices(LEVELS, log)}')
    # Threads of numpy's library spin while they wait for each other, and take the core that answers HTTP.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with loading():
        try:
            from twotower.app.server.launch import serve as run
            from twotower.app.server.logs import Lines
            from twotower.app.server.options import ServeOptions, read_keys
        except ModuleNotFoundError as error:
            raise MissingExtra(f"serving ({error.name})", "serve") from None
    options = ServeOptions(
        host=host,
        port=port,
        allow_hosts=tuple(allow_host or ()),
        keys=read_keys(key_file),
        rate=rate,
        watch=1.0 if watch else None,
        threads=threads or max(1, (os.cpu_count() or 2) // 2),
        index=index,
        most_waiting=queue,
        seconds=seconds,
        drain=drain,
    )
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # not in the lines, and costly to find out
    logging.basicConfig(handlers=[Lines(sys.stderr)], format="%(asctime)s %(levelname)s %(message)s", level=LEVELS[log])
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what is no HTTP is refused, and would fill the log
    run(places, options, _begun)


def _begun(address: str, variants: Variants) -> None:
    """Say what is served, and where."""
    told = ", ".join(f"{len(each.retriever):,} items" + (f" as {name}" if len(variants.now) > 1 else "") for name, each in variants.now.items())
    print(f"serving {told} at {address}/ - a page to search with, and the same for programs. Ctrl-C ends it.", file=sys.stderr, flush=True)


def _places(models: Sequence[str]) -> dict[str, Path]:
    """The bundles by the names of their variants."""
    if len(models) == 1 and not (NAMED.fullmatch(models[0]) and not Path(models[0]).exists()):
        return {"default": Path(models[0])}
    found: dict[str, Path] = {}
    for model in models:
        match = NAMED.fullmatch(model)
        if match is None:
            raise ConfigError(f"several are served by their names: write NAME={model}, with letters, digits, - and _")
        if match[1] in found:
            raise ConfigError(f'two are called "{match[1]}"; give each a name of its own')
        found[match[1]] = Path(match[2])
    return found
