"""Opens what people have - files, globs, folders, queries, data frames, streams - as record batches that can be read again.

Nothing else in the package opens the user's data. Which files a name means is in `places.py`, how each kind is read in `formats.py`,
what memory holds in `frames.py`, queries in `databases.py`. What can be read only once is first written to a file of our own.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower import files
from twotower.data.sources.databases import SqlOptions, rows_of
from twotower.data.sources.formats import BATCH, BROKEN, NESTED, READERS, endings_of, fit, format_of, not_utf8, schema_of, short, type_of
from twotower.data.sources.frames import arrow_of
from twotower.data.sources.places import Place, places_of, unread
from twotower.data.values import has_text
from twotower.errors import DataError, choices

_CONTENT_HASHED = 1 << 28  # bytes: larger files are known by size and time of change


@dataclass(frozen=True)
class Source:
    """Rows that can be read again and again.

    name: for messages. columns: their names, in order. read: starts reading these columns; every batch has the same types.
    digest: changes when the content does, that of columns which are not selected too. unfit: what the columns hold that have no
    canonical text. nested: those of them that hold lists, maps or objects of plain values. untyped: whether it holds texts alone,
    being CSV.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    digest: Callable[[], str]
    unfit: Mapping[str, str] = field(default_factory=dict)
    nested: Collection[str] = frozenset()
    untyped: bool = False

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, anew."""
        return self.read(self.columns)

    def select(self, columns: Iterable[str]) -> Source:
        """The source with these columns alone, so that no other is read. Raises DataError where one is not there."""
        wanted = tuple(dict.fromkeys(columns))
        for column in wanted:
            self.require(column, "selected", shown=True)
        if not wanted:
            raise DataError(f"{self.name}: no column is selected; {choices(self.columns)}")
        return replace(self, columns=wanted)

    def require(self, column: str, role: str, *, shown: bool = False, nested: bool = False) -> str:
        """The column's name, or DataError naming the nearest one that is there. A column that is only `shown` may hold anything.

        nested: whether lists, maps and objects will do, as for features that read them.
        """
        if column not in self.columns:
            raise DataError(f'{self.name} has no column "{column}" ({role}); {choices(self.columns, column)}')
        if column in self.unfit and not shown and not (nested and column in self.nested):
            raise DataError(
                f'{self.name}: the column "{column}" ({role}) holds {self.unfit[column]}; plain values are needed there: text, numbers, '
                "truth values, dates. Flatten it into columns of its own, or name another."
            )
        return column

    def head(self, rows: int = 10_000) -> pa.Table:
        """The first rows, as a table."""
        parts, left = [], rows
        for batch in self.batches():
            parts.append(batch.slice(0, left))
            left -= parts[-1].num_rows
            if left <= 0:
                break
        if not parts:
            return pa.table({name: pa.nulls(0) for name in self.columns})
        return pa.Table.from_batches(parts)


def open_source(data: Any, name: str = "data") -> Source:
    """A Source of a path, a glob, a folder, a list of paths, a query, a data frame, a matrix, a stream or dicts. Raises DataError."""
    if isinstance(data, Source):
        return data
    if isinstance(data, (str, Path)):
        return _files(places_of(str(data)))
    if isinstance(data, (list, tuple)) and data and all(isinstance(part, (str, Path)) for part in data):
        return _files([place for part in data for place in places_of(str(part))])
    if isinstance(data, Mapping) and isinstance(data.get("sql"), str):
        known = [option.name for option in fields(SqlOptions)]
        odd = next((str(key) for key in data if key not in known), None)
        if odd is not None:
            raise DataError(f'{name} is a query with "{odd}"; {choices(known, odd)}')
        data = SqlOptions(**data)
    if isinstance(data, SqlOptions):
        spill = _Spill()
        return _written(rows_of(data, spill.folder / "engine"), name, spill, f"the query of {name} gives no rows")
    held = arrow_of(data, name)
    return _table(held, name) if isinstance(held, pa.Table) else _written(held, name, _Spill(), f"{name} has no rows")


# --- what memory holds, and what is written down ------------------------------------------------------------------


class _Spill:
    """A folder of our own, private to the user, that goes when nobody holds this any more."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="twotower-"))
        weakref.finalize(self, files.remove_folder, self.folder)


