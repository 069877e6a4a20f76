"""The one road from raw values to numbers: fitted on training rows, saved with the model, used as it is at look-up."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array, Column, Columns
from twotower.data.features import FEATURES, FeatureOptions, Pieces, State
from twotower.data.features.names import Categories, Id, vocabulary
from twotower.data.hashes import HASH
from twotower.data.schema import SIDES, Schema, Side, feature_name
from twotower.data.values import rows_to_table, to_array
from twotower.data.vectors import Workplace
from twotower.errors import BundleError, ConfigError, DataError, choices

LARGE = 1 << 14  # bytes: a smaller state array is not worth looking for its equal
Rows = Any  # an Arrow table or record batch, a data frame, or a sequence of dicts


class Encoder:
    """Encodes the rows of either side: `encode(side, rows) -> Columns`, one column a feature, named `column:type`."""

    def __init__(self, features: Mapping[Side, Sequence[FeatureOptions]], states: Mapping[Side, Mapping[str, State]]) -> None:
        self.features = {side: tuple(features[side]) for side in SIDES}
        self.states = {side: dict(states[side]) for side in SIDES}
        self.workplace = Workplace()  # where costly encodings are kept, and who is told of them

    @classmethod
    def fit(cls, schema: Schema, batches: Callable[[Side], Iterable[tuple[pa.RecordBatch, Array]]], last: Encoder | None = None) -> Encoder:
        """Learn every feature's state; features that name one table learn together.

        batches: gives one side's rows to learn from, anew at each call, and in how many training pairs each row is. last: the encoder of
        a model that is trained again, of the same features; what it encodes, the new one encodes to the same.
        """
        together: dict[tuple[str, ...], list[tuple[Side, FeatureOptions]]] = {}
        for side in SIDES:
            for feature in schema.features(side):
                table = getattr(feature, "table", None)
                together.setdefault(("table", table) if table else (side, feature_name(feature)), []).append((side, feature))
        states: dict[Side, dict[str, State]] = {side: {} for side in SIDES}
        for alike in together.values():
            parts = (
                (feature, batch.column(feature.column), counts) for side, feature in alike if not feature.from_log for batch, counts in batches(side)
            )
            side, first = alike[0]
            before = None if last is None else last.states[side][feature_name(first)]
            if len(alike) > 1:
                _check_table([feature for _, feature in alike])
            if any(isinstance(feature, (Id, Categories)) for _, feature in alike):
                state = vocabulary((named.named(column, counts) for named, column, counts in parts), first.minimum, before)  # type: ignore[union-attr]
            else:
                state = first.fit(((column, counts) for _, column, counts in parts), before)
            for side, feature in alike:
                states[side][feature_name(feature)] = state
        return cls({side: schema.features(side) for side in SIDES}, states)

    def digest(self) -> str:
        """A name for all that it declares and has learnt."""
        learnt = {name: _content(array) for name, array in self.arrays().items()}
        return hashlib.sha256(json.dumps([self.describe(locations=False), learnt], sort_keys=True).encode()).hexdigest()

    @property
    def item_id(self) -> Id | None:
        """The feature whose table holds the items' ids, which a history may read."""
        return next((feature for feature in self.features["item"] if isinstance(feature, Id) and feature.type == "id"), None)

    def columns(self, side: Side) -> list[str]:
        """The raw columns that a side needs, each once; a history is cut from the log, and may be given."""
        return list(dict.fromkeys(feature.column for feature in self.features[side] if not feature.from_log))

    def text_columns(self, side: Side) -> list[str]:
        """The raw columns that a side reads as text, each once."""
        return list(dict.fromkeys(feature.column for feature in self.features[side] if feature.worded))

    def encode(self, side: Side, rows: Rows, strict: bool = True, logged: bool = True) -> Columns:
        """Rows [n] as encoded columns of n rows. Raises DataError if a column is missing or cannot be read.

        strict: whether `unknown_values = "error"` holds; without it unknown values are shared, to be counted. logged: whether a
        history is read too, empty where the rows have no such column.
        """
        table = to_table(rows)
        encoded: dict[str, Column] = {}
        for feature in self.features[side]:
            if feature.from_log and not logged:
                continue
            if feature.column in table.column_names:
                column = table.column(feature.column)
                column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            elif feature.from_log:
                column = pa.nulls(table.num_rows)
            else:
                there = choices(table.column_names, feature.column)
                needed = ", ".join(self.columns(side))
                raise DataError(f'the {side} needs the column "{feature.column}", which is not there; {there}. This model reads {needed}.')
            try:
                shared = not strict and getattr(feature, "unknown_values", "shared") == "error"
                applied = replace(feature, unknown_values="shared") if shared else feature  # type: ignore[arg-type]
                state = self.states[side][feature_name(feature)]
                costly = getattr(applied, "costly", False)
                encoded[feature_name(feature)] = applied.encode(column, state, *([self.workplace] if costly else []))
            except TypeError as error:
                raise DataError(f'column "{feature.column}" of the {side} cannot be read as {feature.type}: {error}') from None
        return encoded

    def normalise(self, side: Side, table: pa.Table) -> dict[str, pa.Array]:
        """Each feature's column of raw values [n] in canonical form: rows that are equal in it are encoded to the same.

        A column that is not there is null. Raises DataError for values that cannot be read.
        """
        nothing = pa.nulls(table.num_rows, pa.string())
        return {
            feature_name(feature): _read(side, feature, table.column(feature.column)) if feature.column in table.column_names else nothing
            for feature in self.features[side]
        }

    def empty(self, side: Side, table: pa.Table) -> Array:
        """Whether each row [n] holds nothing in any of the columns that are there."""
        empty = np.ones(table.num_rows, bool)
        for feature in self.features[side]:
            if feature.column in table.column_names:
                empty &= np.asarray(_read(side, feature, table.column(feature.column)).is_null())
        return empty

    def unknown(self, side: Side, columns: Columns) -> dict[str, int]:
        """For each feature, how many encoded rows hold a value that training never saw."""
        return {name: f.unknown(columns[name]) for f in self.features[side] for name in [feature_name(f)] if name in columns}

    def missing(self, side: Side, columns: Columns) -> dict[str, int]:
        """For each feature, how many encoded rows hold nothing."""
        return {name: f.missing(columns[name]) for f in self.features[side] for name in [feature_name(f)] if name in columns}

    def describe(self, locations: bool = True) -> dict[str, Any]:
        """The declarations, as plain values for JSON; the states are `arrays()`. Without `locations`, no folder of this machine is named."""
        told: dict[str, Any] = {"hash": HASH}
        for side in SIDES:
            told[side] = [
                asdict(feature if locations else getattr(feature, "portable", lambda kept=feature: kept)()) for feature in self.features[side]
            ]
        shared = self._kept()[1]
        return told | ({"shared": shared} if shared else {})

    def arrays(self) -> dict[str, Array]:
        """Every state array, named `side/feature number/array`; of large ones that are equal only the first."""
        return self._kept()[0]

    def _kept(self) -> tuple[dict[str, Array], dict[str, str]]:
        """The state arrays, and for each that equals an earlier one the name of that one."""
        arrays: dict[str, Array] = {}
        shared: dict[str, str] = {}
        first: dict[str, str] = {}
        for side in SIDES:
            for number, feature in enumerate(self.features[side]):
                for name, array in self.states[side][feature_name(feature)].items():
                    place = f"{side}/{number}/{name}"
                    kept = first.setdefault(_content(array) if array.nbytes >= LARGE else place, place)
                    if kept == place:
                        arrays[place] = array
                    else:
                        shared[place] = kept
        return arrays, shared

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, Array]) -> Encoder:
        """The encoder that `describe` and `arrays` came from. Raises BundleError if they do not fit this version."""
        if description.get("hash") != HASH:
            raise BundleError(f"the encoder hashes with {description.get('hash')}, this version with {HASH}. Upgrade: pip install -U twotower")
        try:
            features: dict[Side, list[FeatureOptions]] = {side: [_feature(entry) for entry in description[side]] for side in SIDES}
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"the encoder's description is damaged: {error}") from None
        states: dict[Side, dict[str, dict[str, Array]]] = {side: {feature_name(f): {} for f in features[side]} for side in SIDES}
        try:
            arrays = {**arrays, **{place: arrays[kept] for place, kept in description.get("shared", {}).items()}}
        except KeyError as error:
            raise BundleError(f"the encoder's state {error} is missing") from None
        try:
            for place, array in arrays.items():
                side, number, name = place.split("/")
                known: Side = "query" if side == "query" else "item"
                states[known][feature_name(features[known][int(number)])] |= {name: array}
        except (IndexError, ValueError) as error:
            raise BundleError(f"the encoder's state {place} belongs to none of its features: {error}") from None
        return cls(features, states)


