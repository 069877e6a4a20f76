"""A side of a batch encoded some rows at a time: vectors first, their gradients later.

In one part, what the tower computed is kept for its gradients. In several, nothing is: each part is encoded again when the gradients of
its vectors are known (gradient caching, Gao et al. 2021), so that memory is that of a part and the loss still that of the whole batch.
What a tower draws, as dropout does, is drawn anew from the seed of the part, and so the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from twotower.data.columns import Array
from twotower.data.schema import Side
from twotower.learning.distributed import Team
from twotower.learning.options import TrainOptions
from twotower.model.layers import Bag, Input, Prefixes
from twotower.model.towers import TwoTower


def together(model: TwoTower, options: TrainOptions) -> AbstractContextManager[object]:
    """A context in which both sides are encoded, so that weights which they share are cast to half precision once.

    Not in parts: the first time they are cast without gradients, and must not be kept so for the second.
    """
    if options.precision != "bfloat16" or options.chunk_size:
        return nullcontext()
    return torch.autocast(model.device.type, torch.bfloat16)


class Encoded:
    """The vectors [n, d] of n rows of a side, as a leaf that collects gradients."""

    def __init__(self, model: TwoTower, side: Side, columns: Mapping[str, Input], rows: int, options: TrainOptions, seed: int) -> None:
        self._model, self._side, self._columns, self._half = model, side, columns, options.precision == "bfloat16"
        size = options.chunk_size or rows
        self._spans = [(start, min(start + size, rows)) for start in range(0, rows, max(1, size))]
        self._seed = seed
        self._kept = self._part(0) if len(self._spans) == 1 else None
        if self._kept is not None:
            self.vectors = self._kept.detach().float().requires_grad_()
            return
        self.vectors = torch.empty(rows, model.dimensions, device=model.device)
        with torch.no_grad():
            for number, (start, end) in enumerate(self._spans):
                self.vectors[start:end] = self._part(number)
        self.vectors.requires_grad_()

    def _part(self, number: int) -> Tensor:
        _seed((self._seed + number) % (1 << 63), self._model.device)
        start, end = self._spans[number]
        columns = self._columns if len(self._spans) == 1 else {name: part(column, start, end) for name, column in self._columns.items()}
        # A context of its own: within one, weights that were cast without gradients would be kept so for the second time.
        with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._half):
            vectors: Tensor = self._model.tower(self._side)(columns)
        return vectors

    def backward(self) -> None:
        """Turn the gradients of the vectors into those of the weights, added to what is there."""
        gradient = self.vectors.grad
        assert gradient is not None
        for number, (start, end) in enumerate(self._spans):
            vectors = self._part(number) if self._kept is None else self._kept
            vectors.backward(gradient[start:end].to(vectors.dtype))  # type: ignore[no-untyped-call]


def _seed(number: int, device: torch.device) -> None:
    """Let what is drawn on a device, and on the processor, begin at a number.

    As torch.manual_seed does, which also notes where in the program it was called for every kind of device that is not there: a third of the
    time of a small step.
    """
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        place = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[place].manual_seed(number)


class Shared:
    """The vectors [n, d] of a side of which each rank encodes its share, as a leaf that collects gradients on every rank.

    A leaf, and no function between the two: what reads the vectors may go back through them any number of times, and the gradients still
    travel once, those of each share to the rank that encoded it.
    """

    def __init__(self, encoded: Encoded, bounds: Array, team: Team) -> None:
        self._encoded, self._bounds, self._team = encoded, bounds, team
        self.vectors = team.gather(encoded.vectors.detach(), bounds).requires_grad_()

    def backward(self) -> None:
        """Turn the gradients that all ranks have found into those of the weights, each rank for what it encoded."""
        assert self.vectors.grad is not None
        self._encoded.vectors.grad = self._team.scatter(self.vectors.grad, self._bounds)
        self._encoded.backward()


def part(column: Input, start: int, end: int) -> Input:
    """The rows of a column from start to before end. Of rows that are beginnings, the longer ones come along that they begin."""
    if isinstance(column, Tensor):
        return column[start:end]
    if isinstance(column, Bag):
        first, last = (int(column.offsets[place]) for place in (start, end))
        return Bag(column.values[first:last], column.offsets[start : end + 1] - first, column.source)
    needed, rows = torch.unique(column.rows[start:end], return_inverse=True)
    return Prefixes(_chosen(column.bag, needed), rows, column.cuts[start:end])


def _chosen(bag: Bag, rows: Tensor) -> Bag:
    lengths = bag.offsets.diff()[rows]
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    places = torch.repeat_interleave(bag.offsets[rows] - offsets[:-1], lengths) + torch.arange(int(offsets[-1]), device=lengths.device)
    return Bag(bag.values[places], offsets, bag.source)
