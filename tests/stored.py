"""What the tests of stores share: each kind of store, opened under a name that nobody used before, and a small catalogue."""

import datetime
import decimal
import itertools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.servers import start
from twotower.stores import Facts, Store, open_store
from twotower.stores.qdrant import Qdrant
from twotower.stores.qdrant_server import Served

MODEL, OTHER = "ab" * 32, "cd" * 32
KINDS = ["postgres", "lance", "qdrant", "served"]
numbers = itertools.count(1)


class Places:
    """Where the stores of a test session are."""

    def __init__(self, folder: Path, postgres: str) -> None:
        self.urls = {"postgres": postgres, "lance": f"lancedb://{folder}/lance", "qdrant": f"qdrant://{folder}/qdrant"}

    def open(self, kind: str, name: str | None = None) -> Store:
        """A store of its own. A server of Qdrant is stood in for by the client's own engine in memory, under the same calls."""
        name = name or f"t{next(numbers)}"
        if kind == "served":
            from qdrant_client import QdrantClient

            return Store(Qdrant(Served(QdrantClient(":memory:"), "qdrant+http://memory", name), name), name)
        return open_store(self.urls[kind], name)


def running():
    """Yields the places, and stops what was started."""
    folder = Path(tempfile.mkdtemp(prefix="stores-"))
    place = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        url, stop = start(place)
    except (OSError, LookupError, subprocess.SubprocessError) as error:
        shutil.rmtree(place, ignore_errors=True)
        pytest.skip(f"PostgreSQL cannot be started here: {error}")
    yield Places(folder, url)
    stop()
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def catalogue(n: int = 300, d: int = 8, seed: int = 0) -> pa.Table:
    """Items with a column of every kind, and values missing in each."""
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((n, d)).astype(np.float32)

    def some(values):
        return [None if generator.random() < 0.15 else values[generator.integers(len(values))] for _ in range(n)]

    moments = [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=7 * step, microseconds=step) for step in range(20)]
    columns = {
        "_id": pa.array([f"item {number}" for number in range(n)]),
        "_vector": packed(vectors),
        "price": pa.array(some([0.0, -0.0, 1.5, 50.0, 1e300, float("nan"), float("inf") if seed < 0 else 7.25]), pa.float64()),
        "weight": pa.array(some([0.1, 2.5, -3.0, 0.30000001]), pa.float32()),
        "stock": pa.array(some([0, 1, -7, 1 << 40, -(1 << 53)]), pa.int64()),
        "few": pa.array(some([0, 3, -128, 127]), pa.int8()),
        "select": pa.array(some(["sofa", "chair", "", "Straße", "it's", 'a "b"', "'; DROP TABLE x; --", "\\", "100%", "🦊", "a\nb"])),
        'odd "name" `x`; --': pa.array(some(["p", "q"])),
        "Price": pa.array(some([1, 2, 3]), pa.int32()),
        "a b.c[0]": pa.array(some([True, False]), pa.bool_()),
        "ctid": pa.array(some(["x", "y"])),
        "day": pa.array(some([datetime.date(2024, 1, day) for day in range(1, 20)]), pa.date32()),
        "seen": pa.array(some(moments), pa.timestamp("us")),
        "sold": pa.array(some([moment.replace(tzinfo=datetime.UTC) for moment in moments]), pa.timestamp("us", "UTC")),
        "cost": pa.array(some([decimal.Decimal(text) for text in ("0.10", "19.99", "-3.50", "100.00")]), pa.decimal128(10, 2)),
        "materials": pa.array(some([[], ["wood"], ["wood", "steel"], ["it's", None]]), pa.list_(pa.string())),
        "sizes": pa.array(some([[], [1, 2], [3]]), pa.list_(pa.int64())),
        "rates": pa.array(some([[], [0.5, -0.0], [1.5]]), pa.list_(pa.float64())),
        "flags": pa.array(some([[], [True], [False, True]]), pa.list_(pa.bool_())),
        "nothing": pa.nulls(n),
    }
    return pa.table(columns)


def packed(vectors):
    return pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(vectors, np.float32).ravel()), vectors.shape[1])


def vectors_in(table):
    column = table.column("_vector").combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def facts(table, version=1, model=MODEL):
    width = vectors_in(table).shape[1]
    return Facts(fingerprint=model, version=f"{version:06d}", dimensions=width, rows=table.num_rows, similarity="dot")


def publish(store, table, version=1, model=MODEL, **more):
    return store.publish(table.to_batches(97), facts(table, version, model), **more)


def nearest(table, queries, k, allow=None):
    """(ids, scores) by plain sorting: the independent answer."""
    scores = queries @ vectors_in(table).T
    if allow is not None:
        scores[:, ~allow] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    ids = np.array(table.column("_id").to_pylist(), object)[order]
    ids[~np.isfinite(best)] = None
    return ids, best
