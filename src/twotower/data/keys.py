"""What names a query and an item that declare no name: texts made of their own values, the same wherever they are met."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.features import Feature
from twotower.data.hashes import fold, hash_texts
from twotower.data.values import change_wide, to_text


def values_of(features: Sequence[Feature], column: Callable[[str], pa.Array]) -> dict[str, pa.Array]:
    """The normalised values of each column that the features read, once, in their order. column: the raw one of a name.

    Where one column is read in two ways, text keeps more of it.
    """
    found: dict[str, pa.Array] = {}
    for feature in features:
        if feature.column not in found or feature.type == "text":
            found[feature.column] = feature.normalise(column(feature.column))
    return found


def keys_of(columns: list[pa.Array], declared: pa.Array | None) -> pa.Array:
    """Whose known matches are shared: for each row the text of its declared key, or its values with their case folded.

    columns: the query's `values_of`. declared: the raw key column; a row where it is missing stands for itself.
    """
    keys = pa.nulls(len(columns[0]), pa.string()) if declared is None else to_text(declared)
    named = pc.binary_join_element_wise("k", keys, "")
    if not keys.null_count:
        return named
    own = _joined([pc.ascii_lower(change_wide(column, fold)) for column in columns])
    return pc.coalesce(named, pc.binary_join_element_wise("r", own, ""))


def digests_of(columns: list[pa.Array]) -> pa.Array:
    """A short name for each row of values: 16 hexadecimal digits, null where every value is missing.

    columns: the `values_of` an item without an id.
    """
    digits = hash_texts(_joined(columns).to_pylist()).astype(">u8").tobytes().hex().encode()
    places = np.arange(len(columns[0]) + 1, dtype=np.int32) * 16
    texts = pa.StringArray.from_buffers(len(columns[0]), pa.py_buffer(places), pa.py_buffer(digits))
    present = functools.reduce(pc.or_, [column.is_valid() for column in columns])
    return pc.if_else(present, texts, None)


def _joined(columns: list[pa.Array]) -> pa.Array:
    """One text for each row of values. A separator inside a value is escaped, so that different rows stay apart."""
    if len(columns) == 1:
        return pc.fill_null(columns[0], "")
    plain = [pc.replace_substring(column, "\x1f", "\x1f\x1e") for column in columns]
    return pc.binary_join_element_wise(*plain, "\x1f\x1f", null_handling="replace", null_replacement="")
