"""What each column of a catalogue holds, as far as filters can be made of it: the range of numbers and dates, the commonest of few values.

A page makes its filters of them. Of a large catalogue a sample is looked at, and `of` says of how many items. All that comes back is plain
JSON, in the forms that the language of filters reads.
"""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.search.filters.kinds import CLOCKS, DATES, LISTS, MOMENT, NUMBER, TEXT, TRUTH, Kind, kind_of

MOST_ITEMS = 200_000  # looked at
MOST_LISTED = 1_000_000  # values of lists that are looked at
FEW = 30  # distinct values that are named
LONG = 80  # characters of a value that is named
NAMES: dict[Kind, str] = {NUMBER: "number", TEXT: "text", TRUTH: "truth", DATES: "date", MOMENT: "moment", CLOCKS: "clock", LISTS: "list"}
DAYS = (-719_162, 2_932_896)  # from 1970 to the first and the last day that can be written
TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000}


def facets(items: pa.Table) -> list[dict[str, Any]]:
    """For each column, in their order: `name`, `kind`, how many are `missing`, `of` how many, and what a filter can be made of.

    Numbers, dates and times have `least` and `greatest`; truth values, and texts and lists of few distinct ones, have `values`, the commonest
    first, each with its count; those of more have `distinct`, how many there are among the items that were looked at.
    """
    some = _sample(items, MOST_ITEMS)
    return [_facet(name, some.column(number)) for number, name in enumerate(some.column_names)]


def _sample(items: Any, most: int) -> Any:
    """Some rows of a table or column, in their order; always the same ones."""
    if len(items) <= most:
        return items
    return items.take(pa.array(np.sort(np.random.default_rng(0).choice(len(items), most, replace=False))))


def _facet(name: str, column: pa.ChunkedArray) -> dict[str, Any]:
    kind = kind_of(column.type)
    found: dict[str, Any] = {"name": name, "kind": NAMES.get(kind, "other") if kind is not None else "other"}
    if kind is LISTS:
        column, listed = _listed(column)
        return found | {"missing": column.null_count, "of": len(column)} | _counts(listed)
    if found["kind"] == "other":
        return found | {"missing": column.null_count, "of": len(column)}
    there = _there(column)
    found |= {"missing": len(column) - len(there), "of": len(column)}
    return found | (_counts(there) if kind in (TEXT, TRUTH) else _range(there))


def _listed(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """A column of lists, or a sample of it where they are long, and what stands in them, once for each item that has it."""
    column = _decoded(column)
    values = pc.list_flatten(column)
    if kind_of(values.type) not in NAMES:
        return column, values.slice(0, 0)
    if len(values) > MOST_LISTED:
        column = _sample(column, max(1, int(len(column) * MOST_LISTED / len(values))))
        values = pc.list_flatten(column)
    items = pa.chunked_array([pc.list_parent_indices(column.combine_chunks())])
    held = pa.table({"item": items, "value": _there(values, among=True)})
    return column, held.group_by(["item", "value"]).aggregate([]).column("value").drop_null()


def _there(column: pa.ChunkedArray, among: bool = False) -> pa.ChunkedArray:
    """The values that are there, as a type that can be counted and compared; a nan is none. among: nulls stay in the places of the others."""
    column = _decoded(column)
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column if among else column.drop_null()


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    while pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column


def _range(column: pa.ChunkedArray) -> dict[str, Any]:
    if pa.types.is_floating(column.type):
        column = column.filter(pc.is_finite(column))
    ends = pc.min_max(_rough(_written(column)))
    if not ends["min"].is_valid:
        return {}
    return {"least": _plain(ends["min"].as_py()), "greatest": _plain(ends["max"].as_py())}


def _written(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without dates that have no four digits for a year: one slip among them is not the range."""
    of = column.type
    if pa.types.is_date(of):
        ticks, ints = (1, pa.int32()) if pa.types.is_date32(of) else (86_400_000, pa.int64())
    elif pa.types.is_timestamp(of) and of.unit in TICKS:
        ticks, ints = 86_400 * TICKS[of.unit], pa.int64()
    else:
        return column
    numbers = column.cast(ints)
    least, most = (pa.scalar(end * ticks, ints) for end in (DAYS[0], DAYS[1] + 1))
    return column.filter(pc.and_(pc.greater_equal(numbers, least), pc.less(numbers, most)))


def _rough(column: pa.ChunkedArray, safe: bool = False) -> pa.ChunkedArray:
    """Moments in UTC and clocks, to a millionth of a second."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us"), safe=safe)
    return column.cast(pa.time64("us"), safe=safe) if pa.types.is_time64(column.type) else column


def _counts(column: pa.ChunkedArray) -> dict[str, Any]:
    counted = pc.value_counts(column)
    values, counts = counted.field("values"), counted.field("counts").to_numpy(zero_copy_only=False)
    if not len(values):
        return {}
    if len(values) > FEW:
        return {"distinct": len(values)}
    try:
        named = [_plain(value) for value in _rough(values, safe=True).to_pylist()]
    except (pa.ArrowInvalid, OverflowError, ValueError):  # moments finer than can be written, or too far away
        return {"distinct": len(values)}
    if any(value is None or (isinstance(value, str) and len(value) > LONG) for value in named):
        return {"distinct": len(values)}
    order = np.lexsort((np.arange(len(counts)), -counts))
    return {"values": [{"value": named[place], "count": int(counts[place])} for place in order]}


def _plain(value: Any) -> Any:
    """As JSON has it; None for a number that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    return value if isinstance(value, (str, int)) else value.isoformat()
