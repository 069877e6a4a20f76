"""Names of things: one of many (`id`), one of a handful (`category`), several at once (`categories`)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Lt, MinLen

from twotower.data.columns import Array, Column, Ragged, lengths_of, offsets_of
from twotower.data.features.feature import Form, Part, State, unreadable
from twotower.data.hashes import hash_texts
from twotower.data.values import as_texts, to_array, to_text
from twotower.errors import DataError

MISSING, UNKNOWN = 0, 1  # codes: then come the buckets of unknown values, then the known ones


@dataclass(frozen=True, kw_only=True)
class Id:
    """A name of one thing out of many: a user, a product. Each known value has its own embedding.

    minimum: the training pairs that a value needs to be known. buckets: how many vectors the unknown values share, by their
    hash. dropout: the share of known ids that a training step takes for unknown: content then carries what ids cannot, and an
    unknown id gets a vector that was trained. unknown_values: whether a value not seen in training is `shared` at look-up or an
    `error`; held-out rows always share, and are counted. table: features of one table name share vocabulary and embeddings.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    from_log: ClassVar[bool] = False
    worded: ClassVar[bool] = False
    nested: ClassVar[bool] = False

    column: str
    type: Literal["id"] = "id"
    unknown_values: Literal["shared", "error"] = "shared"
    minimum: Annotated[int, Ge(1)] = 1
    buckets: Annotated[int, Ge(1)] = 1
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    table: str | None = None

    def normalise(self, column: pa.Array) -> pa.Array:
        return to_text(column)

    def named(self, column: pa.Array, counts: Array) -> Part:
        """The canonical values in these rows [n] and the training pairs of each: what a vocabulary is learnt of."""
        return self.normalise(column), counts

    def fit(self, parts: Iterable[Part], last: State | None = None) -> State:
        """The hashes of the known values, uint64, in rising order."""
        return vocabulary((self.named(*part) for part in parts), self.minimum, last)

    def encode(self, column: pa.Array, state: State) -> Array:
        """Codes int64 [n]: 0 missing, 1..buckets unknown, then the known values in the order of their hashes."""
        texts = self.normalise(column)
        codes = np.full(len(texts), MISSING, np.int64)
        present = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
        if len(present):
            codes[present] = _codes(self, texts.drop_null(), state["hashes"])
        return codes

    def form(self, state: State, dimensions: int) -> Form:
        return Form(np.int64, high=self.first_known + len(state["hashes"]))

    @property
    def first_known(self) -> int:
        """The code of the first known value."""
        return UNKNOWN + self.buckets

    def unknown(self, encoded: Column) -> int:
        codes = np.asarray(encoded)
        return int(np.count_nonzero((codes >= UNKNOWN) & (codes < self.first_known)))

    def missing(self, encoded: Column) -> int:
        return int(np.count_nonzero(np.asarray(encoded) == MISSING))


