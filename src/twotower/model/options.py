"""The dials of the model, apart from the modules that read them so that a config can be read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from twotower.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What the two towers are.

    dimensions: the width of the space. similarity: `cosine` or `dot`. temperature: similarities are divided by it before the
    loss; learned from there unless learn_temperature is off. body: what follows the features of a side: `none`, their sum;
    `linear`; an `mlp`; `residual` blocks; a `cross` network; or `custom`, a module passed from Python. hidden: the widths of the
    mlp, or of each residual block. depth: the number of residual blocks or crosses. norm: `layer` or `none`, before a body.
    dropout: in the body. shared_tables: text features of both sides that hash alike read one table. shared_body: both sides use
    one body, which needs as many features on each, but for `residual` blocks.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    dimensions: Annotated[int, Ge(1), Le(8192)] = 128
    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: Annotated[float, Gt(0)] = 0.1
    learn_temperature: bool = True
    body: Literal["none", "linear", "mlp", "residual", "cross", "custom"] = "none"
    hidden: tuple[Annotated[int, Ge(1)], ...] = (256,)
    depth: Annotated[int, Ge(1), Le(64)] = 1
    norm: Literal["layer", "none"] = "layer"
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    shared_tables: bool = True
    shared_body: bool = False

    def check(self) -> None:
        """Raise ConfigError for an option that would have no effect."""
        idle = [name for name, bodies in READERS.items() if self.body not in bodies and getattr(self, name) != getattr(ModelOptions, name)]
        if idle:
            told = "; ".join(f"{name} is for body = {' or '.join(READERS[name])}" for name in idle)
            raise ConfigError(f'[model] body = "{self.body}" does not read {", ".join(idle)}: {told}. Set another body, or leave them out.')


# Which bodies read which option.
READERS = {
    "hidden": ("mlp", "residual"),
    "depth": ("residual", "cross"),
    "norm": ("mlp", "residual", "cross"),
    "dropout": ("linear", "mlp", "residual", "cross"),
    "shared_body": ("linear", "mlp", "residual", "cross", "custom"),
}
