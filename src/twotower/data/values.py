"""The one canonical form of raw values, so that 7, "7" and 7.0 are one id wherever they were read.

`to_text` is the road of ids, categories and texts: whatever its Arrow type, a value becomes one text or null. The table in
docs/values.md lists what becomes what; tests/test_values.py holds its properties.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array

WHOLE = r"^(-?(?:0|[1-9][0-9]*))\.0+$"
FRACTION_ZEROS = r"(\.[0-9]*[1-9])0+$"  # what comes after the last digit that counts
TRUTHS = {"-0": "0", "True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
NOTHING = ("NaTType", "NAType")  # of pandas, which is not imported to know them
FEW = 64  # texts that are cleaned one by one
EXACT_FLOAT = 2.0**53  # past this, neighbouring whole numbers share one float


def has_text(kind: pa.DataType) -> bool:
    """Whether values of this type have a canonical text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_duration(kind) or pa.types.is_interval(kind):
        return False
    return _is_string(kind) or any(
        test(kind)
        for test in (
            is_uuid,
            pa.types.is_null,
            pa.types.is_boolean,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_temporal,
            pa.types.is_decimal,
        )
    )


def is_uuid(kind: pa.DataType) -> bool:
    """Whether values of this type are what Arrow makes of Python's UUIDs."""
    return getattr(kind, "extension_name", "") == "arrow.uuid"


def uuid_texts(array: pa.Array) -> pa.Array:
    """UUIDs as they are written."""
    return pa.array([None if value is None else str(uuid.UUID(bytes=value)) for value in array.storage.to_pylist()], pa.string())


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def to_text(array: pa.Array, *, exact: bool = True) -> pa.Array:
    """Canonical texts (Arrow string, null where the value is missing) of an array of any plain type.

    `exact` folds the spellings of one number or truth value together, as ids and categories need; texts for reading
    keep theirs. Raises TypeError for nested or binary types and for spans of time.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if not has_text(kind):
        raise TypeError(f"values of type {kind} have no canonical text")
    if _is_string(kind):
        return _clean(array.cast(pa.string()), exact)
    if is_uuid(kind):
        return uuid_texts(array)
    if pa.types.is_floating(kind):
        return _float_texts(array)
    if pa.types.is_decimal(kind):
        return pa.array([value_text(value) for value in array.to_pylist()], pa.string())
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pc.binary_join_element_wise(_clock_texts(array.cast(pa.timestamp(kind.unit))), "Z", "")
    return _clock_texts(array) if pa.types.is_temporal(kind) else array.cast(pa.string())


def _clock_texts(array: pa.Array) -> pa.Array:
    """Dates and times without the zeros behind their last fraction of a second that counts, whatever their unit."""
    texts = pc.replace_substring_regex(array.cast(pa.string()), FRACTION_ZEROS, r"\1")
    return pc.replace_substring_regex(texts, r"\.0+$", "")


def _float_texts(array: pa.Array) -> pa.Array:
    """Whole numbers without a point; the rest in the fewest digits that mean the same in the array's own width."""
    narrow = array.to_numpy(zero_copy_only=False)
    values = narrow.astype(np.float64)
    whole = np.isfinite(values) & (values == np.trunc(values)) & (np.abs(values) < EXACT_FLOAT)
    texts = pc.if_else(pa.array(whole), pa.array(np.where(whole, values, 0).astype(np.int64)).cast(pa.string()), None)
    rest = np.flatnonzero(~whole & ~np.isnan(values))
    if len(rest):
        spelled = narrow[rest].astype(str) if narrow.dtype != np.float64 else values[rest]
        texts = pc.replace_with_mask(texts, pa.array(_mask(rest, len(values))), pa.array([value_text(float(v)) for v in spelled], pa.string()))
    return texts


def _mask(rows: Array, n: int) -> Array:
    mask = np.zeros(n, bool)
    mask[rows] = True
    return mask


def is_nothing(value: Any) -> bool:
    """Whether this is one of the values by which pandas says that there is none."""
    return type(value).__name__ in NOTHING


def value_text(value: Any) -> str | None:
    """The canonical text of one Python value, or None where it is missing."""
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        # By its own digits: as a float64 a narrower 0.1 has more of them.
        value = float(str(value)) if isinstance(value, np.floating) else value.item()
    if value is None or is_nothing(value) or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, decimal.Decimal):
        return _decimal_text(value)
    if isinstance(value, (datetime.datetime, np.datetime64)):
        return _moment_text(value)
    if isinstance(value, datetime.time):
        return value.replace(microsecond=0).isoformat() + (f".{value.microsecond:06d}".rstrip("0") if value.microsecond else "")
    if isinstance(value, str):
        return _text_of(_clean(pa.array([printable(value)]), True))
    return str(value)


def _moment_text(value: Any) -> str | None:
    if isinstance(value, np.datetime64):
        exact = np.datetime_data(value.dtype)[0] in ("s", "ms", "us", "ns")
        return _text_of(to_text(pa.array([value]))) if exact else value_text(value.item())
    if getattr(value, "nanosecond", 0):  # of pandas, finer than Python's
        return f"{_moment_text(value.to_datetime64())}{'' if value.tzinfo is None else 'Z'}"
    if value.tzinfo is not None:
        value = value.astimezone(datetime.UTC)
    text: str = value.replace(tzinfo=None, microsecond=0).isoformat(" ") + (f".{value.microsecond:06d}".rstrip("0") if value.microsecond else "")
    return text + ("Z" if value.tzinfo is not None else "")


