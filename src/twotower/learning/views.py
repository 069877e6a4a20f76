"""What the query tower reads for each view: the columns of its row, and its history with what stands for the items in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from twotower.data.columns import Array, Column, Columns, take, take_ragged
from twotower.data.encoder import Encoder
from twotower.data.features import History
from twotower.data.histories import Histories, histories, stand_in
from twotower.data.prepared import Prepared
from twotower.data.schema import feature_name
from twotower.data.splits import VALIDATION
from twotower.errors import ConfigError
from twotower.learning.evaluation import Cases

BLOCK = 4096  # views worked on at once


class Reading(NamedTuple):
    """How a model reads histories: under which name, and by what an item stands there."""

    name: str
    feature: History
    codes: Array | None  # int64 [items], the code of each item's id where `items = "ids"`; None for the vectors of the item tower


def reading(encoder: Encoder, item_columns: Columns) -> Reading | None:
    """How the query side reads its history, or None where it has none."""
    found = [feature for feature in encoder.features["query"] if isinstance(feature, History)]
    if not found:
        return None
    feature = found[0]
    codes = None
    if feature.items == "ids":
        named = encoder.item_id
        if named is None:
            raise ConfigError('a history with items = "ids" reads the table of the items\' ids, and [item] has no feature of type "id"')
        codes = np.asarray(item_columns[feature_name(named)])
    return Reading(feature_name(feature), feature, codes)


def before(prepared: Prepared, part: int, read: Reading | None) -> Histories | None:
    """The histories that may be shown to whoever is asked in this part of the split: of the parts before it."""
    if read is None:
        return None
    if read.feature.pool != "mean" and prepared.log.moments is None:
        raise ConfigError(
            f'a history with pool = "{read.feature.pool}" asks what came when, and the log has no times. Name them in [pairs] time, set '
            '[pairs] ordered = true if the log stands in order of time, or use pool = "mean".'
        )
    return histories(prepared.log, prepared.parts < max(part, VALIDATION), read.feature.last)


def view_columns(encoder: Encoder, columns: Columns, rows: Array, history: tuple[str, Column] | None) -> dict[str, Column]:
    """The columns of these query rows [n], the history among them where it stands."""
    names = [feature_name(feature) for feature in encoder.features["query"]]
    return {name: history[1] if history is not None and name == history[0] else take(columns[name], rows) for name in names}


def blocks(
    encoder: Encoder, columns: Columns, asked: Cases, seen: Histories | None, read: Reading | None, vectors: Array
) -> Iterator[tuple[slice, Columns]]:
    """The query columns of cases in blocks, with the histories of each as they were then."""
    for start in range(0, len(asked.query_rows), BLOCK):
        part = slice(start, min(start + BLOCK, len(asked.query_rows)))
        history = None
        if seen is not None and read is not None:
            assert asked.history_keys is not None and asked.cuts is not None
            wanted = take_ragged(asked.relevant, np.arange(part.start, part.stop))
            found = seen.of(asked.history_keys[part], asked.cuts[part], wanted)
            history = (read.name, stand_in(found, vectors if read.codes is None else read.codes))
        yield part, view_columns(encoder, columns, asked.query_rows[part], history)


def encoded(asked: Cases, dimensions: int, parts: Iterator[tuple[slice, Columns]], encode: Callable[[Columns], Array]) -> Array:
    """The vectors float32 [q, d] of all cases."""
    vectors = np.empty((len(asked.query_rows), dimensions), np.float32)
    for part, columns in parts:
        vectors[part] = encode(columns)
    return vectors
