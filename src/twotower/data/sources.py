"""Opens what people have - CSV, TSV, JSONL, Parquet, Arrow, compressed or not, data frames - as record batches.

Nothing else in the package opens the user's data. CSV is read as text, typed later by the schema; JSONL by a parser that
keeps 7, "7" and 7.0 apart and does not guess. To add a format: a reader here and its entry in `READERS`.
"""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import hashlib
import io
import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.encoder import to_table
from twotower.data.values import EXACT_FLOAT, to_array
from twotower.errors import DataError, choices

BATCH = 1 << 16  # rows
_CONTENT_HASHED = 1 << 28  # bytes: larger files are known by size and time of change


@dataclass(frozen=True)
class Source:
    """Rows that can be read again and again.

    name: for messages. columns: their names, in order. batches: starts reading. digest: changes when the content does.
    """

    name: str
    columns: tuple[str, ...]
    batches: Callable[[], Iterator[pa.RecordBatch]]
    digest: Callable[[], str]

    def require(self, column: str, role: str) -> str:
        """The column's name, or DataError naming the nearest one that is there."""
        if column not in self.columns:
            raise DataError(f'{self.name} has no column "{column}" ({role}); {choices(self.columns, column)}')
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

    def digest() -> str:
        sink = hashlib.sha256(str(table.schema.remove_metadata()).encode())
        for batch in table.to_batches():
            for column in batch.columns:
                # Taking all rows copies a slice into buffers of its own: equal content then hashes alike.
                for buffer in column.take(pa.array(range(len(column)))).buffers():
                    sink.update(buffer or b"-")
        return sink.hexdigest()

    return Source(name, tuple(table.column_names), lambda: iter(table.to_batches(max_chunksize=BATCH)), digest)


def _paths(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.is_file() and _format(p) in READERS)
        if not found:
            raise DataError(f"the folder {pattern} holds no data file; a name ends in {_endings()}")
        return found
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    if not found:
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = f"; in {path.parent}: {choices(near, path.name)}" if near else ""
        raise DataError(f"there is no file {pattern}{hint}")
    return found


def _files(paths: list[Path]) -> Source:
    formats = {_format(path) for path in paths}
    if not formats <= READERS.keys():
        bad = next(path for path in paths if _format(path) not in READERS)
        raise DataError(f"{bad}: cannot tell its format; a name ends in {_endings()}")
    for path in paths:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty")
    columns = _agreed_columns(paths)

    def batches() -> Iterator[pa.RecordBatch]:
        rows = 0
        for path in paths:
            for batch in _guarded(path, columns):
                rows += batch.num_rows
                yield batch
        if not rows:
            raise DataError(f"{name} has a header and no rows")

    def digest() -> str:
        sink = hashlib.sha256()
        for path in paths:
            stat = path.stat()
            if stat.st_size <= _CONTENT_HASHED:
                sink.update(hashlib.sha256(path.read_bytes()).digest())
            else:
                sink.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode())
        return sink.hexdigest()

    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Source(name, tuple(columns), batches, digest)


def _agreed_columns(paths: list[Path]) -> list[str]:
    columns = [_columns(path) for path in paths]
    for path, names in zip(paths, columns, strict=True):
        _distinct(names, str(path))
        if set(names) != set(columns[0]):
            first = ", ".join(columns[0])
            raise DataError(f"{path} has the columns {', '.join(names)} and {paths[0]} has {first}; read together they must agree")
    return columns[0]


