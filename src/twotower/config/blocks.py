"""The blocks of a config, and what no single option can see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from twotower.bundle.retriever import SearchOptions
from twotower.data.features import History, Id, Pretrained
from twotower.data.schema import SIDES, ItemSide, PairColumns, QuerySide, Schema, read_alike
from twotower.data.sources.databases import SqlOptions
from twotower.data.splits import SplitOptions
from twotower.errors import ConfigError
from twotower.learning.options import EvaluateOptions, TrainOptions, TuneOptions
from twotower.model.options import CONTENT, RAW, READERS_OF_LOSSES, ModelOptions

Place = str | tuple[str, ...] | SqlOptions  # a path or a glob, several of them, or a query


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where the data are: paths, globs or lists of them, relative to the config, or a query, { sql = "SELECT ..." }.

    items: the catalogue, if there is one. queries: a table of what is known of each query, if the pairs name queries by id.
    validation, test: pairs of their own for these parts, with `split.by = "files"`.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    pairs: Place | None = None
    items: Place | None = None
    queries: Place | None = None
    validation: Place | None = None
    test: Place | None = None


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """What of the machine is used.

    threads: of the processor, all by default; of each process, where several train together. memory: of the data engine, like "4GB".
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    threads: Annotated[int, Ge(1)] | None = None
    memory: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a run."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    query: QuerySide
    item: ItemSide
    version: Literal[1] = 1
    data: DataOptions = DataOptions()
    pairs: PairColumns = PairColumns()
    split: SplitOptions = SplitOptions()
    model: ModelOptions = ModelOptions()
    train: TrainOptions = TrainOptions()
    evaluate: EvaluateOptions = EvaluateOptions()
    search: SearchOptions = SearchOptions()
    tune: TuneOptions = TuneOptions()
    machine: MachineOptions = MachineOptions()

    @property
    def schema(self) -> Schema:
        """What the columns are."""
        return Schema(query=self.query, item=self.item, pairs=self.pairs)

    def check(self) -> None:
        """Raise ConfigError for what no single option can see."""
        for place in vars(self.data).values():
            if isinstance(place, SqlOptions):
                place.check()
        self.schema.check()
        self.split.check()
        self.model.check()
        self.train.check()
        self.evaluate.check()
        self.tune.check()
        self._check_loss()
        self._check_warm_start()
        worded = {side: any(feature.worded for feature in self.schema.features(side)) for side in SIDES}
        tuned = any(isinstance(f, Pretrained) and f.tune for side in SIDES for f in self.schema.features(side))
        if self.train.pretrained_learning_rate != TrainOptions.pretrained_learning_rate and not tuned:
            raise ConfigError("[train] pretrained_learning_rate is for an encoder that is tuned, and no feature has tune = true. Leave it out.")
        plain = all(feature.type in ("id", "category", "categories", "text") for side in SIDES for feature in self.schema.features(side))
        if self.train.weight_decay and self.model.body == "none" and plain:
            raise ConfigError('[train] weight_decay decays matrices, and with [model] body = "none" these features have only tables. Leave it out.')
        if self.search.mode in ("words", "hybrid") and not worded["query"]:
            raise ConfigError(f'[search] mode = "{self.search.mode}" needs a text feature in [query]; use mode = "auto" or "vectors"')
        if self.search.words_weight is not None and self.search.mode in ("vectors", "words"):
            raise ConfigError(f'[search] words_weight is for mode = "hybrid" or "auto", and mode is "{self.search.mode}". Leave it out.')
        if self.search.words_of != "auto" and not (worded["query"] and (worded["item"] or self.search.words_of == "both")):
            needed = "[query]" if self.search.words_of == "both" else "[query] and one in [item]"
            raise ConfigError(f'[search] words_of = "{self.search.words_of}" needs a text feature in {needed}. Leave it out.')
        if self.evaluate.pretrained is not None and not all(worded.values()):
            raise ConfigError("[evaluate] pretrained compares words with words, so both sides need a text feature. Leave it out.")
        if self.evaluate.gain != "equal" and self.pairs.label is None:
            raise ConfigError(f'[evaluate] gain = "{self.evaluate.gain}" is of labels: name their column, [pairs] label, or leave it out')
        if self.evaluate.per == "query" and self.schema.repeats == "keep":
            raise ConfigError('[evaluate] per = "query" ranks an item once, so it needs [pairs] repeats = "count" or "first"')

    def _check_loss(self) -> None:
        """Raise ConfigError for a loss that data and model do not fit."""
        loss = f'[train] loss = "{self.train.loss}"'
        if not self.train.correct_positive and not self.train.correction:
            raise ConfigError("[train] correct_positive = false says how to correct, and correction is off. Leave it out.")
        if self.train.loss in RAW and (self.model.temperature, self.model.learn_temperature) != (ModelOptions.temperature, True):
            raise ConfigError(f"{loss} takes similarities as they are, so no temperature divides them. Leave out what [model] says of it.")
        if self.train.loss == "cosine_contrastive" and self.model.similarity != "cosine":
            raise ConfigError(f'{loss} needs [model] similarity = "cosine"')
        if self.train.loss == "pointwise" and self.pairs.label is None:
            raise ConfigError(f"{loss} learns from labels, those of 0 among them: name their column, [pairs] label, or take another loss")
        if self.train.non_matches != TrainOptions.non_matches and self.pairs.label is None:
            raise ConfigError("[train] non_matches are told by labels of 0: name their column, [pairs] label, or leave it out")
        if self.train.together and any(isinstance(feature, History) and feature.pool == "transformer" for feature in self.query.features):
            raise ConfigError('[train] together deals pairs to batches by key, and pool = "transformer" brings them together already. Leave it out.')
        if self.train.positives == "graded" and self.pairs.label is None:
            raise ConfigError('[train] positives = "graded" orders matches by their labels: name their column, [pairs] label, or leave it out')
        self._check_teacher()
        if self.train.mine_duplicates != TrainOptions.mine_duplicates and not any(f.type in CONTENT for f in self.item.features):
            raise ConfigError(
                f"[train] mine_duplicates compares what items hold, and [item] has no feature of it ({', '.join(CONTENT)}). Leave it out."
            )
        if any(width >= self.model.dimensions for width in self.train.widths):
            raise ConfigError(f"[train] widths are beginnings of the vectors, so below [model] dimensions = {self.model.dimensions}")

    def _check_warm_start(self) -> None:
        """Raise ConfigError for a warm start that would change nothing."""
        named = f'[train] warm_start = "{self.train.warm_start}"'
        items, queries = self.item.features, self.query.features
        if self.train.warm_start == "factors":
            ids = {side: [f for f in self.schema.features(side) if isinstance(f, Id) and f.type == "id"][:1] for side in SIDES}
            history = [feature for feature in queries if isinstance(feature, History)]
            if not ids["item"] or not (ids["query"] or history):
                raise ConfigError(f'{named} starts ids: it needs a feature of type "id" on the item side, and one or a history on the query side')
            if any(feature.pool == "transformer" for feature in history):
                raise ConfigError(f'{named} starts from the mean of a history, and pool = "transformer" makes something else of it. Leave it out.')
            if self.model.body == "mlp":
                raise ConfigError(f'{named} starts from the sum of the features, and [model] body = "mlp" makes something else of it. Leave it out.')
            if not history and ids["query"][0].table is not None and ids["query"][0].table == ids["item"][0].table:
                raise ConfigError(f"{named} gives ids of queries and of items vectors of their own, and both share a table. Leave one out.")
        if self.train.warm_start == "catalogue":
            columns = {feature.column for feature in items if feature.worded}
            if len(columns) < 2 or not any(read_alike(asks, told) for asks in queries for told in items):
                raise ConfigError(
                    f"{named} finds items by their texts, one of which the query side reads instead: it needs two texts of the items, "
                    'and a feature of [query] that reads words alike: "text" hashed alike, "pieces" of one table, or "pretrained" with tune = true'
                )

    def _check_teacher(self) -> None:
        """Raise ConfigError for a teacher whom the loss does not fit, and for what is said of one who is not there."""
        train, named = self.train, self.pairs.teacher is not None
        if named and train.teacher is not None:
            raise ConfigError("[pairs] teacher, a column of scores, and [train] teacher, a finished model, are two teachers. Leave one out.")
        if not named and train.teacher is None:
            idle = [name for name in ("teacher_weight", "teacher_temperature") if getattr(train, name) != getattr(TrainOptions, name)]
            if idle:
                raise ConfigError(
                    f"[train] {' and '.join(idle)} say how to learn from a teacher, and there is none: name a finished run, [train] teacher, or a "
                    "column of scores, [pairs] teacher, or leave them out"
                )
            return
        if train.loss in RAW:
            raise ConfigError(
                f'[train] loss = "{train.loss}" takes similarities as they are, and only those over a temperature make a distribution that can be '
                "compared with a teacher's. Take another loss, or no teacher."
            )
        if train.teacher_weight == 1:
            unread = [name for name in ("loss", *READERS_OF_LOSSES) if named or name not in ("correction", "correct_positive")]
            # A column of scores compares the matches of a batch and the non-matches of the log alone.
            unread += ["negatives", "memory", "mined"] * named
            idle = [name for name in unread if getattr(train, name) != getattr(TrainOptions, name)]
            if idle:
                raise ConfigError(f"[train] teacher_weight = 1 leaves nothing to the loss, so {', '.join(idle)} would say nothing. Leave them out.")
