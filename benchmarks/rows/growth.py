"""A catalogue kept up to date: 10,000 new items, by hashed text and by a pretrained encoder; a million rows of which a thousand differ.

The million are rows of made texts, embedded by the demo's own tower. Each part runs in a process of its own, which tells its peak memory.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import twotower as tt
from benchmarks.processes import peak, told_by
from benchmarks.rows import Asked, Figure
from benchmarks.rows.demo import bundle
from twotower.bundle import open_bundle
from twotower.bundle.changes import item_column
from twotower.data.pretrained import shipped

Array = np.ndarray[Any, np.dtype[Any]]
NEW, ROWS, CHANGED = 10_000, 1_000_000, 1_000


def measure(asked: Asked) -> Iterator[Figure]:
    """New items, then many with few changes."""
    rows, place, file = 20_000 if asked.smoke else ROWS, asked.folder / "grown", asked.folder / "items.parquet"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(bundle(asked.folder) / "bundle", place)
    ways = (("hashed text", place, NEW, "4 s; found at once"), ("all-MiniLM-L6-v2", _with_encoder(asked), 500 if asked.smoke else NEW, "120 s"))
    for name, folder, n, wanted in ways:
        found = told_by("benchmarks.rows.growth", "added", str(folder), str(n))
        yield Figure(f"{n:,} text items added, {name}", f"{found['seconds']:.1f} s; found {found['found']} of 100 at once", wanted, found)
    found = told_by("benchmarks.rows.growth", "filled", str(place), str(rows), str(file))
    yield Figure(f"{rows:,} text items put in place of all, hashed text", f"{found['seconds']:.0f} s, {found['peak'] / 1e9:.2f} GB", "", found)
    told_by("benchmarks.rows.growth", "changed", str(place), str(rows), str(file))
    found = told_by("benchmarks.rows.growth", "refreshed", str(place), str(rows), str(file))
    told = f"{found['seconds']:.1f} s, {found['peak'] / 1e9:.2f} GB; {found['own_bytes'] / 1e3:,.0f} kB to send"
    yield Figure(f"refresh of {rows:,} rows, {min(CHANGED, rows):,} of them changed", told, "30 s, 2 GB", found)
    yield Figure("the same again, nothing changed", f"{found['again']:.1f} s", "", found)
    shutil.rmtree(place)
    file.unlink()


def _with_encoder(asked: Asked) -> Path:
    """The bundle of a model that reads texts by the pretrained encoder alone."""
    items = texts(np.arange(300))
    pairs = pa.table({"asked": [f"{text} please" for text in items.column("text").to_pylist()] * 2, "name": items.column("name").to_pylist() * 2})
    reads = {"type": "pretrained", "folder": str(shipped())}
    config: dict[str, Any] = {
        "query": {"features": [{"column": "asked", **reads}]},
        "item": {"id": "name", "features": [{"column": "text", **reads}]},
        "model": {"dimensions": 64},
        "train": {"epochs": 1, "batch_size": 64},
    }
    return Path(tt.train(pairs, items, config=config, output=asked.folder / "encoder", overwrite=True).folder) / "bundle"


def texts(numbers: Array) -> pa.Table:
    """Made items with these numbers: eight words of 5,000, drawn by the number."""
    generator = np.random.default_rng(0)
    words = ["".join(map(chr, generator.integers(97, 123, 6))) + str(n) for n in range(5000)]
    spread = numbers[:, None].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    drawn = (spread >> (np.arange(8, dtype=np.uint64) * np.uint64(6) + np.uint64(3))) % np.uint64(5000)
    return pa.table({"name": [f"made {n}" for n in numbers.tolist()], "text": [" ".join(words[word] for word in row) for row in drawn.tolist()]})


def _rows(place: Path, numbers: Array) -> pa.Table:
    """Made items in the columns of a bundle's catalogue."""
    opened, made = open_bundle(place), texts(numbers)
    read, column = opened.encoder.text_columns("item"), item_column(opened)
    shown = [name for name in opened.segments[0].items.column_names[1:] if name != column]
    columns = {name: made.column("text") if name in read else pa.array(["made"] * len(numbers)) for name in shown}
    return pa.table({**columns, str(column): made.column("name")})


def _told(**facts: Any) -> None:
    print(json.dumps(facts | {"peak": peak()}))


def _added(place: Path, n: int) -> None:
    rows, retriever = _rows(place, np.arange(10**6, 10**6 + n)), tt.load(place)
    begun = time.perf_counter()
    retriever.add_items(rows)
    seconds = time.perf_counter() - begun
    own = retriever.rows_of(rows.column(str(item_column(retriever.bundle))).slice(0, 100))
    vectors = np.asarray(retriever.vectors[own])
    found = retriever.catalogue.index.search(vectors, 1).rows[:, 0]
    _told(seconds=seconds, found=int((found == own).sum()))


def _filled(place: Path, n: int, file: Path) -> None:
    pq.write_table(_rows(place, np.arange(n)), file)
    retriever, begun = tt.load(place), time.perf_counter()
    retriever.refresh(str(file), yes=True)
    _told(seconds=time.perf_counter() - begun)


def _changed(place: Path, n: int, file: Path) -> None:
    """Other words for some rows of the file."""
    table, some = pq.read_table(file), np.random.default_rng(0).permutation(n)[:CHANGED]
    column = open_bundle(place).encoder.text_columns("item")[0]
    values = np.asarray(table.column(column).to_pylist(), object)
    values[some] = texts(n + some).column("text").to_pylist()
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, pa.array(values, pa.string())), file)
    _told()


def _refreshed(place: Path, n: int, file: Path) -> None:
    begun = time.perf_counter()
    retriever = tt.load(place)
    change = retriever.refresh(str(file))
    seconds = time.perf_counter() - begun
    if change.embedded != min(CHANGED, n) or change.removed:
        raise RuntimeError(f"other items changed than were: {change}")
    begun = time.perf_counter()
    if not retriever.refresh(str(file)).nothing:
        raise RuntimeError("the same again changed something")
    _told(seconds=seconds, again=time.perf_counter() - begun, own_bytes=tt.versions(place)[-1].own_bytes)


PARTS = {"added": _added, "filled": _filled, "changed": _changed, "refreshed": _refreshed}

if __name__ == "__main__":
    what, folder, count, *rest = sys.argv[1:]
    PARTS[what](Path(folder), int(count), *map(Path, rest))
