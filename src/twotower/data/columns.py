"""Encoded columns: what a feature's `encode` returns, on disk, in a batch and on the way into a tower.

A column is an array `[n]` or `[n, w]`, or a `Ragged` where a row holds any number of values. `Columns` maps the name of
a feature to its column; all columns of one `Columns` have the same number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Ragged(NamedTuple):
    """Rows of different length: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: Array  # [sum of lengths], or [sum of lengths, w] where an entry is itself a row
    offsets: Array  # int64 [n + 1]


Column = Array | Ragged
Columns = Mapping[str, Column]


def ragged(rows: Iterable[Sequence[Any] | Array], dtype: Any = np.int64) -> Ragged:
    """Rows given one by one, as one Ragged."""
    parts = [np.asarray(row, dtype=dtype) for row in rows]
    return Ragged(np.concatenate(parts) if parts else np.empty(0, dtype), offsets_of([len(part) for part in parts]))


def offsets_of(lengths: Sequence[int] | Array) -> Array:
    """Offsets int64 [n + 1] of rows with these lengths [n]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def row_count(column: Column) -> int:
    """The number of rows of a column."""
    return len(column.offsets) - 1 if isinstance(column, Ragged) else len(column)


def lengths_of(column: Ragged) -> Array:
    """The length int64 [n] of each row."""
    return np.diff(column.offsets)


def ragged_rows(column: Ragged) -> Array:
    """The row int64 [sum of lengths] of each value."""
    return np.repeat(np.arange(len(column.offsets) - 1), lengths_of(column))


def spans(starts: Array, lengths: Array) -> Array:
    """The positions start, start + 1, ... of every span, one after another: int64 [sum of lengths]."""
    total = int(lengths.sum())
    ends = np.cumsum(lengths)
    return np.asarray(np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths))


def take(column: Column, rows: Array) -> Column:
    """The chosen rows of a column, copied; a row may be chosen more than once."""
    if not isinstance(column, Ragged):
        return np.asarray(column[rows])
    return take_ragged(column, rows)


def take_ragged(column: Ragged, rows: Array) -> Ragged:
    """`take` for a Ragged."""
    lengths = column.offsets[rows + 1] - column.offsets[rows]
    return Ragged(column.values[spans(column.offsets[rows], lengths)], offsets_of(lengths))


def take_rows(columns: Columns, rows: Array) -> dict[str, Column]:
    """The chosen rows of every column."""
    return {name: take(column, rows) for name, column in columns.items()}


def concatenate(parts: Sequence[Column]) -> Column:
    """Columns of one kind below each other."""
    if isinstance(parts[0], Ragged):
        rags = [part for part in parts if isinstance(part, Ragged)]
        lengths = np.concatenate([lengths_of(part) for part in rags])
        return Ragged(np.concatenate([part.values for part in rags]), offsets_of(lengths))
    return np.concatenate(parts)


def distinct(values: Array) -> Array:
    """The values [n] each once, in rising order. By sorting, which beats the hashing of `np.unique` tenfold on millions."""
    ordered = np.sort(values)
    return np.asarray(ordered[np.concatenate([np.ones(min(1, len(ordered)), bool), ordered[1:] != ordered[:-1]])])


def pad(column: Ragged, fill: int = 0) -> Array:
    """A Ragged as a rectangle [n, longest] or [n, longest, w], never narrower than one: what the exported towers take.

    The width is at least 1 since recurrent and attention bodies abort, raise or go silently wrong on length 0.
    """
    lengths = lengths_of(column)
    width = max(1, int(lengths.max(initial=0)))
    padded = np.full((len(lengths), width, *column.values.shape[1:]), fill, dtype=column.values.dtype)
    padded[np.arange(width) < lengths[:, None]] = column.values[column.offsets[0] : column.offsets[-1]]
    return padded


def group(keys: Array, values: Array, n_keys: int) -> Ragged:
    """The values of every key 0..n_keys, in their order of appearance."""
    order = np.argsort(keys, kind="stable")
    return Ragged(values[order], offsets_of(np.bincount(keys, minlength=n_keys)))
