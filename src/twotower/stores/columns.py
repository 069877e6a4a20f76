"""Payload columns in a store's own types: as cells of SQL, as JSON, and back."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from twotower.errors import DataError

WIDE = decimal.Context(prec=80)
MICROSECOND = datetime.timedelta(microseconds=1)
SAFE_DIGITS = 15  # of a decimal that a float64 tells from every other


def sql_type(field: pa.Field) -> str:
    """The PostgreSQL type of a column. Lists of plain values are arrays; what is nested otherwise is jsonb."""
    of = field.type
    if pa.types.is_list(of):
        inner = _sql_plain(of.value_type)
        return "jsonb" if inner is None else f"{inner}[]"
    return _sql_plain(of) or "jsonb"


def _sql_plain(of: pa.DataType) -> str | None:
    types = pa.types
    if types.is_integer(of):
        bits = of.bit_width if types.is_signed_integer(of) else of.bit_width + 1
        return "int2" if bits <= 16 else "int4" if bits <= 32 else "int8" if bits <= 64 else "numeric"
    if types.is_timestamp(of):
        return "timestamp" if of.tz is None else "timestamptz"
    tests = [
        (types.is_boolean, "bool"),
        (types.is_float32, "float4"),
        (types.is_float64, "float8"),
        (types.is_string, "text"),
        (types.is_date, "date"),
        (types.is_time, "time"),
        (types.is_decimal, "numeric"),
        (types.is_binary, "bytea"),
        (types.is_fixed_size_binary, "bytea"),
    ]
    return next((kind for test, kind in tests if test(of)), None)


def cells(column: pa.Array, name: str) -> list[Any]:
    """The values of a column as COPY takes them. Raises DataError for a text that PostgreSQL cannot hold."""
    from psycopg.types.json import Jsonb

    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        raise DataError(f'the column "{name}" holds a date outside the years 1 to 9999, which cannot be published') from None
    kind = sql_type(pa.field(name, column.type))
    if kind == "jsonb":
        try:
            told = [json.loads(json.dumps(value, default=_json_or_text), parse_constant=_constant) for value in values]
        except ValueError as error:
            raise DataError(f'the column "{name}" holds a value that this store cannot keep: {error}') from None
        return [None if value is None else Jsonb(value) for value in told]
    if kind in ("text", "text[]"):
        for value in values:
            if value is not None and any("\0" in each for each in ([value] if isinstance(value, str) else value) if each is not None):
                raise DataError(f'the column "{name}" holds a text with the character 0, which PostgreSQL cannot keep: {value!r:.60}')
    if kind == "numeric" and pa.types.is_integer(column.type):
        return [None if value is None else decimal.Decimal(value) for value in values]
    return values


def from_cells(values: Sequence[Any], of: pa.DataType) -> pa.Array:
    """What `cells` were made of."""
    if pa.types.is_integer(of):
        return pa.array([None if value is None else int(value) for value in values], of)
    if pa.types.is_decimal(of):
        return pa.array([None if value is None else value.quantize(decimal.Decimal(1).scaleb(-of.scale), context=WIDE) for value in values], of)
    if sql_type(pa.field("", of)) == "jsonb":
        return from_json(values, of)
    return pa.array(list(values), of)


def to_json(column: pa.Array, name: str) -> list[Any]:
    """The values of a column as JSON holds them; dates and times are ISO texts, nan is None. Raises DataError for what JSON cannot hold."""
    try:
        return [_to_json(value) for value in column.to_pylist()]
    except (ValueError, OverflowError) as error:
        raise DataError(f'the column "{name}" holds a value that this store cannot keep: {error}') from None


def _json_or_text(value: Any) -> Any:
    """What JSON has no word for, as `_from_json` reads it, or as a text."""
    told = _to_json(value)
    return str(value) if told is value else told


def _constant(spelled: str) -> None:
    """What JSON has no number for: nan is missing. Raises ValueError for an infinite one."""
    if spelled != "NaN":
        raise ValueError("an infinite number")


def _to_json(value: Any) -> Any:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value // MICROSECOND
    if isinstance(value, decimal.Decimal):
        return float(value) if len(value.as_tuple().digits) <= SAFE_DIGITS else str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError("an infinite number")
        return None if math.isnan(value) else value
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"the whole number {value}")
    if isinstance(value, (list, tuple)):
        return [_to_json(each) for each in value]
    if isinstance(value, dict):
        return {key: _to_json(each) for key, each in value.items()}
    return value


def from_json(values: Sequence[Any], of: pa.DataType) -> pa.Array:
    """What `to_json` was given."""
    return pa.array([_from_json(value, of) for value in values], of)


def _from_json(value: Any, of: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_struct(of):
        return {each.name: _from_json(value.get(each.name), each.type) for each in of}
    if pa.types.is_map(of):
        return [(_from_json(key, of.key_type), _from_json(each, of.item_type)) for key, each in value]
    if pa.types.is_nested(of):
        return [_from_json(each, of.value_type) for each in value]
    if pa.types.is_dictionary(of):
        return _from_json(value, of.value_type)
    if pa.types.is_duration(of):
        return value * MICROSECOND
    if pa.types.is_timestamp(of):
        return datetime.datetime.fromisoformat(value)
    if pa.types.is_date(of):
        return datetime.date.fromisoformat(value)
    if pa.types.is_time(of):
        return datetime.time.fromisoformat(value)
    if pa.types.is_decimal(of):
        return decimal.Decimal(repr(value) if isinstance(value, float) else value).quantize(decimal.Decimal(1).scaleb(-of.scale), context=WIDE)
    if pa.types.is_binary(of) or pa.types.is_fixed_size_binary(of):
        return base64.b64decode(value)
    return value
