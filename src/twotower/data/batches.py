"""Batches: small bipartite graphs of views and candidates, each a pure function of (seed, epoch, number).

A view is what the query tower encodes; views that share a query row, a key and a cut are one. A batch counts pairs, an epoch
visits each training pair once. Which items the views are scored against is the sampler's choice (`model/negatives.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from twotower.data.columns import Array, Ragged, distinct, offsets_of, ragged_rows, take_ragged
from twotower.data.histories import Histories
from twotower.data.prepared import Log

MOST_PLACES = 1 << 22  # items of a table that is made for every batch


class Positives(NamedTuple):
    """The matches of each view [b], as positions among the candidates, with what is known of each pair."""

    positions: Array  # int64 [p]  in 0..c
    offsets: Array  # int64 [b + 1]
    pair_rows: Array  # int64 [p]  which of the matches that are trained on
    weights: Array  # float32 [p]  graded labels included, unless they order instead
    grades: Array  # float32 [p]  labels


class Scored(NamedTuple):
    """What a teacher's scores say of some cells of a batch."""

    cells: Ragged  # [b] positions among the candidates, each once
    scores: Array  # float32, as the values of cells


class Taught(NamedTuple):
    """A teacher's vectors, scaled so that their products are its logits."""

    queries: Array  # float32 [b, t]
    items: Array  # float32 [c, t]


class Batch(NamedTuple):
    """Views [b], the candidates [c] they are scored against, and how the two are related."""

    query_rows: Array  # int64 [b]  what the query tower encodes; a row may occur twice, with different cuts
    query_keys: Array  # int64 [b]  whose known positives are masked
    history_keys: Array | None  # int64 [b]  whose log gives the history
    cuts: Array | None  # int64 [b]  history = that training log before this position
    item_rows: Array  # int64 [c]  distinct candidates, in rising order
    log_prob: Array  # float32 [c]  log of the probability that this item is among the shared candidates
    positives: Positives
    negatives: Ragged  # [b] positions of explicit or mined negatives, for this view only; masked for the others
    alone: Array  # bool [c]  candidates that are there for some views only: as their matches, or as negatives of their own
    masks: Ragged  # [m] positions of all known matches of a key, in rising order: none of them is a negative
    mask_rows: Array  # int64 [b]  which of these is the view's; views of one key share it
    scored: Scored | None = None  # where a teacher scored pairs of the log
    taught: Taught | None = None  # where a teacher has towers of its own


class BatchDraft(NamedTuple):
    """A batch before it has candidates: its views and their matches by item row."""

    query_rows: Array  # int64 [b]
    query_keys: Array  # int64 [b]
    history_keys: Array | None  # int64 [b]
    cuts: Array | None  # int64 [b]
    item_rows: Array  # int64 [p]  of each match, in the order of the views
    offsets: Array  # int64 [b + 1]
    pair_rows: Array  # int64 [p]
    weights: Array  # float32 [p]
    grades: Array | None = None  # float32 [p]  labels; all 1 where nobody asks


