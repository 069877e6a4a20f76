"""A teacher's scores of logged pairs, and which of them a batch meets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twotower.data.batches import Batch, Scored
from twotower.data.columns import Array, Ragged, distinct, offsets_of, ragged_rows
from twotower.data.prepared import Log
from twotower.errors import DataError


class PairScores(NamedTuple):
    """The scored pairs of a training log, each once."""

    asked: Array  # int64  query row and key in one, in rising order
    names: Array  # int64 [n]  place in `asked` and item in one, in rising order
    scores: Array  # float32 [n]
    n_keys: int
    n_items: int

    def of(self, batch: Batch) -> Scored:
        """The scores of what stands beside each view in the log: its matches in this batch and its explicit non-matches."""
        c = len(batch.item_rows)
        own = [ragged_rows(column) * c + column.values for column in (Ragged(batch.positives.positions, batch.positives.offsets), batch.negatives)]
        cells = distinct(np.concatenate(own))
        views, positions = cells // c, cells % c
        asked = _places(self.asked, batch.query_rows * self.n_keys + batch.query_keys)[views]
        found = np.where(asked < 0, -1, _places(self.names, asked * self.n_items + batch.item_rows[positions]))
        there = found >= 0
        counts = np.bincount(views[there], minlength=len(batch.query_rows))
        return Scored(Ragged(positions[there], offsets_of(counts)), self.scores[found[there]])


def pair_scores(log: Log, n_keys: int, n_items: int) -> PairScores | None:
    """The scores of a training log, the mean of those of one pair; None where no column holds them.

    Raises DataError where nothing could be learnt from them: a query's scores say how its items compare, so some query needs two.
    """
    if log.teacher is None:
        return None
    scored = log.take(np.flatnonzero(~np.isnan(log.teacher)))
    assert scored.teacher is not None
    asked, place = np.unique(scored.query_rows * n_keys + scored.query_keys, return_inverse=True)
    names, which = np.unique(place * n_items + scored.item_rows, return_inverse=True)
    if len(names) == len(asked):
        raise DataError(
            "[pairs] teacher: no query of the training part has scores of two items, and how a teacher compares items is all that is learnt of it. "
            "Score several items of each query: its matches, and with [pairs] label = 0 what does not match."
        )
    scores = np.bincount(which, scored.teacher, minlength=len(names)) / np.bincount(which, minlength=len(names))
    return PairScores(asked, names, scores.astype(np.float32), n_keys, n_items)


def _places(among: Array, values: Array) -> Array:
    """Where values stand among others in rising order, -1 where they do not."""
    place = np.minimum(np.searchsorted(among, values), len(among) - 1)
    return np.where(among[place] == values, place, -1)
