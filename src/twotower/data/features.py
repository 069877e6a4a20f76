"""The kinds of column that a tower can read: how each is fitted and turned into numbers.

To add one: a frozen dataclass here with `fit`, `encode` and `unknown`, its entry in `FEATURES`, and its layer of the same
name in `model/layers.py`. What a feature is declared to be is its fields; what the data taught it is its state, a dict of
arrays that is saved with the model. `encode` is the only code that turns raw values into numbers, in training and at look-up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Le

from twotower.data.columns import Array, Column, Ragged, distinct, lengths_of, row_count
from twotower.data.hashes import hash_texts, hash_words
from twotower.data.values import to_text
from twotower.errors import DataError

State = Mapping[str, Array]

MISSING, UNKNOWN, FIRST_KNOWN = 0, 1, 2  # codes of ids and categories: known values are numbered from 2


class Feature(Protocol):
    """A typed column of one side."""

    @property
    def column(self) -> str:
        """The name of the raw column."""
        ...

    @property
    def type(self) -> str:
        """Its key in FEATURES and in LAYERS."""
        ...

    def normalise(self, column: pa.Array) -> pa.Array:
        """Raw values in the one Arrow type of this feature; normalising twice changes nothing."""
        ...

    def fit(self, columns: Iterable[pa.Array]) -> State:
        """Learn the state from normalised values, streamed."""
        ...

    def encode(self, column: pa.Array, state: State) -> Column:
        """Raw values [n] as numbers, n rows."""
        ...

    def unknown(self, encoded: Column) -> int:
        """How many of the encoded rows hold a value that the state does not know."""
        ...


@dataclass(frozen=True, kw_only=True)
class Id:
    """A name of one thing out of many: a user, a product. Each known value has its own embedding.

    unknown_values: what a value not seen in fitting gets at look-up: the `shared` vector of unknowns, or an `error`. Held-out
    rows of the training data always share, and are counted, so that every split can be measured.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    column: str
    type: Literal["id"] = "id"
    unknown_values: Literal["shared", "error"] = "shared"

    def normalise(self, column: pa.Array) -> pa.Array:
        return to_text(column)

    def fit(self, columns: Iterable[pa.Array]) -> State:
        found = [distinct(hash_texts(self.normalise(column).drop_null().to_pylist())) for column in columns]
        return {"hashes": distinct(np.concatenate([np.empty(0, np.uint64), *found]))}

    def encode(self, column: pa.Array, state: State) -> Array:
        """Codes int64 [n]: 0 missing, 1 unknown, from 2 the known values in the order of their hashes."""
        texts = self.normalise(column)
        known = state["hashes"]
        codes = np.full(len(texts), MISSING, np.int64)
        present = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
        if len(present):
            hashes = hash_texts(texts.drop_null().to_pylist())
            place = np.searchsorted(known, hashes)
            found = place < len(known)
            found[found] = known[place[found]] == hashes[found]
            codes[present] = np.where(found, place + FIRST_KNOWN, UNKNOWN)
            if self.unknown_values == "error" and not found.all():
                value = texts.drop_null()[int(np.flatnonzero(~found)[0])].as_py()
                raise DataError(
                    f'column "{self.column}" holds {value!r}, which the model has never seen, and its unknown_values is "error". '
                    'Remove such rows, train again with them, or set unknown_values = "shared".'
                )
        return codes

    def unknown(self, encoded: Column) -> int:
        return int(np.count_nonzero(np.asarray(encoded) == UNKNOWN))


@dataclass(frozen=True, kw_only=True)
class Category(Id):
    """One of a handful of values: a country, a device, a platform. Each has its own, small embedding."""

    type: Literal["category"] = "category"  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Text:
    """Words, word pairs and letter pieces, hashed into a table: no vocabulary, no download, any language.

    words: how many words of a text are read. pieces: the lengths of the letter pieces cut from each word, its two ends
    marked. buckets: what they are hashed into (Weinberger et al. 2009; pieces as in Bojanowski et al. 2017): a quarter holds
    words, a quarter word pairs, the rest pieces. A bucket takes 4 bytes; one that training texts touch, a row of the table.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    column: str
    type: Literal["text"] = "text"
    words: Annotated[int, Ge(1)] = 256
    pairs: bool = True
    pieces: tuple[Annotated[int, Ge(1), Le(12)], ...] = (3, 4, 5)
    buckets: Annotated[int, Ge(64), Le(1 << 26)] = 1 << 20

    def normalise(self, column: pa.Array) -> pa.Array:
        return to_text(column, exact=False)

    def fit(self, columns: Iterable[pa.Array]) -> State:
        """The buckets that occur, int32 [t], in how many texts each does, int64 [t], and how many texts there are, int64 [1]."""
        counts, texts = np.zeros(self.buckets, np.int64), 0
        for column in columns:
            encoded = self.encode(column, {})
            n = row_count(encoded)
            rows = np.repeat(np.arange(n), lengths_of(encoded))
            once = distinct(rows * self.buckets + encoded.values)
            counts += np.bincount(once % self.buckets, minlength=self.buckets)
            texts += n
        touched = np.flatnonzero(counts)
        return {"buckets": touched.astype(np.int32), "counts": counts[touched], "texts": np.array([texts], np.int64)}

    def encode(self, column: pa.Array, state: State) -> Ragged:
        """Buckets, int32 in 1..buckets - 1; 0 is left for padding. A missing text has none."""
        texts = [text or "" for text in self.normalise(column).to_pylist()]
        hashed = hash_words(texts, pairs=self.pairs, pieces=self.pieces, limit=self.words)
        first, size = (bounds[hashed.kinds] for bounds in self.ranges())
        return Ragged((hashed.values % size + first).astype(np.int32), hashed.offsets)

    def ranges(self) -> tuple[Array, Array]:
        """(first bucket, number of buckets) of words, pairs and pieces: uint64 [3] each."""
        quarter = self.buckets // 4
        return np.array([1, quarter, 2 * quarter], np.uint64), np.array([quarter - 1, quarter, self.buckets - 2 * quarter], np.uint64)

    def unknown(self, encoded: Column) -> int:
        return 0


FEATURES: dict[str, type[Id] | type[Category] | type[Text]] = {"id": Id, "category": Category, "text": Text}
