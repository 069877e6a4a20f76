"""Opens what people have - files, globs, folders, lists of them, data frames - as record batches that can be read again.

Nothing else in the package opens the user's data; how each kind of file is read is in `formats.py`.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.data.encoder import to_table
from twotower.data.formats import BATCH, BROKEN, NESTED, READERS, endings, endings_of, format_of, not_utf8, schema_of, short
from twotower.data.values import as_texts, has_text, to_text
from twotower.errors import DataError, choices

_CONTENT_HASHED = 1 << 28  # bytes: larger files are known by size and time of change


@dataclass(frozen=True)
class Source:
    """Rows that can be read again and again.

    name: for messages. columns: their names, in order. batches: starts reading; every batch has the same types. digest:
    changes when the content does. unfit: what the columns hold that have no canonical text, such as lists.
    """

    name: str
    columns: tuple[str, ...]
    batches: Callable[[], Iterator[pa.RecordBatch]]
    digest: Callable[[], str]
    unfit: Mapping[str, str] = field(default_factory=dict)

    def require(self, column: str, role: str, *, shown: bool = False) -> str:
        """The column's name, or DataError naming the nearest one that is there. A column that is only `shown` may hold anything."""
        if column not in self.columns:
            raise DataError(f'{self.name} has no column "{column}" ({role}); {choices(self.columns, column)}')
        if column in self.unfit and not shown:
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
    """A Source of a path, a glob, a list of paths, a data frame, an Arrow table or dicts. Raises DataError."""
    if isinstance(data, Source):
        return data
    if isinstance(data, (str, Path)):
        return _files(_paths(str(data)))
    if isinstance(data, (list, tuple)) and data and all(isinstance(part, (str, Path)) for part in data):
        return _files([path for part in data for path in _paths(str(part))])
    return _table(data, name)


def _table(data: Any, name: str) -> Source:
    table = to_table(data)
    _distinct(table.column_names, name)
    if not table.num_rows:
        raise DataError(f"{name} has no rows")
    table = table.cast(pa.schema([(column.name, _decoded(column.type)) for column in table.schema]))

    def batches() -> Iterator[pa.RecordBatch]:
        # Cut where we say, not where the chunks happen to end, so that equal tables give equal batches.
        for start in range(0, table.num_rows, BATCH):
            yield table.slice(start, BATCH).combine_chunks().to_batches()[0]

    def digest() -> str:
        sink = hashlib.sha256(json.dumps([(column.name, str(column.type)) for column in table.schema]).encode())
        for batch in batches():
            for column in batch.columns:
                for part in _content(column):
                    sink.update(part)
        return sink.hexdigest()

    return Source(name, tuple(table.column_names), batches, digest, _unfit(table.schema))


def _content(column: pa.Array) -> Iterator[Any]:
    """The bytes of an array's values: what lies under a null or outside a slice is no content."""
    yield len(column).to_bytes(8, "little")
    yield np.packbits(column.is_valid().to_numpy(zero_copy_only=False)).tobytes()
    present = column.drop_null()
    if pa.types.is_nested(column.type):
        yield json.dumps(present.to_pylist(), default=str).encode()
    elif pa.types.is_boolean(column.type):
        yield np.packbits(present.to_numpy(zero_copy_only=False)).tobytes()
    else:
        # Taking all rows copies a slice into buffers of its own.
        for buffer in present.take(pa.array(np.arange(len(present)))).buffers()[1:]:
            yield buffer or b"-"


def _decoded(kind: pa.DataType) -> pa.DataType:
    """The type of a column once it stands for itself: a dictionary's values, a view as plain text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_string_view(kind) else pa.binary() if pa.types.is_binary_view(kind) else kind


def _unfit(schema: pa.Schema) -> dict[str, str]:
    return {column.name: f"values of type {column.type}" for column in schema if not has_text(column.type)}


def _paths(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.is_file() and format_of(p) in READERS)
        if not found:
            raise DataError(f"the folder {pattern} holds no data file; a name ends in {endings()}")
        return found
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    if not found:
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = f"; in {path.parent}: {choices(near, path.name)}" if near else ""
        raise DataError(f"there is no file {pattern}{hint}")
    return found


def _files(paths: list[Path]) -> Source:
    formats = {format_of(path) for path in paths}
    if not formats <= READERS.keys():
        bad = next(path for path in paths if format_of(path) not in READERS)
        raise DataError(f"{bad}: cannot tell its format; a name ends in {endings()}")
    for path in paths:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty")
    schemas = [schema_of(path) for path in paths]
    agreed = _agree(paths, schemas)

    def batches() -> Iterator[pa.RecordBatch]:
        rows = 0
        for path, schema in zip(paths, schemas, strict=True):
            for batch in _guarded(path, schema, agreed):
                rows += batch.num_rows
                yield batch
        if not rows:
            raise DataError(f"{name} has a header and no rows")

    def digest() -> str:
        sink = hashlib.sha256()
        for path in paths:
            stat = path.stat()
            known = files.sha256_of(path) if stat.st_size <= _CONTENT_HASHED else f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
            sink.update(f"{''.join(endings_of(path))} {known}\n".encode(errors="replace"))
        return sink.hexdigest()

    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    unfit = {n: what for schema in schemas for n, what in (_unfit(schema) | {f.name: NESTED for f in schema if f.metadata}).items()}
    return Source(name, tuple(agreed.names), batches, digest, unfit)


def _agree(paths: list[Path], schemas: list[pa.Schema]) -> pa.Schema:
    """One type for each column of files that are read together."""
    names = schemas[0].names
    for path, schema in zip(paths, schemas, strict=True):
        _distinct(schema.names, str(path))
        if set(schema.names) != set(names):
            raise DataError(f"{path} has the columns {', '.join(schema.names)} and {paths[0]} has {', '.join(names)}; read together they must agree")
    return pa.schema([(name, _common([_decoded(schema.field(name).type) for schema in schemas])) for name in names])


def _common(kinds: list[pa.DataType]) -> pa.DataType:
    """The type that holds all of these, text where nothing else does."""
    if all(kind == kinds[0] for kind in kinds):
        return kinds[0]
    try:
        return pa.unify_schemas([pa.schema([("", kind)]) for kind in kinds], promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        return pa.string()


def _fit(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column in the type that was agreed on."""
    if column.type == kind:
        return column
    if pa.types.is_string(kind) and not pa.types.is_string(_decoded(column.type)):
        return to_text(column) if has_text(column.type) else as_texts(column.to_pylist())
    return column.cast(kind)


def _distinct(names: list[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where} has the column {twice[0]!r} twice. Rename one.")


def _guarded(path: Path, schema: pa.Schema, agreed: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batches of one file with the columns and types agreed on, its reader's complaints as one clear error."""
    try:
        for batch in READERS[format_of(path)](path, schema):
            columns = [_fit(batch.column(column.name), column.type) for column in agreed]
            for start in range(0, batch.num_rows, BATCH):
                yield pa.record_batch([column.slice(start, BATCH) for column in columns], schema=agreed)
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(path) or f"{path} is not UTF-8: {error}") from None
    except BROKEN as error:
        text = str(error)
        if "invalid UTF8" in text or "codec can't decode" in text:
            raise DataError(not_utf8(path) or f"{path} is not UTF-8") from None
        raise DataError(f"{path} cannot be read as {format_of(path)}; it is damaged, truncated or of another format: {short(text)}") from None
