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
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

WHOLE = r"^(-?(?:0|[1-9][0-9]*))\.0+$"
TRUTHS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
EXACT_FLOAT = 2.0**53  # past this, neighbouring whole numbers share one float


def to_text(array: pa.Array, *, exact: bool = True) -> pa.Array:
    """Canonical texts (Arrow string, null where the value is missing) of an array of any plain type.

    `exact` folds the spellings of one number or truth value together, as ids and categories need; texts for reading
    keep theirs. Raises TypeError for nested or binary types.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _clean(array.cast(pa.string()), exact)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return array.cast(pa.string())
    if pa.types.is_floating(kind) or pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return pa.array([value_text(value) for value in array.to_pylist()], pa.string())
    raise TypeError(f"values of type {kind} have no canonical text")


def value_text(value: Any) -> str | None:
    """The canonical text of one Python value, or None where it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, decimal.Decimal):
        return str(int(value)) if value == value.to_integral_value() else f"{value.normalize():f}"
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.UTC)
        text: str = value.strftime("%Y-%m-%d %H:%M:%S") + (f".{value.microsecond:06d}".rstrip("0") if value.microsecond else "")
        return text + ("Z" if value.tzinfo is not None else "")
    if isinstance(value, str):
        cleaned: str | None = _clean(pa.array([printable(value)]), True)[0].as_py()
        return cleaned
    return str(value)


def printable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, replaced by `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _clean(texts: pa.Array, exact: bool) -> pa.Array:
    """NFC, no surrounding space, empty as null; with `exact`, "7.0" as "7" and "True" as "true"."""
    if not pc.all(pc.string_is_ascii(texts), min_count=0).as_py():
        texts = pa.array([None if t is None else unicodedata.normalize("NFC", t) for t in texts.to_pylist()], pa.string())
    texts = pc.utf8_trim_whitespace(texts)
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    if not exact:
        return texts
    if pc.any(pc.match_substring(texts, ".0"), min_count=0).as_py():
        texts = pc.replace_substring_regex(texts, WHOLE, r"\1")
        texts = pc.if_else(pc.equal(texts, "-0"), "0", texts)
    for spelled, canonical in TRUTHS.items():
        texts = pc.if_else(pc.equal(texts, spelled), canonical, texts)
    return texts


def to_array(values: Sequence[Any]) -> pa.Array:
    """Python values as one Arrow array; a column of mixed types becomes their canonical texts.

    Whole numbers stay exact: numbers that a float would blur make the column text.
    """
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        blurred = any(isinstance(value, int) and abs(value) > EXACT_FLOAT for value in values)
        kinds = {str, int} if blurred else {float}
    if kinds == {str}:
        return pa.array([None if value is None else printable(value) for value in values], pa.string())
    if kinds <= {float}:
        return pa.array(values, pa.float64() if kinds else pa.null())
    if len(kinds) == 1:
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            pass
    return pa.array([_any_text(value) for value in values], pa.string())


def _any_text(value: Any) -> str | None:
    if isinstance(value, (dict, list, tuple)):
        return printable(json.dumps(value, ensure_ascii=False))
    return value_text(value)


def rows_to_table(rows: Iterable[Any]) -> pa.Table:
    """Dicts as an Arrow table; a column that one of them lacks is null there."""
    rows = list(rows)
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    return pa.table({name: to_array([row.get(name) for row in rows]) for name in names})