def _written(batches: Iterator[pa.RecordBatch], name: str, spill: _Spill, empty: str) -> Source:
    """A source of rows that come once: a file of ours, memory-mapped."""
    first = next(batches, None)
    if first is None:
        raise DataError(empty)
    _distinct(first.schema.names, name)
    schema = pa.schema([(column.name, type_of(column.type)) for column in first.schema])
    path, rows = spill.folder / "rows.arrow", 0

    def parts() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in chain([first], batches):
            rows += batch.num_rows
            yield _fitted(batch, schema)

    files.write_table(path, parts(), schema)
    if not rows:
        raise DataError(empty)
    return _table(files.read_table(path), name, spill)


def _fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch([fit(batch.column(number), kind) for number, kind in enumerate(schema.types)], schema=schema)


def _table(table: pa.Table, name: str, spill: _Spill | None = None) -> Source:
    """A source of a table. spill: what holds its rows, kept as long as the source is."""
    _distinct(table.column_names, name)
    if not table.num_rows:
        raise DataError(f"{name} has no rows")
    schema = pa.schema([(column.name, type_of(column.type)) for column in table.schema])
    if schema != table.schema:
        table = pa.Table.from_batches([_fitted(batch, schema) for batch in table.to_batches()], schema)

    def read(columns: Sequence[str], held: _Spill | None = spill) -> Iterator[pa.RecordBatch]:
        # Cut where we say, not where the chunks happen to end, so that equal tables give equal batches.
        chosen = table.select(list(columns))
        for start in range(0, chosen.num_rows, BATCH):
            yield chosen.slice(start, BATCH).combine_chunks().to_batches()[0]

    def digest() -> str:
        sink = hashlib.sha256(json.dumps([(column.name, str(column.type)) for column in schema]).encode())
        for batch in read(schema.names):
            for column in batch.columns:
                for part in _content(column):
                    sink.update(part)
        return sink.hexdigest()

    return Source(name, tuple(schema.names), read, digest, _unfit(schema), _nested(schema))


def _content(column: pa.Array) -> Iterator[Any]:
    """The bytes of an array's values: what lies under a null or outside a slice is no content."""
    yield len(column).to_bytes(8, "little")
    yield np.packbits(column.is_valid().to_numpy(zero_copy_only=False)).tobytes()
    present, kind = column.drop_null(), column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield pc.list_value_length(present).cast(pa.int64()).to_numpy().tobytes()
        yield from _content(present.flatten())
    elif pa.types.is_struct(kind):
        for child in present.flatten():
            yield from _content(child)
    elif pa.types.is_nested(kind):
        yield json.dumps(present.to_pylist(), default=str).encode()
    elif pa.types.is_boolean(kind):
        yield np.packbits(present.to_numpy(zero_copy_only=False)).tobytes()
    else:
        # Taking all rows copies a slice into buffers of its own.
        for buffer in present.take(pa.array(np.arange(len(present)))).buffers()[1:]:
            yield buffer or b"-"


def _unfit(schema: pa.Schema) -> dict[str, str]:
    return {column.name: f"values of type {column.type}" for column in schema if not has_text(column.type)}


def _nested(schema: pa.Schema) -> frozenset[str]:
    """The columns of lists, maps and objects whose innermost values have a canonical text."""
    return frozenset(column.name for column in schema if pa.types.is_nested(column.type) and _plain_inside(column.type))


def _plain_inside(kind: pa.DataType) -> bool:
    if not pa.types.is_nested(kind):
        return has_text(kind)
    return not pa.types.is_union(kind) and all(_plain_inside(kind.field(number).type) for number in range(kind.num_fields))


