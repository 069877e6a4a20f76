"""What batches are made of: the log, what its keys match and turned down, what was mined, and choices among these."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twotower.data.batches import BatchDraft, Epochs, Taught
from twotower.data.columns import Array, Columns, Ragged, distinct, lengths_of, offsets_of, ragged_rows, take_ragged
from twotower.data.schema import Side
from twotower.data.scores import PairScores
from twotower.learning.memory import Entries
from twotower.learning.views import Reading
from twotower.model.negatives import SamplerState


class Material(NamedTuple):
    """What batches are made of."""

    epochs: Epochs
    known: Ragged  # for every key, its training matches
    rejected: Ragged | None  # for every key, what the training log says it does not match, where the log says so
    columns: dict[Side, Columns]
    reading: Reading | None  # how histories are read
    sampler: SamplerState
    scores: PairScores | None = None  # a teacher's, of pairs
    taught: Taught | None = None  # a teacher's vectors of all query rows and all items


class Mined(NamedTuple):
    """What was found, by pair."""

    epoch: int  # before which it was mined
    lists: Array  # int64 [pairs]  which of the lists belongs to the view of a pair, -1 for none
    items: Ragged  # [lists] item rows


class Past(NamedTuple):
    """What was learnt before a batch that decides what it holds."""

    mined: Mined | None = None
    entries: Entries | None = None  # of the memory


def drawn(rejected: Ragged, keys: Array, most: int, generator: np.random.Generator) -> Ragged:
    """For each view [b] at most so many of the items that its key is known not to match."""
    return some(take_ragged(rejected, keys), most, generator)


def some(found: Ragged, most: int, generator: np.random.Generator) -> Ragged:
    """At most so many of the items of each view [b]."""
    order = np.lexsort((generator.random(len(found.values)), ragged_rows(found)))
    kept = order[np.arange(len(order)) - np.repeat(found.offsets[:-1], lengths_of(found)) < most]
    return Ragged(found.values[kept], offsets_of(np.minimum(lengths_of(found), most)))


def of_views(mined: Mined, part: BatchDraft) -> Ragged:
    """What was mined for the pairs of each view of a batch, each item once."""
    views = np.repeat(np.arange(len(part.query_rows)), np.diff(part.offsets))
    lists = mined.lists[part.pair_rows]
    found = take_ragged(mined.items, lists[lists >= 0])
    rows = views[lists >= 0][ragged_rows(found)]
    return merged(rows, found.values, len(part.query_rows))


def merged(views: Array, items: Array, n: int) -> Ragged:
    """The items [p] of each of n views [p], each once, in rising order."""
    span = 1 + int(items.max(initial=0))
    both = distinct(views * span + items)
    return Ragged(both % span, offsets_of(np.bincount(both // span, minlength=n)))
