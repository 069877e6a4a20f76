"""Reads pairs and items into batches for the engine: columns known by number, every value brought into its canonical form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.keys import digests_of, keys_of, values_of
from twotower.data.prepared import ID
from twotower.data.quantities import numbers, times
from twotower.data.schema import SIDES, Schema, Side
from twotower.data.sources import Source
from twotower.data.values import as_texts, has_text, to_text
from twotower.errors import DataError


@dataclass(frozen=True)
class Intake:
    """How the batches of two sources are read under a schema. part: the column that names each pair's part of the split."""

    pairs: Source
    items: Source | None
    schema: Schema
    part: str | None

    # The engine folds case in names, and the user's may hold anything: it knows columns by number.

    @property
    def raw(self) -> dict[Side, dict[str, str]]:
        """The engine's name of each raw column that a side's features read."""
        return {side: {name: f"raw{n}" for n, name in enumerate(dict.fromkeys(f.column for f in self.schema.features(side)))} for side in SIDES}

    @property
    def shown(self) -> dict[str, str]:
        """The engine's name of `_id` and of each column to show."""
        return {name: f"show{n}" for n, name in enumerate(dict.fromkeys([ID, *self.raw["item"], *self.schema.item.payload]))}

    def item_batches(self) -> Iterator[pa.RecordBatch]:
        """Items as they come, by row, id, raw and shown columns: of the catalogue, or of the pairs where there is none."""
        return (self._items(batch, start) for batch, start in _numbered(self.items or self.pairs))

    def pair_batches(self) -> Iterator[pa.RecordBatch]:
        """Pairs as they come, by row, raw columns, key, item, weight (null where an event is not listed), time and part."""
        return (self._pairs(batch, start) for batch, start in _numbered(self.pairs))

    def _items(self, batch: pa.RecordBatch, start: int) -> pa.RecordBatch:
        schema, from_pairs = self.schema, self.items is None
        id_column = (schema.pairs.item or schema.item.id) if from_pairs else schema.item.id

        def raw(name: str) -> pa.Array:
            return batch.column(id_column if from_pairs and name == schema.item.id else name)

        columns: dict[str, pa.Array] = {"row": pa.array(np.arange(start, start + batch.num_rows))}
        values = self._values("item", raw)
        columns["id"] = to_text(raw(schema.item.id)) if schema.item.id is not None else digests_of([*values.values()])
        columns |= values
        for name, place in self.shown.items():
            columns[place] = _plain(raw(name)) if name != ID else _plain(raw(schema.item.id)) if schema.item.id is not None else columns["id"]
        return pa.record_batch(columns)

    def _values(self, side: Side, column: Callable[[str], pa.Array]) -> dict[str, pa.Array]:
        return {self.raw[side][name]: values for name, values in values_of(self.schema.features(side), column).items()}

    def _pairs(self, batch: pa.RecordBatch, start: int) -> pa.RecordBatch:
        schema = self.schema
        columns: dict[str, pa.Array] = {"row": pa.array(np.arange(start, start + batch.num_rows))}
        values = self._values("query", batch.column)
        columns |= values
        columns["key"] = keys_of([*values.values()], None if schema.query.key is None else batch.column(schema.query.key))
        if schema.item.id is not None:
            columns["item"] = to_text(batch.column(schema.pairs.item or schema.item.id))
        else:
            columns["item"] = digests_of([*values_of(schema.item.features, batch.column).values()])
        columns["weight"] = self._weights(batch, start)
        columns["time"] = times(batch, schema.pairs.time, self.pairs.name, start)
        columns["part"] = to_text(batch.column(self.part)) if self.part else pa.nulls(batch.num_rows, pa.string())
        return pa.record_batch(columns)

    def _weights(self, batch: pa.RecordBatch, start: int) -> pa.Array:
        weights = np.ones(batch.num_rows)
        options = self.schema.pairs
        if options.weight is not None:
            weights = numbers(batch.column(options.weight), options.weight, self.pairs.name, start)
            bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
            if len(bad):
                value = batch.column(options.weight)[int(bad[0])].as_py()
                raise DataError(
                    f'{self.pairs.name} row {start + bad[0] + 1}: the weight "{options.weight}" is {value!r}; it must be a number of 0 or more'
                )
        if options.event is not None and options.event_weights is not None:
            names = to_text(pa.array(list(options.event_weights), pa.string()))
            place = pc.index_in(to_text(batch.column(options.event)), names, skip_nulls=True)
            return pc.multiply(pa.array(weights), pa.array(options.event_weights.values(), pa.float64()).take(place))
        return pa.array(weights)


def _numbered(source: Source) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The batches of a source, each with the number of its first row."""
    start = 0
    for batch in source.batches():
        yield batch, start
        start += batch.num_rows


def _plain(column: pa.Array) -> pa.Array:
    """A column to show, in a type that the engine knows."""
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_decimal256(kind) or not (has_text(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind)):
        return as_texts(column.to_pylist())
    return column
