"""One layer per feature type: encoded column -> vectors [n, d].

To add one: a `Layer` in a module here, and under the feature's key in `LAYERS` a function that builds it of the feature, its
state and where it stands. A layer takes its column in two forms: as batches hold it (`[n]`, `[n, w]`, or a `Bag` of values and
offsets) and, for export, with rows padded by 0 to one length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from twotower.data.features import State
from twotower.errors import ConfigError
from twotower.model.layers.history import Pooled
from twotower.model.layers.inputs import Bag, Input, Layer, Named, Prefixes, Table, tensors
from twotower.model.layers.measures import Head, Linear
from twotower.model.layers.names import Embedding, EmbeddingSet, new_table
from twotower.model.layers.pieces import PieceNetwork
from twotower.model.layers.pretrained import Tuned, is_pretrained, opened
from twotower.model.layers.text import HashedText, TextTable, table_name, text_table

Tables = dict[str, nn.Module]


class Place(NamedTuple):
    """Where a layer stands. tables: by name, those that layers share, and whole encoders; a builder may add its own."""

    name: str  # of the layer: the side and the name of the feature
    dimensions: int
    tables: Tables
    texts: str  # what the names of its tables of hashed text and of its encoder begin with
    beside_content: bool  # whether words, vectors or a history stand on its side
    item_ids: str | None = None  # the name of the table of the items' ids

    @property
    def deviation(self) -> float:
        """Of what a layer's output starts from. Beside content it starts at zero: it then adds what that cannot tell, and no noise."""
        return 0.0 if self.beside_content else self.dimensions**-0.5


def names_table(name: str, feature: Any) -> str:
    """The name of the table of an id, category or set of them, whose layer has this name."""
    return f"named {feature.table}" if feature.table else name


def _names_table(feature: Any, state: State, place: Place) -> Table:
    name = names_table(place.name, feature)
    if name not in place.tables:
        rows = len(state["hashes"]) + feature.first_known
        place.tables[name] = new_table(rows, place.dimensions, feature.first_known, place.deviation)
    return _table(place, name)


def _table(place: Place, name: str) -> Table:
    table = place.tables[name]
    assert isinstance(table, Table)
    return table


def _embedding(feature: Any, state: State, place: Place) -> Layer:
    return Embedding(_names_table(feature, state, place), feature)


def _embedding_set(feature: Any, state: State, place: Place) -> Layer:
    return EmbeddingSet(_names_table(feature, state, place), feature)


def _linear(feature: Any, state: State, place: Place) -> Layer:
    width = feature.form(state, place.dimensions).width
    return Linear(width, place.dimensions, place.deviation / width**0.5)


def _head(feature: Any, state: State, place: Place) -> Layer:
    return Head(feature.form(state, place.dimensions).width - 1, place.dimensions)


def _hashed_text(feature: Any, state: State, place: Place) -> Layer:
    table = place.tables[place.texts + table_name(feature)]
    assert isinstance(table, TextTable)
    return HashedText(table, feature.dropout)


def _pieces(feature: Any, state: State, place: Place) -> Layer:
    name = f"named {feature.table}" if feature.table else place.name
    if name not in place.tables:
        place.tables[name] = new_table(1 + int(state["pieces"][0]), feature.width, 1, feature.width**-0.5)
    return PieceNetwork(feature, _table(place, name), place.dimensions)


def _pretrained(feature: Any, state: State, place: Place) -> Layer:
    width = int(state["width"][0])
    if not feature.tune:
        return Head(width, place.dimensions)
    name = f"{place.texts}pretrained {feature.folder}"
    if name not in place.tables:
        place.tables[name] = opened(feature, state)
    return Tuned(place.tables[name], place.dimensions)


def _history(feature: Any, state: State, place: Place) -> Layer:
    table = None
    if feature.items == "ids":
        if place.item_ids is None:
            raise ConfigError('a history with items = "ids" reads the table of the items\' ids, and [item] has no feature of type "id"')
        table = _table(place, place.item_ids)
    return Pooled(feature, table, place.dimensions)


LAYERS: dict[str, Callable[[Any, State, Place], Layer]] = {
    "id": _embedding,
    "category": _embedding,
    "categories": _embedding_set,
    "number": _linear,
    "time": _linear,
    "vector": _head,
    "text": _hashed_text,
    "pieces": _pieces,
    "pretrained": _pretrained,
    "history": _history,
}

__all__ = [
    "LAYERS",
    "Bag",
    "Input",
    "Layer",
    "Named",
    "Place",
    "Prefixes",
    "Table",
    "Tables",
    "is_pretrained",
    "names_table",
    "table_name",
    "tensors",
    "text_table",
]
