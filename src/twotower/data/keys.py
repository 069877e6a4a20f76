"""What names a query and an item that declare no name: texts made of their own values, the same wherever they are met."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array
from twotower.data.features import Feature
from twotower.data.hashes import fold, hash_texts
from twotower.data.values import change_wide, has_text, to_text

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def values_of(features: Sequence[Feature], column: Callable[[str], pa.Array]) -> dict[str, pa.Array]:
    """The normalised values of each column that the features read, once, in their order. column: the raw one of a name.

    Where one column is read in two ways, what both can read is kept: text where either reads words or they differ in type. A
    history has no column: it is cut from the log.
    """
    found: dict[str, pa.Array] = {}
    for feature in features:
        if feature.from_log:
            continue
        values = feature.normalise(column(feature.column))
        there = found.get(feature.column)
        if there is None or (feature.worded and pa.types.is_string(there.type)):
            found[feature.column] = values
        elif there.type != values.type and not pa.types.is_string(there.type):
            raw = column(feature.column)
            found[feature.column] = to_text(raw, exact=False) if has_text(raw.type) else there
    return found


def texts_of(values: pa.Array) -> pa.Array:
    """One text for each row of normalised values of any type, null where the value is missing; different values differ."""
    if pa.types.is_string(values.type):
        return values
    if not any(test(values.type) for test in _LISTS):
        return to_text(values)
    rows = np.flatnonzero(np.asarray(values.is_valid()))
    if pa.types.is_floating(values.type.value_type):
        plain = [hashlib.blake2b(np.asarray(values[int(row)].values).tobytes(), digest_size=16).hexdigest() for row in rows]
    else:
        plain = [_listed(value) for value in values.drop_null().to_pylist()]
    texts = np.full(len(values), None, object)
    texts[rows] = plain
    return pa.array(texts, pa.string())


def _listed(values: list[object]) -> str:
    """A list, whose entries may be weighted values, as one text. A separator inside an entry is escaped."""
    entries = (f"{value['value']}\x1d{value['weight']!r}" if isinstance(value, dict) else str(value) for value in values)
    return "\x1e\x1e".join(entry.replace("\x1e", "\x1e\x1f") for entry in entries)


def keys_of(columns: list[pa.Array], declared: pa.Array | None, rows: int | None = None) -> pa.Array:
    """Whose known matches are shared: for each row the text of its declared key, or its values with their case folded.

    columns: the query's `values_of`. declared: the raw key column; a row where it is missing stands for itself. rows: how many
    there are, where there is neither.
    """
    n = len(columns[0]) if columns else len(declared) if declared is not None else rows or 0
    keys = pa.nulls(n, pa.string()) if declared is None else to_text(declared)
    named = pc.binary_join_element_wise("k", keys, "")
    if not keys.null_count:
        return named
    own = joined([pc.ascii_lower(change_wide(texts_of(column), fold)) for column in columns], n)
    return pc.coalesce(named, pc.binary_join_element_wise("r", own, ""))


def digests_of(columns: list[pa.Array]) -> pa.Array:
    """A short name for each row of values: 16 hexadecimal digits, null where every value is missing.

    columns: the `values_of` an item without an id.
    """
    digits = hash_texts(joined([texts_of(column) for column in columns]).to_pylist()).astype(">u8").tobytes().hex().encode()
    places = np.arange(len(columns[0]) + 1, dtype=np.int32) * 16
    texts = pa.StringArray.from_buffers(len(columns[0]), pa.py_buffer(places), pa.py_buffer(digits))
    return pc.if_else(pa.array(present(columns)), texts, None)


def present(columns: list[pa.Array]) -> Array:
    """Whether a row has any value: bool [n]."""
    return functools.reduce(np.logical_or, [np.asarray(column.is_valid()) for column in columns])


def joined(columns: list[pa.Array], rows: int = 0) -> pa.Array:
    """One text for each row of texts. A separator inside a value is escaped, so that different rows stay apart."""
    if not columns:
        return pa.array([""] * rows, pa.string())
    if len(columns) == 1:
        return pc.fill_null(columns[0], "")
    plain = [pc.replace_substring(column, "\x1f", "\x1f\x1e") for column in columns]
    return pc.binary_join_element_wise(*plain, "\x1f\x1f", null_handling="replace", null_replacement="")
