"""What the columns are: which make a query, which make an item, which say how a pair is to be taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from twotower.data.features import Feature, FeatureOptions, Pieces, Pretrained, Text
from twotower.data.quantities import moment, span
from twotower.errors import ConfigError

Side = Literal["query", "item"]
SIDES: tuple[Side, Side] = ("query", "item")


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """The columns of the pair log that are no feature.

    item: names the item's id in the log; by default the name of `item.id`. query: names the query's id, where queries have a table of
    their own; by default the name of `query.id`. time: orders the log. ordered: the log stands in order of time, but has no times.
    weight: how much a pair counts in the loss. event, event_weights: the weight by kind of event; a kind that is not listed is
    dropped and counted. label: how right the item is, 0 or more. match: labels from here on are matches, those below explicit
    non-matches; by default all above 0 are matches. teacher: how right somebody to imitate finds the item, any number or missing. repeats:
    the same query and item again is kept, or counted into one pair's weight, or only its first is kept. core: keys and items with fewer
    different matches are dropped, until none is left. since: pairs before this date, or longer before the last than this span, are dropped.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    item: str | None = None
    query: str | None = None
    time: str | None = None
    ordered: bool = False
    weight: str | None = None
    event: str | None = None
    event_weights: Mapping[str, Annotated[float, Ge(0)]] | None = None
    label: str | None = None
    match: Annotated[float, Gt(0)] | None = None
    teacher: str | None = None
    repeats: Literal["keep", "count", "first"] | None = None
    core: Annotated[int, Ge(1)] = 1
    since: str | None = None

    def check(self) -> None:
        """Raise ConfigError for what no single option can see."""
        if (self.event is None) != (not self.event_weights):
            raise ConfigError('[pairs] event and event_weights go together: event = "type", event_weights = { click = 1, buy = 10 }')
        if self.ordered and self.time is not None:
            raise ConfigError("[pairs] ordered = true says that the log has no times, and time names them. Leave one out.")
        if self.match is not None and self.label is None:
            raise ConfigError('[pairs] match says which labels are matches, so label = "..." must name their column')
        if self.since is not None and self.time is None:
            raise ConfigError('[pairs] since counts back in time, so time = "..." must name the column of times')
        if self.since is not None and span(self.since) is None and moment(self.since) is None:
            raise ConfigError(f'[pairs] since = "{self.since}" is no span like "90d" and no date like "2024-05-01"')


@dataclass(frozen=True, kw_only=True)
class QuerySide:
    """The query side.

    key: the column of the log whose equal values share their known matches; by default the query's id, or else the feature values
    themselves. id: the column that names a query, where the queries have a table of their own.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    features: tuple[FeatureOptions, ...]
    key: str | None = None
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class ItemSide:
    """The item side.

    id: the column that names an item; without one, an item is known by a digest of its feature values. payload: columns
    kept for display, never fed to a tower. unlisted: whether a pair whose item the catalogue lacks is dropped, or its item
    kept with nothing but its id.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    features: tuple[FeatureOptions, ...]
    id: str | None = None
    payload: tuple[str, ...] = ()
    unlisted: Literal["drop", "keep"] = "drop"


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Both sides and the pairs."""

    query: QuerySide
    item: ItemSide
    pairs: PairColumns = PairColumns()

    @property
    def repeats(self) -> Literal["keep", "count", "first"]:
        """What becomes of the same query and item again; by default it is counted, or where a history knows times, kept once, as it first was."""
        return self.pairs.repeats or ("first" if self._remembers else "count")

    @property
    def _remembers(self) -> bool:
        """Whether a history is cut by times."""
        timed = self.pairs.time is not None or self.pairs.ordered
        return timed and any(feature.from_log for feature in self.query.features)

    def features(self, side: Side) -> tuple[FeatureOptions, ...]:
        """The features of one side."""
        return self.query.features if side == "query" else self.item.features

    def raw_features(self, side: Side) -> tuple[FeatureOptions, ...]:
        """The features of one side that read a raw column; a history is cut from the log."""
        return tuple(feature for feature in self.features(side) if not feature.from_log)

    @property
    def key(self) -> str | None:
        """The column of the log that holds the declared key."""
        return self.query.key or self.query_column

    @property
    def query_column(self) -> str | None:
        """The column of the log that names the query's id, where queries have a table of their own."""
        return None if self.query.id is None else self.pairs.query or self.query.id

    @property
    def history_by(self) -> str | None:
        """The column of the log whose equal values share a history; None where nothing has a history."""
        return next((feature.by or self.key for feature in self.query.features if feature.type == "history"), None)

    def check(self) -> None:
        """Raise ConfigError for what no single option can see."""
        for side in SIDES:
            if not self.features(side):
                raise ConfigError(f'[{side}] has no features. Name at least one: features = [ {{ column = "...", type = "text" }} ]')
            names = [feature_name(feature) for feature in self.features(side)]
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ConfigError(f"[{side}] declares {', '.join(sorted(twice))} twice. Each column may have each type once.")
            for feature in self.features(side):
                if isinstance(feature, Pieces):
                    feature.check()
        self.pairs.check()
        self._check_history()
        if self.pairs.item is not None and self.item.id is None:
            raise ConfigError("[pairs] item names the column of item ids, so [item] id must name its column in the catalogue")
        if self.pairs.query is not None and self.query.id is None:
            raise ConfigError("[pairs] query names the column of query ids, so [query] id must name its column in the table of queries")

    def _check_history(self) -> None:
        if any(feature.from_log for feature in self.item.features):
            raise ConfigError("[item] cannot have a history: it is the items that a query touched before. Put it into [query].")
        found = [feature for feature in self.query.features if feature.type == "history"]
        if found and self.history_by is None:
            raise ConfigError('a history needs to know whose it is: [query] key = "user_id", or by = "user_id" in the feature')
        if self._remembers and self.pairs.repeats == "count":
            raise ConfigError(
                '[pairs] repeats = "count" puts a pair where it was last, and a history would then tell what comes again. '
                'Set repeats = "first" or "keep", or leave it out.'
            )
        ids = [feature.column for feature in self.item.features if feature.type == "id"]
        if any(f.type == "history" and f.items == "ids" for f in found) and ids[:1] != [self.item.id]:
            raise ConfigError('a history with items = "ids" reads the table of [item] id: that column must be the first feature of type "id" there')
        if len(found) > 1:
            raise ConfigError(f"[query] has {len(found)} histories, and a model reads one. Leave the others out.")


def feature_name(feature: Feature) -> str:
    """The name of a feature's encoded column: unique on its side, since a column may be read in several ways."""
    return f"{feature.column}:{feature.type}"


def read_alike(one: FeatureOptions, other: FeatureOptions) -> bool:
    """Whether two features make the same of a text, so that a layer of the one can read what the other encodes."""
    if isinstance(one, Text) and isinstance(other, Text):
        return (one.buckets, one.pairs, one.pieces) == (other.buckets, other.pairs, other.pieces)
    if isinstance(one, Pieces) and isinstance(other, Pieces):
        return one.table is not None and one.table == other.table
    if isinstance(one, Pretrained) and isinstance(other, Pretrained):
        return one.tune and other.tune and (one.folder, one.window) == (other.folder, other.window)
    return False