class Epochs(NamedTuple):
    """The matches to train on, in their order of each epoch.

    groups: pairs of one group stay together in an epoch, in the order of the log. parts: the pairs of a key are dealt to so many groups,
    anew in each epoch. Without either every pair goes its own way.
    """

    log: Log
    batch_size: int
    seed: int
    histories: Histories | None = None
    groups: Array | None = None  # int64 [n]
    parts: int = 0

    @property
    def batches(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return -(-len(self.log.query_rows) // self.batch_size)

    def order(self, epoch: int) -> Array:
        """The order int64 [n] in which an epoch visits the pairs."""
        generator = np.random.default_rng([self.seed, epoch])
        groups = self.groups
        if groups is None and self.parts:
            groups = np.asarray(self.log.query_keys, np.int64) * self.parts + generator.integers(self.parts, size=len(self.log.query_keys))
        if groups is None:
            return generator.permutation(len(self.log.query_rows))
        return np.argsort(generator.permutation(int(groups.max(initial=-1)) + 1)[groups], kind="stable")

    def drafts(self, epoch: int, start: int = 0) -> Iterator[BatchDraft]:
        """The drafts of an epoch, from the one numbered `start` on."""
        order = self.order(epoch)
        for number in range(start, self.batches):
            yield draft(self.log, order[number * self.batch_size : (number + 1) * self.batch_size], self.histories)


def draft(log: Log, pair_rows: Array, histories: Histories | None = None) -> BatchDraft:
    """These pairs [p] as views and their matches: pairs of one query row, key and history are one view."""
    chosen = log.take(pair_rows)
    parts = [chosen.query_rows, chosen.query_keys]
    if histories is not None:
        assert chosen.history_keys is not None
        parts += [chosen.history_keys, histories.cuts(chosen.history_keys, chosen.moments)]
    order = np.lexsort((*parts[:1:-1], parts[0], parts[1]))  # by key first: views of one mask stand together
    new = np.ones(len(order), bool)
    new[1:] = np.logical_or.reduce([part[order[1:]] != part[order[:-1]] for part in parts])
    views = [part[order[new]] for part in parts]
    return BatchDraft(
        query_rows=views[0],
        query_keys=views[1],
        history_keys=None if histories is None else views[2],
        cuts=None if histories is None else views[3],
        item_rows=chosen.item_rows[order],
        offsets=np.append(np.flatnonzero(new), len(order)),
        pair_rows=pair_rows[order],
        weights=chosen.weights[order],
        grades=chosen.labels[order],
    )


def complete(part: BatchDraft, item_rows: Array, log_prob: Array, known: Ragged, rejected: Ragged | None = None, alone: Array | None = None) -> Batch:
    """A draft with its candidates.

    item_rows: distinct candidates int64 [c] in rising order, the draft's own matches among them. known: for every key its
    training matches, in rising order. Every known match among the candidates is masked. rejected: for every view [b] the items that it is known
    not to match; they join the candidates, for it alone where nobody else brought them. alone: bool [c] of candidates that are there as
    matches only.
    """
    b = len(part.query_rows)
    alone = np.zeros(len(item_rows), bool) if alone is None else alone
    negatives = Ragged(np.empty(0, np.int64), np.zeros(b + 1, np.int64))
    if rejected is not None and len(rejected.values):
        every = united(item_rows, rejected.values)
        place = np.searchsorted(every, item_rows)
        theirs = np.ones(len(every), bool)
        theirs[place] = alone
        probable = np.zeros(len(every), np.float32)  # what is there for certain needs no correction
        probable[place] = log_prob
        item_rows, log_prob, alone = every, probable, theirs
        negatives = Ragged(np.searchsorted(every, rejected.values), rejected.offsets)
    positions = np.searchsorted(item_rows, part.item_rows)
    grades = np.ones(len(positions), np.float32) if part.grades is None else part.grades
    positives = Positives(positions, part.offsets, part.pair_rows, part.weights, grades)
    keys, mask_rows = np.unique(part.query_keys, return_inverse=True)
    masks = _among(item_rows, take_ragged(known, keys))
    return Batch(part.query_rows, part.query_keys, part.history_keys, part.cuts, item_rows, log_prob, positives, negatives, alone, masks, mask_rows)


def _among(item_rows: Array, matches: Ragged) -> Ragged:
    """The positions of those of the matches that are candidates."""
    found = places(item_rows, matches.values)
    here = found >= 0
    return Ragged(found[here], offsets_of(np.bincount(ragged_rows(matches)[here], minlength=len(matches.offsets) - 1)))


def places(item_rows: Array, items: Array) -> Array:
    """Where these items stand among item rows [c] in rising order, -1 where they do not. By a table: a tenth of the time of a search."""
    top = int(item_rows[-1]) + 1 if len(item_rows) else 0
    if top > MOST_PLACES:
        found = np.minimum(np.searchsorted(item_rows, items), len(item_rows) - 1)
        return np.where(item_rows[found] == items, found, -1)
    table = np.full(top + 1, -1)
    table[item_rows] = np.arange(len(item_rows))
    return np.asarray(table[np.minimum(items, top)])


def united(item_rows: Array, others: Array) -> Array:
    """The item rows that are in either, each once, in rising order."""
    top = 1 + max(int(item_rows.max(initial=-1)), int(others.max(initial=-1)))
    if top > MOST_PLACES:
        return distinct(np.concatenate([item_rows, others]))
    there = np.zeros(top, bool)
    there[item_rows] = True
    there[others] = True
    return np.flatnonzero(there)