def _distinct(names: list[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where} has the column {twice[0]!r} twice. Rename one.")


def _guarded(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The batches of one file in the given order of columns, its reader's complaints as one clear error."""
    try:
        for batch in READERS[_format(path)](path):
            if batch.num_rows:
                yield batch.select(columns)
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(path) or f"{path} is not UTF-8: {error}") from None
    except (pa.ArrowException, OSError, EOFError, lzma.LZMAError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        text = str(error)
        if "invalid UTF8" in text or "codec can't decode" in text:
            raise DataError(_not_utf8(path) or f"{path} is not UTF-8") from None
        raise DataError(f"{path} cannot be read as {_format(path)}; it is damaged, truncated or of another format: {_short(text)}") from None


def _not_utf8(path: Path) -> str | None:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return f"{path} line {number} is not UTF-8: byte 0x{byte:02x}. Save it as UTF-8, for example: iconv -f latin1 -t utf-8 {path.name} > utf8.csv"
    return None


def _short(text: str, most: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most] + " ..."


# --- formats ------------------------------------------------------------------------------------------------------

_COMPRESSED = (".gz", ".zst", ".bz2", ".xz")


def _format(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _endings() -> str:
    return f"{', '.join(READERS)}, and {', '.join(_COMPRESSED)} behind any but .parquet and .arrow"


def _open(path: Path) -> IO[bytes]:
    """The bytes of a file, decompressed."""
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path)  # type: ignore[return-value]
        case ".bz2":
            return bz2.open(path)
        case ".xz":
            return lzma.open(path)
        case ".zst":
            return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
        case _:
            return path.open("rb")


def _columns(path: Path) -> list[str]:
    """The names of the columns of a file."""
    kind = _format(path)
    try:
        if kind in (".csv", ".tsv"):
            return _csv_header(path)
        if kind in (".jsonl", ".ndjson"):
            return list(_json_kinds(path))
        if kind == ".parquet":
            import pyarrow.parquet as pq

            return list(pq.read_schema(path).names)
        with pa.memory_map(str(path)) as file:
            return list(pa.ipc.open_file(file).schema.names)
    except UnicodeDecodeError:
        raise DataError(_not_utf8(path) or f"{path} is not UTF-8") from None
    except (pa.ArrowException, OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read as {kind}; it is damaged, truncated or of another format: {_short(str(error))}") from None


def _csv_header(path: Path) -> list[str]:
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, delimiter=_delimiter(path)), None)
    if not header:
        raise DataError(f"{path} has no header line; the first line names the columns")
    return header


def _delimiter(path: Path) -> str:
    return "\t" if _format(path) == ".tsv" else ","


def _read_csv(path: Path) -> Iterator[pa.RecordBatch]:
    from pyarrow import csv as arrow_csv

    names = _csv_header(path)
    convert = arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""])
    parse = arrow_csv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True)
    with _open(path) as file:
        try:
            yield from arrow_csv.open_csv(file, parse_options=parse, convert_options=convert)
        except pa.ArrowInvalid as error:
            if "invalid UTF8" in str(error):
                raise
            raise DataError(_uneven(path) or f"{path} cannot be read as CSV: {_short(str(error))}") from None


def _uneven(path: Path) -> str | None:
    """Which row of a CSV file has another number of columns than its header."""
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=_delimiter(path))
        wanted = len(next(reader))
        for number, row in enumerate(reader, 1):
            if row and len(row) != wanted:
                what = f"{path} row {number} (line {reader.line_num}) has {len(row)} columns and the header has {wanted}"
                return f"{what}; a text with a comma or a line break needs quotes around it"
    return None


def _read_parquet(path: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=BATCH)


def _read_arrow(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        for number in range(file.num_record_batches):
            yield file.get_batch(number)


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except UnicodeDecodeError:
                raise DataError(_not_utf8(path) or f"{path} line {number} is not UTF-8") from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path} line {number} is not JSON: {_short(str(error), 120)}") from None
            if not isinstance(row, dict):
                raise DataError(f"{path} line {number} is not a JSON object: one {{...}} a line is needed")
            yield number, row


def _json_kinds(path: Path) -> dict[str, set[str]]:
    """The columns of a JSONL file and the kinds of value that each holds anywhere in it.

    One pass before the real one: batches of one column must share a type, and a column may change its mind late.
    """
    kinds: dict[str, set[str]] = {}
    for _, row in _json_rows(path):
        for name, value in row.items():
            seen = kinds.setdefault(name, set())
            if value is not None:
                seen.add(_json_kind(value))
    if not kinds:
        raise DataError(f"{path} has no rows")
    return kinds


def _json_kind(value: Any) -> str:
    if isinstance(value, int) and abs(value) > EXACT_FLOAT:
        return "big" if -(1 << 63) <= value < 1 << 63 else "huge"
    return type(value).__name__


def _json_type(kinds: set[str]) -> pa.DataType:
    match sorted(kinds):
        case ["int"] | ["big"] | ["big", "int"]:
            return pa.int64()
        case ["float"] | ["float", "int"]:
            return pa.float64()
        case ["bool"]:
            return pa.bool_()
        case _:
            return pa.string()


def _read_json(path: Path) -> Iterator[pa.RecordBatch]:
    types = {name: _json_type(kinds) for name, kinds in _json_kinds(path).items()}
    rows: list[dict[str, Any]] = []

    def batch() -> pa.RecordBatch:
        columns = {}
        for name, kind in types.items():
            values = to_array([row.get(name) for row in rows])
            if kind == pa.string() and not pa.types.is_string(values.type):
                values = to_array([*(row.get(name) for row in rows), "", []]).slice(0, len(rows))
            columns[name] = pc.cast(values, kind)
        return pa.record_batch(columns)

    for _, row in _json_rows(path):
        rows.append(row)
        if len(rows) == BATCH:
            yield batch()
            rows.clear()
    if rows:
        yield batch()


READERS: dict[str, Callable[[Path], Iterator[pa.RecordBatch]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
}
