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
    loss; learned from there unless learn_temperature is off. body: what follows the sum of a side's features, `none` or an
    `mlp` with a residual path. hidden: the widths of the mlp. dropout: in the body. shared_tables: text features of both sides
    that hash alike read one table. shared_body: both sides use one body.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    dimensions: Annotated[int, Ge(1), Le(8192)] = 128
    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: Annotated[float, Gt(0)] = 0.1
    learn_temperature: bool = True
    body: Literal["none", "mlp"] = "none"
    hidden: tuple[Annotated[int, Ge(1)], ...] = (256,)
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    shared_tables: bool = True
    shared_body: bool = False

    def check(self) -> None:
        """Raise ConfigError for an option that would have no effect."""
        if self.body == "none":
            idle = [name for name in ("hidden", "dropout", "shared_body") if getattr(self, name) != getattr(ModelOptions, name)]
            if idle:
                raise ConfigError(f'[model] {", ".join(idle)} belong to the mlp, and body = "none". Set body = "mlp", or leave them out.')
