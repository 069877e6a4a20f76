"""How each kind of file is read: CSV as text, typed later by the schema; JSONL without guessing; Parquet and Arrow as they are.

To add a format: a reader here and its entry in `READERS`. A reader is given the columns that are wanted and may give more.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from twotower.data.values import EXACT_FLOAT, as_texts, has_text, is_uuid, printable, to_text, uuid_texts
from twotower.errors import DataError

BATCH = 1 << 16  # rows
BROKEN = (pa.ArrowException, OSError, EOFError, lzma.LZMAError, zlib.error, ValueError)  # what readers raise over damaged files
_LONGEST_ROW = 8 << 20  # bytes of one row of a CSV file
_JSON_BATCH = 16 << 20  # bytes of lines that are parsed together: their values take several times that
_MOST_SHOWN = 5  # places of one fault in a file
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz")


def endings_of(path: Path) -> list[str]:
    """The ending that names the format and, behind it, that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2:] if suffixes and suffixes[-1] in _COMPRESSED else suffixes[-1:]


def format_of(path: Path) -> str:
    endings = [ending for ending in endings_of(path) if ending not in _COMPRESSED]
    return endings[-1] if endings else ""


def unpacked(path: Path) -> Path:
    """The path without the ending of a compression."""
    return path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path


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
    if any("\0" in name for name in header):
        raise DataError(not_utf8(path) or f"{path}: the header holds a NUL; the file is no CSV, or damaged")
    return header


def _delimiter(path: Path) -> str:
    return "\t" if format_of(path) == ".tsv" else ","


def _read_csv(path: Path, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    from pyarrow import csv as arrow_csv

    read = arrow_csv.ReadOptions(block_size=_LONGEST_ROW)
    convert = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(schema.names, pa.string()), strings_can_be_null=True, null_values=[""], include_columns=list(columns)
    )
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
    """Which rows of a CSV file have another number of columns than its header."""
    found: list[tuple[int, int, int]] = []
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="") as file, contextlib.suppress(csv.Error):
        reader = csv.reader(file, delimiter=_delimiter(path))
        wanted = len(next(reader))
        for number, row in enumerate(reader, 1):
            if row and len(row) != wanted:
                found.append((number, reader.line_num, len(row)))
            if len(found) == _MOST_SHOWN:
                break
    if not found:
        return None
    number, line, there = found[0]
    more = f"; so it is with row{'s' * (len(found) > 2)} {', '.join(str(n) for n, *_ in found[1:])}" if len(found) > 1 else ""
    what = f"{path} row {number} (line {line}) has {there} columns and the header has {wanted}{more}"
    return f"{what}; a text with a comma or a line break needs quotes around it"


def _read_parquet(path: Path, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH, columns=list(columns)):
            yield _checked(path, batch)


def _read_arrow(path: Path, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in columns])
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source, options=options) as file:
        for number in range(file.num_record_batches):
            yield _checked(path, file.get_batch(number))


