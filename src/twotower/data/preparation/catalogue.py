"""The items as they come: each once, numbered, its columns set aside; from a catalogue, or from the pairs where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array
from twotower.data.keys import digests_of, values_of
from twotower.data.preparation.identity import Index, Names, names_of
from twotower.data.preparation.looks import Looks
from twotower.data.preparation.spills import Spill
from twotower.data.prepared import ID
from twotower.data.schema import Schema
from twotower.data.sources import Source
from twotower.data.values import as_texts, cast_texts, has_text, to_text
from twotower.errors import DataError

EXAMPLES = 5


class Catalogue:
    """Every item once, in the order in which it came. Columns are known by number, since the user's names may be anything."""

    def __init__(self, schema: Schema, source: Source, from_pairs: bool, spill: Path, seed: int) -> None:
        self.schema, self.name, self.from_pairs, self.seed = schema, source.name, from_pairs, seed
        self.raw = {name: f"raw{n}" for n, name in enumerate(dict.fromkeys(f.column for f in schema.item.features))}
        self.shown = {name: f"show{n}" for n, name in enumerate(dict.fromkeys([ID, *self.raw, *schema.item.payload]))}
        self.looks = Looks(schema, [name for name in self.shown if name != ID] if source.untyped else [])
        self.index, self.spill = Index(), Spill(spill)
        self.examples: list[str] = []  # the first ids
        self.added: list[pa.Array] = []  # ids that only the pairs name, where those are kept

    @property
    def columns(self) -> list[str]:
        """The columns of its source that are read."""
        own = [*self.raw, *self.schema.item.payload]
        if not self.from_pairs:
            return [*own, *filter(None, [self.schema.item.id])]
        return [*(name for name in own if name != self.schema.item.id), *filter(None, [self._id_column])]

    @property
    def _id_column(self) -> str | None:
        return (self.schema.pairs.item or self.schema.item.id) if self.from_pairs else self.schema.item.id

    def ids(self, batch: pa.RecordBatch) -> pa.Array:
        """The canonical id of the item in each row of its source, null where it has none."""
        if self._id_column is not None:
            return to_text(batch.column(self._id_column))
        return digests_of([*values_of(self.schema.item.features, batch.column).values()])

    def ids_of_pairs(self, batch: pa.RecordBatch) -> pa.Array:
        """The canonical id of the item of each pair, null where it has none."""
        column = self.schema.pairs.item or self.schema.item.id
        return self.ids(batch) if column is None else to_text(batch.column(column))

    def add(self, batch: pa.RecordBatch, ids: pa.Array) -> Array:
        """The row int64 [n] of each item, -1 where it has no id; the columns of new ones are set aside."""
        present = np.flatnonzero(np.asarray(ids.is_valid()))
        rows = np.full(len(ids), -1, np.int64)
        rows[present], new = self.index.add(names_of(ids, self.seed).take(present))
        if len(new):
            first = pa.array(present[new])
            part, named = batch.take(first), ids.take(first)
            self.examples += named[: EXAMPLES - len(self.examples)].to_pylist() if len(self.examples) < EXAMPLES else []
            self.spill.append(self._row(part, named))
        return rows

    def _row(self, batch: pa.RecordBatch, ids: pa.Array) -> pa.RecordBatch:
        def column(name: str) -> pa.Array:
            return batch.column(self._id_column if self.from_pairs and name == self.schema.item.id else name)

        values = values_of(self.schema.item.features, column)
        columns = {self.raw[name]: array for name, array in values.items()}
        own = ids if self._id_column is None else batch.column(self._id_column)
        for name in self.looks.kinds:
            self.looks.add(name, column(name))
        return pa.record_batch(
            columns | {place: self._alike(name, _plain(own if name == ID else column(name))) for name, place in self.shown.items()}
        )

    def _alike(self, name: str, column: pa.Array) -> pa.Array:
        """A column in the type that it had first: files of one log may have different ones. Raises DataError where it cannot be had in that."""
        kind = column.type if self.spill.schema is None else self.spill.schema.field(self.shown[name]).type
        if column.type == kind:
            return column
        try:
            return to_text(column) if pa.types.is_string(kind) and not pa.types.is_large_string(column.type) else column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            named = f'the column "{self._id_column if name == ID else name}"'
            raise DataError(f"{named} of the items is {kind} in one file and {column.type} in another. Write it alike in all of them.") from None

    @property
    def shown_types(self) -> pa.Schema:
        """The names and types of the items' columns as they are shown."""
        assert self.spill.schema is not None
        kinds = {name: self.spill.schema.field(place).type for name, place in self.shown.items()}
        return pa.schema([pa.field(name, self.looks.typed(name, kind)) for name, kind in kinds.items()])

    @property
    def listed(self) -> int:
        """How many items have columns of their own; those with nothing but their id come behind them."""
        return self.index.count - sum(len(part) for part in self.added)

    def find(self, ids: pa.Array, names: Names) -> Array:
        """The row int64 [n] of each item, -1 where it is not listed; with `unlisted = "keep"` it joins."""
        if self.schema.item.unlisted == "drop":
            return self.index.find(names)
        rows, new = self.index.add(names)
        self.added.append(ids.take(pa.array(new)))
        return rows

    def close(self, source: str) -> None:
        """Items that only the pairs name get a row with nothing but their id, in the type that ids have here."""
        texts = pa.concat_arrays(self.added) if self.added else pa.array([], pa.string())
        if len(texts):
            assert self.spill.schema is not None
            nothing = {field.name: pa.nulls(len(texts), field.type) for field in self.spill.schema}
            own = {self.shown[ID]: self._own(texts, self.spill.schema.field(self.shown[ID]).type, source)}
            name = self.schema.item.id or ""
            own |= {self.shown[name]: own[self.shown[ID]]} if name in self.shown else {}
            own |= {
                self.raw[name]: values
                for name, values in values_of(self.schema.item.features, self._only(name, texts)).items()
                if name == self.schema.item.id
            }
            self.spill.append(pa.record_batch(nothing | own, schema=self.spill.schema))
        self.spill.close()

    def _only(self, name: str, texts: pa.Array) -> Callable[[str], pa.Array]:
        return lambda column: texts if column == name else pa.nulls(len(texts), pa.string())

    def _own(self, texts: pa.Array, kind: pa.DataType, source: str) -> pa.Array:
        """Ids as the catalogue's type. A cast may fail, and it may round: what comes back must be the same id."""
        cast, bad = cast_texts(texts, kind, exact=True)
        if len(bad):
            raise DataError(
                f"{source} names the item {texts[int(bad[0])].as_py()!r}, and the ids of {self.name} are {kind}, which cannot hold it. "
                'Write the ids of the catalogue as text, or set [item] unlisted = "drop".'
            )
        return cast


def _plain(column: pa.Array) -> pa.Array:
    """A column to show, in a type that a file of items can hold and any reader knows."""
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_decimal256(kind) or not (has_text(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind)):
        return as_texts(column.to_pylist())
    return column
