"""The dials of training and evaluation, apart from the modules that read them so that a config can be read without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from twotower.errors import ConfigError
from twotower.model.options import READERS_OF_LOSSES, LossOptions, NegativesOptions, brought


@dataclass(frozen=True, kw_only=True)
class MiningOptions:
    """Hard negatives, found by the towers themselves (Xiong et al. 2021).

    mined: how many of them a view is shown, at most. mine_from: the epoch before which they are mined first, counted from 0; None is 0
    where the towers rank words before they learnt anything, else 1. mine_every: epochs between two minings. mine_views: how many views
    are mined for at once, at most, drawn anew each time. mine_ranks: from which rank to which one they are drawn, the first being 1; known
    matches have none. mine_margin: only items that score at least so much below the match; mine_relative_margin: the same as a share
    of the match's score; mine_highest: only items that score at most this. mine_duplicates: never an item whose content is as near
    to that of a known match as this cosine, 0 for any. mine_teacher: a finished run or bundle: only items that it scores at least
    mine_teacher_margin below the match.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    mined: Annotated[int, Ge(0)] = 0
    mine_from: Annotated[int, Ge(0)] | None = None
    mine_every: Annotated[int, Ge(1)] = 1
    mine_views: Annotated[int, Ge(1)] = 100_000
    mine_ranks: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] = (1, 100)
    mine_margin: float | None = None
    mine_relative_margin: float | None = None
    mine_highest: float | None = None
    mine_duplicates: Annotated[float, Ge(0), Le(1)] = 0.95
    mine_teacher: str | None = None
    mine_teacher_margin: float = 0.0

    def check(self) -> None:
        """Raise ConfigError for an option that would have no effect."""
        changed = [name for name in vars(self) if name.startswith("mine_") and getattr(self, name) != getattr(MiningOptions, name)]
        if changed and not self.mined:
            raise ConfigError(f"[train] {', '.join(changed)}: nothing is mined. Set mined, the number for each view, or leave them out.")
        if self.mine_ranks[0] > self.mine_ranks[1]:
            raise ConfigError(f"[train] mine_ranks = {list(self.mine_ranks)} ends before it begins; write the better rank first, like [10, 100]")
        if self.mine_teacher_margin and self.mine_teacher is None:
            raise ConfigError("[train] mine_teacher_margin is for mine_teacher, which names none. Leave it out.")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(LossOptions, NegativesOptions, MiningOptions):
    """How the model learns, what it minimises and what it compares.

    epochs, batch_size: an epoch visits each training pair once; a batch counts pairs. again: the share of the epochs, at least one, that
    a run takes which goes on from an earlier one. together: the pairs of a key are dealt to so many
    batches of an epoch, and those of one batch have one query; 0 lets every pair go its own way.
    learning_rate: of everything but tables; table_learning_rate: of tables; pretrained_learning_rate: of the weights of an encoder
    that is tuned. query_rate, item_rate: what all rates of one tower are multiplied by. warmup: the share of all moves in which
    the rates rise; schedule: how they fall afterwards, to a fiftieth. accumulate: batches before one move, by the gradient of all their
    pairs; each has its own candidates. chunk_size: rows of a tower encoded at once, 0 for all: the loss is of the whole batch, the memory
    that of a chunk, and every chunk is encoded twice (Gao et al. 2021). clip_norm: the most that the whole gradient may measure, 0 for
    any. table_optimizer: row-wise; only rows that a step touches move, or are remembered anew. weight_decay: of matrices; tables do not decay.
    precision: of the towers' arithmetic in training; bfloat16 halves the time of large networks where the machine has
    instructions for it, and weights, scores and the loss stay float32, but for its matrix products. patience: validations without a
    better metric before it stops, 0 for never. checkpoint_minutes: between two checkpoints. warm_start: what the towers know before the
    first step: nothing; the `factors` of the training log, as ids; or the words of the `catalogue`, in which items are found by one
    of their texts without it, for warm_epochs. teacher: a finished run or a bundle to learn from beside the log: how its towers rank the
    candidates of each view.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    epochs: Annotated[int, Ge(1)] = 10
    again: Annotated[float, Gt(0), Le(1)] = 0.1
    batch_size: Annotated[int, Ge(2)] = 1024
    together: Annotated[int, Ge(0)] = 0
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    table_optimizer: Literal["adagrad", "adam"] = "adagrad"
    table_learning_rate: Annotated[float, Gt(0)] = 0.1
    pretrained_learning_rate: Annotated[float, Gt(0)] = 2e-5
    query_rate: Annotated[float, Gt(0)] = 1.0
    item_rate: Annotated[float, Gt(0)] = 1.0
    weight_decay: Annotated[float, Ge(0)] = 0.0
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.05
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    accumulate: Annotated[int, Ge(1)] = 1
    chunk_size: Annotated[int, Ge(0)] = 0
    clip_norm: Annotated[float, Ge(0)] = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    patience: Annotated[int, Ge(0)] = 2
    checkpoint_minutes: Annotated[float, Gt(0)] = 1.0
    warm_start: Literal["none", "factors", "catalogue"] = "none"
    warm_epochs: Annotated[int, Ge(1)] = 3
    seed: Annotated[int, Ge(0)] = 0
    teacher: str | None = None

    def check(self) -> None:
        """Raise ConfigError for an option that would have no effect."""
        LossOptions.check(self)
        NegativesOptions.check(self)
        MiningOptions.check(self)
        self._check_negatives()
        if self.warm_start != "catalogue" and self.warm_epochs != TrainOptions.warm_epochs:
            raise ConfigError(f'[train] warm_start = "{self.warm_start}" reads no catalogue, and warm_epochs says how often. Leave it out.')

    def _check_negatives(self) -> None:
        """Raise ConfigError for negatives that the loss, the batches or the epochs would make nothing of."""
        most = brought(self, self.batch_size)
        if 0 < self.memory < most:
            raise ConfigError(f"[train] memory = {self.memory} keeps whole batches, and one brings up to {most:,} items: set at least that, or 0.")
        if self.loss == "pointwise":
            shown = [name for name in ("memory", "mined") if getattr(self, name)]
            # What a teacher says of other items is read.
            shown += ["negatives"] * (self.negatives != "in_batch" and self.teacher is None)
            if shown:
                told = f"{' and '.join(shown)} would add items without any. Leave that out, or take another loss"
                raise ConfigError(f'[train] loss = "pointwise" learns from labels alone, and {told}.')
            if not self.non_matches:
                raise ConfigError('[train] loss = "pointwise" learns from the non-matches of the log, and non_matches = 0 shows none. Raise it.')
        if self.probabilities == "streaming" and not (self.correction and self.loss in READERS_OF_LOSSES["correction"]):
            raise ConfigError('[train] probabilities are for the correction, which is off here. Leave them at "exact", or set correction = true.')
        if self.mined and self.negatives == "full":
            raise ConfigError('[train] mined adds the hardest items, and negatives = "full" scores every item already. Leave it out.')
        if self.mined and (self.mine_from or 0) >= self.epochs:
            raise ConfigError(f"[train] mine_from = {self.mine_from} is past the last of {self.epochs} epochs, which are counted from 0. Lower it.")

    def continued(self) -> TrainOptions:
        """Those of a run that goes on from an earlier one, which is all the start it needs."""
        return replace(self, epochs=max(1, round(self.again * self.epochs)), warm_start="none", mine_from=0 if self.mined else None)


Gain = Literal["equal", "label", "exponential"]
Baseline = Literal[
    "popularity", "recent_popularity", "popularity_by_category", "item_knn", "ease", "ease_low_rank", "gf_cf", "als", "bm25", "bm25_queries"
]
USUAL_BASELINES: tuple[Baseline, ...] = ("bm25_queries", "bm25", "ease", "item_knn", "popularity")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How models are measured.

    metrics: names like hit@10, each a mean over queries with its interval. select: the metric that picks the best epoch, stops training, and
    decides whether words are searched beside vectors. per: a `pair` is ranked with the key's other matches left out, or a `query` with all its
    matches. gain: what a relevant item counts in ndcg: all alike, its label, or 2^label - 1 (Burges et al. 2005). exclude_seen: leave out
    what the key is known to have matched before, in training, and in validation for the test pairs; on by default, but where it ranks per query
    and neither `query.key` nor `query.id` is set. baselines: by name. pretrained: the folder of a sentence encoder that is measured beside
    them as it is. queries: how many validation queries are ranked while training.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    metrics: tuple[str, ...] = ("hit@1", "hit@10", "ndcg@10", "mrr")
    select: str = "mrr"
    per: Literal["pair", "query"] = "pair"
    gain: Gain = "equal"
    exclude_seen: bool | None = None
    baselines: tuple[Baseline, ...] = USUAL_BASELINES
    pretrained: str | None = None
    queries: Annotated[int, Ge(1)] = 10_000
    seed: Annotated[int, Ge(0)] = 0

    def check(self) -> None:
        """Raise ConfigError for a metric that is not known."""
        from twotower.learning.metrics import parse

        if not self.metrics:
            raise ConfigError('[evaluate] metrics names none. Name at least one: metrics = ["hit@10", "mrr"]')
        named = [parse(name)[0] for name in (*self.metrics, self.select)]
        if self.gain != "equal" and (self.per == "pair" or "ndcg" not in named):
            raise ConfigError(
                f'[evaluate] gain = "{self.gain}" grades the matches of one ranking against each other, in ndcg: it needs per = "query", '
                "and ndcg among the metrics. Leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """How settings are searched for.

    budget: of time, like "30m" or "2h30m", once the data are prepared: for the search, the finalists, and the two runs at the end. trials:
    how many settings are tried, at most. finalists: how many of the best are trained again beside yours; each with so many other seeds, by which
    alone the winner is chosen. space: which settings are searched for and where, by name: a list of values, or { low, high }, with
    log = true where steps are factors; without it, what suits the data.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    budget: str = "30m"
    trials: Annotated[int, Ge(2)] | None = None
    finalists: Annotated[int, Ge(1)] = 2
    seeds: Annotated[int, Ge(1)] = 2
    space: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ConfigError for a budget that is no span of time."""
        seconds_of(self.budget)


SPANS = {"h": 3600, "m": 60, "s": 1}


def seconds_of(budget: str) -> float:
    """The seconds that a text like "1h30m" names. Raises ConfigError for any other."""
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", budget.strip())
    seconds = sum(float(number) * span for number, span in zip(found.groups(), SPANS.values(), strict=True) if number) if found else 0.0
    if seconds <= 0:
        raise ConfigError(f'the budget "{budget}" is no span of time. Write it like 30m, 2h or 1h30m.')
    return seconds
