"""The dials of the model, apart from the modules that read them so that a config can be read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from twotower.errors import ConfigError

CONTENT = ("text", "pieces", "pretrained", "vector", "history")  # the types of features that an id stands beside


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """What is minimised.

    loss: by name. correction: subtract the log-probability of meeting a candidate in a batch; correct_positive: from the positive's own
    logit too. positives: what the other positives of a view are to one, `apart`, `graded`, `among` or `together`. symmetric: the mean with the
    loss of items against the queries of the batch. smoothing: of the target. margin, in similarities; negative_weight, of the negatives
    of `cosine_contrastive`; positive_temperature, of `bilateral`, as a multiple of the temperature. widths: beginnings of the vectors
    that are trained to do for the whole, and may be cut there later. teacher_weight: the share of the loss that is the distance from a
    teacher, where there is one; at 1 it is all, and loss says nothing. teacher_temperature: what the teacher's scores are divided by.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    loss: Literal["softmax", "bilateral", "sigmoid", "pointwise", "bpr", "bpr_max", "hinge", "triplet", "cosine_contrastive"] = "softmax"
    correction: bool = True
    correct_positive: bool = True
    positives: Literal["apart", "graded", "among", "together"] = "apart"
    symmetric: bool = False
    smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    margin: float = 0.5
    negative_weight: Annotated[float, Gt(0)] = 1.0
    positive_temperature: Annotated[float, Gt(0)] = 1.0
    widths: tuple[Annotated[int, Ge(1)], ...] = ()
    teacher_weight: Annotated[float, Gt(0), Le(1)] = 0.5
    teacher_temperature: Annotated[float, Gt(0)] = 1.0

    def check(self) -> None:
        """Raise ConfigError for an option that would have no effect."""
        idle = [name for name, losses in READERS_OF_LOSSES.items() if self.loss not in losses and getattr(self, name) != getattr(LossOptions, name)]
        if idle:
            told = "; ".join(f"{name} is for loss = {' or '.join(READERS_OF_LOSSES[name])}" for name in idle)
            raise ConfigError(f'[train] loss = "{self.loss}" does not read {", ".join(idle)}: {told}. Set another loss, or leave them out.')


# Which losses read which option.
READERS_OF_LOSSES = {
    "correction": ("softmax", "bilateral", "sigmoid", "bpr", "bpr_max", "hinge", "cosine_contrastive"),
    "correct_positive": ("softmax", "bilateral"),
    "positives": ("softmax",),
    "symmetric": ("softmax", "bilateral", "sigmoid", "bpr", "bpr_max", "hinge", "triplet", "cosine_contrastive"),
    "smoothing": ("softmax", "bilateral", "sigmoid", "pointwise"),
    "margin": ("hinge", "triplet", "cosine_contrastive"),
    "negative_weight": ("cosine_contrastive",),
    "positive_temperature": ("bilateral",),
}
RAW = ("hinge", "triplet", "cosine_contrastive")  # losses of similarities as they are, which no temperature divides


@dataclass(frozen=True, kw_only=True)
class NegativesOptions:
    """What a match is scored against.

    negatives: `in_batch`, the other items of the batch; `drawn` from the catalogue; `mixed`, both; or the `full` catalogue. draws: how
    many, with replacement. power: of an item's share of the log, which its chance to be drawn is proportional to; 0 is uniform.
    memory: how many item vectors of the batches before are scored too, at most; whole batches are kept. probabilities: of an
    item to be a candidate, `exact` by a formula, or `streaming`, by how often it was met (Yi et al. 2019).
    non_matches: how many of the items that the log says its key does not match a view is shown beside them, at most.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    negatives: Literal["in_batch", "drawn", "mixed", "full"] = "in_batch"
    draws: Annotated[int, Ge(1)] = 1024
    power: Annotated[float, Ge(0)] = 0.0
    memory: Annotated[int, Ge(0)] = 0
    probabilities: Literal["exact", "streaming"] = "exact"
    non_matches: Annotated[int, Ge(0)] = 4

    def check(self) -> None:
        """Raise ConfigError for an option that would have no effect."""
        idle = [name for name in ("draws", "power") if getattr(self, name) != getattr(NegativesOptions, name)]
        if idle and self.negatives not in ("drawn", "mixed"):
            raise ConfigError(f'[train] negatives = "{self.negatives}" draws nothing, and {" and ".join(idle)} say how. Set "drawn" or "mixed".')
        if self.memory and self.negatives == "full":
            raise ConfigError('[train] memory adds items of earlier batches, and negatives = "full" scores every item already. Leave it out.')
        if self.probabilities == "streaming" and self.negatives not in ("in_batch", "mixed"):
            raise ConfigError(f'[train] negatives = "{self.negatives}" has probabilities that are known, so leave probabilities at "exact".')


def brought(options: NegativesOptions, batch_size: int) -> int:
    """How many shared candidates a batch brings, at most."""
    return (0 if options.negatives == "drawn" else batch_size) + (0 if options.negatives == "in_batch" else options.draws)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What the two towers are.

    dimensions: the width of the space. similarity: `cosine` or `dot`. temperature: similarities are divided by it before the
    loss; learned from there unless learn_temperature is off. body: what follows the features of a side: `none`, their sum;
    `linear`; an `mlp`; `residual` blocks; a `cross` network; or `custom`, a module passed from Python. hidden: the widths of the
    mlp, or of each residual block. depth: the number of residual blocks or crosses. norm: `layer` or `none`, before a body.
    dropout: in the body. feature_dropout: the chance of each feature of a row to be hidden from a training step, so that it
    says nothing; one of them always stays. shared_tables: text features of both sides that hash alike read one table.
    shared_body: both sides use one body, which needs as many features on each, but for `residual` blocks.
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
    feature_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    shared_tables: bool = True
    shared_body: bool = False

    def check(self) -> None:
        """Raise ConfigError for an option that would have no effect."""
        idle = [name for name, bodies in READERS_OF_BODIES.items() if self.body not in bodies and getattr(self, name) != getattr(ModelOptions, name)]
        if idle:
            told = "; ".join(f"{name} is for body = {' or '.join(READERS_OF_BODIES[name])}" for name in idle)
            raise ConfigError(f'[model] body = "{self.body}" does not read {", ".join(idle)}: {told}. Set another body, or leave them out.')


# Which bodies read which option.
READERS_OF_BODIES = {
    "hidden": ("mlp", "residual"),
    "depth": ("residual", "cross"),
    "norm": ("mlp", "residual", "cross"),
    "dropout": ("linear", "mlp", "residual", "cross"),
    "shared_body": ("linear", "mlp", "residual", "cross", "custom"),
}
