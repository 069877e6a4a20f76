"""What a query touched before, at look-up: ids of items become what the query tower reads in their place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array, Ragged, lengths_of, offsets_of, ragged_rows, spans
from twotower.data.encoder import Encoder
from twotower.data.features import History
from twotower.data.hashes import hash_texts
from twotower.data.histories import stand_in
from twotower.data.schema import feature_name
from twotower.data.values import to_text
from twotower.search.index import Hits, no_hits
from twotower.search.vectors import Vectors

MOST = 1 << 31  # items of a history: all of them
EXAMPLES = 3


class Memory:
    """How the histories of queries become what the query tower reads: by the ids of the catalogue that is searched."""

    def __init__(self, feature: History, ids: pa.Array, stand_ins: Array | Vectors) -> None:
        self.feature, self.name, self.column_name = feature, feature_name(feature), feature.column
        hashes = hash_texts([text or "" for text in ids.to_pylist()])
        self.order = np.argsort(hashes, kind="stable")
        self.hashes = hashes[self.order]
        self.stand_ins = stand_ins  # [items] codes, or [items, d] vectors

    @classmethod
    def of(cls, encoder: Encoder, ids: pa.ChunkedArray, vectors: Array | Vectors) -> Memory | None:
        """The memory of a catalogue, or None where the model reads no history."""
        feature = next((f for f in encoder.features["query"] if isinstance(f, History)), None)
        if feature is None:
            return None
        texts = to_text(ids)
        if feature.items == "tower":
            return cls(feature, texts, vectors)
        named = encoder.item_id
        assert named is not None  # else there would be no table to train
        codes = replace(named, unknown_values="shared").encode(texts, encoder.states["item"][feature_name(named)])
        return cls(feature, texts, codes)

    def rows(self, hashes: Ragged) -> Ragged:
        """The catalogue rows of item ids given by their hashes; those that it does not hold are passed over."""
        rows = self.find(hashes.values)
        known = rows >= 0
        lengths = np.bincount(ragged_rows(hashes)[known], minlength=len(hashes.offsets) - 1)
        return Ragged(rows[known], offsets_of(lengths))

    def find(self, hashes: Array) -> Array:
        """The catalogue row int64 [n] of each hash, -1 where there is none."""
        place = np.searchsorted(self.hashes, hashes)
        known = place < len(self.hashes)
        known[known] = self.hashes[place[known]] == hashes[known]
        rows = np.full(len(hashes), -1, np.int64)
        rows[known] = self.order[place[known]]
        return rows

    def column(self, hashes: Ragged) -> Ragged:
        """What stands for the last items of each history that the catalogue holds: their vectors, or their codes."""
        rows = self.rows(hashes)
        lengths = np.minimum(lengths_of(rows), self.feature.last)
        last = Ragged(rows.values[spans(rows.offsets[1:] - lengths, lengths)], offsets_of(lengths))
        return stand_in(last, self.stand_ins)

    def named(self, table: pa.Table) -> Ragged:
        """The hashes of all ids that the histories of these queries name, however long they are."""
        if self.column_name not in table.column_names:
            return Ragged(np.empty(0, np.uint64), np.zeros(table.num_rows + 1, np.int64))
        return replace(self.feature, last=MOST).encode(table.column(self.column_name).combine_chunks(), {})

    def known(self, table: pa.Table) -> Ragged:
        """The catalogue rows of all that the histories of these queries name."""
        return self.rows(self.named(table))


class Strangers:
    """Counts what the histories of a file name and the catalogue lacks, part by part: ids that were cut wrongly look like that."""

    def __init__(self, memory: Memory | None) -> None:
        self.memory, self.items, self.rows = memory, 0, 0  # rows: that name nothing else
        self.examples: list[str] = []

    def add(self, table: pa.Table) -> None:
        """Count those of some rows of the file."""
        memory = self.memory
        if memory is None or memory.column_name not in table.column_names:
            return
        named = memory.named(table)
        lacking = memory.find(named.values) < 0
        each = np.bincount(ragged_rows(named)[lacking], minlength=table.num_rows)
        self.items += int(lacking.sum())
        self.rows += int(((each > 0) & (each == lengths_of(named))).sum())
        if lacking.any() and len(self.examples) < EXAMPLES:
            texts = memory.feature.normalise(table.column(memory.column_name).combine_chunks()).flatten()
            self.examples += texts.filter(pa.array(lacking)).unique().to_pylist()[: EXAMPLES - len(self.examples)]

    def told(self) -> str:
        """What was counted, in a sentence; nothing where the catalogue holds all."""
        if self.memory is None or not self.items:
            return ""
        alone = f"; {self.rows:,} row{'s name' if self.rows != 1 else ' names'} nothing else" if self.rows else ""
        return (
            f'the catalogue lacks {self.items:,} of the ids in "{self.memory.column_name}", such as {", ".join(map(repr, self.examples))}, and they '
            f'are passed over{alone}. Several ids are written as 13|14 or as JSON, ["13", "14"].'
        )


def without(hits: Hits, known: Ragged, k: int) -> Hits:
    """The first k hits [q, k] that are none of the rows known for their query [q]."""
    found = no_hits(len(hits.rows), k)
    for query, (rows, scores) in enumerate(zip(*hits, strict=True)):
        kept = np.flatnonzero(~np.isin(rows, known.values[known.offsets[query] : known.offsets[query + 1]]))[:k]
        found.rows[query, : len(kept)], found.scores[query, : len(kept)] = rows[kept], scores[kept]
    return found
