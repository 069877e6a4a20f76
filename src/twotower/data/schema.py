"""What the columns are: which make a query, which make an item, which say how a pair is to be taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from twotower.data.features import Category, Feature, Id, Text
from twotower.errors import ConfigError

Side = Literal["query", "item"]
SIDES: tuple[Side, Side] = ("query", "item")
FeatureOptions = Id | Category | Text


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """The columns of the pair log that are no feature.

    item: names the item's id in the log; by default the name of `item.id`. time: orders the log. weight: how much a pair
    counts in the loss. event, event_weights: the weight by kind of event; a kind that is not listed is dropped and counted.
    repeats: the same query and item again is kept, or counted into one pair's weight, or only its first is kept.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    item: str | None = None
    time: str | None = None
    weight: str | None = None
    event: str | None = None
    event_weights: Mapping[str, Annotated[float, Ge(0)]] | None = None
    repeats: Literal["keep", "count", "first"] = "count"


@dataclass(frozen=True, kw_only=True)
class QuerySide:
    """The query side. key: the column whose equal values share their known matches; by default the feature values themselves."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    features: tuple[FeatureOptions, ...]
    key: str | None = None


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

    def features(self, side: Side) -> tuple[FeatureOptions, ...]:
        """The features of one side."""
        return self.query.features if side == "query" else self.item.features

    def check(self) -> None:
        """Raise ConfigError for what no single option can see."""
        for side in SIDES:
            if not self.features(side):
                raise ConfigError(f'[{side}] has no features. Name at least one: features = [ {{ column = "...", type = "text" }} ]')
            names = [feature_name(feature) for feature in self.features(side)]
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ConfigError(f"[{side}] declares {', '.join(sorted(twice))} twice. Each column may have each type once.")
        if (self.pairs.event is None) != (not self.pairs.event_weights):
            raise ConfigError('[pairs] event and event_weights go together: event = "type", event_weights = { click = 1, buy = 10 }')
        if self.pairs.item is not None and self.item.id is None:
            raise ConfigError("[pairs] item names the column of item ids, so [item] id must name its column in the catalogue")


def feature_name(feature: Feature) -> str:
    """The name of a feature's encoded column: unique on its side, since a column may be read in several ways."""
    return f"{feature.column}:{feature.type}"