@dataclass(frozen=True, kw_only=True)
class Category(Id):
    """One of a handful of values: a country, a device, a platform. Each has its own, small embedding."""

    type: Literal["category"] = "category"  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Categories:
    """Several values at once: genres, tags. Their embeddings are pooled.

    pool: by `mean`, `sum`, or a `weighted` mean, whose values come with weights, as {"drama": 0.7, "war": 0.3} or
    drama:0.7|war:0.3. separator: between the values where they stand in one text. The rest is as for `id`.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    from_log: ClassVar[bool] = False
    worded: ClassVar[bool] = False
    nested: ClassVar[bool] = True

    column: str
    type: Literal["categories"] = "categories"
    pool: Literal["mean", "sum", "weighted"] = "mean"
    separator: Annotated[str, MinLen(1)] = "|"
    unknown_values: Literal["shared", "error"] = "shared"
    minimum: Annotated[int, Ge(1)] = 1
    buckets: Annotated[int, Ge(1)] = 1
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    table: str | None = None

    @property
    def first_known(self) -> int:
        """The code of the first known value."""
        return UNKNOWN + self.buckets

    def normalise(self, column: pa.Array) -> pa.Array:
        """Lists of texts, or of texts with weights; null where there is none."""
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        if pa.types.is_list_view(kind):
            column, kind = pa.array(column.to_pylist(), pa.list_(kind.value_type)), pa.list_(kind.value_type)
        if self.pool == "weighted":
            return _reweighted(self.column, column) if kind == WEIGHTED else _weighted(self.column, column, self.separator)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            return _listed(column.cast(pa.list_(kind.value_type)) if not pa.types.is_list(kind) else column)
        texts = to_text(column, exact=False)
        if pc.any(pc.starts_with(texts, "["), min_count=0).as_py():
            return _from_json(self.column, texts, self.separator)
        return _listed(pc.split_pattern(texts, self.separator))

    def named(self, column: pa.Array, counts: Array) -> Part:
        """All the canonical values in these rows [n] and the training pairs of each: what a vocabulary is learnt of."""
        lists = self.normalise(column)
        return _values(lists)[0], np.repeat(counts, _lengths(lists))

    def fit(self, parts: Iterable[Part], last: State | None = None) -> State:
        """The hashes of the known values, uint64, in rising order."""
        return vocabulary((self.named(*part) for part in parts), self.minimum, last)

    def encode(self, column: pa.Array, state: State) -> Ragged:
        """Codes int64, or (code, weight) float64 [, 2] where they are weighted. A missing value has none."""
        lists = self.normalise(column)
        texts, weights = _values(lists)
        codes = _codes(self, texts, state["hashes"]) if len(texts) else np.empty(0, np.int64)
        offsets = offsets_of(_lengths(lists))
        if self.pool == "weighted":
            return Ragged(np.stack([codes.astype(np.float64), _comparable(weights, offsets)], axis=1), offsets)
        return Ragged(codes, offsets)

    def form(self, state: State, dimensions: int) -> Form:
        high = self.first_known + len(state["hashes"])
        return Form(np.float64, ragged=True, width=2, high=high) if self.pool == "weighted" else Form(np.int64, ragged=True, high=high)

    def unknown(self, encoded: Column) -> int:
        assert isinstance(encoded, Ragged)
        codes = encoded.values[:, 0] if encoded.values.ndim == 2 else encoded.values
        new = (codes >= UNKNOWN) & (codes < self.first_known)
        return len(np.unique(np.searchsorted(encoded.offsets, np.flatnonzero(new), "right")))

    def missing(self, encoded: Column) -> int:
        assert isinstance(encoded, Ragged)
        return int(np.count_nonzero(lengths_of(encoded) == 0))


def vocabulary(parts: Iterable[Part], minimum: int, last: State | None = None) -> State:
    """The hashes of the texts that enough pairs name, of one feature or of several that share a table; what was known before stays known."""
    hashes, counts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for texts, pairs in parts:
        present = np.asarray(texts.is_valid())
        values = hash_texts(texts.drop_null().to_pylist())
        known, place = np.unique(values, return_inverse=True)
        hashes.append(known)
        counts.append(np.bincount(place, weights=pairs[present], minlength=len(known)).astype(np.int64))
    every, place = np.unique(np.concatenate(hashes), return_inverse=True)
    total = np.bincount(place, weights=np.concatenate(counts), minlength=len(every))
    known = every[total >= minimum]
    return {"hashes": known if last is None else np.union1d(last["hashes"], known)}


def _codes(feature: Id | Categories, texts: pa.Array, known: Array) -> Array:
    """The code of each text [n], none of them missing."""
    hashes = hash_texts(texts.to_pylist())
    place = np.searchsorted(known, hashes)
    found = place < len(known)
    found[found] = known[place[found]] == hashes[found]
    if feature.unknown_values == "error" and not found.all():
        value = texts[int(np.flatnonzero(~found)[0])].as_py()
        raise DataError(
            f'column "{feature.column}" holds {value!r}, which the model has never seen, and its unknown_values is "error". '
            'Remove such rows, train again with them, or set unknown_values = "shared".'
        )
    shared = UNKNOWN + (hashes % np.uint64(feature.buckets)).astype(np.int64)
    return np.where(found, place + feature.first_known, shared)


# --- several values -----------------------------------------------------------------------------------------------

LEAST, MOST = 1e-6, 1e30  # of the largest weight of a row; a smaller sum counts as LEAST where a mean is taken
WEIGHTED = pa.list_(pa.struct([("value", pa.string()), ("weight", pa.float64())]))


def _lengths(lists: pa.Array) -> Array:
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)


def _values(lists: pa.Array) -> tuple[pa.Array, Array]:
    """All the values of lists, and their weights, 1 where none are given."""
    flat = lists.flatten()
    if pa.types.is_struct(flat.type):
        return flat.field("value"), np.asarray(flat.field("weight"))
    return flat, np.ones(len(flat))


def _comparable(weights: Array, offsets: Array) -> Array:
    """Weights whose sums a float32 can hold: a row's mean stays what it is where all of its weights are divided by one number."""
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    largest = np.zeros(len(offsets) - 1)
    np.maximum.at(largest, rows, np.abs(weights))
    odd = (largest > MOST) | ((largest > 0) & (largest < LEAST))
    return np.asarray(weights / np.where(odd, largest, 1.0)[rows])


def _listed(lists: pa.Array) -> pa.Array:
    """Lists of any plain values as lists of canonical texts; empty values are left out, and a list of none is null."""
    texts = to_text(lists.flatten())
    rows = np.repeat(np.arange(len(lists)), _lengths(lists))
    return _rebuilt(texts, rows, len(lists))


