"""The one road from raw values to numbers: fitted on training rows, saved with the model, used as it is at look-up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from twotower.data.columns import Array, Columns
from twotower.data.features import FEATURES, Id, State
from twotower.data.hashes import HASH
from twotower.data.schema import SIDES, FeatureOptions, Schema, Side, feature_name
from twotower.data.values import rows_to_table, to_array
from twotower.errors import BundleError, DataError, choices

Rows = Any  # an Arrow table or record batch, a data frame, or a sequence of dicts


class Encoder:
    """Encodes the rows of either side: `encode(side, rows) -> Columns`, one column a feature, named `column:type`."""

    def __init__(self, features: Mapping[Side, Sequence[FeatureOptions]], states: Mapping[Side, Mapping[str, State]]) -> None:
        self.features = {side: tuple(features[side]) for side in SIDES}
        self.states = {side: dict(states[side]) for side in SIDES}

    @classmethod
    def fit(cls, schema: Schema, batches: Callable[[Side], Iterable[pa.RecordBatch]]) -> Encoder:
        """Learn every feature's state. batches: gives one side's rows to learn from, anew at each call."""
        states: dict[Side, dict[str, State]] = {side: {} for side in SIDES}
        for side in SIDES:
            for feature in schema.features(side):
                columns = (batch.column(feature.column) for batch in batches(side))
                states[side][feature_name(feature)] = feature.fit(columns)
        return cls({side: schema.features(side) for side in SIDES}, states)

    def columns(self, side: Side) -> list[str]:
        """The raw columns that a side needs, each once."""
        return list(dict.fromkeys(feature.column for feature in self.features[side]))

    def encode(self, side: Side, rows: Rows, strict: bool = True) -> Columns:
        """Rows [n] as encoded columns of n rows. Raises DataError if a column is missing or cannot be read.

        strict: whether `unknown_values = "error"` holds; without it unknown values are shared, to be counted.
        """
        table = to_table(rows)
        encoded = {}
        for feature in self.features[side]:
            if feature.column not in table.column_names:
                there = choices(table.column_names, feature.column)
                needed = ", ".join(self.columns(side))
                raise DataError(f'the {side} needs the column "{feature.column}", which is not there; {there}. This model reads {needed}.')
            column = table.column(feature.column)
            chunk = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            try:
                applied = feature if strict or not isinstance(feature, Id) else replace(feature, unknown_values="shared")
                encoded[feature_name(feature)] = applied.encode(chunk, self.states[side][feature_name(feature)])
            except TypeError as error:
                raise DataError(f'column "{feature.column}" of the {side} cannot be read as {feature.type}: {error}') from None
        return encoded

    def unknown(self, side: Side, columns: Columns) -> dict[str, int]:
        """For each feature, how many encoded rows hold a value that training never saw."""
        return {name: f.unknown(columns[name]) for f in self.features[side] for name in [feature_name(f)]}

    def describe(self) -> dict[str, Any]:
        """The declarations, as plain values for JSON; the states are `arrays()`."""
        return {"hash": HASH, **{side: [asdict(feature) for feature in self.features[side]] for side in SIDES}}

    def arrays(self) -> dict[str, Array]:
        """Every state array, named `side/feature number/array`."""
        return {
            f"{side}/{number}/{name}": array
            for side in SIDES
            for number, feature in enumerate(self.features[side])
            for name, array in self.states[side][feature_name(feature)].items()
        }

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, Array]) -> Encoder:
        """The encoder that `describe` and `arrays` came from. Raises BundleError if they do not fit this version."""
        if description.get("hash") != HASH:
            raise BundleError(f"the encoder hashes with {description.get('hash')}, this version with {HASH}. Upgrade: pip install -U twotower")
        try:
            features: dict[Side, list[FeatureOptions]] = {side: [_feature(entry) for entry in description[side]] for side in SIDES}
        except (KeyError, TypeError) as error:
            raise BundleError(f"the encoder's description is damaged: {error}") from None
        states: dict[Side, dict[str, dict[str, Array]]] = {side: {feature_name(f): {} for f in features[side]} for side in SIDES}
        try:
            for place, array in arrays.items():
                side, number, name = place.split("/")
                known: Side = "query" if side == "query" else "item"
                states[known][feature_name(features[known][int(number)])] |= {name: array}
        except (IndexError, ValueError) as error:
            raise BundleError(f"the encoder's state {place} belongs to none of its features: {error}") from None
        return cls(features, states)


def _feature(entry: Mapping[str, Any]) -> FeatureOptions:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    return FEATURES[values["type"]](**values)


def to_table(rows: Rows) -> pa.Table:
    """An Arrow table of an Arrow table or batch, anything with `__arrow_c_stream__` (pandas, polars), a dict of columns, or dicts."""
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if hasattr(rows, "__arrow_c_stream__"):
        return _frame(rows)
    if isinstance(rows, Mapping):
        lengths = {name: len(values) for name, values in rows.items() if isinstance(values, Sized) and not isinstance(values, str)}
        if len(lengths) < len(rows) or len(set(lengths.values())) > 1:
            raise DataError(f"the columns must be lists of one length; they have {lengths or 'none'}")
        return pa.table({str(name): to_array(list(values)) for name, values in rows.items()})
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return rows_to_table(rows)
    raise DataError(f"rows must be a data frame, an Arrow table or dicts, not {type(rows).__name__}")


def _frame(frame: Any) -> pa.Table:
    """A data frame as an Arrow table, without the nameless index that pandas would add."""
    names = list(map(str, getattr(frame, "columns", ())))
    if len(names) != len(set(names)):
        raise DataError(f"the data frame has the column {next(n for n in names if names.count(n) > 1)!r} twice. Rename one.")
    try:
        table = pa.RecordBatchReader.from_stream(frame).read_all()
    except (pa.ArrowException, ValueError, TypeError) as error:
        if not hasattr(frame, "notna"):
            raise DataError(f"the data frame cannot be read: {error}") from None
        # A column of several types, which Arrow refuses and pandas allows.
        plain = frame.astype(object).where(frame.notna(), None)
        table = pa.table({str(name): to_array(plain[name].tolist()) for name in plain.columns})
    return table.select([name for name in table.column_names if not re.fullmatch(r"__index_level_\d+__", name)])
