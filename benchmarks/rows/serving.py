"""A server under load, the load generator on the same two cores: capacity, overload, switches of versions, start and memory.

Each query of the demo's test pairs is a text through the tower, searched by words and vectors among its 7,424 items. The server is the one that
`twotower serve` runs, in a process of its own; for switches it looks for newer versions fifty times a second rather than once, and who writes them
gives way to it, as one on another machine would.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import numpy as np
import pyarrow.parquet as pq

from benchmarks.environments import surroundings
from benchmarks.load import Load, request
from benchmarks.rows import ROOT, Asked, Figure
from benchmarks.rows.demo import bundle, command

WANTED, CONNECTIONS, SECONDS = 1500, 64, 10  # requests a second
SWITCHES, MODELS, RATE, LOOKS = 1000, 50, 300, 0.02  # and requests a second meanwhile, and seconds between looks


def measure(asked: Asked) -> Iterator[Figure]:
    """Start, capacity, half of it, twice of it, ten times the connections, switches, and what is installed."""
    run, seconds = bundle(asked.folder), 1 if asked.smoke else SECONDS
    bodies = [{"query": query} for query in queries(run)]
    with served(run / "bundle") as server:
        yield Figure("start to ready", f"{server.started:.1f} s", "2 s", {"seconds": server.started})
        yield Figure("held when ready", f"{server.held('VmRSS') / 1e6:.0f} MB, {server.held('RssAnon') / 1e6:.0f} of them not of files", "300 MB")
        server.load(bodies, 2, CONNECTIONS)
        whole = server.load(bodies, seconds, CONNECTIONS)
        capacity = whole["200"]["rate"]
        yield Figure(
            f"search by {CONNECTIONS} connections", f"{capacity:,.0f} a second, p99 {whole['200']['p99']:.0f} ms", f"{WANTED:,} a second", whole
        )
        for what, rate in ((f"at {WANTED / 2:.0f} a second, half of what is wanted", WANTED / 2), ("at half of the capacity", capacity / 2)):
            half = server.load(bodies, seconds, CONNECTIONS, rate)
            yield Figure(what, f"p50 {half['200']['p50']:.1f}, p99 {half['200']['p99']:.1f} ms", "p99 15 ms", half)
        for what, connections, rate in (
            (f"{2 * WANTED:,} a second, twice what is wanted", 1500, 2 * WANTED),
            ("twice the capacity", 1500, 2 * capacity),
            ("ten times the connections", 10 * CONNECTIONS, None),
        ):
            over = server.load(bodies, seconds, connections, rate)
            refused = over.get("503", {"count": 0, "p99": 0.0})
            told = f"{over['200']['rate']:,.0f} a second, {over['200']['rate'] / capacity:.0%} of the capacity; "
            told += f"{refused['count']:,} refused, p99 {refused['p99']:.0f} ms"
            odd = {status: each["count"] for status, each in over.items() if status not in ("200", "503", "missing")}
            yield Figure(what, told + (f"; {odd}" if odd else ""), "90%, 503 within 25 ms", over)
        time.sleep(5)
        after = server.load(bodies, seconds, CONNECTIONS, capacity / 2)
        yield Figure("half of the capacity, 5 s later", f"p99 {after['200']['p99']:.1f} ms", "as before", after)
        yield Figure("held after all that", f"{server.held('VmRSS') / 1e6:.0f} MB, {server.held('RssAnon') / 1e6:.0f} of them not of files", "300 MB")
    yield from _switches(asked, run, bodies)
    yield Figure("installed with the extra serve", f"{_installed(asked.folder) / 1e6:.0f} MB", "480 MB")


def queries(run: Path) -> list[str]:
    """The queries of a run's test pairs, each once."""
    told = pq.read_table(run / "rankings.parquet", columns=["query"]).column("query").to_pylist()
    return list(dict.fromkeys(json.loads(text)["query"] for text in told))


class Served:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, started: float) -> None:
        self.process, self.port, self.started = process, port, started

    def load(self, bodies: list[dict[str, Any]], seconds: float, connections: int, rate: float | None = None) -> dict[str, Any]:
        """What a load comes to, made by a process of its own."""
        told = {"host": "127.0.0.1", "port": self.port, "bodies": bodies, "seconds": seconds, "connections": connections, "rate": rate}
        words = [sys.executable, "-m", "benchmarks.load"]
        done = subprocess.run(words, input=json.dumps(told), cwd=ROOT, env=surroundings(), capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))

    def held(self, name: str) -> int:
        """Bytes that it holds."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


@contextmanager
def served(place: Path, *words: str) -> Iterator[Served]:
    """A server of a bundle, ready; its log goes to a file as it would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in surroundings().items() if not name.endswith("_NUM_THREADS")}
    command = list(words) or ["-m", "twotower", "serve", str(place), "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, *(word.format(port=port) for word in command)], cwd=ROOT, env=environment, stderr=log)
        try:
            while not _ready(port):
                if process.poll() is not None:
                    raise RuntimeError("the server ended")
                time.sleep(0.02)
            yield Served(process, port, time.perf_counter() - begun)
        finally:
            process.terminate()
            process.wait(60)


def _ready(port: int) -> bool:
    try:
        return bool(urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).status == 200)
    except OSError:
        return False


# --- switches -----------------------------------------------------------------------------------------------------


