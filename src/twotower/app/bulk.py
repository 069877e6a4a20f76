"""Searches, scores and vectors of whole files: streamed in, streamed out, and where they are long, resumable."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.app.jobs import Job, Shard, changed, run_job
from twotower.app.shelf import Shelf, keys_of_rows
from twotower.bundle import Retriever
from twotower.bundle.asking import require_history
from twotower.bundle.memory import Strangers
from twotower.bundle.narrowing import Where, check_k, check_skip
from twotower.bundle.ranking import MODES
from twotower.data.columns import Array
from twotower.data.features import Categories
from twotower.data.prepared import ID
from twotower.data.schema import Side
from twotower.data.sources import Source, open_source
from twotower.data.values import plain_rows
from twotower.errors import ConfigError, OutputError, choices
from twotower.search.diversity import check_diversity
from twotower.search.filters import condition_of, to_json

ROWS = 8192  # at once, and of one part
ANSWERS = 1 << 20  # at once: fewer rows where many items are asked for


class Wrote(NamedTuple):
    """How many rows were written, how many of them hold nothing to answer, what their histories name that the catalogue lacks, and how many a
    cache knew."""

    rows: int
    empty: int
    strangers: str = ""
    remembered: int = 0


class Wanted(NamedTuple):
    """What is asked for each row of a file, as `Retriever.search` takes it. exclude_column: of the file, lists of ids that the row leaves out."""

    k: int = 10
    mode: str | None = None
    threshold: float | None = None
    where: Where | None = None
    allow: list[Any] | None = None
    deny: list[Any] | None = None
    skip: int = 0
    diversity: float | None = None
    exclude_column: str | None = None

    def options(self) -> dict[str, Any]:
        """What `search` is told for every row."""
        return {name: value for name, value in self._asdict().items() if name != "exclude_column"}


def search_file(retriever: Retriever, queries: str, output: Path, wanted: Wanted, report: Callable[[int], None]) -> Wrote:
    """Answer every row of a file: its columns, `ids` and `scores` as lists, best first; an empty query has empty lists, and so has what nothing fits.

    Parts are kept beside the output until the last is done; the same command after a kill goes on behind them. Rows that cannot be read leave none.
    """
    wanted = _checked(retriever, wanted)
    source = _opened(retriever, queries, "query")
    if wanted.exclude_column is not None:
        source.require(wanted.exclude_column, "the items to exclude", nested=True)
    _check_output(output, queries)
    bundle = {"bundle": retriever.bundle.fingerprint, "version": retriever.bundle.version}
    begun = {**bundle, "queries": source.digest(), **wanted._asdict()}
    queries_asked = _Asked(retriever)
    job = Job(queries_asked.of, lambda table, asked: _answered(retriever, table, asked, wanted), begun)
    return queries_asked.wrote(run_job(job, source, output, max(1, min(ROWS, ANSWERS // (wanted.k + wanted.skip))), report))


def _answered(retriever: Retriever, table: pa.Table, asked: Array, wanted: Wanted) -> pa.Table:
    """The table with a list of ids and one of scores behind each row."""
    k, column = wanted.k, wanted.exclude_column
    rows, scores = np.full((len(asked), k), -1, np.int64), np.full((len(asked), k), -np.inf, np.float32)
    if asked.any():
        some = table.filter(pa.array(asked))
        exclude = None if column is None else Categories(column=column).normalise(some.column(column).combine_chunks())
        found = retriever.search(some, exclude=exclude, **wanted.options())
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
    if output is not None:
        _check_output(output, pairs)
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
    for table in changed(source, scored, ROWS):
        for row in plain_rows(table):
            sys.stdout.write(files.json_text(row, indent=None) + "\n")
        rows += table.num_rows
        report(table.num_rows)
    return queries_asked.wrote(rows)


def embed_file(
    retriever: Retriever, rows: str, side: Side, output: Path, report: Callable[[int], None], shard: Shard | None = None, cache: Path | None = None
) -> Wrote:
    """Write the columns of a file with a column `vector` of float32 lists, null where a query is empty. Resumable as `search_file` is.

    shard: which of the rows. cache: a folder of vectors that many such jobs may share: rows that one of them has met are not encoded again.
    """
    source = _opened(retriever, rows, side)
    _check_output(output, rows)
    bundle = {"bundle": retriever.bundle.fingerprint, "version": retriever.bundle.version}
    begun = {**bundle, "rows": source.digest(), "side": side, "shard": None if shard is None else list(shard)}
    queries_asked = _Asked(retriever)
    remembered = _Remembered(retriever, side, cache)

    def asked_of(table: pa.Table) -> Array:
        return queries_asked.of(table) if side == "query" else np.ones(table.num_rows, bool)

    def embedded(table: pa.Table, asked: Array) -> pa.Table:
        return _with(table, "vector", _lists(remembered.vectors(table if asked.all() else table.filter(pa.array(asked))), asked))

    written = run_job(Job(asked_of, embedded, begun), source, output, ROWS, report, shard)
    return queries_asked.wrote(written)._replace(remembered=remembered.count)


class _Remembered:
    """Embeds rows of one side, and those that a cache knows without encoding them."""

    def __init__(self, retriever: Retriever, side: Side, cache: Path | None) -> None:
        self.retriever, self.side, self.count = retriever, side, 0
        # What a history says depends on the catalogue that it is read by.
        of = f"-{retriever.bundle.version}" if side == "query" and retriever.history is not None else ""
        bundle = retriever.bundle
        self.shelf = None if cache is None else Shelf(cache / f"{bundle.fingerprint[:16]}-{side}{of}", bundle.dimensions)

    def vectors(self, table: pa.Table) -> Array:
        """The vectors float32 [n, d] of some rows."""
        if not table.num_rows:
            return np.empty((0, self.retriever.bundle.dimensions), np.float32)
        embed = self.retriever.embed_items if self.side == "item" else self.retriever.embed_queries
        if self.shelf is None:
            return embed(table)
        columns = list(self.retriever.encoder.normalise(self.side, table).values())
        found, known = self.shelf.once(keys_of_rows(columns), lambda rows: embed(table.take(pa.array(rows))))
        self.count += known
        return found


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


def _check_output(output: Path, data: str) -> None:
    """Raise OutputError before any work for a place that cannot take the answers, or that is the file which asks."""
    files.check_parquet(output)
    if output.exists() and Path(data).is_file() and output.samefile(data):
        raise OutputError(f"{output} is the file that is read, and would be replaced by what is written. Choose another place with -o.")


def _checked(retriever: Retriever, wanted: Wanted) -> Wanted:
    """The same with no more items than there are, and the filter as JSON, however it was written. Raises ConfigError before any work."""
    check_k(wanted.k)
    if wanted.mode is not None and wanted.mode not in MODES:
        raise ConfigError(f'there is no search mode "{wanted.mode}"; {choices(MODES, wanted.mode)}')
    check_skip(wanted.skip)
    check_diversity(wanted.diversity)
    retriever.matching(wanted.where, allow=wanted.allow, deny=wanted.deny)
    where = None if wanted.where is None else to_json(condition_of(wanted.where))
    return wanted._replace(k=min(wanted.k, len(retriever)), where=where)


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

    def batches() -> Iterator[pa.RecordBatch]:
        for table in changed(source, change, ROWS):
            yield table.combine_chunks().to_batches()[0]
            report(table.num_rows)

    written = batches()
    first = next(written)
    return files.write_parquet(output, itertools.chain([first], written), first.schema)
