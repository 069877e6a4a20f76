"""Reads pairs into narrow batches for the engine: numbers only, every thing known by the number under which it came first.

Texts are brought into their canonical form, named by a hash and set aside on disk once; the engine never sees one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array
from twotower.data.features import Unreadable
from twotower.data.hashes import mix
from twotower.data.keys import joined, keys_of, present, texts_of, values_of
from twotower.data.preparation.catalogue import EXAMPLES, Catalogue
from twotower.data.preparation.identity import Index, Names, names_of
from twotower.data.preparation.spills import Spill
from twotower.data.quantities import at_least_zero, is_number, scores, times, told
from twotower.data.schema import Schema
from twotower.data.sources import Source
from twotower.data.splits import TEST, TRAIN, VALIDATION, SplitOptions, parts_named
from twotower.data.values import to_text
from twotower.errors import DataError

HELD = 1 << 23  # different queries that are remembered at once; past it they are set aside again
TOLD_EVERY = 2.0  # seconds


@dataclass(frozen=True)
class Sources:
    """Where the data are. items, queries: tables of their own. validation, test: pairs that are those parts."""

    pairs: Source
    items: Source | None = None
    queries: Source | None = None
    validation: Source | None = None
    test: Source | None = None

    @property
    def logs(self) -> list[tuple[int, Source]]:
        """The sources of pairs, each with its part."""
        given = [(TRAIN, self.pairs), (VALIDATION, self.validation), (TEST, self.test)]
        return [(part, source) for part, source in given if source is not None]

    @property
    def named(self) -> dict[str, str | None]:
        """The name of each source, for the report."""
        every = {"pairs": self.pairs, "items": self.items, "queries": self.queries, "validation": self.validation, "test": self.test}
        return {f"{role}_source": source.name if source else None for role, source in every.items() if source or role in ("pairs", "items")}


class Intake:
    """Reads all sources once. counts: what became of each row; the catalogue and the queries are set aside as they are met."""

    def __init__(self, sources: Sources, schema: Schema, options: SplitOptions, folder: Path, seed: int, progress: Callable[[str], None]) -> None:
        self.sources, self.schema, self.options, self.seed, self._tell = sources, schema, options, seed, progress
        self.raw = {name: f"raw{n}" for n, name in enumerate(dict.fromkeys(f.column for f in schema.raw_features("query")))}
        listed = sources.items or sources.pairs
        self.catalogue = Catalogue(schema, listed, sources.items is None, folder / "items.arrow", seed)
        self.asked, self.asks = Spill(folder / "asked.arrow"), Index()
        self.counts: dict[str, int] = {"pairs_read": 0}
        self.examples: dict[str, list[str]] = {"unlisted_examples": [], "unlisted_query_examples": []}
        self._queries: _Queries | None = None
        self._dated: bool | None = None  # whether written times are dates
        self._row, self._told = 0, time.monotonic()

    @property
    def optional(self) -> dict[str, bool]:
        """Which of the engine's columns there are."""
        pairs, by = self.schema.pairs, self.schema.history_by
        return {
            "weight": pairs.weight is not None or pairs.event is not None,
            "label": pairs.label is not None,
            "teacher": pairs.teacher is not None,
            "time": pairs.time is not None,
            "part": self.options.by in ("column", "files"),
            "entity": self.options.by == "group" and self.options.column is not None,
            "history": by is not None,  # even by the key: whoever has none shares no history with who asks in the same words
        }

    def progress(self, what: str, number: int) -> None:
        """Say now and then how far the reading is."""
        if time.monotonic() - self._told >= TOLD_EVERY:
            self._told = time.monotonic()
            self._tell(f"reading the data: {number:,} {what}")

    def _count(self, **reasons: int) -> None:
        for reason, number in reasons.items():
            self.counts[reason] = self.counts.get(reason, 0) + int(number)

    # Tables of their own.

    def read_items(self) -> None:
        """The catalogue, where there is one: each id once, its first row."""
        if self.sources.items is None:
            return
        self._count(catalogue_rows=0, catalogue_rows_without_id=0)
        for batch, start in _numbered(self.sources.items, self.catalogue.columns):
            ids = self.catalogue.ids(batch)
            with _named(self.sources.items.name, start):
                self.catalogue.add(batch, ids)
            self._count(catalogue_rows=batch.num_rows, catalogue_rows_without_id=ids.null_count)
            self.progress("items", start + batch.num_rows)
        self.counts["catalogue_ids_repeated"] = self.counts["catalogue_rows"] - self.counts["catalogue_rows_without_id"] - self.catalogue.index.count
        if not self.catalogue.index.count:
            raise DataError(f"{self.sources.items.name} names no item: every value of its id is missing")

    def read_queries(self) -> None:
        """The table of queries, where there is one: each id once, its first row."""
        if self.sources.queries is None:
            return
        self._queries = _Queries(self.sources.queries, self.schema, self.raw, self.seed, self.progress)
        self.counts |= self._queries.counts

    # Pairs.

    def pair_batches(self) -> Iterator[pa.RecordBatch]:
        """The usable pairs as they come, by numbers."""
        for part, source in self.sources.logs:
            for batch, start in _numbered(source, self._columns()):
                self._count(pairs_read=batch.num_rows)
                with _named(source.name, start):
                    read = self._pairs(batch, source.name, start, part)
                yield read
                self._row += batch.num_rows
                self.progress("pairs", self._row)
        self.asked.close()
        self.catalogue.close(self.sources.pairs.name)
        if not self.catalogue.index.count:
            raise DataError(f"{self.sources.pairs.name} names no item: every value of its id is missing")

    def _columns(self) -> list[str]:
        """The columns of the log that are read."""
        pairs, schema = self.schema.pairs, self.schema
        own = [] if self._queries else list(self.raw)
        named = [schema.key, schema.query_column, schema.history_by, pairs.time, pairs.weight, pairs.event, pairs.label, pairs.teacher]
        named.append(self.options.column)
        item = self.catalogue.columns if self.catalogue.from_pairs else [pairs.item or schema.item.id]
        return list(dict.fromkeys(name for name in [*own, *named, *item] if name is not None))

    def _pairs(self, batch: pa.RecordBatch, source: str, start: int, part: int) -> pa.RecordBatch:
        numbers = self._numbers(batch, source, start, part)
        values = None if self._queries else [*values_of(self.schema.query.features, batch.column).values()]
        usable, items, listed = self._usable(batch, numbers, values)
        rows = np.flatnonzero(usable)
        if self.optional["teacher"]:
            self._count(pairs_without_teacher_score=np.isnan(numbers["teacher"][rows]).sum())
        if len(rows) < batch.num_rows:
            chosen = pa.array(rows)
            batch, values = batch.take(chosen), values and [column.take(chosen) for column in values]
            items, listed = items[rows], None if listed is None else listed[rows]
            numbers = {name: array[rows] for name, array in numbers.items()}
        if values is None:
            assert self._queries is not None
            values = self._queries.values(listed)
        columns = {"row": self._row + rows, "asked": self._ask(batch, values), "item_row": items, **numbers}
        if self.optional["entity"]:
            columns["entity"] = self._codes(batch, self.options.column, self._row + rows)
        if self.optional["history"]:
            columns["history"] = self._codes(batch, self.schema.history_by, self._row + rows)
        return pa.record_batch(columns)

    def _numbers(self, batch: pa.RecordBatch, source: str, start: int, part: int) -> dict[str, Array]:
        """Weight (nan where an event is not listed), label (0 for a non-match), time and part of each row."""
        options, found = self.schema.pairs, {}
        if self.optional["weight"]:
            found["weight"] = self._weights(batch, source, start)
        if options.label is not None:
            labels = at_least_zero(batch.column(options.label), options.label, "label", source, start)
            found["label"] = np.where(labels >= (options.match or np.nextafter(0, 1)), labels, 0).astype(np.float32)
        if options.teacher is not None:
            found["teacher"] = scores(batch.column(options.teacher), options.teacher, source, start)
        if options.time is not None:
            self._one_way_of_writing(batch.column(options.time), source, start)
            found["time"] = np.asarray(times(batch, options.time, source, start))
        if self.options.by == "column" and self.options.column is not None:
            found["part"] = parts_named(to_text(batch.column(self.options.column)), self.options.column, source, start)
        elif self.options.by == "files":
            found["part"] = np.full(batch.num_rows, part, np.int8)
        return found

    def _one_way_of_writing(self, column: pa.Array, source: str, start: int) -> None:
        """Times that stand as text must all be numbers or all be dates: each batch alone cannot see what the others hold."""
        if not len(column) or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return
        dated = not is_number(column[0].as_py())
        if self._dated is not None and dated != self._dated:
            raise DataError(
                f'{source} {told(np.array([0]), start)}: the time "{self.schema.pairs.time}" is {column[0].as_py()!r}, and before it stood '
                f"{'dates' if self._dated else 'numbers'}. Write all times in one way."
            )
        self._dated = dated

    def _weights(self, batch: pa.RecordBatch, source: str, start: int) -> Array:
        options, weights = self.schema.pairs, np.ones(batch.num_rows)
        if options.weight is not None:
            weights = at_least_zero(batch.column(options.weight), options.weight, "weight", source, start)
        if options.event is not None and options.event_weights is not None:
            names = to_text(pa.array(list(options.event_weights), pa.string()))
            place = pc.index_in(to_text(batch.column(options.event)), names, skip_nulls=True)
            of_event = pa.array(options.event_weights.values(), pa.float64()).take(place)
            weights = weights * np.asarray(pc.fill_null(of_event, float("nan")))
        return weights

    def _usable(self, batch: pa.RecordBatch, numbers: dict[str, Array], values: list[pa.Array] | None) -> tuple[Array, Array, Array | None]:
        """Which rows are pairs, bool [n], their items, and their rows in the table of queries; the others are counted by reason."""
        asked, listed = self._asked_at_all(batch, values)
        ids = self.catalogue.ids_of_pairs(batch)
        usable = asked & np.asarray(ids.is_valid())
        self._count(pairs_without_query=(~asked).sum(), pairs_without_item=(asked & ~usable).sum())
        if self.schema.pairs.event is not None:
            known = ~np.isnan(numbers["weight"])
            self._count(pairs_of_unlisted_event=(usable & ~known).sum())
            usable &= known
        else:
            self._count(pairs_of_unlisted_event=0)
        if listed is not None:
            self._count(pairs_of_unlisted_query=(usable & (listed < 0)).sum())
            self._note("unlisted_query_examples", to_text(batch.column(self.schema.query_column)), usable & (listed < 0))
            usable &= listed >= 0
        if self.catalogue.from_pairs:
            return usable, self.catalogue.add(batch, ids), listed
        return self._listed(ids, usable, listed)

    def _asked_at_all(self, batch: pa.RecordBatch, values: list[pa.Array] | None) -> tuple[Array, Array | None]:
        """Whether each row has a query, and its row in the table of queries (-1 where that lacks it), where there is one."""
        if self._queries is not None:
            ids = to_text(batch.column(self.schema.query_column))
            return np.asarray(ids.is_valid()), self._queries.find(ids)
        there = present(values) if values else np.zeros(batch.num_rows, bool)
        if self.schema.history_by is not None:  # who is known by what came before asks, also where all else is missing
            there |= np.asarray(to_text(batch.column(self.schema.history_by)).is_valid())
        return there, None

    def _listed(self, ids: pa.Array, usable: Array, listed: Array | None) -> tuple[Array, Array, Array | None]:
        """The catalogue's row of each item; pairs of others are counted, and dropped unless such items are kept."""
        rows, there = np.full(len(ids), -1, np.int64), np.flatnonzero(usable)
        some = ids if len(there) == len(ids) else ids.take(pa.array(there))
        rows[there] = self.catalogue.find(some, names_of(some, self.seed))
        strange = usable & ((rows < 0) | (rows >= self.catalogue.listed))
        self._count(pairs_of_unlisted_item=strange.sum(), pairs_with_item=usable.sum())
        self._note("unlisted_examples", ids, strange)
        return usable & (rows >= 0), rows, listed

    def _note(self, what: str, texts: pa.Array, which: Array) -> None:
        """Keep the first few examples."""
        there = self.examples[what]
        for row in np.flatnonzero(which) if len(there) < EXAMPLES else ():
            value = texts[int(row)].as_py()
            if value not in there:
                there.append(value)
            if len(there) == EXAMPLES:
                break

    def _ask(self, batch: pa.RecordBatch, values: list[pa.Array]) -> Array:
        """The number int64 [n] under which each row's query and key are set aside."""
        queries = names_of(joined([texts_of(column) for column in values], batch.num_rows), self.seed)
        declared = None if self.schema.key is None else batch.column(self.schema.key)
        keys = keys_of(values, declared, batch.num_rows)
        key_names = names_of(keys, self.seed)
        if self.asks.held > HELD:
            self.asks.forget()
        numbers, new = self.asks.add(queries.beside(key_names))
        if len(new):
            first = pa.array(new)
            columns = {place: column.take(first) for place, column in zip(self.raw.values(), values, strict=True)}
            self.asked.append(pa.record_batch(columns | {"key": keys.take(first)} | _coded(queries.take(new), key_names.take(new))))
        return numbers

    def _codes(self, batch: pa.RecordBatch, name: str | None, rows: Array) -> Array:
        """What a column holds, as uint64 [n]; a row where it is missing stands for itself."""
        texts = to_text(batch.column(name))
        own = mix(rows.astype(np.uint64) ^ np.uint64(0xA5A5A5A5A5A5A5A5))
        return np.where(np.asarray(texts.is_valid()), names_of(texts, self.seed).codes, own)


