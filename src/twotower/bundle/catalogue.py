"""One version of a catalogue, ready to be asked: its items, their vectors, words and index. It never changes."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from twotower.bundle.indexes import AUTO, Grown, Thinned, saved_index
from twotower.bundle.layout import Bundle
from twotower.bundle.memory import Memory
from twotower.bundle.narrowing import Masks
from twotower.data.columns import Array
from twotower.data.prepared import ID
from twotower.data.values import to_array, to_text
from twotower.errors import BundleError, DataError, MissingExtra, choices
from twotower.search.index import INDEXES, Chosen, Exact, Index
from twotower.search.lexical import Lexical, Words, one_behind_another
from twotower.search.lexical import taken as taken_words
from twotower.search.vectors import Vectors, concatenated, taken

logger = logging.getLogger("twotower")


class Catalogue:
    """The items that one version of a bundle's catalogue holds, numbered as its segments have them one behind another."""

    def __init__(self, bundle: Bundle, index: str, width: int | None = None) -> None:
        self.bundle = bundle
        if bundle.alone:
            known = bundle.segments[0] if bundle.segments else None
            self.history = None if known is None else Memory.of(bundle.encoder, known.items.column(ID), known.vectors)
            return
        # Of one whole segment nothing is copied: its vectors stay on disk until they are read.
        kept = self.stored if len(bundle.removed) else None
        self.items: pa.Table = _kept(items_of(bundle), kept)
        whole = vectors_of(bundle, kept)
        self.vectors = whole if width is None else taken(whole).narrowed(width, unit=bundle.model["similarity"] == "cosine")
        self.ids = self.items.column(ID)
        self.index, self.chosen = _index(self, "exact" if width is not None and index == AUTO else index)
        self.history = Memory.of(bundle.encoder, self.ids, whole)
        self.masks = Masks()
        self._rows_by_id: dict[str, int] | None = None

    def __len__(self) -> int:
        return int(self.items.num_rows)

    @property
    def worded(self) -> bool:
        """Whether it can be searched by words."""
        return self.bundle.segments[0].words is not None

    @cached_property
    def lexical(self) -> Lexical | None:
        """The words of the items, weighed together when they are first searched."""
        return _lexical(self.bundle, self.stored if len(self.bundle.removed) else None)

    @property
    def stored(self) -> Array:
        """For each row, int64 [n], which of the segments' rows it is, these one behind another."""
        return stored_rows(self.bundle)

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


def stored_rows(bundle: Bundle) -> Array:
    """Which of the segments' rows, one behind another, a version holds: int64 [n], rising."""
    return np.delete(np.arange(sum(segment.items.num_rows for segment in bundle.segments)), bundle.removed)


def items_of(bundle: Bundle) -> pa.Table:
    """The rows of all segments, one behind another; whole numbers of one and fractions of another are numbers."""
    return pa.concat_tables([segment.items for segment in bundle.segments], promote_options="permissive")


def _index(now: Catalogue, kind: str) -> tuple[Index, Chosen | None]:
    """What searches the vectors, and what is known of it: for "auto" the index that the bundle keeps of its first segment, else exact search."""
    if kind != AUTO:
        return INDEXES[kind](now.vectors), None
    bundle, first = now.bundle, now.bundle.segments[0].vectors
    try:
        saved = saved_index(bundle.folder, first, bundle.catalogue["segments"][0])
    except MissingExtra as error:
        logger.warning("%s; until then the index that %s keeps is not used, and search is exact", error, bundle.folder)
        saved = None
    if saved is None:
        return Exact(now.vectors), None
    index, chosen = saved
    rows = now.stored[: np.searchsorted(now.stored, len(first))]
    return Grown(index if len(rows) == len(first) else Thinned(index, rows), len(rows), now.vectors[len(rows) :]), chosen


def _kept(items: pa.Table, kept: Array | None) -> pa.Table:
    return items if kept is None else items.take(pa.array(kept))


def vectors_of(bundle: Bundle, kept: Array | None) -> Array | Vectors:
    """The vectors of these rows of the segments, one behind another, or of all: float32 as an array, otherwise as they are stored."""
    parts = [segment.vectors for segment in bundle.segments]
    if len(parts) == 1:
        whole = parts[0]
    elif all(isinstance(part, np.ndarray) for part in parts):
        whole = np.concatenate(parts)
    else:
        whole = concatenated([taken(part) for part in parts])
    if kept is None:
        return whole
    if isinstance(whole, Vectors):
        return Vectors(whole.values[kept], None if whole.scales is None else whole.scales[kept])
    return np.asarray(whole[kept])


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
    return Lexical.weighed(joined if kept is None else taken_words(joined, kept))
