"""The forms in which queries, items and histories may be passed: one or several, plain or as rows."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from twotower.data.encoder import to_table
from twotower.data.sources import Source
from twotower.data.values import to_array, to_text
from twotower.errors import DataError


def is_value(query: Any) -> bool:
    """Whether this is one value of one column."""
    return isinstance(query, (str, int, float, np.generic, uuid.UUID)) and not isinstance(query, bool)


def columnar(queries: Any, nested: Collection[str] = ()) -> bool:
    """Whether a mapping is columns of several rows rather than one row. nested: columns whose values are lists themselves."""
    if not isinstance(queries, Mapping) or not queries or not all(isinstance(v, (list, tuple, np.ndarray)) for v in queries.values()):
        return False
    return all(is_list(value) or value is None for name in nested if name in queries for value in queries[name])


def is_list(values: Any) -> bool:
    """Whether these are several plain values: a list, an array, a column of a data frame."""
    column = isinstance(values, (np.ndarray, pa.Array, pa.ChunkedArray)) or type(values).__name__ == "Series"
    return column or (isinstance(values, Sequence) and not isinstance(values, (str, bytes)))


def listed(values: Any) -> list[Any]:
    """Such values as a list of plain Python ones."""
    for plain in ("to_pylist", "tolist", "to_list"):
        if hasattr(values, plain):
            return list(getattr(values, plain)())
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def is_rows(items: Any) -> bool:
    """Whether these are rows with columns rather than plain values."""
    if isinstance(items, Mapping) or hasattr(items, "__arrow_c_stream__") or isinstance(items, (pa.Table, pa.RecordBatch)):
        return not isinstance(items, (pa.Array, pa.ChunkedArray)) and type(items).__name__ != "Series"
    return isinstance(items, Sequence) and bool(items) and not isinstance(items, str) and all(isinstance(item, Mapping) for item in items)


def histories_of(history: Any) -> list[Any]:
    """One history or several as a list of them."""
    given = listed(history) if is_list(history) else [history]
    return given if given and all(is_list(each) or each is None for each in given) else [given]


def with_history(table: pa.Table, name: str, given: list[Any]) -> pa.Table:
    """The table with a column of histories, one for each row."""
    if len(given) != table.num_rows:
        raise DataError(f"{table.num_rows} queries came with {len(given)} histories; give one for each")
    lists = pa.array([None if each is None else _ids(each) for each in given], pa.list_(pa.string()))
    place = table.schema.get_field_index(name)
    return table.append_column(name, lists) if place < 0 else table.set_column(place, name, lists)


def _ids(history: Any) -> list[str | None]:
    """One history as canonical ids. Raises DataError for what is no list of plain values."""
    values = listed(history)
    try:
        if any(isinstance(value, (Mapping, list, tuple, np.ndarray)) for value in values):
            raise TypeError
        texts: list[str | None] = to_text(to_array(values)).to_pylist()
    except TypeError:
        raise DataError("a history is a list of item ids, or for several queries a list of such lists") from None
    return texts


def require_history(source: Source, column: str, beside: Sequence[str], ids: Sequence[Any]) -> None:
    """Raise DataError with an example, unless a file has the column of histories. beside: what else is read of it. ids: of two items."""
    if column in source.columns:
        source.require(column, "the history", nested=True)
        return
    named = [name for name in dict.fromkeys(beside) if name in source.columns]
    first = source.select(named).head(1).to_pylist()[0] if named else {}
    few = [str(each) for each in ids]
    row = ",".join([*(str(first[name]) for name in named), "|".join(few)])
    raise DataError(
        f'{source.name} has no column "{column}", and this model knows who asks by the items that they touched before: the bundle holds no log to '
        f"look them up in. Add to each row their ids, oldest first, as {'|'.join(few)} or as JSON, {json.dumps(few)}; empty where there are none. "
        f"Under {','.join([*named, column])} a row is then like {row}"
    )


def is_one(queries: Any, history: Any, nested: Collection[str] = ()) -> bool:
    """Whether one query is asked rather than several. nested: columns whose values are lists themselves."""
    if queries is None:
        given = listed(history) if is_list(history) else []
        return not (given and all(is_list(each) or each is None for each in given))
    return is_value(queries) or (isinstance(queries, Mapping) and not columnar(queries, nested))


def table_of(queries: Any, columns: Sequence[str], nested: Collection[str] = ()) -> pa.Table:
    """Queries in any form as a table. columns: those of a query; plain values are of the only one, and DataError where there is not just one."""
    if is_value(queries) or (isinstance(queries, Sequence) and queries and all(map(is_value, queries))):
        if not columns:
            raise DataError("this model knows who asks by what they touched before: pass history=[...], or --history ID,ID,...")
        if len(columns) != 1:
            raise DataError(f"a query of this model has {len(columns)} columns; name them: {' '.join(f'{name}=...' for name in columns)}")
        return pa.table({columns[0]: to_array([queries] if is_value(queries) else list(queries))})
    if isinstance(queries, Mapping) and not columnar(queries, nested):
        return to_table([queries])
    if isinstance(queries, Sequence) and not queries:
        return pa.table({name: pa.array([], pa.string()) for name in columns or [""]})
    return to_table(queries)


def query_text(table: pa.Table, columns: Sequence[str]) -> list[str]:
    """The words of each query row: its text columns, joined."""
    parts = [to_text(table.column(name), exact=False).to_pylist() for name in columns]
    return [" ".join(value for value in values if value) for values in zip(*parts, strict=True)] if parts else [""] * table.num_rows
