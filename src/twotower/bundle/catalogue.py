"""One version of a catalogue, ready to be asked: its items, their vectors, words and index. It never changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from twotower.bundle.layout import Bundle
from twotower.bundle.memory import Memory
from twotower.bundle.narrowing import Masks
from twotower.data.columns import Array
from twotower.data.prepared import ID
from twotower.data.values import to_array, to_text
from twotower.errors import BundleError, DataError, choices
from twotower.search.index import INDEXES, Index
from twotower.search.lexical import Lexical, Words, one_behind_another, taken


class Catalogue:
    """The items that one version of a bundle's catalogue holds, numbered as its segments have them one behind another."""

    def __init__(self, bundle: Bundle, index: str) -> None:
        self.bundle = bundle
        if bundle.alone:
            known = bundle.segments[0] if bundle.segments else None
            self.history = None if known is None else Memory.of(bundle.encoder, known.items.column(ID), known.vectors)
            return
        # Of one whole segment nothing is copied: its vectors stay on disk until they are read.
        kept = self.stored if len(bundle.removed) else None
        self.items: pa.Table = _kept(items_of(bundle), kept)
        self.vectors = _vectors(bundle, kept)
        self.ids = self.items.column(ID)
        self.lexical = _lexical(bundle, kept)
        self.index: Index = INDEXES[index](self.vectors)
        self.history = Memory.of(bundle.encoder, self.ids, self.vectors)
        self.masks = Masks()
        self._rows_by_id: dict[str, int] | None = None

    def __len__(self) -> int:
        return int(self.items.num_rows)

    @property
    def stored(self) -> Array:
        """For each row, int64 [n], which of the segments' rows it is, these one behind another."""
        return np.delete(np.arange(sum(segment.items.num_rows for segment in self.bundle.segments)), self.bundle.removed)

    def rows_of(self, ids: list[Any]) -> Array:
        """The rows int64 [n] of item ids. Raises DataError for one that is not there."""
        rows = self.find(to_array(ids))
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            unknown = ids[int(missing[0])]
            raise DataError(f"the catalogue has no item {unknown!r}; {choices(list(self._known())[:2000], str(unknown), most=3)}")
        return rows

    def find(self, ids: pa.Array | pa.ChunkedArray) -> Array:
        """The rows int64 [n] of ids, -1 where there is none."""
        known = self._known()
        return np.array([known.get(text, -1) for text in to_text(ids).to_pylist()], np.int64)

    def _known(self) -> dict[str, int]:
        # Two threads may both build it; they build the same, and either may stay.
        if self._rows_by_id is None:
            self._rows_by_id = {text: row for row, text in enumerate(to_text(self.ids).to_pylist())}
        return self._rows_by_id


def items_of(bundle: Bundle) -> pa.Table:
    """The rows of all segments, one behind another; whole numbers of one and fractions of another are numbers."""
    return pa.concat_tables([segment.items for segment in bundle.segments], promote_options="permissive")


def _kept(items: pa.Table, kept: Array | None) -> pa.Table:
    return items if kept is None else items.take(pa.array(kept))


def _vectors(bundle: Bundle, kept: Array | None) -> Array:
    if len(bundle.segments) == 1:
        return bundle.segments[0].vectors if kept is None else np.asarray(bundle.segments[0].vectors[kept])
    whole = np.concatenate([segment.vectors for segment in bundle.segments])
    return whole if kept is None else whole[kept]


def _lexical(bundle: Bundle, kept: Array | None) -> Lexical | None:
    """The words of all items, weighed together."""
    words = [segment.words for segment in bundle.segments]
    if words[0] is None:
        return None
    if isinstance(words[0], Lexical):
        return words[0]
    if not all(isinstance(each, Words) for each in words):
        raise BundleError(f"{bundle.folder} has segments with words and others without: copy the whole bundle again")
    counts = [each.together() for each in words if isinstance(each, Words)]
    joined = counts[0] if len(counts) == 1 else one_behind_another(counts)
    return Lexical.weighed(joined if kept is None else taken(joined, kept))
