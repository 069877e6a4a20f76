"""How fast a log is prepared and in how much memory: python benchmarks/preparation.py --millions 1 5 50

Makes a log of clicks in Parquet (a user in ten pairs, a million items with short titles, popular ones far more often) and
prepares it in a process of its own, whose peak memory is what the system says it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 1 << 20
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


def prepare_here(folder: Path, by: str, memory: str | None) -> None:
    """What the fresh process does; prints its figures as JSON."""
    import resource
    import time

    from twotower import config
    from twotower.data.preparation import prepare
    from twotower.data.sources import open_source

    values = SCHEMA | {"split": {"by": by} | ({"test": "7d"} if by == "time" else {})}
    values["pairs"] = SCHEMA["pairs"] | ({"time": "ts"} if by in ("time", "last") else {})
    chosen = config.from_values(values)
    begun, stages = time.perf_counter(), []
    sources = open_source(str(folder / "pairs.parquet")), open_source(str(folder / "items.parquet"))
    prepared = prepare(
        *sources,
        chosen.schema,
        chosen.split,
        folder / "prepared",
        memory=memory,
        progress=lambda text: stages.append((text, round(time.perf_counter() - begun, 1))),
    )
    seconds, busy = time.perf_counter() - begun, time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"seconds": seconds, "busy": busy, "peak": peak, "pairs": prepared.report["pairs_read"], "stages": stages}))


def measure(millions: float, items: int, by: str, memory: str | None, place: str | None) -> None:
    """Make the data, prepare them in a fresh process, and print a line."""
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        write_items(folder / "items.parquet", items)
        write_pairs(folder / "pairs.parquet", round(millions * 1e6), items)
        command = [sys.executable, __file__, "--folder", name, "--by", by, *(["--memory", memory] if memory else [])]
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    rate = told["pairs"] / told["seconds"]
    took = f"{told['seconds']:.1f} s ({told['busy']:.0f} s of processor), {rate:,.0f} pairs/s"
    print(f"{millions:g} million pairs, split by {by}: {took}, peak {told['peak'] / 1e9:.2f} GB", flush=True)
    for text, seconds in told["stages"]:
        if not text.startswith("reading the data:"):
            print(f"  {seconds:6.1f} s  {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 5, 50], help="of pairs")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--by", default="random", choices=["random", "last", "time", "group", "cold_queries", "cold_items"])
    parser.add_argument("--memory", help='of the engine, like "2GB"')
    parser.add_argument("--place", help="where the temporary folder is made")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.folder:
        prepare_here(Path(asked.folder), asked.by, asked.memory)
        return
    for millions in asked.millions:
        measure(millions, asked.items, asked.by, asked.memory, asked.place)


if __name__ == "__main__":
    main()
