"""What each column of a catalogue holds, as far as filters can be made of it: the range of numbers and dates, the commonest of few values.

A page makes its filters of them. Of a large catalogue a sample is looked at, and `of` says of how many items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.search.filters.kinds import CLOCKS, DATES, LISTS, MOMENT, NUMBER, TEXT, TRUTH, Kind, kind_of

MOST_ITEMS = 200_000  # looked at
FEW = 30  # distinct values that are named
NAMES: dict[Kind, str] = {NUMBER: "number", TEXT: "text", TRUTH: "truth", DATES: "date", MOMENT: "moment", CLOCKS: "clock", LISTS: "list"}
LONG = 80  # characters of a value that is named


def facets(items: pa.Table) -> list[dict[str, Any]]:
    """For each column, in their order: `name`, `kind`, how many are `missing`, `of` how many, and what a filter can be made of.

    Numbers, dates and times have `least` and `greatest`; truth values, and texts and lists of few distinct ones, have `values`, the commonest
    first, each with its count; those of more have `distinct`, how many there are.
    """
    some = items
    if items.num_rows > MOST_ITEMS:
        rows = np.sort(np.random.default_rng(0).choice(items.num_rows, MOST_ITEMS, replace=False))
        some = items.take(pa.array(rows))
    return [_facet(name, some.column(number)) for number, name in enumerate(some.column_names)]


def _facet(name: str, column: pa.ChunkedArray) -> dict[str, Any]:
    kind = kind_of(column.type)
    found: dict[str, Any] = {"name": name, "kind": NAMES.get(kind, "other") if kind is not None else "other"}
    found |= {"missing": column.null_count, "of": len(column)}
    if kind in (NUMBER, DATES, MOMENT, CLOCKS):
        return found | _range(column)
    if kind in (TEXT, TRUTH):
        return found | _counts(column)
    if kind is LISTS:
        return found | _counts(pc.list_flatten(column))
    return found


def _range(column: pa.ChunkedArray) -> dict[str, Any]:
    if pa.types.is_floating(column.type):
        column = column.filter(pc.fill_null(pc.is_finite(column), False))
    ends = pc.min_max(column).as_py()
    if ends["min"] is None:
        return {}
    return {"least": _plain(ends["min"]), "greatest": _plain(ends["max"])}


def _counts(column: pa.ChunkedArray | pa.Array) -> dict[str, Any]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    counted = pc.value_counts(column.drop_null())
    values, counts = counted.field("values"), counted.field("counts").to_numpy(zero_copy_only=False)
    if not 0 < len(values) <= FEW:
        return {"distinct": len(values)} if len(values) else {}
    named = values.to_pylist()
    if any(isinstance(value, str) and len(value) > LONG for value in named):
        return {"distinct": len(values)}
    order = np.lexsort((np.arange(len(counts)), -counts))
    return {"values": [{"value": _plain(named[place]), "count": int(counts[place])} for place in order]}


def _plain(value: Any) -> Any:
    return (
        value
        if isinstance(value, (str, int, float, bool))
        else value.isoformat(sep=" ")
        if hasattr(value, "hour") and hasattr(value, "year")
        else str(value)
    )
