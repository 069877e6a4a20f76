"""How each kind of file is read: CSV as text, typed later by the schema; JSONL without guessing; Parquet and Arrow as they are.

To add a format: a reader here and its entry in `READERS`.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from twotower.data.values import EXACT_FLOAT, as_texts
from twotower.errors import DataError

BATCH = 1 << 16  # rows
BROKEN = (pa.ArrowException, OSError, EOFError, lzma.LZMAError, zlib.error, ValueError)  # what readers raise over damaged files
_LONGEST_ROW = 8 << 20  # bytes of one row of a CSV file
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz")


def endings_of(path: Path) -> list[str]:
    """The ending that names the format and, behind it, that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2:] if suffixes and suffixes[-1] in _COMPRESSED else suffixes[-1:]


def format_of(path: Path) -> str:
    endings = [ending for ending in endings_of(path) if ending not in _COMPRESSED]
    return endings[-1] if endings else ""


def endings() -> str:
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


def schema_of(path: Path) -> pa.Schema:
    """The names and types of the columns of a file."""
    kind = format_of(path)
    try:
        if kind in (".csv", ".tsv"):
            return pa.schema([pa.field(name, pa.string()) for name in _csv_header(path)])
        if kind in (".jsonl", ".ndjson"):
            return _json_schema(path)
        if kind == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_schema(path).remove_metadata()
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).schema.remove_metadata()
    except UnicodeDecodeError:
        raise DataError(not_utf8(path) or f"{path} is not UTF-8") from None
    except (*BROKEN, csv.Error) as error:
        raise DataError(f"{path} cannot be read as {kind}; it is damaged, truncated or of another format: {short(str(error))}") from None


def _csv_header(path: Path) -> list[str]:
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, delimiter=_delimiter(path)), None)
    if not header:
        raise DataError(f"{path} has no header line; the first line names the columns")
    return header


def _delimiter(path: Path) -> str:
    return "\t" if format_of(path) == ".tsv" else ","


def _read_csv(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    from pyarrow import csv as arrow_csv

    read = arrow_csv.ReadOptions(block_size=_LONGEST_ROW)
    convert = arrow_csv.ConvertOptions(column_types=dict.fromkeys(schema.names, pa.string()), strings_can_be_null=True, null_values=[""])
    parse = arrow_csv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True)
    with _open(path) as file:
        try:
            yield from arrow_csv.open_csv(file, read_options=read, parse_options=parse, convert_options=convert)
        except pa.ArrowInvalid as error:
            if "invalid UTF8" in str(error):
                raise
            if "straddling" in str(error):
                raise DataError(
                    f"{path} holds a row of more than {_LONGEST_ROW >> 20} MB. A quote that is never closed makes one; else use Parquet."
                ) from None
            raise DataError(_uneven(path) or f"{path} cannot be read as CSV: {short(str(error))}") from None


def _uneven(path: Path) -> str | None:
    """Which row of a CSV file has another number of columns than its header."""
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="") as file, contextlib.suppress(csv.Error):
        reader = csv.reader(file, delimiter=_delimiter(path))
        wanted = len(next(reader))
        for number, row in enumerate(reader, 1):
            if row and len(row) != wanted:
                what = f"{path} row {number} (line {reader.line_num}) has {len(row)} columns and the header has {wanted}"
                return f"{what}; a text with a comma or a line break needs quotes around it"
    return None


def _read_parquet(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=BATCH)


def _read_arrow(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
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
                raise DataError(not_utf8(path) or f"{path} line {number} is not UTF-8") from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path} line {number} is not JSON: {short(str(error), 120)}") from None
            if not isinstance(row, dict):
                raise DataError(f"{path} line {number} is not a JSON object: one {{...}} a line is needed")
            yield number, row


def _json_schema(path: Path) -> pa.Schema:
    """The columns of a JSONL file, each in a type that holds whatever stands there anywhere in it.

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
    return pa.schema([_json_field(name, seen) for name, seen in kinds.items()])


def _json_kind(value: Any) -> str:
    if isinstance(value, int) and abs(value) > EXACT_FLOAT:
        return "big" if -(1 << 63) <= value < 1 << 63 else "huge"
    return type(value).__name__


NESTED = "lists or objects"


def _json_field(name: str, kinds: set[str]) -> pa.Field:
    match sorted(kinds):
        case ["int"] | ["big"] | ["big", "int"]:
            kind = pa.int64()
        case ["float"] | ["float", "int"]:
            kind = pa.float64()
        case ["bool"]:
            kind = pa.bool_()
        case _:
            kind = pa.string()
    return pa.field(name, kind, metadata={"holds": NESTED} if kinds & {"list", "dict"} else None)


def _read_json(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []

    def batch() -> pa.RecordBatch:
        columns = {}
        for column in schema:
            values = [row.get(column.name) for row in rows]
            columns[column.name] = as_texts(values) if pa.types.is_string(column.type) else pa.array(values, column.type)
        return pa.record_batch(columns)

    for _, row in _json_rows(path):
        rows.append(row)
        if len(rows) == BATCH:
            yield batch()
            rows.clear()
    if rows:
        yield batch()


READERS: dict[str, Callable[[Path, pa.Schema], Iterator[pa.RecordBatch]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
}


def not_utf8(path: Path) -> str | None:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                likely = "utf-16" if number == 1 and byte in (0xFE, 0xFF) else "latin1"
                return f"{path} line {number} is not UTF-8: byte 0x{byte:02x}. Save it as UTF-8, for example: iconv -f {likely} -t utf-8 {path.name}"
    return None


def short(text: str, most: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most] + " ..."