def _reweighted(column: str, lists: pa.Array) -> pa.Array:
    """Lists of values with weights, their values made canonical; what has no value or no weight is left out."""
    values, weights = lists.flatten().flatten()
    rows = np.repeat(np.arange(len(lists)), _lengths(lists))
    endless = ~np.asarray(pc.fill_null(pc.is_finite(weights), True))
    if endless.any():
        raise unreadable(column, np.bincount(rows[endless], minlength=len(lists)) > 0, lists, _WEIGHTED_WANTED)
    texts = pc.if_else(weights.is_valid(), to_text(values), pa.scalar(None, pa.string()))
    return _rebuilt(texts, rows, len(lists), np.asarray(pc.fill_null(weights, 0.0)))


def _rebuilt(texts: pa.Array, rows: Array, n: int, weights: Array | None = None) -> pa.Array:
    """n lists of the texts that are there, each in the row that is its."""
    kept = np.asarray(texts.is_valid())
    counts = np.bincount(rows[kept], minlength=n)
    values: pa.Array = texts.filter(pa.array(kept))
    if weights is not None:
        values = pa.StructArray.from_arrays([values, pa.array(weights[kept], pa.float64())], ["value", "weight"])
    offsets = pa.array(offsets_of(counts), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(counts == 0))


def _parsed(column: str, texts: pa.Array, wanted: str, kinds: tuple[type, ...]) -> list[Any]:
    """Texts of JSON as Python values, None where one is missing; any other kind raises Unreadable."""
    found: list[Any] = []
    bad = np.zeros(len(texts), bool)
    for row, text in enumerate(texts.to_pylist()):
        try:
            found.append(None if text is None else json.loads(text))
        except (ValueError, RecursionError):
            found.append(None)
            bad[row] = True
        bad[row] |= found[-1] is not None and not isinstance(found[-1], kinds)
    if bad.any():
        raise unreadable(column, bad, texts, wanted)
    return found


def _from_json(column: str, texts: pa.Array, separator: str) -> pa.Array:
    """Texts of which some are JSON lists and others separated."""
    json_rows = np.asarray(pc.fill_null(pc.starts_with(texts, "["), False))
    lists = _parsed(column, pc.if_else(pa.array(json_rows), texts, None), f'list of values, as in ["a", "b"] or a{separator}b', (list,))
    rest = pc.split_pattern(texts, separator).to_pylist()
    every = [found if is_json else other for found, other, is_json in zip(lists, rest, json_rows, strict=True)]
    bad = np.array([any(isinstance(value, (list, dict)) for value in row or ()) for row in every], bool)
    if bad.any():
        raise unreadable(column, bad, texts, "list of plain values")
    rows = np.repeat(np.arange(len(every)), [len(row or ()) for row in every])
    return _rebuilt(to_text(to_array([value for row in every for value in row or ()])), rows, len(every))


_WEIGHTED_WANTED = 'set of weighted values, as in {"drama": 0.7, "war": 0.3} or drama:0.7|war:0.3'


def _weighted(column: str, values: pa.Array, separator: str) -> pa.Array:
    """Maps, structs and texts as lists of values with weights."""
    if pa.types.is_map(values.type) or pa.types.is_nested(values.type):
        found = [_entries(row) for row in values.to_pylist()]
    else:
        texts = to_text(values, exact=False)
        found = [_written(text, separator) for text in texts.to_pylist()]
    bad = np.array([entries is None for entries in found], bool)
    if bad.any():
        raise unreadable(column, bad, values, _WEIGHTED_WANTED)
    rows = np.repeat(np.arange(len(found)), [len(entries or ()) for entries in found])
    flat = [entry for entries in found for entry in entries or ()]
    texts = to_text(as_texts([name for name, _ in flat]))
    return _rebuilt(texts, rows, len(found), np.array([weight for _, weight in flat], np.float64))


def _entries(row: Any) -> list[tuple[Any, float]] | None:
    """(value, weight) of a dict, or of a list of pairs, structs and plain values, whose weight is 1; None where it is none of them."""
    if row is None:
        return []
    entries = list(row.items()) if isinstance(row, dict) else row
    try:
        pairs = [_entry(entry) for entry in entries]
        found = [(name, float(weight)) for name, weight in pairs if weight is not None]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if all(np.isfinite(weight) for _, weight in found) else None


def _entry(entry: Any) -> tuple[Any, Any]:
    """A value and its weight. Raises TypeError or ValueError where it is neither a pair nor a plain value."""
    if isinstance(entry, dict):
        entry = (entry["value"], entry["weight"]) if entry.keys() == {"value", "weight"} else tuple(entry.values())
    name, weight = entry if isinstance(entry, (list, tuple)) else (entry, 1.0)
    if isinstance(name, (dict, list, tuple, bytes)):
        raise TypeError
    return name, weight


def _written(text: str | None, separator: str) -> list[tuple[Any, float]] | None:
    """(value, weight) of a text: JSON, or value:weight with separators; a value without a weight has 1."""
    if text is None:
        return []
    if text.startswith(("{", "[")):
        try:
            return _entries(json.loads(text))
        except (ValueError, RecursionError):
            return None
    entries = []
    for part in text.split(separator):
        name, colon, weight = part.rpartition(":")
        entries.append((name, weight) if colon else (part, 1.0))
    return _entries(entries)
