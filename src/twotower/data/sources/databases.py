"""Runs one SELECT of the user's, read only, and gives its rows as record batches.

Without a database DuckDB runs it over the files that it names; else a PostgreSQL server, a DuckDB file or an SQLite file does. To add
a database: a reader here and the way to tell it in `rows_of`. Nothing that was read from an environment variable is ever repeated.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.sources.formats import BATCH, fit, kind_of, short, type_of
from twotower.data.values import FRACTION_ZEROS, as_texts
from twotower.errors import ConfigError, DataError, MissingExtra, choices

_SELECT = re.compile(r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/|\()*(select|with|values|table|from)\b", re.IGNORECASE | re.DOTALL)

_POSTGRES = ("postgresql", "postgres")


@dataclass(frozen=True, kw_only=True)
class SqlOptions:
    """A query to read. sql: one SELECT. database: `env:NAME` of a variable that holds a PostgreSQL URL or a file, or a DuckDB or SQLite
    file; without it DuckDB reads the files that the query names. folder: where relative paths start, by default the config's."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    sql: str
    database: str | None = None
    folder: str | None = None

    def check(self) -> None:
        """Raise ConfigError for a query that is none, and for a secret that stands in the open."""
        if not self.sql.strip():
            raise ConfigError("the query of [data] is empty. Write one SELECT.")
        named = self.database
        if named is not None and not named.startswith("env:") and _has_secret(named):
            raise ConfigError(
                "[data] database holds a password, and a config is copied into every run. Put the whole URL into an environment variable and "
                'name that: database = "env:SHOP_DB"'
            )
        if named is not None and _is_url(named) and _scheme(named) not in _POSTGRES:
            raise ConfigError(f'[data] database is a URL of "{_scheme(named)}"; known are postgresql://... and DuckDB or SQLite files')


def _is_url(place: str) -> bool:
    return "://" in place


def _scheme(url: str) -> str:
    return url.split("://", 1)[0].lower()


def _has_secret(place: str) -> bool:
    """Whether a place may hold a password: one refusal too many is better than a secret in a run folder."""
    if not _is_url(place):
        return re.search(r"password\s*=", place, re.IGNORECASE) is not None
    rest = place.split("://", 1)[1]
    return ":" in rest.rpartition("@")[0] or "password" in rest.lower()


def rows_of(options: SqlOptions, spill: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a query, as they come; the first batch may be empty and tells the columns. spill: where an engine may keep what
    outgrows its memory. Raises DataError, ConfigError and MissingExtra."""
    options.check()
    if not _SELECT.match(options.sql):
        raise DataError(f'the query starts with "{short(options.sql, 20)}"; it must be one SELECT, which reads and changes nothing')
    if options.database is None:
        return _duckdb(options, None, spill)
    place, shown = _place(options)
    if _is_url(place):
        if _scheme(place) not in _POSTGRES:
            raise DataError(f"{shown} holds a URL of another kind; known are postgresql://... and DuckDB or SQLite files")
        return _postgres(options.sql, place, options.database)
    path = Path(place).expanduser()
    path = path if options.folder is None else Path(options.folder) / path
    if not path.is_file():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() and not options.database.startswith("env:") else []
        raise DataError(f"{shown} is no file" + (f"; {choices(near, path.name)}" if near else ". It must be a file or postgresql://..."))
    with path.open("rb") as file:
        lite = file.read(15) == b"SQLite format 3"
    return _sqlite(options.sql, path, shown) if lite else _duckdb(options, path, spill)


def _place(options: SqlOptions) -> tuple[str, str]:
    """(where the database is, what to call it in a message)."""
    named = str(options.database)
    if not named.startswith("env:"):
        return named, "the database" if _is_url(named) else f"the database {named}"
    variable = named.removeprefix("env:")
    place = os.environ.get(variable, "").strip()
    if not place:
        raise DataError(f'database = "{named}", and the environment variable {variable} is not set. Set it: export {variable}=postgresql://...')
    return place, f"the database of {named}"


# --- DuckDB -------------------------------------------------------------------------------------------------------


def _duckdb(options: SqlOptions, path: Path | None, spill: Path) -> Iterator[pa.RecordBatch]:
    try:
        import duckdb
    except ImportError:
        raise MissingExtra("a query over files", "train") from None
    if options.folder is not None and "," in options.folder:
        raise DataError(f"DuckDB cannot look for files in {options.folder}, for its name has a comma. Write whole paths in the query, or rename it.")
    try:
        statements = duckdb.extract_statements(options.sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise DataError("the query must be one SELECT, which reads and changes nothing; leave out whatever else it says")
        with duckdb.connect(str(path or ":memory:"), read_only=path is not None, config=_closed(options, spill)) as connection:
            connection.execute("SET lock_configuration = true")
            reader = connection.sql(options.sql).to_arrow_reader(BATCH)
            yield pa.RecordBatch.from_pylist([], reader.schema)
            yield from reader
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise DataError(f"the query cannot be run: {_said(str(error))}{_advice(str(error))}") from None


def _closed(options: SqlOptions, spill: Path) -> dict[str, str | bool | int | float | list[str]]:
    """The settings of a connection that reads and nothing else. One thread: rows that nothing orders then come in one order."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "temp_directory": str(spill),
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "python_enable_replacements": "false",
    }
    return config if options.folder is None else config | {"file_search_path": options.folder}