def _checked(path: Path, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, unless its bytes are not what its types promise, which nobody has looked at yet."""
    for column in batch.schema:
        try:
            batch.column(column.name).validate(full=True)
        except pa.ArrowInvalid as error:
            text = "text that is not UTF-8" if "UTF8" in str(error) else f"broken values: {short(str(error))}"
            raise DataError(f'{path}: the column "{column.name}" holds {text}. Write the file anew from its source.') from None
    return batch


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(bytes of a line, its object)."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(not_utf8(path) or _no_lines(path, number, line, str(error))) from None
            if not isinstance(row, dict):
                raise DataError(_no_lines(path, number, line, ""))
            yield len(line), row


def _no_lines(path: Path, number: int, line: bytes, error: str) -> str:
    """What is wrong with a line that is no JSON object."""
    start = line.removeprefix(b"\xef\xbb\xbf").strip()
    if number == 1 and (start[:1] == b"[" or start == b"{"):
        what, program = ("one JSON array", ".[]") if start[:1] == b"[" else ("JSON spread over lines", ".")
        text = f"{path} line 1 is not a JSON object: the file is {what}, and one {{...}} a line is needed"
        return f"{text}. Turn it: jq -c '{program}' {path.name} > {path.stem}-lines.jsonl"
    if not error:
        return f"{path} line {number} is not a JSON object: one {{...}} a line is needed; it begins {_quoted(start)}"
    return f"{path} line {number} is not JSON: {short(error, 120)}; it begins {_quoted(start)}"


def _quoted(line: bytes) -> str:
    return short(line[:200].decode(errors="replace"), 60)


def _json_schema(path: Path) -> pa.Schema:
    """The columns of a JSONL file, each in a type that holds whatever stands there anywhere in it.

    One pass before the real one: batches of one column must share a type, and a column may change its mind late.
    """
    kinds: dict[str, set[str]] = {}
    for _, row in _json_rows(path):
        for name, value in row.items():
            seen = kinds.setdefault(name, set())
            if value is not None:
                seen.add(kind_of(value))
    if not kinds:
        raise DataError(f"{path} has no rows")
    return pa.schema([_json_field(name, seen) for name, seen in kinds.items()])


def kind_of(value: Any) -> str:
    """The kind of a Python value, as far as it decides the type of its column."""
    if isinstance(value, list):
        return _list_kind(value)
    if isinstance(value, int) and abs(value) > EXACT_FLOAT:
        return "big" if -(1 << 63) <= value < 1 << 63 else "huge"
    return type(value).__name__


def _list_kind(values: list[Any]) -> str:
    kinds = set(map(type, values)) - {type(None)}
    if not kinds <= {int, float} and kinds != {str}:
        return "list"
    if int in kinds and any(isinstance(value, int) and abs(value) > EXACT_FLOAT for value in values):
        return "list"
    return f"list of {'float' if float in kinds else kinds.pop().__name__}" if kinds else "list of nothing"


NESTED = "lists or objects"


def _json_field(name: str, kinds: set[str]) -> pa.Field:
    match sorted(kinds - {"list of nothing"} or kinds):
        case ["int"] | ["big"] | ["big", "int"]:
            kind = pa.int64()
        case ["float"] | ["float", "int"]:
            kind = pa.float64()
        case ["bool"]:
            kind = pa.bool_()
        case ["list of float"] | ["list of float", "list of int"]:
            return pa.field(name, pa.list_(pa.float64()))
        case ["list of int"]:
            return pa.field(name, pa.list_(pa.int64()))
        case ["list of str"]:
            return pa.field(name, pa.list_(pa.string()))
        case _:
            kind = pa.string()
    nested = any(kind == "dict" or kind.startswith("list") for kind in kinds)
    return pa.field(name, kind, metadata={"holds": NESTED} if nested else None)


def _read_json(path: Path, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    wanted = pa.schema([schema.field(name) for name in columns])

    def batch() -> pa.RecordBatch:
        return pa.record_batch([_json_array([row.get(column.name) for row in rows], column.type) for column in wanted], schema=wanted)

    size = 0
    for length, row in _json_rows(path):
        rows.append(row)
        size += length
        if len(rows) == BATCH or size > _JSON_BATCH:
            yield batch()
            rows.clear()
            size = 0
    if rows:
        yield batch()


def _json_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return as_texts(values)
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:  # half of a surrogate pair in a list of texts
        return pa.array([value and [text and printable(text) for text in value] for value in values], kind)


READERS: dict[str, Callable[[Path, pa.Schema, Sequence[str]], Iterator[pa.RecordBatch]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
}


# --- types --------------------------------------------------------------------------------------------------------


def type_of(kind: pa.DataType) -> pa.DataType:
    """The type of a column once it stands for itself: a dictionary's values, a view as plain text, an extension as what it is stored as."""
    if pa.types.is_dictionary(kind):
        return type_of(kind.value_type)
    if is_uuid(kind):
        return pa.string()
    if isinstance(kind, pa.BaseExtensionType):
        return type_of(kind.storage_type)
    if pa.types.is_list(kind) and type_of(kind.value_type) != kind.value_type:
        return pa.list_(type_of(kind.value_type))
    return pa.string() if pa.types.is_string_view(kind) else pa.binary() if pa.types.is_binary_view(kind) else kind


def fit(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column in the type that was agreed on."""
    if column.type == kind:
        return column
    if is_uuid(column.type):
        return uuid_texts(column)
    if isinstance(column.type, pa.BaseExtensionType):
        return fit(column.storage, kind)
    if pa.types.is_dictionary(column.type) and column.type.value_type != type_of(column.type):
        values = fit(column.dictionary, type_of(column.type))  # Arrow cannot pick from views
        return fit(pa.DictionaryArray.from_arrays(column.indices, values), kind)
    if pa.types.is_string(kind) and not pa.types.is_string(type_of(column.type)):
        return to_text(column) if has_text(column.type) else as_texts(column.to_pylist())
    return column.cast(kind)


# --- what went wrong ----------------------------------------------------------------------------------------------


def not_utf8(path: Path) -> str | None:
    """Which line of a file is no UTF-8, and how to turn it."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
                wide = number == 1 and line[:64].count(0) > 8
            except UnicodeDecodeError as error:
                byte = line[error.start]
                likely = "utf-16" if number == 1 and byte in (0xFE, 0xFF) else "latin1"
                return f"{path} line {number} is not UTF-8: byte 0x{byte:02x}. Save it as UTF-8, for example: iconv -f {likely} -t utf-8 {path.name}"
            if wide:
                likely = "utf-16le" if line[:1] != b"\0" else "utf-16be"
                return f"{path} is not UTF-8: every other byte is 0. Save it as UTF-8, for example: iconv -f {likely} -t utf-8 {path.name}"
    return None


def short(text: str, most: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most] + " ..."
