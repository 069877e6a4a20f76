"""Jobs over whole files: streamed in, streamed out, and where they are long, resumable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle import Retriever
from twotower.data.schema import Side
from twotower.data.sources import Source, open_source
from twotower.errors import ConfigError

ROWS = 8192  # searched at once, and written as one part


def search_file(retriever: Retriever, queries: str, output: Path, k: int, mode: str | None, report: Callable[[int], None]) -> int:
    """Answer every row of a file: the query's columns, `ids` and `scores` as lists, best first. Returns the number of rows.

    Parts are kept beside the output until the last is done; the same command after a kill goes on behind them.
    """
    if k < 1:
        raise ConfigError(f"k is {k}; at least one item must be asked for")
    source = open_source(queries)
    for column in retriever.encoder.columns("query"):
        source.require(column, "the query")
    begun = {"bundle": retriever.bundle.fingerprint, "version": retriever.bundle.version, "queries": source.digest(), "k": k, "mode": mode}
    parts = output.with_name(f".{output.name}.parts")
    if not (parts / "job.json").exists() or files.read_json(parts / "job.json") != begun:
        files.remove_folder(parts)
        files.write_json(parts / "job.json", begun)
    names = []
    for number, table in enumerate(_tables(source)):
        names.append(parts / f"{number:08d}.arrow")
        if not names[-1].exists():
            found = retriever.search(table, k=k, mode=mode)  # type: ignore[arg-type]
            files.write_table(names[-1], _answered(retriever, table, found.rows, found.scores))
        report(table.num_rows)
    # A first part without answers would leave the column of ids without a type; every part is cast to the catalogue's.
    schema = files.read_table(names[0]).schema
    rows = files.write_parquet(output, (batch for name in names for batch in files.read_table(name).to_batches()), schema)
    files.remove_folder(parts)
    return rows


def _answered(retriever: Retriever, table: pa.Table, rows: np.ndarray, scores: np.ndarray) -> pa.Table:
    present = rows >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(present.sum(axis=1))]), pa.int32())
    ids = retriever.items.column("_id").take(pa.array(rows[present])).combine_chunks()
    found = {"ids": pa.ListArray.from_arrays(offsets, ids), "scores": pa.ListArray.from_arrays(offsets, pa.array(scores[present]))}
    for name, column in found.items():
        table = (
            table.append_column(name, column) if name not in table.column_names else table.set_column(table.column_names.index(name), name, column)
        )
    return table


def _tables(source: Source) -> Iterator[pa.Table]:
    for batch in source.batches():
        for start in range(0, batch.num_rows, ROWS):
            yield pa.Table.from_batches([batch.slice(start, ROWS)])


def score_file(retriever: Retriever, pairs: str, output: Path | None, report: Callable[[int], None]) -> int:
    """Score every pair of a file: its columns and `score`, which is null where the catalogue lacks the item."""
    source = open_source(pairs)
    facts = retriever.bundle.model["schema"]
    item_column = facts["pairs"]["item"] or facts["item"]["id"]
    columns = [item_column] if item_column else retriever.encoder.columns("item")
    for column in [*retriever.encoder.columns("query"), *columns]:
        source.require(column, "the pair")

    def scored() -> Iterator[pa.RecordBatch]:
        for table in _tables(source):
            items = table.column(item_column) if item_column else table.select(columns)
            scores = retriever.score_known(table, items)
            report(table.num_rows)
            yield table.append_column("score", pa.array(scores, from_pandas=True)).combine_chunks().to_batches()[0]

    if output is not None:
        first = next(parts := scored())
        return files.write_parquet(output, _chained(first, parts), first.schema)
    rows = 0
    for batch in scored():
        for row in batch.to_pylist():
            sys.stdout.write(files.json_text(row, indent=None) + "\n")
        rows += batch.num_rows
    return rows


def embed_file(retriever: Retriever, rows: str, side: Side, output: Path, report: Callable[[int], None]) -> int:
    """Write the columns of a file with a column `vector` of float32 lists. Returns the number of rows."""
    source = open_source(rows)
    for column in retriever.encoder.columns(side):
        source.require(column, f"the {side}")
    width = retriever.bundle.dimensions

    def embedded() -> Iterator[pa.RecordBatch]:
        for table in _tables(source):
            vectors = retriever.embed_queries(table) if side == "query" else retriever.embed_items(table)
            report(table.num_rows)
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)
            yield table.append_column("vector", column).combine_chunks().to_batches()[0]

    first = next(parts := embedded())
    return files.write_parquet(output, _chained(first, parts), first.schema)


def _chained(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest
