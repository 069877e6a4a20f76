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
from twotower.data.features import History
from twotower.data.prepared import ID
from twotower.data.values import to_array, to_text
from twotower.errors import BundleError, DataError, MissingExtra, choices
from twotower.search.index import INDEXES, Approximate, Chosen, Exact, Index
from twotower.search.lexical import Lexical, Words, one_behind_another
from twotower.search.lexical import taken as taken_words
from twotower.search.vectors import Vectors, concatenated, taken

logger = logging.getLogger("twotower")


class Catalogue:
    """The items that one version of a bundle's catalogue holds, numbered as its segments have them one behind another."""

    def __init__(self, bundle: Bundle, index: str, width: int | None = None) -> None:
        self.bundle, self._kind, self._width = bundle, index, width
        self.masks = Masks()
        self._rows_by_id: dict[str, int] | None = None
        self._saved = None if bundle.alone or index != AUTO or width is not None else _saved(bundle)
        if not bundle.alone and index not in (AUTO, "exact"):
            self.index  # noqa: B018 - built now, as whoever names it expects

    # What follows is made when it is first asked for: to write the next version takes few of the rows, and of several segments a copy is large.

    @cached_property
    def items(self) -> pa.Table:
        """`_id` and the columns to show, a row an item."""
        whole = items_of(self.bundle)
        return whole if self._left is None else whole.take(pa.array(self._left))

    @cached_property
    def ids(self) -> pa.ChunkedArray | pa.Array:
        """The ids [n]; where they lie in one piece as that, from which a few are taken several times as fast."""
        column = self.items.column(ID)
        return column.chunk(0) if column.num_chunks == 1 else column

    @cached_property
    def vectors(self) -> Array | Vectors:
        """The vectors [n, d] that are searched, cut to the width that is asked for."""
        if self._width is None:
            return self._whole
        return taken(self._whole).narrowed(self._width, unit=self.bundle.model["similarity"] == "cosine")

    @property
    def index(self) -> Index:
        """What searches the vectors."""
        return self._indexed[0]

    @property
    def chosen(self) -> Chosen | None:
        """What is known of the index, where the bundle keeps one."""
        return self._indexed[1]

    @cached_property
    def history(self) -> Memory | None:
        """What reads the histories of queries, for a model that knows who asks by one."""
        if not any(isinstance(feature, History) for feature in self.bundle.encoder.features["query"]):
            return None
        if self.bundle.alone:
            known = self.bundle.segments[0]
            return Memory.of(self.bundle.encoder, known.items.column(ID), known.vectors)
        return Memory.of(self.bundle.encoder, self.ids, self._whole)

    @cached_property
    def _whole(self) -> Array | Vectors:
        return vectors_of(self.bundle, self._left)

    @cached_property
    def _indexed(self) -> tuple[Index, Chosen | None]:
        if self._kind not in (AUTO, "exact"):
            return INDEXES[self._kind](self.vectors), None
        if self._saved is None:
            return Exact(self.vectors), None
        index, chosen = self._saved
        first = self.bundle.segments[0].items.num_rows
        rows = self.stored[: np.searchsorted(self.stored, first)]
        return Grown(index if len(rows) == first else Thinned(index, rows), len(rows), self.vectors[len(rows) :]), chosen

    @property
    def _left(self) -> Array | None:
        """The rows that are left where some are left out. Of one whole segment nothing is copied: its vectors stay on disk until they are read."""
        return self.stored if len(self.bundle.removed) else None

    def __len__(self) -> int:
        return int(self.bundle.catalogue["rows"])

    @property
    def worded(self) -> bool:
        """Whether it can be searched by words."""
        return self.bundle.segments[0].words is not None

    @cached_property
    def lexical(self) -> Lexical | None:
        """The words of the items, weighed together when they are first searched."""
        return _lexical(self.bundle, self._left)

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


def _saved(bundle: Bundle) -> tuple[Approximate, Chosen] | None:
    """The index that the bundle keeps of its first segment, and what is known of it."""
    try:
        return saved_index(bundle.folder, bundle.segments[0].vectors, bundle.catalogue["segments"][0])
    except MissingExtra as error:
        logger.warning("%s; until then the index that %s keeps is not used, and search is exact", error, bundle.folder)
        return None


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


def vectors_at(bundle: Bundle, stored: Array) -> Array:
    """The vectors float32 [m, d] of some of the segments' rows, these one behind another."""
    found = np.empty((len(stored), bundle.dimensions), np.float32)
    start = 0
    for segment in bundle.segments:
        own = np.flatnonzero((stored >= start) & (stored < start + segment.items.num_rows))
        found[own] = segment.vectors[stored[own] - start]
        start += segment.items.num_rows
    return found


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