def _check_table(features: Sequence[Any]) -> None:
    """Raise ConfigError where features share a table and do not agree what it holds."""
    if all(isinstance(feature, Pieces) for feature in features):
        if len({(feature.vocabulary, feature.length, feature.width) for feature in features}) > 1:
            raise ConfigError(f'features of the table "{features[0].table}" need one vocabulary, one length and one width')
        return
    other = [feature for feature in features if not isinstance(feature, (Id, Categories))]
    if other:
        raise ConfigError(
            f'the table "{features[0].table}" holds names, and {other[0].column} of type {other[0].type} has none. Name another table for it.'
        )
    if len({(feature.minimum, feature.buckets) for feature in features}) > 1:
        told = "; ".join(f"{feature.column} has minimum = {feature.minimum}, buckets = {feature.buckets}" for feature in features)
        raise ConfigError(f'features of the table "{features[0].table}" need one minimum and one number of buckets: {told}')


def _read(side: Side, feature: FeatureOptions, column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column in the type of its feature."""
    try:
        return feature.normalise(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    except TypeError as error:
        raise DataError(f'column "{feature.column}" of the {side} cannot be read as {feature.type}: {error}') from None


def _content(array: Array) -> str:
    """A name for what an array holds."""
    return f"{array.dtype.str} {array.shape} {hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()}"


def _feature(entry: Mapping[str, Any]) -> FeatureOptions:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    feature: FeatureOptions = FEATURES[values["type"]](**values)
    return feature


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
