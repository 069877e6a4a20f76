"""The layer of hashed text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.features import State, Text
from twotower.model.layers.inputs import Bag, Input, Layer, Named, Table, summed, thinned

# The weights of words, word pairs and letter pieces. Pieces outnumber the words they are cut from by about twelve; scaled down
# by the root of that, all the pieces of a text together weigh about as much as all its words.
KIND_WEIGHTS = (1.0, 1.0, 0.3)


class TextTable(Table):
    """Rows for hashed words and pieces, one for each bucket that the training texts touched.

    A bucket that they did not touch has the row 0, whose scale is 0: an unknown word says nothing, rather than something
    random. Buckets can thus be many, and collisions few: a bucket takes 4 bytes, and only one that was touched a row.
    """

    row_of: Tensor  # int32 [buckets]
    scale: Tensor  # float32 [rows]

    def __init__(self, row_of: Tensor, scale: Tensor, dimensions: int) -> None:
        super().__init__(len(scale), dimensions)
        self.register_buffer("row_of", row_of)
        self.register_buffer("scale", scale)
        nn.init.normal_(self.weight, std=dimensions**-0.5)
        self.weight[0] = 0

    def per_row(self) -> tuple[Tensor, ...]:
        return self.weight, self.scale


class HashedText(Layer):
    """Hashed words and pieces: their scaled rows summed, divided by the length that unrelated unit rows would sum to.

    The rows start as random unit vectors and the scale grows with rarity, so before any training the dot product of two texts
    estimates a tf-idf cosine: a random projection (Johnson and Lindenstrauss 1984). Training moves on from there.
    """

    def __init__(self, table: TextTable, dropout: float = 0.0) -> None:
        super().__init__()
        self.table = table
        self.dropout = dropout

    def named(self, state: State) -> Named:
        """By their buckets: those of all the features that share the table."""
        return Named(self.table, 1, self.table.row_of.nonzero().squeeze(1).cpu().numpy())

    def lookups(self, column: Input) -> Iterator[tuple[Table, Tensor]]:
        assert isinstance(column, Bag)
        yield self.table, self.ids(column.values)

    def ids(self, buckets: Tensor) -> Tensor:
        """The table's rows, int64, of buckets in any shape."""
        return _chosen(self.table.row_of, buckets).long()

    def forward(self, column: Input) -> Tensor:
        """A Bag of n rows, or padded buckets [n, l] -> [n, d]"""
        if not isinstance(column, Bag):
            assert isinstance(column, Tensor)
            ids = self.ids(column)
            weights = _chosen(self.table.scale, ids)  # [n, l]; the scale of padding is 0
            pooled = (functional.embedding(ids, self.table.weight) * weights.unsqueeze(-1)).sum(1)
            return pooled * torch.rsqrt(weights.square().sum(1, keepdim=True).clamp(min=1e-12))
        if self.training and self.dropout:
            column = thinned(column, self.dropout)
        rows, positions = self.table.rows(self.ids(column.values))
        # Scaling the few rows instead of every occurrence: a weighted bag is twice as slow.
        scale = self.table.scale if self.table.touched is None else self.table.scale[self.table.touched]
        pooled = summed(positions, rows * scale.unsqueeze(1), column.offsets)
        return pooled * torch.rsqrt(summed(positions, scale.square().unsqueeze(1), column.offsets).clamp(min=1e-12))


def _chosen(values: Tensor, places: Tensor) -> Tensor:
    """The values [t] at places of any shape; the exporter takes this as it is, where indexing makes it copy all the values."""
    return values.index_select(0, places.reshape(-1)).reshape(places.shape)


def table_name(feature: Text) -> str:
    """Text features that hash alike may share a table: the name says how they hash."""
    pieces = "-".join(map(str, feature.pieces))
    return f"text_{feature.buckets}_{'pairs' if feature.pairs else 'words'}_{pieces or 'none'}"


def text_table(features: Sequence[tuple[Text, State]], dimensions: int) -> TextTable:
    """One table for text features that hash alike; scale: the root of the inverse document frequency in all their texts."""
    feature = features[0][0]
    counts = torch.zeros(feature.buckets, dtype=torch.float64)
    for _, state in features:
        counts[torch.as_tensor(state["buckets"]).long()] += torch.as_tensor(state["counts"])
    texts = sum(int(state["texts"][0]) for _, state in features)
    touched = counts.nonzero().squeeze(1)
    row_of = torch.zeros(feature.buckets, dtype=torch.int32)
    row_of[touched] = torch.arange(1, len(touched) + 1, dtype=torch.int32)
    kinds = torch.repeat_interleave(torch.tensor(KIND_WEIGHTS), torch.as_tensor(feature.ranges()[1].astype("int64")))
    idf = torch.log((texts + 1) / (counts[touched] + 0.5)).clamp(min=0.1)
    # Bucket 0 is padding, so the kinds begin at bucket 1.
    scale = torch.cat([torch.zeros(1), idf.sqrt() * kinds[touched - 1]]).float()
    return TextTable(row_of, scale, dimensions)
