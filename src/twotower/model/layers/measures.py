"""Layers of numbers, moments and given vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from twotower.model.layers.inputs import Input, Layer


class Linear(Layer):
    """Numbers [n, w] -> [n, d], with a bias."""

    def __init__(self, width: int, dimensions: int, deviation: float) -> None:
        super().__init__()
        self.steps = nn.Linear(width, dimensions)
        nn.init.normal_(self.steps.weight, std=deviation)
        nn.init.zeros_(self.steps.bias)

    def forward(self, column: Input) -> Tensor:
        assert isinstance(column, Tensor)
        projected: Tensor = self.steps(column)
        return projected


class Head(Layer):
    """Vectors [n, w] that already mean something -> [n, d]: kept as they are, plus a linear change that starts at zero.

    Where the widths differ, the vectors are first projected at random, by the same directions on both sides: their angles then
    stay about what they were (Johnson and Lindenstrauss 1984). The last of the w + 1 columns says that there is none.
    """

    projection: Tensor  # float32 [w, d]

    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("projection", projection(width, dimensions), persistent=width != dimensions)
        self.change = nn.Linear(width + 1, dimensions, bias=False)
        nn.init.zeros_(self.change.weight)

    def forward(self, column: Input) -> Tensor:
        assert isinstance(column, Tensor)
        vectors = column[:, :-1]
        kept = vectors if vectors.shape[1] == self.projection.shape[1] else vectors @ self.projection
        changed: Tensor = self.change(column)
        return kept + changed


def projection(width: int, dimensions: int) -> Tensor:
    """Orthonormal directions [w, d] of a random projection that depends on the widths alone."""
    if width == dimensions:
        return torch.eye(width)
    generator = torch.Generator().manual_seed(width)
    most = max(width, dimensions)
    directions, _ = torch.linalg.qr(torch.randn(most, min(width, dimensions), generator=generator))  # [most, least]
    directions = directions if width > dimensions else directions.T
    # Scaled so that lengths, too, stay what they were, on average.
    scaled: Tensor = directions * max(1.0, width / dimensions) ** 0.5
    return scaled
