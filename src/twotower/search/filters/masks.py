"""Which rows of a table meet a condition. Every comparison is by value and exact, whatever the types.

A row without a value meets no comparison, and `not` gives every row that the rest does not: `not price < 50` keeps items without a price.
"""

from __future__ import annotations

import decimal
import math
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.search.filters.conditions import Compare, Condition, Every, Flag, Has, Missing, Not, Operator, Some, Term, Value
from twotower.search.filters.kinds import DAY, check, clock, moment
from twotower.search.index import Array

FUNCTIONS: dict[Operator, Any] = {
    "lt": pc.less,
    "le": pc.less_equal,
    "gt": pc.greater,
    "ge": pc.greater_equal,
    "eq": pc.equal,
    "ne": pc.not_equal,
}
Simple = tuple[Operator, Any] | bool  # an operator and a value of the column's own type; or the answer, for every value the same
TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}  # a second


def mask(condition: Condition, table: pa.Table) -> Array:
    """Whether each row meets the condition, bool [n]. Raises ConfigError for one that does not fit the table's columns."""
    check(condition, table.schema)
    return _mask(condition, table)


def _mask(condition: Condition, table: pa.Table) -> Array:
    if isinstance(condition, Not):
        return ~_mask(condition.part, table)
    if isinstance(condition, (Every, Some)):
        join = np.logical_and if isinstance(condition, Every) else np.logical_or
        return reduce(join, (_mask(part, table) for part in condition.parts))
    chunks = [_met(condition, chunk) for chunk in table.column(condition.column).chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, bool)


def _met(term: Term, values: pa.Array) -> Array:
    """Whether each value of an array meets one comparison."""
    if pa.types.is_dictionary(values.type):
        return _met_by_code(term, values)
    if isinstance(term, Missing):
        return _bools(values.is_null(nan_is_null=True))
    if pa.types.is_null(values.type):
        return np.zeros(len(values), bool)
    if isinstance(term, Flag):
        return _bools(values)
    if isinstance(term, Has):
        met = _met(Compare(term.column, "eq", term.value), pc.list_flatten(values))
        found = np.zeros(len(values), bool)
        found[pc.list_parent_indices(values).to_numpy()[met]] = True
        return found
    of, values = values.type, _comparable(values)
    if isinstance(term, Compare):
        return _compared(values, simple(term.operator, term.value, of))
    named = [each[1] for each in (simple("eq", value, of) for value in term.values) if not isinstance(each, bool)]
    if pa.types.is_floating(of) and 0.0 in named:
        named += [0.0, -0.0]  # equal, and yet two to a look-up
    return _bools(pc.is_in(values, value_set=pa.array(named, values.type)))


def _compared(values: pa.Array, simple: Simple) -> Array:
    if isinstance(simple, bool):
        there = ~_bools(values.is_null(nan_is_null=True))
        return there if simple else np.zeros(len(values), bool)
    operator, value = simple
    met = _bools(FUNCTIONS[operator](values, pa.scalar(value, values.type)))
    if operator == "ne" and pa.types.is_floating(values.type):
        met &= ~_bools(pc.is_nan(values))
    return met


def _met_by_code(term: Term, values: pa.DictionaryArray) -> Array:
    """The same for a dictionary: each distinct value is compared once."""
    met = np.append(_met(term, values.dictionary), isinstance(term, Missing))  # the last: of rows without a code
    codes = values.indices.cast(pa.int64()).fill_null(len(met) - 1).to_numpy(zero_copy_only=False)
    return np.asarray(met[codes])


def _bools(found: Any) -> Array:
    """An Arrow array of truth values as bool [n], null as False."""
    return np.asarray(found.fill_null(False).to_numpy(zero_copy_only=False), bool)


def _comparable(values: pa.Array) -> pa.Array:
    """The values in a type that Arrow compares whole: dates and times as the numbers that they are counted in."""
    of, types = values.type, pa.types
    if types.is_date32(of) or types.is_time32(of):
        return values.view(pa.int32())
    if types.is_temporal(of):
        return values.view(pa.int64())
    if types.is_string_view(of):
        return values.cast(pa.large_string())
    if types.is_float16(of):
        return values.cast(pa.float32())
    if types.is_decimal(of) and not types.is_decimal256(of):
        return values.cast(pa.decimal128(of.precision, of.scale))
    return values


# A value as one of the column's own type. A number between two of these is as good as the one below or above it.


def simple(operator: Operator, value: Value, of: pa.DataType) -> Simple:
    """The comparison with a value of the column's type that every value of that type meets or not as it does the one asked for."""
    if isinstance(value, bool) or (isinstance(value, str) and not pa.types.is_temporal(of)):
        return operator, value
    if pa.types.is_floating(of):
        return _on_floats(operator, value, of)  # type: ignore[arg-type]
    if pa.types.is_decimal(of):
        exact = Fraction(decimal.Decimal(repr(value))) * Fraction(10) ** of.scale  # as it is spelled: 0.1 is a tenth
        found = _on_whole(operator, exact, 1 - 10**of.precision, 10**of.precision - 1)
        return found if isinstance(found, bool) else (found[0], _decimal(found[1], of.scale))
    if pa.types.is_temporal(of):
        bits = 32 if pa.types.is_date32(of) or pa.types.is_time32(of) else 64
        return _on_whole(operator, _ticks(str(value), of), -(1 << bits - 1), (1 << bits - 1) - 1)
    bits, signed = of.bit_width, pa.types.is_signed_integer(of)
    return _on_whole(operator, Fraction(value), -(1 << bits - 1) if signed else 0, (1 << (bits - signed)) - 1)


def _on_whole(operator: Operator, value: Fraction, lowest: int, highest: int) -> Simple:
    """A comparison of whole numbers between two bounds with any number."""
    if value.denominator != 1:
        if operator in ("eq", "ne"):
            return operator == "ne"
        operator = "le" if operator in ("lt", "le") else "gt"
    whole = math.floor(value)
    if whole > highest:
        return operator in ("lt", "le", "ne")
    if whole < lowest:
        return operator in ("gt", "ge", "ne")
    return operator, whole


def _on_floats(operator: Operator, value: int | float, of: pa.DataType) -> Simple:
    """A comparison of floats: a fraction is taken as the nearest number that the column can hold, a whole number exactly as it is."""
    kind = np.dtype(f"f{of.bit_width // 8}")
    highest = float(np.finfo(kind).max)
    near = math.copysign(highest, value) if abs(value) > highest else float(kind.type(value))
    if near == value or (isinstance(value, float) and abs(value) <= highest):
        return operator, near
    if operator in ("eq", "ne"):
        return operator == "ne"
    if near < value:
        return "le" if operator in ("lt", "le") else "gt", near
    return "lt" if operator in ("lt", "le") else "ge", near


def _decimal(whole: int, scale: int) -> decimal.Decimal:
    """A whole number of the smallest steps of a decimal column, whatever the precision of the context."""
    return decimal.Decimal((int(whole < 0), tuple(map(int, str(abs(whole)))), -scale))


def _ticks(text: str, of: pa.DataType) -> Fraction:
    """An ISO text in what a column of dates or times counts."""
    seconds = (clock if pa.types.is_time(of) else moment)(text)
    assert seconds is not None  # it was checked
    if pa.types.is_date32(of):
        return seconds / DAY
    return seconds * TICKS["ms" if pa.types.is_date64(of) else of.unit]
