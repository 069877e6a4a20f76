"""What a store is told about what it holds, and what it answers."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array
from twotower.data.prepared import ID
from twotower.errors import ConfigError, DataError

VECTOR = "_vector"
RESERVED = (ID, VECTOR)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Which model and which catalogue these vectors are of. rows: how many items; similarity: what the inner product of two vectors means."""

    fingerprint: str
    version: str
    dimensions: int
    rows: int
    similarity: str = "cosine"

    def check(self) -> None:
        """Raise ConfigError for facts that could name no table."""
        if not re.fullmatch(r"[0-9a-f]{12,64}", self.fingerprint) or not re.fullmatch(r"[0-9]{1,12}", self.version):
            raise ConfigError(
                f"a table is named by a model's fingerprint and a catalogue version; {self.fingerprint!r} and {self.version!r} are none"
            )
        if self.dimensions < 1 or self.rows < 1:
            raise ConfigError(f"{self.rows} vectors of {self.dimensions} dimensions are nothing to publish")


@dataclass(frozen=True, kw_only=True)
class Version:
    """One finished table of a store.

    columns: the name of each payload column -> the name it has in the store. schema: `_id` and the payload, as Arrow writes a schema, in base64.
    breadth: how far an index searches, in the store's own measure. mark: the store's own number of the table's state, where it has one.
    """

    table: str
    facts: Facts
    columns: Mapping[str, str] = field(default_factory=dict)
    schema: str = ""
    breadth: int = 0
    recall: float | None = None
    mark: int = 0
    live: bool = False

    def told(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(replace(self, columns=dict(self.columns)))

    @staticmethod
    def of(told: Mapping[str, Any]) -> Version:
        """What `told` gave."""
        return Version(**{**told, "facts": Facts(**told["facts"])})

    @property
    def shape(self) -> pa.Schema:
        """The types of `_id` and the payload."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.schema)))


class Near(NamedTuple):
    """Items found through a store, best first."""

    ids: Array  # object [q, k]; pads: None
    scores: Array  # float32 [q, k], the inner product; pads: -inf
    version: str  # of the catalogue that answered


def schema_text(schema: pa.Schema) -> str:
    """A schema as `Version` keeps it."""
    return base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()


def payload_schema(schema: pa.Schema) -> pa.Schema:
    """`_id` and the payload of the batches that are published. Raises DataError without the two columns that every item has."""
    for name in RESERVED:
        if schema.names.count(name) != 1:
            raise DataError(f'what is published has one column "{name}"; these have {", ".join(schema.names)}')
    kept = [schema.field(ID), *(each for each in schema if each.name not in RESERVED)]
    names = [each.name for each in kept]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise DataError(f'two columns are called "{double}"; rename one of them')
    return pa.schema([pa.field(each.name, _plain(each.type)) for each in kept])


def _plain(kind: pa.DataType) -> pa.DataType:
    """The one type in which stores are given values of a kind: decoded, days as date32, times in microseconds. One without any value is of texts."""
    types = pa.types
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    ):
        return pa.list_(_plain(kind.value_type))
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    tests = [
        (types.is_null, pa.string()),
        (types.is_large_string, pa.string()),
        (types.is_string_view, pa.string()),
        (types.is_large_binary, pa.binary()),
        (types.is_binary_view, pa.binary()),
        (types.is_float16, pa.float32()),
        (types.is_date, pa.date32()),
        (types.is_time, pa.time64("us")),
    ]
    return next((plain for test, plain in tests if test(kind)), kind)


def stored_names(names: Iterable[str], plain: re.Pattern[str]) -> dict[str, str]:
    """The name of each payload column in a store: its own where that is plain there, else `column_` and a number."""
    names = [name for name in names if name not in RESERVED]
    kept = {name for name in names if plain.fullmatch(name)}
    taken, found = {name.lower() for name in kept}, {}
    for name in names:
        if name in kept:
            found[name] = name
            continue
        number = len(found) + 1
        while f"column_{number}" in taken:
            number += 1
        found[name] = f"column_{number}"
        taken.add(found[name])
    return found


def vectors_of(batch: pa.RecordBatch, dimensions: int) -> Array:
    """The vectors float32 [n, d] of a batch. Raises DataError for another width, and for what is no number."""
    column = batch.column(VECTOR)
    if column.null_count or not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        raise DataError(f'"{VECTOR}" holds lists of numbers and none that is missing; it came as {column.type} with {column.null_count} missing')
    flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32)
    widths = np.full(len(column), column.type.list_size) if pa.types.is_fixed_size_list(column.type) else column.value_lengths().to_numpy()
    if (widths != dimensions).any():
        raise DataError(f"this model's vectors have {dimensions} dimensions, and these have {int(widths[widths != dimensions][0])}")
    if not np.isfinite(flat).all():
        raise DataError("a vector holds what is no number: look for nan or inf in the vectors")
    return flat.reshape(len(column), dimensions)


def payload_of(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """`_id` and the payload of a batch in these types. Raises DataError where it cannot be so, and for an item without an id."""
    if set(batch.schema.names) - {VECTOR} != set(schema.names):
        raise DataError(f"the columns of one batch are {', '.join(batch.schema.names)}, and of the first {', '.join(schema.names)}")
    try:
        columns = [batch.column(each.name).cast(each.type) for each in schema]
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"a column cannot be published as the type that it began with, or in microseconds: {error}") from None
    if columns[0].null_count:
        raise DataError(f'an item has no "{ID}"; every item is known by one')
    return pa.record_batch(columns, schema=schema)
