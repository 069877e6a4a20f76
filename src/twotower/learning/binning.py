"""The values of one feature sorted into a few bins, so that two samples of it can be compared by what lies in each.

Names by the commonest, quantities by deciles, texts by how many of their words are known; what is missing has a bin of its own. To bin a
new type of feature: its case in `entries` and in `labels`, and in `learnt` where the bins depend on the sample.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array, Column, Ragged, lengths_of, ragged_rows, row_count
from twotower.data.features import Categories, FeatureOptions, History, Id, Number, Pieces, State, Text, Time

TOP = 200  # names with a bin of their own
WORDS = (0.0, 0.25, 0.5)  # shares of unknown words, up to and including each


class Bins(NamedTuple):
    """How values are sorted. edges: of quantities, each bin up to and including its own. codes: of names; names: their texts, none of ids."""

    edges: list[float]
    codes: list[int]
    names: list[str]


class Values(NamedTuple):
    """One feature of n rows: raw, encoded, and how many items a history holds."""

    feature: FeatureOptions
    state: State
    raw: pa.Array | None
    encoded: Column | None
    lengths: Array | None = None  # int64 [n]


def learnt(values: Values, weights: Array) -> Bins:
    """The bins that suit a sample [n], whose rows count as often as their weights say."""
    if _quantity(values.feature):
        there, missing = _quantities(values)
        held = np.repeat(there[~missing], weights[~missing].astype(np.int64))
        return Bins(np.unique(np.quantile(held, np.arange(1, 10) / 10)).tolist() if len(held) else [], [], [])
    if isinstance(values.feature, (Id, Categories)):
        rows, codes, shares = _names(values)
        known = codes >= values.feature.first_known
        every, place = np.unique(codes[known], return_inverse=True)
        counts = np.bincount(place, (shares * weights[rows])[known], minlength=len(every))
        top = every[np.sort(np.argsort(-counts, kind="stable")[:TOP])].tolist()
        return Bins([], top, _told(values, top))
    return Bins([], [], [])


def entries(values: Values, bins: Bins) -> tuple[Array, Array, Array]:
    """(row, bin, share) of each entry: the shares of a row add up to 1."""
    feature = values.feature
    if _quantity(feature):
        there, missing = _quantities(values)
        return _one_each(np.where(missing, len(bins.edges) + 1, np.searchsorted(bins.edges, there)))
    if isinstance(feature, (Id, Categories)):
        rows, codes, shares = _names(values)
        top = np.asarray(bins.codes, np.int64)
        order = np.argsort(top)
        place = np.searchsorted(top[order], codes)
        found = place < len(top)
        found[found] = top[order][place[found]] == codes[found]
        sorted_in = np.where(codes < 0, len(top) + 2, np.where(codes < feature.first_known, len(top) + 1, len(top)))
        sorted_in[found] = order[place[found]]
        return rows, sorted_in, shares
    missing = missing_rows(values)
    if isinstance(feature, Text):
        all_words, known = _words(feature, values)
        unknown = 1 - known / np.maximum(1, all_words)
        part = np.where(unknown >= 1, len(WORDS) + 1, np.searchsorted(WORDS, unknown))
        return _one_each(np.where(missing | (all_words == 0), len(WORDS) + 2, part))
    if isinstance(feature, Pieces):
        return _one_each(np.where(missing, 2, unknown_rows(values).astype(np.int64)))
    return _one_each(missing.astype(np.int64))


def labels(feature: FeatureOptions, bins: Bins) -> list[str]:
    """What lies in each bin, in words."""
    if _quantity(feature):
        edges = [f"{edge:,.6g}" if not isinstance(feature, Time) else _moment(edge) for edge in bins.edges]
        if not edges:
            return ["there", "missing"]
        between = [f"above {a}, up to {b}" for a, b in itertools.pairwise(edges)]
        return [f"up to {edges[0]}", *between, f"above {edges[-1]}", "missing"]
    if isinstance(feature, (Id, Categories)):
        return [*(bins.names or ["one of the commonest"] * len(bins.codes)), "other known ones", "unknown", "missing"]
    if isinstance(feature, Text):
        return ["no unknown words", "up to a quarter unknown", "up to half unknown", "more than half unknown", "no known word", "missing"]
    return ["spelled", "unknown pieces", "missing"] if isinstance(feature, Pieces) else ["there", "missing"]


def unknown_rows(values: Values) -> Array:
    """Whether each row [n] holds a value that the model does not know; of a text, none that it knows."""
    feature, n = values.feature, _rows(values)
    if isinstance(feature, (Id, Categories)):
        rows, codes, _ = _names(values)
        return np.bincount(rows[(codes >= 0) & (codes < feature.first_known)], minlength=n) > 0
    if isinstance(feature, Text):
        all_words, known = _words(feature, values)
        return np.asarray((all_words > 0) & (known == 0))
    if isinstance(feature, Pieces):
        assert isinstance(values.encoded, Ragged)
        return np.bincount(ragged_rows(values.encoded)[values.encoded.values == 1], minlength=n) > 0
    return np.zeros(n, bool)


def known_rows(values: Values) -> Array:
    """Whether each row [n] holds anything that the model knows."""
    feature, n = values.feature, _rows(values)
    if isinstance(feature, (Id, Categories)):
        rows, codes, _ = _names(values)
        return np.bincount(rows[codes >= feature.first_known], minlength=n) > 0
    if isinstance(feature, (Text, Pieces)):
        encoded = values.encoded
        assert isinstance(encoded, Ragged)
        # Of an unknown word some letter pieces may be known.
        known = np.isin(encoded.values, values.state["buckets"]) if isinstance(feature, Text) else encoded.values != 1
        return np.bincount(ragged_rows(encoded)[known], minlength=n) > 0
    return ~missing_rows(values)


def missing_rows(values: Values) -> Array:
    """Whether each row [n] holds nothing."""
    if isinstance(values.feature, History):
        assert values.lengths is not None
        return np.asarray(values.lengths == 0)
    if isinstance(values.encoded, Ragged):
        return np.asarray(lengths_of(values.encoded) == 0)
    encoded = np.asarray(values.encoded)
    return np.asarray(encoded == 0 if encoded.ndim == 1 else encoded[:, -1] != 0)


def _quantity(feature: FeatureOptions) -> bool:
    return isinstance(feature, (Number, Time, History))


def _rows(values: Values) -> int:
    if values.lengths is not None:
        return len(values.lengths)
    assert values.encoded is not None
    return row_count(values.encoded)


def _quantities(values: Values) -> tuple[Array, Array]:
    """(numbers [n], which of them are missing [n]): a history's is its length."""
    if isinstance(values.feature, History):
        assert values.lengths is not None
        return np.asarray(values.lengths, np.float64), np.zeros(len(values.lengths), bool)
    assert values.raw is not None
    numbers = values.feature.normalise(values.raw)
    missing = np.asarray(numbers.is_null())
    return np.nan_to_num(np.asarray(numbers.to_numpy(zero_copy_only=False), np.float64)), missing