def _coded(queries: Names, keys: Names) -> dict[str, Array]:
    return {"q": queries.codes, "q_check": queries.checks, "k": keys.codes, "k_check": keys.checks}


class _Queries:
    """A table of queries, held in memory: its columns are needed whenever a pair first names one of its rows."""

    def __init__(self, source: Source, schema: Schema, raw: dict[str, str], seed: int, progress: Callable[[str, int], None]) -> None:
        self.index, self.seed = Index(), seed
        self.counts = {"query_table_rows": 0, "query_table_rows_without_id": 0, "query_table_ids_repeated": 0}
        assert schema.query.id is not None
        parts: list[pa.RecordBatch] = []
        for batch, start in _numbered(source, list(dict.fromkeys([*raw, schema.query.id]))):
            ids = to_text(batch.column(schema.query.id))
            there = np.flatnonzero(np.asarray(ids.is_valid()))
            _, new = self.index.add(names_of(ids, seed).take(there))
            self.counts["query_table_rows"] += batch.num_rows
            self.counts["query_table_rows_without_id"] += ids.null_count
            self.counts["query_table_ids_repeated"] += len(there) - len(new)
            part = batch.take(pa.array(there[new]))
            with _named(source.name, start):
                values = values_of(schema.query.features, part.column)
            parts.append(pa.record_batch(values | {"": ids.take(pa.array(there[new]))}))
            progress("queries", start + batch.num_rows)
        self.table = pa.Table.from_batches(parts).drop_columns("").combine_chunks()
        if not self.index.count:
            raise DataError(f"{source.name} names no query: every value of its id is missing")

    def find(self, ids: pa.Array) -> Array:
        """The row int64 [n] of each id, -1 where the table lacks it."""
        return self.index.find(names_of(ids, self.seed))

    def values(self, rows: Array | None) -> list[pa.Array]:
        """The values of these rows."""
        chosen = self.table.take(pa.array(rows))
        return [column.combine_chunks() for column in chosen.columns]


@contextmanager
def _named(source: str, start: int) -> Iterator[None]:
    """An error over rows that a feature cannot read names the source, and counts its rows from its beginning."""
    try:
        yield
    except Unreadable as error:
        raise error.at(source, start) from None


def _numbered(source: Source, columns: list[str]) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The batches of a source, each with the number of its first row."""
    start = 0
    for batch in source.select(columns).batches():
        yield batch, start
        start += batch.num_rows
