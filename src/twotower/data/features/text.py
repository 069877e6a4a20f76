"""Texts as hashed words, word pairs and letter pieces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Le, Lt

from twotower.data.columns import Array, Column, Ragged, distinct, lengths_of, row_count
from twotower.data.features.feature import Form, Part, State
from twotower.data.hashes import hash_words
from twotower.data.values import to_text


@dataclass(frozen=True, kw_only=True)
class Text:
    """Words, word pairs and letter pieces, hashed into a table: no vocabulary, no download, any language.

    words: how many words of a text are read. pieces: the lengths of the letter pieces cut from each word, its two ends
    marked. buckets: what they are hashed into (Weinberger et al. 2009; pieces as in Bojanowski et al. 2017): a quarter holds
    words, a quarter word pairs, the rest pieces. A bucket takes 4 bytes; one that training texts touch, a row of the table.
    dropout: the share of what a text says, words, pairs and pieces alike, that a training step leaves out.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    from_log: ClassVar[bool] = False
    worded: ClassVar[bool] = True
    nested: ClassVar[bool] = False

    column: str
    type: Literal["text"] = "text"
    words: Annotated[int, Ge(1)] = 256
    pairs: bool = True
    pieces: tuple[Annotated[int, Ge(1), Le(12)], ...] = (3, 4, 5)
    buckets: Annotated[int, Ge(64), Le(1 << 26)] = 1 << 20
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    def normalise(self, column: pa.Array) -> pa.Array:
        return to_text(column, exact=False)

    def fit(self, parts: Iterable[Part], last: State | None = None) -> State:
        """The buckets that occur, int32 [t], in how many texts each does, int64 [t], and how many texts there are, int64 [1].

        The counts of an earlier model stay, since what its texts weigh hangs on them. A bucket that is new gets its share of texts.
        """
        counts, texts = np.zeros(self.buckets, np.int64), 0
        for column, _ in parts:
            encoded = self.encode(column, {})
            n = row_count(encoded)
            rows = np.repeat(np.arange(n), lengths_of(encoded))
            once = distinct(rows * self.buckets + encoded.values)
            counts += np.bincount(once % self.buckets, minlength=self.buckets)
            texts += n
        if last is not None:
            before = int(last["texts"][0])
            shares = np.ceil(counts * (before / max(1, texts))).astype(np.int64)
            counts = np.where(counts > 0, np.clip(shares, 1, max(1, before)), 0)
            counts[last["buckets"]], texts = last["counts"], before
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

    def form(self, state: State, dimensions: int) -> Form:
        return Form(np.int64, ragged=True, high=self.buckets)

    def unknown(self, encoded: Column) -> int:
        return 0

    def missing(self, encoded: Column) -> int:
        assert isinstance(encoded, Ragged)
        return int(np.count_nonzero(lengths_of(encoded) == 0))
