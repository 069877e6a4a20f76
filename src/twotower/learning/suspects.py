"""Pairs that look wrong: those that a model which never saw them ranks in the lower half of the catalogue.

The training matches are halved, and a model of each half ranks those of the other, as confident learning has it for classes (Northcutt, Jiang &
Chuang 2021). What a half cannot know is not judged: an item without a pair in it, and somebody known by an id alone who has none there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from twotower.data.columns import Array
from twotower.data.prepared import Prepared
from twotower.data.splits import TEST, TRAIN, VALIDATION
from twotower.learning.metrics import Ranks
from twotower.learning.subsets import askers

LOWER = 0.5  # of the catalogue: whoever knows anything has what is right in its upper half
UNTOLD = ("id", "history")  # features that say nothing of somebody without pairs


def halves(prepared: Prepared, seed: int) -> tuple[Prepared, Prepared]:
    """The data twice: half of the training matches to learn from, and as validation those of the other half that it can judge.

    The matches of everybody who asks are dealt out evenly. Explicit non-matches are in both.
    """
    training = (prepared.parts == TRAIN) & (np.asarray(prepared.log.labels) > 0)
    who = askers(prepared)
    generator = np.random.default_rng(seed)
    rows = np.flatnonzero(training)
    ordered = rows[np.lexsort((generator.random(len(rows)), who[rows]))]
    starts = np.flatnonzero(np.append(True, who[ordered][1:] != who[ordered][:-1]))
    counts = np.diff(np.append(starts, len(ordered)))
    first = np.repeat(generator.integers(0, 2, len(starts)), counts)  # whoever has one pair is in either half
    half = np.zeros(len(training), np.int8)
    half[ordered] = (np.arange(len(ordered)) - np.repeat(starts, counts) + first) % 2
    return _learning(prepared, training & (half == 0), training & (half == 1)), _learning(prepared, training & (half == 1), training & (half == 0))


def _learning(prepared: Prepared, learnt: Array, judged: Array) -> Prepared:
    who, items = askers(prepared), np.asarray(prepared.log.item_rows)
    known = np.isin(items, items[learnt])
    if all(feature.type in UNTOLD for feature in prepared.encoder.features["query"]):
        known &= np.isin(who, who[learnt])
    rejected = (prepared.parts == TRAIN) & ~learnt & ~judged
    parts = np.where(learnt | rejected, TRAIN, np.where(judged & known, VALIDATION, TEST)).astype(np.int8)
    return replace(prepared, parts=parts)


def places(ranks: Ranks) -> Array:
    """Where each relevant item [p] stands in its ranking, above 0 and up to 1, ties at their middle: float64."""
    query = np.repeat(np.arange(len(ranks.offsets) - 1), np.diff(ranks.offsets))
    return np.asarray((ranks.above + (ranks.tied + 1) / 2) / ranks.n_candidates[query])


def without(prepared: Prepared, rows: Array) -> Prepared:
    """The data without some pairs of the log."""
    parts = np.array(prepared.parts)
    parts[rows] = TEST
    return replace(prepared, parts=parts)


def mended(prepared: Prepared, rows: Array, items: Array) -> Prepared:
    """The data with other items in some pairs of the log."""
    item_rows = np.array(prepared.log.item_rows)
    item_rows[rows] = items
    log = prepared.log._replace(item_rows=item_rows)
    if log.teacher is not None:  # what it said was of the other item
        teacher = np.array(log.teacher)
        teacher[rows] = np.nan
        log = log._replace(teacher=teacher)
    return replace(prepared, log=log)


def worst(places: Array) -> Array:
    """The positions int64 of the pairs that look wrong by where they stood, the worst first."""
    order = np.argsort(-places, kind="stable")
    return order[places[order] > LOWER]