def _switches(asked: Asked, run: Path, bodies: list[dict[str, Any]]) -> Iterator[Figure]:
    """Two versions of a catalogue take turns under load - in one of them the best answer to a question is missing - and then two models."""
    import twotower as tt

    question = bodies[0]["query"]
    place = shutil.copytree(run / "bundle", asked.folder / "switched", dirs_exist_ok=True)
    retriever = tt.load(place)
    if retriever.bundle.version == "000001":
        retriever.remove_items([retriever.search(question, k=1).ids[0]])
    yield from _turns(asked, place, bodies, [("rollback", place, version) for version in "12"], SWITCHES, "versions")
    shutil.rmtree(place)
    place, other = asked.folder / "followed", asked.folder / "other"
    if not (other / "metrics.json").exists():
        subprocess.run(command("demo", "--no-prompt", "-o", str(other), "--set", "train.seed=1"), check=True, stdout=subprocess.DEVNULL)
    yield from _turns(asked, place, bodies, [("publish", model, place) for model in (run, other)], MODELS, "models")
    shutil.rmtree(place)


Call = tuple[str, Any, Any]  # a function of the package, and what it is called with


def _turns(asked: Asked, place: Path, bodies: list[dict[str, Any]], calls: list[Call], wanted: int, what: str) -> Iterator[Figure]:
    """Of a server that follows a place while it is brought from one state to the other and back, each by a call."""
    import twotower as tt

    question, states = bodies[0]["query"], list[State]()
    for call in calls:
        bring(call)
        retriever = tt.load(place)
        states.append(State((retriever.bundle.fingerprint[:16], retriever.bundle.version), retriever.search(question, k=5).ids.tolist(), call))
    assert states[0].by != states[1].by and states[0].ids != states[1].ids
    looks = f"from benchmarks.rows.serving import looking; looking({str(place)!r}, {{port}})"
    with served(place, "-c", looks) as server:
        server.load(bodies, 2, 16)
        steady = server.load(bodies, 2 if asked.smoke else SECONDS, 16, RATE)
        found = asyncio.run(_switched(server, question, states, 20 if asked.smoke else wanted))
    says = f"{found['failed']} failed, {found['mixed']} mixed of {found['answers']:,}; p99 {found['p99']:.1f} ms, steady {steady['200']['p99']:.1f}"
    yield Figure(f"{found['switches']:,} switches of {what} under {RATE} requests a second", says, "0, 0; p99 twice the steady one", found)


class State(NamedTuple):
    """What may answer. by: its model and version; ids: what it finds; call: what brings it."""

    by: tuple[str, str]
    ids: list[Any]
    call: Call


def bring(call: Call) -> None:
    """Bring a state."""
    import twotower as tt

    getattr(tt, call[0])(*call[1:])


def bringing() -> None:
    """Bring what is named line by line, in a process of its own that takes time from no other: it hashes the whole bundle each time."""
    os.nice(19)
    for line in sys.stdin:
        bring(json.loads(line))
        print(flush=True)


def looking(place: str, port: int) -> None:
    """Serve as `twotower serve --watch` does, but look more often."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from twotower.app.server.launch import serve
    from twotower.app.server.options import ServeOptions

    serve({"default": Path(place)}, ServeOptions(port=port, watch=LOOKS, threads=1))


async def _switched(server: Served, question: str, states: list[State], wanted: int) -> dict[str, Any]:
    counts = {"failed": 0, "mixed": 0, "answers": 0, "switches": 0}
    answered, ended, times = set[tuple[str, str]](), threading.Event(), list[float]()
    expected = {state.by: state.ids for state in states}

    def check(status: int, took: float, body: bytes) -> None:
        counts["answers"] += 1
        times.append(1000 * took)
        if status != 200:
            counts["failed"] += 1
            return
        told = json.loads(body)
        by = told["model"], told["version"]
        answered.add(by)
        if [result["id"] for result in told["results"]] != expected[by]:
            counts["mixed"] += 1

    writer = threading.Thread(target=_write, args=(states, answered, counts, wanted, ended))
    writer.start()
    load = Load("127.0.0.1", server.port, [request("/search", {"query": question, "k": 5})], check)
    while not ended.is_set():
        await load.run(5, 16, RATE)
    writer.join()
    return counts | {"p99": float(np.percentile(times, 99))}


def _write(states: list[State], answered: set[tuple[str, str]], counts: dict[str, int], wanted: int, ended: threading.Event) -> None:
    """Bring the other state as soon as the one before has answered."""
    until, words = time.monotonic() + 900, [sys.executable, "-c", "from benchmarks.rows.serving import bringing; bringing()"]
    with subprocess.Popen(words, cwd=ROOT, env=surroundings(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as writer:
        assert writer.stdin is not None and writer.stdout is not None
        while counts["switches"] < wanted and time.monotonic() < until:
            # The last of `states` was brought before, so the first is new.
            state = states[counts["switches"] % len(states)]
            writer.stdin.write(json.dumps([str(word) for word in state.call]) + "\n")
            writer.stdout.readline()
            answered.discard(state.by)  # none of it is on its way: the other has answered since
            while state.by not in answered and time.monotonic() < until:
                time.sleep(0.002)
            counts["switches"] += 1
    ended.set()


def _installed(folder: Path) -> int:
    """The bytes of the packages that come with the extra `serve`."""
    place = folder / "installed"
    venv.create(place, with_pip=True, clear=True)
    constraints = ROOT / "constraints.txt"
    subprocess.run([place / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", constraints, f"{ROOT}[serve]"], check=True)
    size = sum(path.stat().st_size for path in (place / "lib").rglob("*") if path.is_file() and not path.is_symlink())
    shutil.rmtree(place)
    return size