def _said(message: str) -> str:
    """The first words of a database, without its advice to install things and its drawing of the place."""
    message = re.split(r"\n\s*\n|\nPlease try|\nLINE \d", message)[0]
    return short(message).rstrip(".?!") + "."


def _advice(message: str) -> str:
    if "extension" in message:
        return " Extensions are not installed from here: copy the data to files that DuckDB reads by itself (Parquet, CSV, JSON)."
    if "No files found" in message:
        return " Relative paths start at the folder of the config."
    return ""


# --- PostgreSQL ---------------------------------------------------------------------------------------------------

# What a server that refuses us says, by the words in it. Its own message may hold a piece of the URL, so it is never shown.
_REFUSED = {
    "password authentication failed": "it refuses the user or the password",
    "no password supplied": "it wants a password, and the URL has none",
    "Connection refused": "nothing answers at its host and port, so it may not be running",
    "could not translate host name": "its host is not known",
    "timeout": "it does not answer in time",
    "No such file or directory": "nothing answers at its socket, so it may not be running",
    "database": "it has no database of that name",
    "role": "it knows no such user",
    "pg_hba.conf": "it lets nobody in from here (pg_hba.conf)",
    "SSL": "the two cannot agree on encryption; see sslmode",
    "too many": "it has no connection left",
    "starting up": "it is still starting",
}
_PATIENCE = 15  # seconds to wait for a server that does not answer
_STEADY = (
    "SET TRANSACTION READ ONLY",
    # Rows that nothing orders then come as they lie in the table.
    "SET LOCAL synchronize_seqscans = off",
    "SET LOCAL max_parallel_workers_per_gather = 0",
)
# The years 1 to 9999, counted from 1970.
_MICROSECONDS = (-62_135_596_800_000_000, 253_402_300_799_999_999)
_DAYS = (-719_162, 2_932_896)


def why_refused(message: str) -> str:
    """Why a server lets nobody in, in words that hold nothing of the URL."""
    return next((words for needle, words in _REFUSED.items() if needle in message), "its URL cannot be understood or used")


def _postgres(query: str, url: str, named: str) -> Iterator[pa.RecordBatch]:
    try:
        import adbc_driver_manager
        from adbc_driver_postgresql import dbapi
    except ImportError:
        raise MissingExtra("a query to PostgreSQL", "postgres") from None
    shown = f"the database of {named}" if named.startswith("env:") else "the database"
    advice = f'. Try: psql "${named.removeprefix("env:")}"' if named.startswith("env:") else ""
    patience = "" if "connect_timeout" in url else f"{'&' if '?' in url else '?'}connect_timeout={_PATIENCE}"
    try:
        connection = dbapi.connect(url + patience)
    except (adbc_driver_manager.Error, OSError, ValueError) as error:
        raise DataError(f"{shown} cannot be reached: {why_refused(str(error))}{advice}") from None
    try:
        with connection, connection.cursor() as cursor:
            for setting in _STEADY:
                cursor.execute(setting)
            # The driver wraps the query: a comment at its end would swallow what comes behind, and so would a semicolon.
            cursor.execute(query.strip().rstrip(";") + "\n")
            reader = cursor.fetch_record_batch()
            schema = pa.schema([pa.field(column.name, _postgres_type(column)) for column in reader.schema])
            yield pa.RecordBatch.from_pylist([], schema)
            for batch in reader:
                yield pa.record_batch([_postgres_fit(*each) for each in zip(batch.columns, schema.types, strict=True)], schema=schema)
    except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
        found = re.search(r"ERROR:\s+(.*?)(?:\n\nQuery was|\Z)", str(error), re.DOTALL)
        words = found.group(1) if found else re.split(r"Query was|https?://|postgres(?:ql)?://", str(error))[0]
        raise DataError(f"{shown} refuses the query: {_said(words)}") from None