def _text_of(texts: pa.Array) -> str | None:
    """The one text of an array."""
    text: str | None = texts[0].as_py()
    return text


def _decimal_text(value: decimal.Decimal) -> str | None:
    if not value.is_finite():
        return None if value.is_nan() else str(float(value))
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def printable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, replaced by `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def change_wide(texts: pa.Array, change: Callable[[str], str]) -> pa.Array:
    """The texts with those that are not plain ASCII changed; the rest is not touched, which is most of the time saved."""
    narrow = pc.string_is_ascii(texts)
    if pc.all(narrow, min_count=0).as_py():
        return texts
    wide = pc.invert(pc.fill_null(narrow, True))
    return pc.replace_with_mask(texts, wide, pa.array([change(text) for text in texts.filter(wide).to_pylist()], pa.string()))


def _clean(texts: pa.Array, exact: bool) -> pa.Array:
    """NFC, NUL as a space, no surrounding space, empty as null; with `exact`, "7.0" as "7" and "True" as "true"."""
    if len(texts) <= FEW:
        few = texts.to_pylist()
        if not any(_special(text, exact) for text in few if text is not None):
            # Each step below costs some ten microseconds however few the texts, and a look-up reads one text three times.
            return pa.array([text.strip(" ") or None if text is not None else None for text in few], pa.string())
    texts = change_wide(texts, lambda text: unicodedata.normalize("NFC", text))
    texts = pc.utf8_trim_whitespace(pc.replace_substring(texts, "\0", " "))
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    if not exact:
        return texts
    if pc.any(pc.match_substring(texts, ".0"), min_count=0).as_py():
        texts = pc.replace_substring_regex(texts, WHOLE, r"\1")
    for spelled, canonical in TRUTHS.items():
        texts = pc.if_else(pc.equal(texts, spelled), canonical, texts)
    return texts


def _special(text: str, exact: bool) -> bool:
    """Whether more is to be done to a text than to take off spaces."""
    return not (text.isascii() and text.isprintable()) or (exact and (".0" in text or text.strip(" ") in TRUTHS))


def to_array(values: Sequence[Any]) -> pa.Array:
    """Python values as one Arrow array; a column of mixed types becomes their canonical texts.

    Whole numbers stay exact: numbers that a float would blur make the column text.
    """
    kinds = {type(value) for value in values if value is not None}
    if any(kind.__name__ in NOTHING for kind in kinds):
        values = [None if is_nothing(value) else value for value in values]
        kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        blurred = any(isinstance(value, int) and abs(value) > EXACT_FLOAT for value in values)
        kinds = {str, int} if blurred else {float}
    if kinds and kinds <= {str, uuid.UUID}:
        return as_texts(values)
    if len({value.tzinfo is None for value in values if isinstance(value, datetime.datetime)}) > 1:
        return as_texts(values)  # Arrow would drop the zones of those that have one
    if kinds <= {float}:
        return pa.array(values, pa.float64() if kinds else pa.null())
    if len(kinds) == 1:
        try:
            return pa.array(values)
        except (pa.ArrowException, TypeError, OverflowError):
            pass
    return as_texts(values)


def cast_texts(texts: pa.Array, kind: pa.DataType, *, exact: bool) -> tuple[pa.Array, Array]:
    """Canonical texts in another type, and which rows int64 it cannot hold; where there are any, the texts come back.

    exact: whether what the type holds must have that very text, as an id must. A cast may round.
    """

    def kept(some: pa.Array) -> Array:
        cast = some.cast(kind)
        return np.asarray(pc.fill_null(pc.equal(to_text(cast), some), True)) if exact else np.ones(len(some), bool)

    try:
        bad = np.flatnonzero(~kept(texts))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        bad = np.array([row for row in range(len(texts)) if not _held(texts.slice(row, 1), kept)], np.int64)
    return (texts if len(bad) else texts.cast(kind)), bad


def _held(one: pa.Array, kept: Callable[[pa.Array], Array]) -> bool:
    try:
        return bool(kept(one)[0])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False


def as_texts(values: Sequence[Any]) -> pa.Array:
    """Python values of any types as one Arrow array of texts; what is text already stays as it is spelled."""
    return pa.array([_any_text(value) for value in values], pa.string())


def _any_text(value: Any) -> str | None:
    if isinstance(value, (dict, list, tuple)):
        return printable(json.dumps(value, ensure_ascii=False, default=lambda each: None if is_nothing(each) else str(each)))
    return printable(value) if isinstance(value, str) else value_text(value)


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table as plain values; a date that Python cannot hold, its year being outside 1 to 9999, as a text."""
    try:
        return list(table.to_pylist())
    except (ValueError, OverflowError):
        columns = [[_plain(value) for value in column] for column in table.columns]
        return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        if isinstance(value, pa.DictionaryScalar):
            return _plain(value.value)
        if isinstance(value, pa.StructScalar):
            return {name: _plain(each) for name, each in value.items()}
        if isinstance(value, pa.ListScalar):
            return [_plain(each) for each in value.values]
        return value.cast(pa.string()).as_py()


def rows_to_table(rows: Iterable[Any]) -> pa.Table:
    """Dicts as an Arrow table; a column that one of them lacks is null there."""
    rows = list(rows)
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    return pa.table({name: to_array([row.get(name) for row in rows]) for name in names})
