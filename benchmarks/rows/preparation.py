"""How fast a log of 1, 5 and 50 million pairs is prepared, and in how much memory.

Makes a log of clicks in Parquet (a user in ten pairs, a million items with short titles, popular ones far more often) and
prepares it in a process of its own, whose peak memory is what the system says it was.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.processes import told_by
from benchmarks.rows import Asked, Figure
from twotower import config
from twotower.data.preparation import prepare
from twotower.data.sources import open_source

MILLIONS, ITEMS = (1, 5, 50), 1_000_000
ROWS = 1 << 20  # written at once
SCHEMA = {
    "pairs": {"item": "item"},
    "query": {"key": "user", "features": [{"column": "user", "type": "id"}]},
    "item": {"id": "sku", "features": [{"column": "sku", "type": "id"}, {"column": "title", "type": "text"}]},
}


def write_items(path: Path, n: int) -> None:
    """Items with titles of three to seven words out of fifty thousand."""
    generator = np.random.default_rng(1)
    words = np.array([f"w{number:x}" for number in generator.permutation(50_000)])
    with pq.ParquetWriter(path, pa.schema([("sku", pa.string()), ("title", pa.string())])) as writer:
        for start in range(0, n, ROWS):
            rows = range(start, min(n, start + ROWS))
            titles = [" ".join(words[(generator.random(3 + row % 5) ** 3 * len(words)).astype(int)]) for row in rows]
            writer.write_table(pa.table({"sku": [f"sku-{row}" for row in rows], "title": titles}))


def write_pairs(path: Path, n: int, items: int) -> None:
    """Clicks in a random order of users, rising in time."""
    generator = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema([("user", pa.int64()), ("item", pa.string()), ("ts", pa.timestamp("s"))])) as writer:
        names = pa.array([f"sku-{number}" for number in range(items)])
        for start in range(0, n, ROWS):
            size = min(ROWS, n - start)
            chosen = pa.array((generator.random(size) ** 3 * items).astype(np.int64))
            times = pa.array(1_700_000_000 + np.arange(start, start + size) // 10, pa.int64()).cast(pa.timestamp("s"))
            writer.write_table(pa.table({"user": generator.integers(n // 10, size=size), "item": names.take(chosen), "ts": times}))


def prepare_here(folder: Path) -> dict[str, Any]:
    """What the fresh process does."""
    chosen = config.from_values(SCHEMA)
    begun = time.perf_counter()
    sources = open_source(str(folder / "pairs.parquet")), open_source(str(folder / "items.parquet"))
    prepared = prepare(*sources, chosen.schema, chosen.split, folder / "prepared")
    seconds, busy = time.perf_counter() - begun, time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "busy": busy, "peak": peak, "pairs": prepared.report["pairs_read"]}


def measure(asked: Asked) -> Iterator[Figure]:
    """Make each log, and prepare it in a fresh process."""
    for millions in (0.1,) if asked.smoke else MILLIONS:
        with tempfile.TemporaryDirectory(dir=asked.folder) as name:
            folder = Path(name)
            items = 10_000 if asked.smoke else ITEMS
            write_items(folder / "items.parquet", items)
            write_pairs(folder / "pairs.parquet", round(millions * 1e6), items)
            told = told_by("benchmarks.rows.preparation", name)
        took = f"{told['seconds']:.1f} s ({told['busy']:.0f} s of processor), {told['pairs'] / told['seconds']:,.0f} pairs a second"
        wanted = "500,000 pairs a second, 4 GB" if millions == max(MILLIONS) else ""
        yield Figure(f"{millions:g} million pairs, {items:,} items", f"{took}, peak {told['peak'] / 1e9:.2f} GB", wanted, told)


if __name__ == "__main__":
    print(json.dumps(prepare_here(Path(sys.argv[1]))))
