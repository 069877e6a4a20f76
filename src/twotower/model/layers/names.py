"""Layers of ids, categories, and sets of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.features import UNKNOWN, Categories, Id, State
from twotower.model.layers.inputs import Bag, Input, Layer, Named, Table, counted, summed


def new_table(rows: int, dimensions: int, unseen: int, deviation: float) -> Table:
    """A table of random rows; those of what is missing or unknown are at zero."""
    table = Table(rows, dimensions)
    nn.init.normal_(table.weight, std=deviation)
    table.weight[:unseen] = 0
    return table


class Embedding(Layer):
    """Ids and categories: one row of a table for each known value; unknown ones share rows by their hash."""

    def __init__(self, table: Table, feature: Id) -> None:
        super().__init__()
        self.table, self.feature = table, feature

    def named(self, state: State) -> Named:
        return _named(self.table, self.feature, state)

    def lookups(self, column: Input) -> Iterator[tuple[Table, Tensor]]:
        assert isinstance(column, Tensor)
        yield self.table, column if not self.feature.dropout else torch.cat([column, as_unknown(column, self.feature)])

    def forward(self, column: Input) -> Tensor:
        """[n] -> [n, d]"""
        assert isinstance(column, Tensor)
        embedded: Tensor = self.table(dropped(column, self.feature, self.training))
        return embedded


class EmbeddingSet(Layer):
    """Several values at once: the mean, sum or weighted mean of their rows; zero where there is none."""

    def __init__(self, table: Table, feature: Categories) -> None:
        super().__init__()
        self.table, self.feature = table, feature

    def named(self, state: State) -> Named:
        return _named(self.table, self.feature, state)

    def lookups(self, column: Input) -> Iterator[tuple[Table, Tensor]]:
        assert isinstance(column, Bag)
        codes, _ = self._read(column.values)
        yield self.table, codes if not self.feature.dropout else torch.cat([codes, as_unknown(codes, self.feature)])

    def _read(self, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """(codes [...], their weights [...] where they have some)."""
        if self.feature.pool != "weighted":
            return values, None
        return values[..., 0].to(torch.int64), values[..., 1].float()

    def forward(self, column: Input) -> Tensor:
        """A Bag of n rows, or padded [n, l] -> [n, d]"""
        if not isinstance(column, Bag):
            assert isinstance(column, Tensor)
            return self._padded(column)
        codes, weights = self._read(column.values)
        rows, positions = self.table.rows(dropped(codes, self.feature, self.training))
        pooled = summed(positions, rows, column.offsets, weights)
        if self.feature.pool == "sum":
            return pooled
        return pooled / (counted(column.offsets) if weights is None else _total(weights, column.offsets))

    def _padded(self, column: Tensor) -> Tensor:
        codes, weights = self._read(column)
        there = (codes != 0).float()
        embedded = functional.embedding(codes, self.table.weight)  # [n, l, d]
        weights = there if weights is None else weights * there
        pooled = (embedded * weights.unsqueeze(-1)).sum(1)
        if self.feature.pool == "sum":
            return pooled
        sizes = there.sum(1, keepdim=True).clamp(min=1) if self.feature.pool == "mean" else weights.abs().sum(1, keepdim=True).clamp(min=1e-6)
        return pooled / sizes


def _named(table: Table, feature: Id | Categories, state: State) -> Named:
    hashes = state["hashes"]
    return Named(table, feature.first_known, hashes, UNKNOWN + (hashes % np.uint64(feature.buckets)).astype(np.int64))


def _total(weights: Tensor, offsets: Tensor) -> Tensor:
    """The sum [n, 1] of the sizes of each row's weights."""
    places = torch.arange(len(weights), device=weights.device)
    return summed(places, weights.abs().unsqueeze(1), offsets).clamp(min=1e-6)


def as_unknown(codes: Tensor, feature: Id | Categories) -> Tensor:
    """The codes that these would have if nobody knew them; missing ones stay missing."""
    return torch.where(codes >= feature.first_known, UNKNOWN + codes % feature.buckets, codes)


def dropped(codes: Tensor, feature: Id | Categories, training: bool) -> Tensor:
    """In training, a share of the known codes taken for unknown."""
    if not (training and feature.dropout):
        return codes
    forgotten = torch.rand(codes.shape, device=codes.device) < feature.dropout
    return torch.where(forgotten, as_unknown(codes, feature), codes)
