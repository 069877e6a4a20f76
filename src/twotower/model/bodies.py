"""What a tower does with the vectors of its features: parts [n, f, d] -> [n, d].

To add a body: a module of that form, and a function of the options and the number of features in `BODIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from twotower.errors import ConfigError
from twotower.model.layers.dropout import Dropout
from twotower.model.options import ModelOptions

Custom = Callable[[int, int], nn.Module]  # (features, dimensions) -> a module [n, f, d] -> [n, d]


class Sum(nn.Module):
    """The parts added up."""

    def forward(self, parts: Tensor) -> Tensor:
        return parts.sum(1)


class Linear(nn.Module):
    """One matrix for each part, starting as the identity: the sum of the parts, to begin with."""

    def __init__(self, features: int, options: ModelOptions) -> None:
        super().__init__()
        self.dropout = Dropout(options.dropout)
        self.change = zeroed(nn.Linear(features * options.dimensions, options.dimensions))

    def forward(self, parts: Tensor) -> Tensor:
        changed: Tensor = self.change(self.dropout(parts.flatten(1)))
        return parts.sum(1) + changed


class Mlp(nn.Module):
    """The parts side by side through hidden layers. Nothing of them is kept but what the layers pass on."""

    def __init__(self, features: int, options: ModelOptions) -> None:
        super().__init__()
        width = features * options.dimensions
        self.steps = nn.Sequential(_norm(width, options), *_hidden(width, options.hidden, options.dropout))
        self.last = nn.Linear(options.hidden[-1] if options.hidden else width, options.dimensions)

    def forward(self, parts: Tensor) -> Tensor:
        vectors: Tensor = self.last(self.steps(parts.flatten(1)))
        return vectors


class Residual(nn.Module):
    """The sum of the parts, plus what each of `depth` blocks adds: training starts from the plain sum (He et al. 2016)."""

    def __init__(self, features: int, options: ModelOptions) -> None:
        super().__init__()
        d = options.dimensions
        self.blocks = nn.ModuleList(
            nn.Sequential(
                _norm(d, options),
                *_hidden(d, options.hidden, options.dropout),
                zeroed(nn.Linear(options.hidden[-1] if options.hidden else d, d)),
            )
            for _ in range(options.depth)
        )

    def forward(self, parts: Tensor) -> Tensor:
        x = parts.sum(1)
        for block in self.blocks:
            x = x + block(x)
        return x


class Cross(nn.Module):
    """A cross network over the parts side by side, in which each layer multiplies what there is by the input once more (DCN-v2: Wang et al. 2021).

    The last layer's output is added to the sum of the parts, and starts at zero.
    """

    def __init__(self, features: int, options: ModelOptions) -> None:
        super().__init__()
        width = features * options.dimensions
        self.norm = _norm(width, options)
        self.crosses = nn.ModuleList(nn.Linear(width, width) for _ in range(options.depth))
        self.dropout = Dropout(options.dropout)
        self.last = zeroed(nn.Linear(width, options.dimensions))

    def forward(self, parts: Tensor) -> Tensor:
        first = x = self.norm(parts.flatten(1))  # [n, f * d]
        for cross in self.crosses:
            x = first * self.dropout(cross(x)) + x
        added: Tensor = self.last(x)
        return parts.sum(1) + added


def zeroed(layer: nn.Linear) -> nn.Linear:
    """A layer that says nothing until it is trained."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _norm(width: int, options: ModelOptions) -> nn.Module:
    return nn.LayerNorm(width) if options.norm == "layer" else nn.Identity()


def _hidden(width: int, hidden: Sequence[int], dropout: float) -> list[nn.Module]:
    steps: list[nn.Module] = []
    for following in hidden:
        steps += [nn.Linear(width, following), nn.GELU(), Dropout(dropout)]
        width = following
    return steps


def custom(body: Custom, features: int, dimensions: int) -> nn.Module:
    """A user's own module, tried once. Raises ConfigError unless it takes [n, f, d] to [n, d]."""
    try:
        module = body(features, dimensions)
    except TypeError as error:
        raise ConfigError(f"a custom body is a function of (features, dimensions) that makes a torch.nn.Module: {error}") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"a custom body must be a torch.nn.Module, made by a function of (features, dimensions); it is {type(module).__name__}")
    try:
        with torch.no_grad():
            found = module.eval()(torch.zeros(3, features, dimensions))
    except Exception as error:  # the user's own code may raise anything
        raise ConfigError(
            f"a custom body must take [n, {features}, {dimensions}] to [n, {dimensions}]; it raised {type(error).__name__}: {error}"
        ) from error
    module.train()
    if not isinstance(found, Tensor) or found.shape != (3, dimensions):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(f"a custom body must take [n, {features}, {dimensions}] to [n, {dimensions}]; for n = 3 it gave {shape}")
    return module


BODIES: dict[str, Callable[[int, ModelOptions], nn.Module]] = {
    "none": lambda features, options: Sum(),
    "linear": Linear,
    "mlp": Mlp,
    "residual": Residual,
    "cross": Cross,
}
