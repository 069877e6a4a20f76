"""The layer of word pieces: their embeddings through a small network, pooled."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.features import Pieces
from twotower.model.layers.blocks import in_blocks
from twotower.model.layers.dropout import Dropout
from twotower.model.layers.inputs import Bag, Input, Layer, Table, cropped, thinned
from twotower.model.layers.measures import projection

SPANS = (2, 3, 4)  # pieces that the convolutions see at a time


class PieceNetwork(Layer):
    """Pieces in their order -> one vector a row; zero where there is none.

    What is pooled is projected to the space by the same directions on both sides, plus a linear change that starts at zero.
    """

    projection: Tensor  # float32 [w, d]

    def __init__(self, feature: Pieces, table: Table, dimensions: int) -> None:
        super().__init__()
        self.feature, self.table = feature, table
        self.network = NETWORKS[feature.network](feature)
        self.dropout = Dropout(feature.dropout)
        self.register_buffer("projection", projection(feature.width, dimensions), persistent=feature.width != dimensions)
        self.change = nn.Linear(feature.width, dimensions, bias=False)
        nn.init.zeros_(self.change.weight)

    def lookups(self, column: Input) -> Iterator[tuple[Table, Tensor]]:
        assert isinstance(column, Bag)
        yield self.table, torch.cat([column.values, column.values.new_zeros(1)])  # and the row of padding

    def forward(self, column: Input) -> Tensor:
        """A Bag of n rows, or padded codes [n, l] -> [n, d]"""
        assert isinstance(column, (Tensor, Bag))
        width = self.feature.width
        if isinstance(column, Bag) and self.training:
            column = cropped(column, self.feature.crop) if self.feature.crop else column
            column = thinned(column, self.feature.forget) if self.feature.forget else column
        pooled = in_blocks(column, width, self._pooled) if isinstance(column, Bag) else self._pooled(column)
        kept = pooled if width == self.projection.shape[1] else pooled @ self.projection
        changed: Tensor = self.change(pooled)
        return kept + changed

    def _pooled(self, codes: Tensor) -> Tensor:
        """Codes [n, l] -> [n, w]"""
        there = codes != 0
        weights = there.unsqueeze(-1).float()
        states: Tensor = self.network(self.dropout(self.table(codes)) * weights, there)  # [n, l, w]
        if self.feature.pool == "mean":
            return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return states.masked_fill(weights == 0, -1e9).amax(1) * there.any(dim=1, keepdim=True)


class Convolutions(nn.Module):
    """Each layer adds what convolutions over two, three and four places see (Kim 2014)."""

    def __init__(self, feature: Pieces) -> None:
        super().__init__()
        width = feature.width
        self.layers = nn.ModuleList(nn.ModuleDict({str(span): nn.Conv1d(width, width, span) for span in SPANS}) for _ in range(feature.layers))
        self.joins = nn.ModuleList(nn.Linear(len(SPANS) * width, width) for _ in range(feature.layers))
        self.dropout = Dropout(feature.dropout)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """[n, l, w] and which places are there [n, l] -> [n, l, w]"""
        weights = there.unsqueeze(-1).to(x.dtype)
        for convolutions, join in zip(self.layers, self.joins, strict=True):
            across = x.transpose(1, 2)
            # Padded so that a place sees itself and its neighbours, and the length stays.
            seen = [convolutions[str(span)](functional.pad(across, ((span - 1) // 2, span // 2))) for span in SPANS]  # type: ignore[index]
            joined = join(self.dropout(functional.gelu(torch.cat(seen, dim=1).transpose(1, 2))))
            x = (x + joined) * weights
        return x


class Attending(nn.Module):
    """Transformer layers in which every place sees all others (Vaswani et al. 2017)."""

    def __init__(self, feature: Pieces) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(feature.length, feature.width) * 0.02)
        self.blocks = nn.ModuleList(Seeing(feature) for _ in range(feature.layers))
        self.scale = feature.width**0.5

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """[n, l, w] and which places are there [n, l] -> [n, l, w]"""
        length = x.shape[1]
        x = x * self.scale + self.places[:length]
        # So that an empty row, too, sees something, everyone sees itself.
        mask = there.unsqueeze(1) | torch.eye(length, dtype=torch.bool, device=x.device)
        for block in self.blocks:
            x = block(x, mask.unsqueeze(1))
        scaled: Tensor = x / self.scale
        return scaled


class Seeing(nn.Module):
    """Self-attention and a feed-forward layer, each on normalised input and added to it."""

    def __init__(self, feature: Pieces) -> None:
        super().__init__()
        width = feature.width
        self.heads, self.rate = feature.heads, feature.dropout
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), Dropout(feature.dropout), nn.Linear(2 * width, width))
        self.dropout = Dropout(feature.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[n, l, w] and which places see which [n, 1, l, l] -> [n, l, w]"""
        n, length, width = x.shape
        parts = self.project(self.first(x)).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], mask, self.rate if self.training else 0.0)
        x = x + self.dropout(self.join(seen.transpose(1, 2).reshape(n, length, width)))
        fed: Tensor = x + self.dropout(self.feed(self.second(x)))
        return fed


NETWORKS = {"cnn": Convolutions, "transformer": Attending}
