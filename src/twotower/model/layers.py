"""One layer per feature type: encoded column -> vectors [n, d].

To add one: a module here under the feature's key in `LAYERS`, built by a function of the feature, its state, the
dimensions, the tables of texts, and whether words stand on its side. A layer takes its column in two forms: as batches hold it
(`[n]`, or a `Bag` of values and offsets) and, for export, padded `[n, l]` with 0 as padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.columns import Column, Ragged
from twotower.data.features import FIRST_KNOWN, State, Text
from twotower.data.schema import FeatureOptions

# The weights of words, word pairs and letter pieces. Pieces outnumber the words they are cut from by about twelve; scaled down
# by the root of that, all the pieces of a text together weigh about as much as all its words.
KIND_WEIGHTS = (1.0, 1.0, 0.3)


class Bag(NamedTuple):
    """A ragged column as tensors: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: Tensor  # int64 [sum of lengths]
    offsets: Tensor  # int64 [n + 1]


Input = Tensor | Bag


def tensors(column: Column, device: torch.device | str = "cpu") -> Input:
    """An encoded column as tensors."""
    if isinstance(column, Ragged):
        first = int(column.offsets[0])
        values = torch.as_tensor(column.values[first : int(column.offsets[-1])]).to(device, torch.int64)
        return Bag(values, torch.as_tensor(column.offsets - first).to(device))
    return torch.as_tensor(column).to(device)


class Table(nn.Module):
    """Embedding rows [rows, d], of which a training step touches few.

    Between `gather` and `release` the rows that a step needs live in a small leaf tensor: look-ups go there, so gradients and
    the optimiser cost what the step touches, not what the table holds.
    """

    def __init__(self, rows: int, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, dimensions), requires_grad=False)
        self.touched: Tensor | None = None  # int64 [t], rows in rising order
        self.leaf: Tensor | None = None  # [t, d]
        self._places: Tensor | None = None

    def gather(self, ids: Tensor) -> None:
        """Bring the rows of these ids (int64, any shape, repeats welcome) into a leaf that collects gradients."""
        if self._places is None or self._places.device != ids.device:
            self._places = torch.zeros(len(self.weight), dtype=torch.int64, device=ids.device)
        # Marking and scanning costs one pass over the table's length, less than sorting the ids of a batch of texts.
        mark = torch.zeros(len(self.weight), dtype=torch.bool, device=ids.device)
        mark[ids] = True
        self.touched = mark.nonzero().squeeze(1)
        self._places[self.touched] = torch.arange(len(self.touched), device=ids.device)
        self.leaf = self.weight[self.touched].requires_grad_()

    def release(self) -> None:
        """Forget the leaf; look-ups read the table again."""
        self.touched = self.leaf = None

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(rows [t, d], positions in them of the ids)."""
        if self.leaf is None or self._places is None:
            return self.weight, ids
        return self.leaf, self._places[ids]

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings of ids [...] -> [..., d]."""
        rows, positions = self.rows(ids)
        return functional.embedding(positions, rows)


class Embedding(nn.Module):
    """Ids and categories: one row of a table for each known value; missing and unknown have one each, at zero."""

    def __init__(self, table: Table, deviation: float) -> None:
        super().__init__()
        self.table = table
        nn.init.normal_(table.weight, std=deviation)
        table.weight[:FIRST_KNOWN] = 0

    def ids(self, column: Input) -> Tensor:
        assert isinstance(column, Tensor)
        return column

    def forward(self, column: Input) -> Tensor:
        """[n] -> [n, d]"""
        embedded: Tensor = self.table(self.ids(column))
        return embedded


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


class HashedText(nn.Module):
    """Hashed words and pieces: their scaled rows summed, divided by the length that unrelated unit rows would sum to.

    The rows start as random unit vectors and the scale grows with rarity, so before any training the dot product of two texts
    estimates a tf-idf cosine: a random projection (Johnson and Lindenstrauss 1984). Training moves on from there.
    """

    def __init__(self, table: TextTable) -> None:
        super().__init__()
        self.table = table

    def ids(self, column: Input) -> Tensor:
        """The table's rows, int64, of buckets in any shape."""
        return _chosen(self.table.row_of, column.values if isinstance(column, Bag) else column).long()

    def forward(self, column: Input) -> Tensor:
        """A Bag of n rows, or padded buckets [n, l] -> [n, d]"""
        ids = self.ids(column)
        if not isinstance(column, Bag):
            weights = _chosen(self.table.scale, ids)  # [n, l]; the scale of padding is 0
            summed = (functional.embedding(ids, self.table.weight) * weights.unsqueeze(-1)).sum(1)
            return summed * torch.rsqrt(weights.square().sum(1, keepdim=True).clamp(min=1e-12))
        rows, positions = self.table.rows(ids)
        # Scaling the few rows instead of every occurrence: a weighted bag is twice as slow.
        scale = self.table.scale if self.table.touched is None else self.table.scale[self.table.touched]
        summed = _sums(positions, rows * scale.unsqueeze(1), column.offsets)
        return summed * torch.rsqrt(_sums(positions, scale.square().unsqueeze(1), column.offsets).clamp(min=1e-12))


def _chosen(values: Tensor, places: Tensor) -> Tensor:
    """The values [t] at places of any shape; the exporter takes this as it is, where indexing makes it copy all the values."""
    return values.index_select(0, places.reshape(-1)).reshape(places.shape)


def _sums(positions: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """The sum of the rows [t, w] at each span of positions -> [n, w]."""
    return functional.embedding_bag(positions, rows, offsets, mode="sum", include_last_offset=True)


Tables = dict[str, Table]
Layer = Embedding | HashedText


def _embedding(feature: FeatureOptions, state: State, dimensions: int, tables: Mapping[str, Table], worded: bool) -> Layer:
    # Beside words an id starts at zero: it then adds what they cannot tell, and an item without pairs adds no noise.
    return Embedding(Table(len(state["hashes"]) + FIRST_KNOWN, dimensions), 0.0 if worded else dimensions**-0.5)


def _hashed_text(feature: FeatureOptions, state: State, dimensions: int, tables: Mapping[str, Table], worded: bool) -> Layer:
    table = tables[table_name(feature)]
    assert isinstance(table, TextTable)
    return HashedText(table)


def table_name(feature: FeatureOptions) -> str:
    """Text features that hash alike may share a table: the name says how they hash."""
    if feature.type != "text":
        return ""
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


LAYERS: dict[str, Callable[[FeatureOptions, State, int, Mapping[str, Table], bool], Layer]] = {
    "id": _embedding,
    "category": _embedding,
    "text": _hashed_text,
}
