"""Encoded columns as tensors, and the tables that layers look rows up in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.columns import Array, Column, Ragged
from twotower.data.features import State


class Bag(NamedTuple):
    """A ragged column as tensors: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: Tensor  # [sum of lengths], or [sum of lengths, w]
    offsets: Tensor  # int64 [n + 1]
    source: Tensor | None = None  # [t, w], where the values are the positions of its rows rather than rows


class Prefixes(NamedTuple):
    """Rows that are beginnings of longer ones, so that what they share is worked on once: row i is the first `cuts[i]` of bag `rows[i]`."""

    bag: Bag
    rows: Tensor  # int64 [n]
    cuts: Tensor  # int64 [n]


Input = Tensor | Bag | Prefixes


def tensors(column: Column, device: torch.device | str = "cpu") -> Tensor | Bag:
    """An encoded column as tensors: whole numbers as int64, others in their own type."""
    if isinstance(column, Ragged):
        first = int(column.offsets[0])
        values = _tensor(column.values[first : int(column.offsets[-1])], device)
        return Bag(values, torch.as_tensor(column.offsets - first).to(device))
    return _tensor(column, device)


def _tensor(values: Array, device: torch.device | str) -> Tensor:
    # numpy widens: torch would wake all its threads for it, also where a batch is read beside a step that needs them.
    return torch.as_tensor(values if values.dtype.kind == "f" else values.astype(np.int64, copy=False)).to(device)


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
        self.leaf = self.weight.index_select(0, self.touched).requires_grad_()

    def release(self) -> None:
        """Forget the leaf; look-ups read the table again."""
        self.touched = self.leaf = None

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(rows [t, d], positions in them of the ids)."""
        if self.leaf is None or self._places is None:
            return self.weight, ids
        return self.leaf, self._places[ids]

    def per_row(self) -> tuple[Tensor, ...]:
        """Whatever is kept of each row, [rows, ...]."""
        return (self.weight,)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings of ids [...] -> [..., d]."""
        rows, positions = self.rows(ids)
        return functional.embedding(positions, rows)


class Named(NamedTuple):
    """What the rows of a table stand for: the `first` of them for the same in any model, such as the unknown, each other for a name.

    strangers: for each name the row that stands for it in a model that does not know it, where there is one.
    """

    table: Table
    first: int
    names: Array  # [rows - first], in rising order
    strangers: Array | None = None  # int64 [rows - first]


class Layer(nn.Module):
    """One feature's encoded column -> vectors [n, d]."""

    def named(self, state: State) -> Named | None:
        """The names of the rows of its table, where the data say which rows there are."""
        return None

    def lookups(self, column: Input) -> Iterator[tuple[Table, Tensor]]:
        """Each table that this column will ask, and for which ids."""
        return iter(())


def summed(positions: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum of the rows [t, w] at each span of positions, weighted where asked -> [n, w]."""
    if torch.is_grad_enabled() and (rows.requires_grad or (weights is not None and weights.requires_grad)):
        return _Summed.apply(positions, rows, offsets, weights)  # type: ignore[no-any-return, no-untyped-call]
    return _bags(positions, rows, offsets, weights)


class _Summed(torch.autograd.Function):
    """Sums of rows, whose gradients are sums as well: of each row those of the spans that it stands in.

    torch adds the gradients of `embedding_bag` one position at a time, in up to four times as long.
    """

    @staticmethod
    def forward(ctx: Any, positions: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        ctx.save_for_backward(positions, rows, offsets, weights)
        # Without a thought of gradients torch takes a quarter of the time.
        return _bags(positions, rows.detach(), offsets, None if weights is None else weights.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        positions, rows, offsets, weights = ctx.saved_tensors
        spans = torch.repeat_interleave(offsets.diff(), output_size=len(positions))
        of_rows = of_weights = None
        if ctx.needs_input_grad[1]:
            order = positions.int().argsort(stable=True)
            starts = functional.pad(torch.bincount(positions, minlength=len(rows)).cumsum(0), (1, 0))
            ordered = None if weights is None else weights.detach().index_select(0, order)
            of_rows = _bags(spans.index_select(0, order), gradient.contiguous(), starts, ordered)
        if weights is not None and ctx.needs_input_grad[3]:
            of_weights = (rows.index_select(0, positions) * gradient.index_select(0, spans)).sum(1)
        return None, of_rows, None, of_weights


def _bags(positions: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
    return functional.embedding_bag(positions, rows, offsets, mode="sum", include_last_offset=True, per_sample_weights=weights)


def counted(offsets: Tensor) -> Tensor:
    """The length of each row [n, 1], at least one."""
    return offsets.diff().clamp(min=1).unsqueeze(1)


def thinned(column: Bag, dropout: float) -> Bag:
    """The same rows without some of their values, each left out with this probability."""
    kept = torch.rand(len(column.values), device=column.values.device) >= dropout
    before = torch.cat([column.offsets.new_zeros(1), kept.cumsum(0)])
    return Bag(column.values[kept], before[column.offsets], column.source)


def cropped(column: Bag, most: float) -> Bag:
    """A random part of each row, in one piece, that leaves out up to this share of it; where there is something, something stays."""
    lengths = column.offsets.diff()
    drawn = torch.rand(2, len(lengths), device=lengths.device)
    kept = lengths - (lengths * most * drawn[0]).long()
    first = column.offsets[:-1] + ((lengths - kept + 1) * drawn[1]).long().clamp(max=lengths - kept)
    offsets = torch.cat([kept.new_zeros(1), kept.cumsum(0)])
    places = torch.repeat_interleave(first - offsets[:-1], kept) + torch.arange(int(offsets[-1]), device=kept.device)
    return Bag(column.values[places], offsets, column.source)
