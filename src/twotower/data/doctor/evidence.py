"""What an examination looks at: the prepared folder, and the raw log by the rows that the user knows.

The raw log is read once, as numbers; of more than `MOST_PAIRS` pairs only those of every n-th key are kept, so that what
belongs to one key stays together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array, spans
from twotower.data.features import FeatureOptions
from twotower.data.hashes import hash_texts, mix
from twotower.data.keys import digests_of, keys_of, texts_of, values_of
from twotower.data.prepared import ID, Prepared
from twotower.data.quantities import times, without_truths
from twotower.data.schema import Schema, Side
from twotower.data.sources import Source
from twotower.data.splits import TRAIN, SplitOptions
from twotower.data.values import has_text, to_text

MOST_PAIRS = 5_000_000
SAMPLE = 20_000  # texts or pairs looked at where each costs more than a sum
SHOWN = 80  # characters of an example


class Asked(NamedTuple):
    """What the config asks of the data, in as far as it is examined."""

    batch_size: int = 1024
    correction: bool = True
    temperature: float = 0.1
    pretrained: str | None = None


class RawLog(NamedTuple):
    """The rows of the log that have a query and an item, before repeats are merged; one entry each [m], as they come."""

    rows: Array  # int64, counted from 1
    query_rows: Array  # int64, -1 where not found again
    query_keys: Array  # int64
    item_rows: Array  # int64, -1 for an item that the catalogue lacks
    weights: Array  # float64
    labels: Array  # float64, 0 for a non-match
    times: Array | None  # float64
    one_in: int  # only every n-th key was read


class _Read(NamedTuple):
    """One batch of the log: hashes uint64 and numbers float64, and which rows are pairs; all [n]."""

    queries: Array
    keys: Array
    items: Array
    weights: Array
    labels: Array
    times: Array
    usable: Array


@dataclass(frozen=True)
class Evidence:
    """The data of one examination."""

    pairs: Source
    items: Source | None
    schema: Schema
    options: SplitOptions
    prepared: Prepared
    asked: Asked
    now: float  # seconds since 1970

    @cached_property
    def parts(self) -> Array:
        """The part of each pair of the log: int8 [n]."""
        return np.asarray(self.prepared.parts)

    @cached_property
    def train(self) -> Array:
        """Which pairs are matches that are trained on: bool [n]."""
        return np.asarray((self.parts == TRAIN) & (np.asarray(self.prepared.log.labels) > 0))

    @cached_property
    def train_items(self) -> Array:
        """How many training pairs each item has: int64 [items]."""
        return np.bincount(np.asarray(self.prepared.log.item_rows)[self.train], minlength=self.prepared.n_items)

    @cached_property
    def train_keys(self) -> Array:
        """How many training pairs each key has: int64 [keys]."""
        return np.bincount(np.asarray(self.prepared.log.query_keys)[self.train], minlength=len(self.prepared.key_names))

    @property
    def asks_in_words(self) -> bool:
        """Whether a query is what its words say, rather than somebody who asks."""
        return self.schema.key is None and bool(self.texts("query"))

    def texts(self, side: Side) -> list[str]:
        """The columns of a side that are read as text, each once."""
        return list(dict.fromkeys(f.column for f in self.schema.features(side) if f.worded))

    def columns(self, side: Side) -> dict[str, list[FeatureOptions]]:
        """The raw columns of a side that the prepared folder keeps, and the features that read each."""
        table = self.prepared.queries if side == "query" else self.prepared.items
        found: dict[str, list[FeatureOptions]] = {}
        for feature in self.schema.features(side):
            if feature.column in table.column_names:
                found.setdefault(feature.column, []).append(feature)
        return found

    def values(self, side: Side, column: str, rows: Array | None = None) -> pa.Array:
        """The values of a raw column of a side as text, of these rows or of all; nulls where they have no text."""
        table = self.prepared.queries if side == "query" else self.prepared.items
        chunked = table.column(column)
        chunked = chunked if rows is None else chunked.take(pa.array(rows))
        whole = chunked.combine_chunks() if isinstance(chunked, pa.ChunkedArray) else chunked
        if isinstance(whole, pa.ChunkedArray):
            whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.nulls(0, pa.string())
        if not has_text(whole.type):
            return pa.array([None if value is None else str(value) for value in whole.to_pylist()], pa.string())
        return to_text(whole, exact=False)

    def words(self, side: Side, rows: Array) -> list[str]:
        """All texts of each of these rows, as one text."""
        columns = [pc.fill_null(self.values(side, name, rows), "") for name in self.texts(side)]
        return pc.binary_join_element_wise(*columns, " ").to_pylist() if columns else [""] * len(rows)

    def query(self, row: int) -> str:
        """A query row as a person would name it."""
        return self._named("query", row, list(self.columns("query"))) or "a history"

    def item(self, row: int) -> str:
        """An item as a person would name it: its id, or its texts where it has none."""
        if self.schema.item.id is None:
            return self._named("item", row, list(self.columns("item")))
        return short(self.values("item", ID, np.array([row]))[0].as_py())

    def _named(self, side: Side, row: int, columns: list[str]) -> str:
        values = {name: self.values(side, name, np.array([row]))[0].as_py() for name in columns}
        if len(values) == 1:
            return short(next(iter(values.values())))
        return short(", ".join(f"{name} = {value}" for name, value in values.items() if value is not None))

    # The raw log.

    @cached_property
    def raw(self) -> RawLog:
        """The raw log as numbers."""
        prepared = self.prepared
        one_in = -(-int(prepared.report["pairs_read"]) // MOST_PAIRS)
        keys, items = _Places(np.asarray(prepared.key_names)), _Places(hash_texts(self.values("item", ID).to_pylist()))
        queries = _Places(_row_hashes([prepared.queries.column(name) for name in self.columns("query")], prepared.queries.num_rows))
        parts, start = [], 0
        for batch in self.pairs.batches():
            read = self._read(batch, start)
            start += batch.num_rows
            chosen = np.flatnonzero(read.usable & (read.keys % np.uint64(max(1, one_in)) == 0))
            places = (queries.of(read.queries[chosen]), keys.of(read.keys[chosen]), items.of(read.items[chosen]))
            parts.append((start - batch.num_rows + chosen + 1, *places, *(column[chosen] for column in (read.weights, read.labels, read.times))))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        known = columns[2] >= 0
        rows, query_rows, query_keys, item_rows, weights, labels, times = (column[known] for column in columns)
        return RawLog(rows, query_rows, query_keys, item_rows, weights, labels, times if self.schema.pairs.time else None, one_in)

    def _read(self, batch: pa.RecordBatch, start: int) -> _Read:
        """One batch of the log, every value as the preparation takes it."""
        schema, n = self.schema, batch.num_rows
        values = {} if schema.query.id is not None else values_of(schema.query.features, batch.column)
        keys = keys_of([*values.values()], None if schema.key is None else batch.column(schema.key), n)
        queries = _row_hashes([values[name] for name in self.columns("query")], n) if values else np.zeros(n, np.uint64)
        if schema.item.id is not None:
            items = to_text(batch.column(schema.pairs.item or schema.item.id))
        else:
            items = digests_of([*values_of(schema.item.features, batch.column).values()])
        present = np.logical_or.reduce([np.asarray(column.is_valid()) for column in values.values()]) if values else np.ones(n, bool)
        weights, labels = np.ones(n), np.ones(n)
        if schema.pairs.weight is not None:
            weights = as_numbers(batch.column(schema.pairs.weight))
        if schema.pairs.event is not None and schema.pairs.event_weights is not None:
            place = pc.index_in(to_text(batch.column(schema.pairs.event)), to_text(pa.array(list(schema.pairs.event_weights), pa.string())))
            weights = weights * as_numbers(pa.array(schema.pairs.event_weights.values(), pa.float64()).take(place))
        if schema.pairs.label is not None:
            labels = as_numbers(without_truths(batch.column(schema.pairs.label)))
            labels = np.where(labels >= (schema.pairs.match or np.nextafter(0, 1)), labels, 0)
        moments = np.zeros(n)
        if schema.pairs.time is not None:
            moments = np.asarray(times(batch, schema.pairs.time, self.pairs.name, start), np.float64)
        usable = present & np.asarray(items.is_valid()) & ~np.isnan(weights)
        key_hashes, item_hashes = (hash_texts(pc.fill_null(texts, "").to_pylist()) for texts in (keys, items))
        return _Read(queries, key_hashes, item_hashes, weights, labels, moments, usable)

    @cached_property
    def times(self) -> Array | None:
        """The time of each pair of the log, float64 [n]; nan where it cannot be told."""
        raw, log = self.raw, self.prepared.log
        if raw.times is None:
            return None
        found = np.full(len(log.item_rows), np.nan)
        # Queries of a table of their own, and those of a history alone, have no values in the log: their keys tell them.
        told = bool((raw.query_rows >= 0).any())
        mine = (raw.query_rows if told else np.zeros_like(raw.query_keys), raw.query_keys, raw.item_rows)
        order = np.lexsort((raw.rows, raw.times, *mine[::-1]))
        ours = _starts(*(column[order] for column in mine))
        own = (np.asarray(log.query_rows) if told else np.zeros(len(log.item_rows), np.int64), np.asarray(log.query_keys), np.asarray(log.item_rows))
        log_order = np.lexsort(own[::-1])  # stable: the log is in time order
        theirs = _starts(*(column[log_order] for column in own))
        place = _match(ours.keys, theirs.keys)  # [groups of the raw log], -1 where the log has none
        last = self.schema.repeats != "first"
        both = np.flatnonzero(place >= 0)
        single = both[theirs.counts[place[both]] == 1]
        entry = theirs.starts[place[single]]
        at = ours.starts[single] + (ours.counts[single] - 1 if last else 0)
        found[log_order[entry]] = raw.times[order[at]]
        equal = both[(theirs.counts[place[both]] > 1) & (theirs.counts[place[both]] == ours.counts[both])]
        counts = ours.counts[equal]
        found[log_order[spans(theirs.starts[place[equal]], counts)]] = raw.times[order[spans(ours.starts[equal], counts)]]
        return found


class _Groups(NamedTuple):
    keys: tuple[Array, ...]  # of each group
    starts: Array
    counts: Array


def _starts(*columns: Array) -> _Groups:
    """The runs of equal rows in sorted columns."""
    n = len(columns[0])
    new = np.ones(n, bool)
    if n:
        new[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    starts = np.flatnonzero(new)
    return _Groups(tuple(column[starts] for column in columns), starts, np.diff(np.append(starts, n)))


def _match(ours: tuple[Array, ...], theirs: tuple[Array, ...]) -> Array:
    """Where each of our rows stands among theirs, -1 where it does not: int64 [ours]."""
    return _Places(combined(*theirs)).of(combined(*ours))


def combined(*columns: Array) -> Array:
    """One uint64 hash for each row of numbers [n]."""
    hashes = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        hashes = mix(hashes * np.uint64(0x9E3779B97F4A7C15) + column.astype(np.int64).view(np.uint64) + np.uint64(1))
    return hashes


class _Places:
    """Finds where a hash stands among others."""

    def __init__(self, hashes: Array) -> None:
        self.order = np.argsort(hashes, kind="stable")
        self.hashes = hashes[self.order]

    def of(self, wanted: Array) -> Array:
        """The place of each, -1 where it is not there: int64 [n]."""
        if not len(self.hashes):
            return np.full(len(wanted), -1, np.int64)
        at = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return np.asarray(np.where(self.hashes[at] == wanted, self.order[at], -1))


def _row_hashes(columns: list[Any], n: int) -> Array:
    """One hash for each row of normalised values, the same for a batch and for the stored table: uint64 [n]."""
    parts = [np.zeros(n, np.int64)]
    for column in columns:
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        pieces = whole.chunks if isinstance(whole, pa.ChunkedArray) else [whole]
        parts.append(hash_texts([text for piece in pieces for text in pc.fill_null(texts_of(piece), "\x1f").to_pylist()]).view(np.int64))
    return combined(*parts)


def as_numbers(column: pa.Array) -> Array:
    """Values as float64, nan where there is no number."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")).to_numpy(zero_copy_only=False))
    texts = to_text(column)
    good = pc.match_substring_regex(texts, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
    return np.asarray(pc.fill_null(pc.if_else(good, texts, None).cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False))


def short(value: Any, most: int = SHOWN) -> str:
    """A value as one line of an example."""
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def sampled(rows: Array, most: int = SAMPLE) -> Array:
    """At most so many of the rows, the same ones every time."""
    return rows if len(rows) <= most else np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