def _postgres_type(column: pa.Field) -> pa.DataType:
    """The type that a column is read in: numerics of a declared width as decimals, json and unlimited numerics as texts."""
    kind, metadata = column.type, column.metadata or {}
    if _is_numeric(kind):
        width = int(metadata.get(b"POSTGRESQL:typmod", b"-1")) - 4
        precision, scale = (width >> 16) & 0xFFFF, width & 0x7FF
        return pa.decimal128(precision, scale) if 0 < precision <= 38 and scale <= precision else pa.string()
    if pa.types.is_list(kind) and _is_numeric(kind.value_type):
        return pa.list_(pa.float64())
    known = metadata.get(b"POSTGRESQL:type", b"").decode(errors="replace")
    if known == "money" or (b"ADBC:postgresql:typname" in metadata and isinstance(kind, pa.BaseExtensionType)):
        other = {"money": "numeric", "vector": "real[]", "halfvec": "real[]"}.get(known, "text")
        raise DataError(f'the column "{column.name}" is of the type {known}, which Arrow lacks. Cast it in the query: {column.name}::{other}')
    return type_of(kind)


def _is_numeric(kind: pa.DataType) -> bool:
    return getattr(kind, "type_name", "") == "numeric"


def _postgres_fit(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind) and _is_numeric(getattr(column.type, "value_type", pa.null())):
        return pa.array(_floats(column), kind)
    if _is_numeric(column.type):
        texts = column.storage
        texts = pc.if_else(pc.equal(pc.utf8_lower(texts), "nan"), pa.scalar(None, pa.string()), texts)
        plain = pc.replace_substring_regex(pc.replace_substring_regex(texts, FRACTION_ZEROS, r"\1"), r"\.0+$", "")
        return plain if pa.types.is_string(kind) else texts.cast(kind)
    if pa.types.is_timestamp(kind) or pa.types.is_date32(kind):
        # Infinite times come as numbers past every calendar.
        unit, (first, last) = (pa.int64(), _MICROSECONDS) if pa.types.is_timestamp(kind) else (pa.int32(), _DAYS)
        numbers = column.view(unit)
        return pc.if_else(pc.and_(pc.greater_equal(numbers, first), pc.less_equal(numbers, last)), column, pa.scalar(None, kind))
    return fit(column, kind)


def _floats(column: pa.Array) -> list[list[float | None] | None]:
    return [None if row is None else [None if value is None else float(value) for value in row] for row in column.to_pylist()]


# --- SQLite -------------------------------------------------------------------------------------------------------

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def _sqlite(query: str, path: Path, shown: str) -> Iterator[pa.RecordBatch]:
    """SQLite types each value and no column, so a query is run twice: to learn what its columns hold, and to read them."""
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            connection.execute("BEGIN")
            connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY)
            cursor = connection.execute(query)
            names = [column[0] for column in cursor.description]
            kinds: list[set[str]] = [set() for _ in names]
            for rows in _fetched(cursor):
                for seen, values in zip(kinds, zip(*rows, strict=True), strict=True):
                    seen.update({kind_of(value) for value in values if value is not None})
            fields = [_sqlite_field(name, seen) for name, seen in zip(names, kinds, strict=True)]
            yield pa.RecordBatch.from_pylist([], pa.schema(fields))
            for rows in _fetched(connection.execute(query)):
                columns = [_sqlite_array(list(values), field.type) for values, field in zip(zip(*rows, strict=True), fields, strict=True)]
                yield pa.record_batch(columns, schema=pa.schema(fields))
        finally:
            connection.close()
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise DataError(f"{shown} refuses the query: {_said(str(error))}") from None


def _fetched(cursor: sqlite3.Cursor) -> Iterator[list[Any]]:
    while rows := cursor.fetchmany(BATCH):
        yield rows


def _sqlite_field(name: str, kinds: set[str]) -> pa.Field:
    match sorted(kinds):
        case ["int"] | ["big"] | ["big", "int"]:
            return pa.field(name, pa.int64())
        case ["float"] | ["float", "int"]:
            return pa.field(name, pa.float64())
        case ["bytes"]:
            return pa.field(name, pa.binary())
        case _:
            return pa.field(name, pa.string())


def _sqlite_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    return as_texts(values) if pa.types.is_string(kind) else pa.array(values, kind)
