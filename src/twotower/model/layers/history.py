"""The layer of histories: the items that a query side touched before, pooled."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.features import History
from twotower.errors import ConfigError
from twotower.model.layers.dropout import Dropout
from twotower.model.layers.inputs import Bag, Input, Layer, Prefixes, Table, counted, summed


class Pooled(Layer):
    """Item vectors, or item codes and the table of their embeddings -> one vector a row; zero where there is no item.

    What comes in may be a Bag of n rows, Prefixes of longer rows, or a padded tensor [n, l] of codes or [n, l, d] of vectors,
    whose padding is 0. An item whose vector is zero says nothing, and is passed over like one that a training step leaves out.
    What is pooled passes a linear layer that starts as the identity.
    """

    def __init__(self, feature: History, table: Table | None, dimensions: int) -> None:
        super().__init__()
        self.feature, self.table = feature, table
        self.pool = POOLS[feature.pool](feature, dimensions)
        self.change = nn.Linear(dimensions, dimensions, bias=False)
        nn.init.zeros_(self.change.weight)

    def lookups(self, column: Input) -> Iterator[tuple[Table, Tensor]]:
        if self.table is not None:
            bag = column.bag if isinstance(column, Prefixes) else column
            assert isinstance(bag, Bag)
            yield self.table, bag.values

    def forward(self, column: Input) -> Tensor:
        """n rows -> [n, d]"""
        if isinstance(column, Tensor):
            vectors, there = self._given(column)
            lengths = there.sum(1)
            pooled = self.pool(vectors, there, None, lengths)
        else:
            bag, source, rows, lengths = self._kept(column)
            if isinstance(self.pool, Mean) and isinstance(column, Bag):
                pooled = summed(bag.values, source, bag.offsets) / counted(bag.offsets)  # no padding, and a fifth of the time
            else:
                pooled = self.pool(*_padded(bag, source), rows, lengths)
        pooled = pooled * (lengths > 0).unsqueeze(1)
        total: Tensor = pooled + self.change(pooled)
        return total

    def _items(self, bag: Bag) -> tuple[Tensor, Tensor]:
        """(positions int64 [sum of lengths], the vectors [t, d] that they are rows of)."""
        if bag.source is not None:
            return bag.values, bag.source
        if self.table is None:
            return torch.arange(len(bag.values), device=bag.values.device), bag.values
        rows, positions = self.table.rows(bag.values)
        return positions, rows

    def _kept(self, column: Bag | Prefixes) -> tuple[Bag, Tensor, Tensor, Tensor]:
        """(a bag of positions without the items that are passed over, the vectors [t, d] that these are of, the row [n] of the bag
        that each row begins, how much of it [n])."""
        if isinstance(column, Prefixes):
            bag, rows, cuts = column
        else:
            bag, rows, cuts = column, torch.arange(len(column.offsets) - 1, device=column.offsets.device), column.offsets.diff()
        positions, source = self._items(bag)
        forget = self.feature.forget if self.training else 0.0
        said = torch.ones_like(positions, dtype=torch.bool) if self.table is not None else (source.detach() != 0).any(-1)[positions]
        if forget:
            said = said & (torch.rand(said.shape, device=said.device) >= forget)
        before = torch.cat([said.new_zeros(1, dtype=torch.int64), said.cumsum(0)])  # how many are kept before each item
        starts = bag.offsets[rows]
        return Bag(positions[said], before[bag.offsets]), source, rows, before[starts + cuts] - before[starts]

    def _given(self, column: Tensor) -> tuple[Tensor, Tensor]:
        if self.table is None:
            return column, (column != 0).any(-1)
        return functional.embedding(column, self.table.weight), column != 0


class Mean(nn.Module):
    """Every item counts the same."""

    def __init__(self, feature: History, dimensions: int) -> None:
        super().__init__()

    def forward(self, vectors: Tensor, there: Tensor, rows: Tensor | None, cuts: Tensor) -> Tensor:
        """Vectors [s, l, d] and which are there [s, l] -> for each of n rows [n], by default each once, the first cuts [n] of them: [n, d]"""
        vectors, weights = _beginnings(vectors, there, rows, cuts)
        return (vectors * weights.unsqueeze(-1)).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)


class Recency(nn.Module):
    """The last item counts most; how fast that fades is learned."""

    def __init__(self, feature: History, dimensions: int) -> None:
        super().__init__()
        self.fading = nn.Parameter(torch.tensor(-2.0))

    def forward(self, vectors: Tensor, there: Tensor, rows: Tensor | None, cuts: Tensor) -> Tensor:
        vectors, weights = _beginnings(vectors, there, rows, cuts)
        ago = cuts.unsqueeze(1) - 1 - torch.arange(vectors.shape[1], device=vectors.device)
        weights = weights * torch.exp(-functional.softplus(self.fading) * ago.clamp(min=0))
        return (vectors * weights.unsqueeze(-1)).sum(1) / weights.sum(1, keepdim=True).clamp(min=1e-6)


class Attention(nn.Module):
    """Items are weighed by what they are and how long ago they were."""

    def __init__(self, feature: History, dimensions: int) -> None:
        super().__init__()
        self.asks = nn.Linear(dimensions, dimensions)
        self.weighs = nn.Linear(dimensions, 1, bias=False)
        nn.init.zeros_(self.weighs.weight)
        self.ages = nn.Parameter(torch.zeros(feature.last))

    def forward(self, vectors: Tensor, there: Tensor, rows: Tensor | None, cuts: Tensor) -> Tensor:
        vectors, weights = _beginnings(vectors, there, rows, cuts)
        ago = (cuts.unsqueeze(1) - 1 - torch.arange(vectors.shape[1], device=vectors.device)).clamp(min=0, max=len(self.ages) - 1)
        scores = self.weighs(torch.tanh(self.asks(vectors))).squeeze(-1) + self.ages.index_select(0, ago.reshape(-1)).reshape(ago.shape)
        scores = scores.masked_fill(weights == 0, -1e9)
        return (torch.softmax(scores, dim=1).unsqueeze(-1) * vectors).sum(1)


class Transformer(nn.Module):
    """A causal transformer; its output at the last item stands for all up to it (Kang and McAuley 2018).

    Each long row is worked on once, and read at every place that is asked for.
    """

    def __init__(self, feature: History, dimensions: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(feature.last, dimensions) * 0.02)
        self.blocks = nn.ModuleList(Block(dimensions, feature.heads, feature.dropout) for _ in range(feature.layers))
        self.norm = nn.LayerNorm(dimensions)
        self.dropout = Dropout(feature.dropout)
        self.scale = dimensions**0.5

    def forward(self, vectors: Tensor, there: Tensor, rows: Tensor | None, cuts: Tensor) -> Tensor:
        width = vectors.shape[1]
        x: Tensor = self.dropout(vectors * self.scale + self.places[:width])
        # What is not there stands behind all that is, so no place that counts sees it.
        for block in self.blocks:
            x = block(x)
        x = self.norm(x) / self.scale
        if rows is None:
            last = torch.arange(width, device=x.device) == cuts.unsqueeze(1) - 1
            return (x * last.unsqueeze(-1)).sum(1)
        return x.reshape(-1, x.shape[-1]).index_select(0, rows * width + (cuts - 1).clamp(min=0))


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each on normalised input and added to it."""

    def __init__(self, dimensions: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dimensions % heads:
            raise ConfigError(f"{heads} attention heads need a width that {heads} divides, and it is {dimensions}. Set heads, or [model] dimensions.")
        self.heads = heads
        self.first, self.second = nn.LayerNorm(dimensions), nn.LayerNorm(dimensions)
        self.project, self.join = nn.Linear(dimensions, 3 * dimensions), nn.Linear(dimensions, dimensions)
        self.feed = nn.Sequential(nn.Linear(dimensions, 2 * dimensions), nn.GELU(), Dropout(dropout), nn.Linear(2 * dimensions, dimensions))
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[s, l, d] -> [s, l, d], each place by itself and those before it"""
        s, length, d = x.shape
        parts = self.project(self.first(x)).reshape(s, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        # Without dropout of its own: with it, the kernel that never holds an [l, l] matrix is not taken.
        seen = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.drop(self.join(seen.transpose(1, 2).reshape(s, length, d)))
        fed: Tensor = self.feed(self.second(x))
        total: Tensor = x + self.drop(fed)
        return total


def _padded(bag: Bag, source: Tensor) -> tuple[Tensor, Tensor]:
    """(the vectors [n, l, d] at the positions of a bag, which of them are there [n, l]); what is not there holds anything."""
    lengths = bag.offsets.diff()
    width = max(1, int(lengths.max())) if len(lengths) else 1
    there = torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)
    if not len(source):
        return source.new_zeros((*there.shape, source.shape[1])), there
    places = torch.zeros_like(there, dtype=torch.int64)
    places[there] = bag.values
    return functional.embedding(places, source), there


def _beginnings(vectors: Tensor, there: Tensor, rows: Tensor | None, cuts: Tensor) -> tuple[Tensor, Tensor]:
    """For each of n rows its vectors [n, l, d], and 1 for those before its cut [n, l]."""
    if rows is not None:
        vectors, there = vectors[rows], there[rows]
    before = torch.arange(vectors.shape[1], device=vectors.device) < cuts.unsqueeze(1)
    return vectors, (there & before).to(vectors.dtype)


POOLS = {"mean": Mean, "recency": Recency, "attention": Attention, "transformer": Transformer}
