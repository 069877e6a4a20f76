"""Jobs over whole files: streamed in, streamed out, and where they are long, resumable."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle import Retriever
from twotower.bundle.asking import require_history
from twotower.bundle.memory import Strangers
from twotower.bundle.retriever import MODES
from twotower.data.columns import Array
from twotower.data.features import Unreadable
from twotower.data.prepared import ID
from twotower.data.schema import Side
from twotower.data.sources import Source, open_source
from twotower.errors import ConfigError, DataError, choices

T = TypeVar("T")
ROWS = 8192  # at once, and of one part
ANSWERS = 1 << 20  # at once: fewer rows where many items are asked for


class Wrote(NamedTuple):
    """How many rows were written, how many of them hold nothing to answer, and what their histories name that the catalogue lacks."""

    rows: int
    empty: int
    strangers: str = ""


def search_file(
    retriever: Retriever, queries: str, output: Path, k: int, mode: str | None, threshold: float | None, report: Callable[[int], None]
) -> Wrote:
    """Answer every row of a file: its columns, `ids` and `scores` as lists, best first; an empty query has empty lists, and so has what nothing fits.

    Parts are kept beside the output until the last is done; the same command after a kill goes on behind them. Rows that cannot be read leave none.
    """
    _check_search(k, mode)
    k = min(k, len(retriever))
    source = _opened(retriever, queries, "query")
    files.check_parquet(output)
    bundle = {"bundle": retriever.bundle.fingerprint, "version": retriever.bundle.version}
    begun = {**bundle, "queries": source.digest(), "k": k, "mode": mode, "threshold": threshold}
    parts = output.with_name(f".{output.name}.parts")
    if not (parts / "job.json").exists() or files.read_json(parts / "job.json") != begun:
        files.remove_folder(parts)
    names: list[Path] = []
    queries_asked = _Asked(retriever)

    def answer(table: pa.Table) -> None:
        names.append(parts / f"{len(names):08d}.arrow")
        asked = queries_asked.of(table)
        if not names[-1].exists():
            answered = _answered(retriever, table, asked, k, mode, threshold)
            if not (parts / "job.json").exists():
                files.write_json(parts / "job.json", begun)
            files.write_table(names[-1], answered)
        report(table.num_rows)

    try:
        for _ in _changed(source, answer, max(1, min(ROWS, ANSWERS // k))):
            pass
        schema = files.read_table(names[0]).schema
        rows = files.write_parquet(output, (batch for name in names for batch in files.read_table(name).to_batches()), schema)
    except DataError:
        files.remove_folder(parts)  # the same rows would fail again; a full disk, a Ctrl-C or a kill leave the parts to the same command
        raise
    files.remove_folder(parts)
    return queries_asked.wrote(rows)


def _answered(retriever: Retriever, table: pa.Table, asked: Array, k: int, mode: str | None, threshold: float | None) -> pa.Table:
    """The table with a list of ids and one of scores behind each row."""
    rows, scores = np.full((len(asked), k), -1, np.int64), np.full((len(asked), k), -np.inf, np.float32)
    if asked.any():
        found = retriever.search(table.filter(pa.array(asked)), k=k, mode=mode, threshold=threshold)  # type: ignore[arg-type]
        rows[asked], scores[asked] = found.rows, found.scores
    present = rows >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(present.sum(axis=1))]), pa.int32())
    ids = retriever.items.column("_id").take(pa.array(rows[present])).combine_chunks()
    table = _with(table, "ids", pa.ListArray.from_arrays(offsets, ids))
    return _with(table, "scores", pa.ListArray.from_arrays(offsets, pa.array(scores[present])))


def score_file(retriever: Retriever, pairs: str, output: Path | None, report: Callable[[int], None], prior: float | None = None) -> Wrote:
    """Score every pair of a file: its columns and `score`, null where the catalogue lacks the item or the query is empty.

    prior: the share of matches among them; with it, `probability` too. Without an output, rows are printed as lines of JSON.
    """
    if prior is not None:
        retriever.probability(np.empty(0), prior)  # refused before any work
    facts = retriever.bundle.model["schema"]
    item_column = facts["pairs"]["item"] or facts["item"]["id"]
    columns = [item_column] if item_column else retriever.encoder.columns("item")
    source = _opened(retriever, pairs, "query")
    for column in columns:
        source.require(column, "the item", nested=True)
    queries_asked = _Asked(retriever)

    def scored(table: pa.Table) -> pa.Table:
        asked = queries_asked.of(table)
        scores = np.full(len(asked), np.nan, np.float32)
        if asked.any():
            known = table.filter(pa.array(asked))
            scores[asked] = retriever.score_known(known, known.column(item_column) if item_column else known.select(columns))
        found = _with(table, "score", pa.array(scores, from_pandas=True))
        return found if prior is None else _with(found, "probability", pa.array(retriever.probability(scores, prior), from_pandas=True))

    if output is not None:
        return queries_asked.wrote(_write(output, source, scored, report))
    rows = 0
    for table in _changed(source, scored):
        for row in table.to_pylist():
            sys.stdout.write(files.json_text(row, indent=None) + "\n")
        rows += table.num_rows
        report(table.num_rows)
    return queries_asked.wrote(rows)


def embed_file(retriever: Retriever, rows: str, side: Side, output: Path, report: Callable[[int], None]) -> Wrote:
    """Write the columns of a file with a column `vector` of float32 lists, null where a query is empty."""
    source = _opened(retriever, rows, side)
    width = retriever.bundle.dimensions
    queries_asked = _Asked(retriever)

    def embedded(table: pa.Table) -> pa.Table:
        if side == "item":
            return _with(table, "vector", _lists(retriever.embed_items(table), np.ones(table.num_rows, bool)))
        asked = queries_asked.of(table)
        vectors = retriever.embed_queries(table.filter(pa.array(asked))) if asked.any() else np.empty((0, width), np.float32)
        return _with(table, "vector", _lists(vectors, asked))

    return queries_asked.wrote(_write(output, source, embedded, report))


def _lists(vectors: Array, there: Array) -> pa.Array:
    """Vectors [m, d] as a column of n lists, null but for the m rows that are there [n].

    Not lists of a fixed size: many readers of Parquet, older pyarrow among them, fail on a null in such a column.
    """
    offsets = np.append(0, np.cumsum(there, dtype=np.int32)) * np.int32(vectors.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(vectors.reshape(-1)), mask=pa.array(~there))


# --- streams ------------------------------------------------------------------------------------------------------


def _opened(retriever: Retriever, data: str, side: Side) -> Source:
    """A file with the columns that a side reads; a history may be left out where there are others."""
    source = open_source(data)
    features = retriever.encoder.features[side]
    history = retriever.history if side == "query" else None
    if history is not None and len(features) == 1:
        require_history(source, history.column_name, source.columns[:2], retriever.items.column(ID).slice(0, 2).to_pylist())
    for feature in features:
        if not feature.from_log or len(features) == 1 or feature.column in source.columns:
            source.require(feature.column, f"the {side}", nested=feature.nested)
    return source


def _check_search(k: int, mode: str | None) -> None:
    if k < 1:
        raise ConfigError(f"k is {k}; at least one item must be asked for")
    if mode is not None and mode not in MODES:
        raise ConfigError(f'there is no search mode "{mode}"; {choices(MODES, mode)}')


def _tables(source: Source, rows: int = ROWS) -> Iterator[pa.Table]:
    for batch in source.batches():
        for start in range(0, batch.num_rows, rows):
            yield pa.Table.from_batches([batch.slice(start, rows)])


def _changed(source: Source, change: Callable[[pa.Table], T], rows: int = ROWS) -> Iterator[T]:
    """What becomes of each part of a source; of values that cannot be read, the file and their rows in it are said."""
    start = 0
    for table in _tables(source, rows):
        try:
            changed = change(table)
        except Unreadable as error:
            raise error.at(source.name, start) from None
        yield changed
        start += table.num_rows


class _Asked:
    """Which rows of a file ask anything, counted part by part."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever, self.empty, self.strangers = retriever, 0, Strangers(retriever.history)

    def of(self, table: pa.Table) -> Array:
        """Whether each row [n] holds anything of a query."""
        asked = np.asarray(~self.retriever.encoder.empty("query", table))
        self.empty += len(asked) - int(asked.sum())
        self.strangers.add(table)
        return asked

    def wrote(self, rows: int) -> Wrote:
        """What to tell of it all."""
        return Wrote(rows, self.empty, self.strangers.told())


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """The table with a column added, or replaced where it has one of that name."""
    place = table.schema.get_field_index(name)
    return table.append_column(name, column) if place < 0 else table.set_column(place, name, column)


def _write(output: Path, source: Source, change: Callable[[pa.Table], pa.Table], report: Callable[[int], None]) -> int:
    """Write what becomes of each part of a source; returns the number of rows."""
    files.check_parquet(output)

    def changed() -> Iterator[pa.RecordBatch]:
        for table in _changed(source, change):
            yield table.combine_chunks().to_batches()[0]
            report(table.num_rows)

    batches = changed()
    first = next(batches)
    return files.write_parquet(output, itertools.chain([first], batches), first.schema)