def _distinct(names: list[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where} has the column {twice[0]!r} twice. Rename one.")


# --- files --------------------------------------------------------------------------------------------------------


def _files(places: list[Place]) -> Source:
    paths = [place.path for place in places]
    for path in paths:
        error = unread(path)
        if error is not None:
            raise error
        if not path.stat().st_size:
            raise DataError(f"{path} is empty")
    own = [schema_of(path) for path in paths]
    schemas = [_keyed(schema, place) for schema, place in zip(own, places, strict=True)]
    agreed = _agree(paths, schemas)

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        rows, wanted = 0, pa.schema([agreed.field(column) for column in columns])
        for place, schema in zip(places, own, strict=True):
            for batch in _guarded(place, schema, wanted):
                rows += batch.num_rows
                yield batch
        if not rows:
            raise DataError(f"{name} has a header and no rows")

    def digest() -> str:
        sink = hashlib.sha256()
        for place in places:
            path, stat = place.path, place.path.stat()
            known = files.sha256_of(path) if stat.st_size <= _CONTENT_HASHED else f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
            keys = f" {json.dumps(sorted(place.keys.items()))}" if place.keys else ""
            sink.update(f"{''.join(endings_of(path))} {known}{keys}\n".encode(errors="replace"))
        return sink.hexdigest()

    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    spelled = {column.name for schema in schemas for column in schema if column.metadata}
    unfit = {column: what for schema in schemas for column, what in _unfit(schema).items()} | dict.fromkeys(spelled, NESTED)
    nested = frozenset(column for column in unfit if all(column in _nested(schema) or column in spelled for schema in schemas))
    return Source(name, tuple(agreed.names), read, digest, unfit, nested, all(format_of(path) in (".csv", ".tsv") for path in paths))


def _keyed(schema: pa.Schema, place: Place) -> pa.Schema:
    """The columns of a file and those that its folders add; its own comes first where both name one."""
    fields = [pa.field(column.name, type_of(column.type), metadata=_holding(column)) for column in schema]
    return pa.schema(fields + [pa.field(key, pa.string()) for key in place.keys if key not in schema.names])


def _holding(column: pa.Field) -> dict[str, str] | None:
    return {"holds": NESTED} if column.metadata and b"holds" in column.metadata else None


def _agree(paths: list[Path], schemas: list[pa.Schema]) -> pa.Schema:
    """One type for each column of files that are read together."""
    names = schemas[0].names
    for path, schema in zip(paths, schemas, strict=True):
        _distinct(schema.names, str(path))
        lacking = [(path, name, paths[0]) for name in names if name not in schema.names]
        lacking += [(paths[0], name, path) for name in schema.names if name not in names]
        if lacking:
            without, column, having = lacking[0]
            raise DataError(
                f'{without} has no column "{column}", and {having} has one; read together they must agree. {path.name} has '
                f"{', '.join(schema.names)}; {paths[0].name} has {', '.join(names)}. Add the column, or name files that are alike."
            )
    return pa.schema([(name, _common([schema.field(name).type for schema in schemas])) for name in names])


def _common(kinds: list[pa.DataType]) -> pa.DataType:
    """The type that holds all of these, text where nothing else does."""
    if all(kind == kinds[0] for kind in kinds):
        return kinds[0]
    try:
        return pa.unify_schemas([pa.schema([("", kind)]) for kind in kinds], promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        return pa.string()


def _guarded(place: Place, schema: pa.Schema, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batches of one file with the columns and types agreed on, its reader's complaints as one clear error."""
    path = place.path
    read = [name for name in wanted.names if name in schema.names] or schema.names[:1]  # at least one, to count the rows
    try:
        for batch in READERS[format_of(path)](path, schema, read):
            columns = [
                fit(batch.column(column.name), column.type)
                if column.name in schema.names
                else fit(pa.array([place.keys[column.name]] * batch.num_rows, pa.string()), column.type)
                for column in wanted
            ]
            for start in range(0, batch.num_rows, BATCH):
                yield pa.record_batch([column.slice(start, BATCH) for column in columns], schema=wanted)
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(path) or f"{path} is not UTF-8: {error}") from None
    except BROKEN as error:
        text = str(error)
        if "invalid UTF8" in text or "codec can't decode" in text:
            raise DataError(not_utf8(path) or f"{path} is not UTF-8") from None
        raise DataError(f"{path} cannot be read as {format_of(path)}; it is damaged, truncated or of another format: {short(text)}") from None
