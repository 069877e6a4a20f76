"""Layers of pretrained sentence encoders that are trained on."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from twotower.data import pretrained
from twotower.data.features import State
from twotower.errors import ConfigError
from twotower.model.layers.blocks import in_blocks
from twotower.model.layers.dropout import lighter
from twotower.model.layers.inputs import Bag, Input, Layer
from twotower.model.layers.measures import projection


class Tuned(Layer):
    """Token codes through an encoder whose weights move: its unit vectors, plus a linear change of them that starts at zero.

    Where the widths differ, the vectors are first projected as `Head` does.
    """

    projection: Tensor  # float32 [w, d]

    def __init__(self, network: nn.Module, dimensions: int) -> None:
        super().__init__()
        self.network = network
        self.width = int(network.width)  # type: ignore[arg-type]
        self.register_buffer("projection", projection(self.width, dimensions), persistent=self.width != dimensions)
        self.change = nn.Linear(self.width, dimensions, bias=False)
        nn.init.zeros_(self.change.weight)

    def forward(self, column: Input) -> Tensor:
        """A Bag of n rows, or padded codes [n, l] -> [n, d]"""
        vectors = in_blocks(column, self.width, self.network) if isinstance(column, Bag) else self.network(column)
        kept = vectors if self.width == self.projection.shape[1] else vectors @ self.projection
        changed: Tensor = self.change(vectors)
        return kept + changed


def opened(feature: Any, state: State) -> nn.Module:
    """The encoder of a feature with the weights of its folder. Raises ConfigError if that has changed since the state was fitted."""
    folder = pretrained.locate(feature.folder)
    if pretrained.digest_of(folder) != state["digest"].tobytes().hex():
        raise ConfigError(f"the encoder in {folder} is not the one that the data were prepared with. Put that back, or prepare them anew.")
    network = lighter(pretrained.network(folder))
    network.pretrained = True  # type: ignore[assignment]  # its learning rate is its own
    return network


def is_pretrained(module: nn.Module) -> bool:
    """Whether a module holds weights that somebody else trained."""
    return bool(getattr(module, "pretrained", False))
