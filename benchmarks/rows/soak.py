"""A server for an hour under a mixed load, with callers who crash, send nonsense or do not read, while versions switch: what it holds stays.

`--set=minutes=5` for a shorter trial.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import statistics
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import twotower as tt
from benchmarks.load import Load, request
from benchmarks.rows import Asked, Figure
from benchmarks.rows.demo import bundle
from benchmarks.rows.serving import Served, queries, served

MINUTES, RATE, CONNECTIONS = 60.0, 200, 16
EVERY = 10.0  # seconds between looks at what is held
RESET = struct.pack("ii", 1, 0)  # close with a reset
NONSENSE = [b"\x00" * 300, b"GET / HTTP/1.1\r\n", b"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n{", b"x" * 40_000]


def measure(asked: Asked) -> Iterator[Figure]:
    """One long load."""
    named = dict(setting.split("=") for setting in asked.settings)
    minutes = 0.5 if asked.smoke else float(named.get("minutes", MINUTES))
    run = bundle(asked.folder)
    place = shutil.copytree(run / "bundle", asked.folder / "soaked", dirs_exist_ok=True)
    retriever = tt.load(place)
    if retriever.bundle.version == "000001":
        retriever.remove_items([retriever.items.column("_id")[0].as_py()])
    looks = f"from benchmarks.rows.serving import looking; looking({str(place)!r}, {{port}})"
    with served(place, "-c", looks) as server:
        found = _soaked(server, place, queries(run), 60 * minutes)
    shutil.rmtree(place)
    told = f"{found['answers']:,} answers, {found['failed']} of them failed; {found['crashes']:,} callers crashed, {found['switches']:,} switches"
    yield Figure(f"{minutes:g} minutes of mixed load", told, "0 failed", found)
    for name, unit, scale in (("memory", "MB", 1e6), ("handles", "files", 1)):
        first, last = (statistics.median(part) / scale for part in (found[name][: len(found[name]) // 4], found[name][-(len(found[name]) // 4) :]))
        slope = 60 * float(np.polyfit(np.arange(len(found[name])) * EVERY / 60, np.array(found[name]) / scale, 1)[0])
        told = f"{first:.0f} {unit} in the first quarter, {last:.0f} in the last; {slope:+.1f} an hour"
        yield Figure(f"what it holds: {name}", told, "flat", None)


def _soaked(server: Served, place: Path, asked: list[str], seconds: float) -> dict[str, Any]:
    counts: dict[str, Any] = {"answers": 0, "failed": 0, "crashes": 0, "switches": 0, "memory": [], "handles": []}
    ended = threading.Event()
    workers = [threading.Thread(target=work, args=(server, place, counts, ended)) for work in (_crash, _switch, _look)]
    for worker in workers:
        worker.start()

    def check(status: int, _: float, body: bytes) -> None:
        counts["answers"] += 1
        counts["failed"] += status != 200

    bodies = [
        {"query": query, "k": 1 + n % 50, "explain": n % 7 == 0, **({"where": "platform == 'linux'"} if n % 5 == 0 else {})}
        for n, query in enumerate(asked)
    ]
    load = Load("127.0.0.1", server.port, [request("/search", body) for body in bodies], check)
    asyncio.run(load.run(seconds, CONNECTIONS, RATE))
    ended.set()
    for worker in workers:
        worker.join()
    return counts


def _crash(server: Served, _: Path, counts: dict[str, Any], ended: threading.Event) -> None:
    """Callers who send nonsense, half of a request, or a whole one, and are gone."""
    generator, good = random.Random(0), request("/search", {"query": "list files", "k": 50})
    while not ended.wait(0.02):
        with socket.socket() as caller:
            caller.settimeout(2)
            try:
                caller.connect(("127.0.0.1", server.port))
                caller.sendall(generator.choice([*NONSENSE, good, good * 5]))
                if generator.random() < 0.5:
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            except OSError:
                pass
        counts["crashes"] += 1


def _switch(_: Served, place: Path, counts: dict[str, Any], ended: threading.Event) -> None:
    version = 1
    while not ended.wait(3):
        version = 3 - version
        tt.rollback(place, str(version))
        counts["switches"] += 1


def _look(server: Served, _: Path, counts: dict[str, Any], ended: threading.Event) -> None:
    ended.wait(20)  # until what is kept on purpose is there
    while not ended.wait(EVERY):
        counts["memory"].append(server.held("RssAnon"))
        counts["handles"].append(len(os.listdir(f"/proc/{server.process.pid}/fd")))