def _names(values: Values) -> tuple[Array, Array, Array]:
    """(row, code, share) of each name; a row of none has the code -1."""
    encoded, n = values.encoded, _rows(values)
    if not isinstance(encoded, Ragged):
        codes = np.asarray(encoded, np.int64)
        return np.arange(n), np.where(codes == 0, -1, codes), np.ones(n)
    lengths, rows = lengths_of(encoded), ragged_rows(encoded)
    codes = (encoded.values[:, 0] if encoded.values.ndim == 2 else encoded.values).astype(np.int64)
    none = np.flatnonzero(lengths == 0)
    return np.append(rows, none), np.append(codes, np.full(len(none), -1)), np.append(1 / lengths[rows], np.ones(len(none)))


def _told(values: Values, codes: list[int]) -> list[str]:
    """The texts of these codes; none of ids, which name somebody."""
    if values.feature.type == "id" or values.raw is None:
        return []
    _, found, _ = _names(values)
    column: Any = values.feature.normalise(values.raw)
    if pa.types.is_list(column.type):
        column = column.flatten()
        column = column.field("value") if pa.types.is_struct(column.type) else column
        found = found[: len(column)]
    first = dict(zip(found[::-1].tolist(), np.arange(len(found))[::-1].tolist(), strict=True))
    return [str(column[first[code]].as_py()) for code in codes]


def _words(feature: Text, values: Values) -> tuple[Array, Array]:
    """How many words each text [n] has, and how many of them training texts held, but for what shares a bucket by chance."""
    encoded = values.encoded
    assert isinstance(encoded, Ragged)
    first, size = (int(part[0]) for part in feature.ranges())
    words = (encoded.values >= first) & (encoded.values < first + size)
    known = words & np.isin(encoded.values, values.state["buckets"])
    rows, n = ragged_rows(encoded), _rows(values)
    return np.bincount(rows[words], minlength=n), np.bincount(rows[known], minlength=n)


def _one_each(places: Array) -> tuple[Array, Array, Array]:
    return np.arange(len(places)), np.asarray(places, np.int64), np.ones(len(places))


def _moment(seconds: float) -> str:
    try:
        return str(np.datetime64(int(seconds), "s")).replace("T", " ")
    except (ValueError, OverflowError):
        return f"{seconds:g}"
