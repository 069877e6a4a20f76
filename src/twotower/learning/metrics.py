"""How good a ranking is: pure functions of ranks, one value for each query.

Items may tie, and then a ranking is any order of the tied ones. Every metric is the expectation over all those orders,
each as likely (McSherry & Najork 2008), in closed form: no luck, and no gain from giving everything the same score.
To add a metric, write one function of (ranks, cutoff) and enter it in `METRICS`; what it needs to know is in `Ranks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from twotower.data.columns import Array
from twotower.errors import ConfigError, choices


class Ranks(NamedTuple):
    """Where the relevant items of every query stand; each query has at least one.

    Those of query i are `offsets[i]:offsets[i + 1]`. Relevant items of a query that tie with each other have the same
    `above` and the same `tied`, so an item's rank is anything from above + 1 to above + tied.
    """

    above: Array  # int64 [p]  candidates of a strictly higher score
    tied: Array  # int64 [p]  candidates of the same score, itself among them
    offsets: Array  # int64 [q + 1]
    n_candidates: Array  # int64 [q]
    gains: Array | None = None  # float64 [p]  what each relevant item counts in ndcg; 1 where there are none


def hit(ranks: Ranks, k: int | None) -> Array:
    """The probability that one relevant item or more is among the first k: float64 [q]."""
    k = _needed(k, "hit")
    first = _first_ties(ranks)
    slots = np.clip(k - first.above, 0, first.tied)
    # None of the m relevant of t tied falls into s slots: the product of (t - s - j) / (t - j) for j < m.
    starts = np.cumsum(first.relevant) - first.relevant
    query = np.repeat(np.arange(len(slots)), first.relevant)
    j = np.arange(len(query)) - starts[query]
    missed = np.maximum(first.tied[query] - slots[query] - j, 0) / (first.tied[query] - j)
    return np.asarray(1.0 - np.multiply.reduceat(missed, starts))


def recall(ranks: Ranks, k: int | None) -> Array:
    """The share of the relevant items that is among the first k: float64 [q]."""
    return _sums(ranks, _within(ranks, _needed(k, "recall"))) / np.diff(ranks.offsets)


def precision(ranks: Ranks, k: int | None) -> Array:
    """The share of the first k that is relevant, where missing candidates count as not relevant: float64 [q]."""
    k = _needed(k, "precision")
    return _sums(ranks, _within(ranks, k)) / k


def mrr(ranks: Ranks, k: int | None) -> Array:
    """One over the rank of the first relevant item, 0 where that is past k: float64 [q]."""
    first = _first_ties(ranks)
    slots = first.tied if k is None else np.clip(k - first.above, 0, first.tied)
    values = _harmonic_gap(first.above, first.above + slots) / first.tied
    several = np.flatnonzero((first.relevant > 1) & (slots > 0))
    known: dict[tuple[int, ...], float] = {}  # a baseline without an opinion has the same tie for every query
    kinds = np.stack([first.above, first.tied, first.relevant, slots], axis=1)[several].tolist()
    for query, (above, tied, relevant, limit) in zip(several, kinds, strict=True):
        kind = (above, tied, relevant, limit)
        if kind not in known:
            known[kind] = _first_of_several(*kind)
        values[query] = known[kind]
    return values


def average_precision(ranks: Ranks, k: int | None) -> Array:
    """Average precision: at each relevant item the share of relevant ones so far, over all that are relevant.

    float64 [q]. Relevant items past k add nothing but still divide, as in trec_eval.
    """
    relevant, before = _tie_of_each(ranks)
    slots = ranks.tied if k is None else np.clip(k - ranks.above, 0, ranks.tied)
    # Position a + r of a tie is relevant with probability m / t, and then before + 1 + (r - 1)(m - 1) / (t - 1) are so
    # far. Over r = 1..s, with r - 1 = (a + r) - (a + 1), the sum has a harmonic part and a plain one.
    others = (relevant - 1) / np.maximum(ranks.tied - 1, 1)
    harmonic = _harmonic_gap(ranks.above, ranks.above + slots)
    each = (before + 1 - others * (ranks.above + 1)) * harmonic + others * slots
    return _sums(ranks, each / ranks.tied) / np.diff(ranks.offsets)


def ndcg(ranks: Ranks, k: int | None) -> Array:
    """Discounted gain, that of each relevant item up to k over log2(rank + 1), by that of the best ranking: float64 [q].

    Järvelin & Kekäläinen (2002); gains are 1, or what the ranks say.
    """
    deepest = int((ranks.above + ranks.tied).max(initial=0))
    limit = deepest if k is None else min(k, deepest)
    discounts = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, limit + 2)))])  # of the first 0, 1, ... ranks
    below, above = np.minimum(ranks.above + ranks.tied, limit), np.minimum(ranks.above, limit)
    found = (discounts[below] - discounts[above]) / ranks.tied
    if ranks.gains is None:
        return np.asarray(_sums(ranks, found) / discounts[np.minimum(np.diff(ranks.offsets), limit)])
    best = ranks.gains[np.lexsort((-ranks.gains, _queries(ranks)))]  # of each query, the largest first
    place = np.minimum(np.arange(len(best)) - np.repeat(ranks.offsets[:-1], np.diff(ranks.offsets)), limit)
    discount = np.append(np.diff(discounts), 0.0)  # of each rank; past the cutoff nothing
    return np.asarray(_sums(ranks, found * ranks.gains) / _sums(ranks, best * discount[place]))


METRICS: dict[str, Callable[[Ranks, int | None], Array]] = {
    "hit": hit,
    "recall": recall,
    "precision": precision,
    "mrr": mrr,
    "map": average_precision,
    "ndcg": ndcg,
}
UNCUT = ("mrr", "map", "ndcg")  # that mean something without a cutoff


def parse(metric: str) -> tuple[str, int | None]:
    """The name and the cutoff of a metric as people write it: `ndcg@10`, or `mrr` for the whole ranking."""
    name, at, cutoff = metric.partition("@")
    if name not in METRICS:
        raise ConfigError(f'there is no metric "{metric}": {choices(METRICS, name)}, as in "recall@10"')
    if not at and name in UNCUT:
        return name, None
    if not (cutoff.isascii() and cutoff.isdigit() and int(cutoff) >= 1):
        raise ConfigError(f'the metric "{metric}" lacks a cutoff of 1 or more, as in "{name}@10"')
    return name, int(cutoff)


class _Ties(NamedTuple):
    """One tie of every query."""

    above: Array  # int64 [q]
    tied: Array  # int64 [q]
    relevant: Array  # int64 [q]  how many of the tied are relevant


def _needed(k: int | None, name: str) -> int:
    if k is None or k < 1:
        raise ConfigError(f'"{name}" takes a cutoff of 1 or more, as in "{name}@10"')
    return k


def _sums(ranks: Ranks, values: Array) -> Array:
    """The sum over each query's relevant items: [p] -> [q]."""
    return np.asarray(np.add.reduceat(values, ranks.offsets[:-1]))


def _within(ranks: Ranks, k: int) -> Array:
    """The probability that each relevant item is among the first k: float64 [p]."""
    return np.clip((k - ranks.above) / ranks.tied, 0.0, 1.0)


def _queries(ranks: Ranks) -> Array:
    """The query of each relevant item: int64 [p]."""
    return np.repeat(np.arange(len(ranks.offsets) - 1), np.diff(ranks.offsets))


def _first_ties(ranks: Ranks) -> _Ties:
    """The tie of every query that holds its first relevant item."""
    highest = ranks.offsets[:-1]
    above = np.minimum.reduceat(ranks.above, highest)
    first = ranks.above == above[_queries(ranks)]
    tied = np.maximum.reduceat(np.where(first, ranks.tied, 0), highest)
    return _Ties(above, tied, _sums(ranks, first.astype(np.int64)))


def _tie_of_each(ranks: Ranks) -> tuple[Array, Array]:
    """For each relevant item how many are in its tie, itself included, and how many in ties before: int64 [p] each."""
    query = _queries(ranks)
    order = np.lexsort((ranks.above, query))
    starts = np.ones(len(order), bool)  # of the ties, in that order
    starts[1:] = (np.diff(query[order]) != 0) | (np.diff(ranks.above[order]) != 0)
    start = np.flatnonzero(starts)
    tie = np.cumsum(starts) - 1
    relevant, before = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    relevant[order] = np.diff(np.append(start, len(order)))[tie]
    before[order] = start[tie] - ranks.offsets[query[order]]
    return relevant, before


def _first_of_several(above: int, tied: int, relevant: int, slots: int) -> float:
    """E[1 / rank] of the first of m relevant of t tied, 0 past the slots; for m = 1 there is a shorter way."""
    # Only as far as the first one can be: past t - m + 1 never, past 40 t / m with a probability below 1e-17.
    length = min(slots, tied - relevant + 1, 40 * tied // relevant + 1)
    r = np.arange(length, dtype=np.float64)
    none_yet = np.concatenate([[1.0], np.cumprod((tied - relevant - r[:-1]) / (tied - r[:-1]))])
    return float((none_yet * (relevant / (tied - r)) / (above + 1 + r)).sum())


_EXACT = 256


def _harmonic_gap(low: Array, high: Array) -> Array:
    """The sum of 1 / i over low < i <= high, elementwise: float64.

    A table for small numbers, and from there on the asymptotic series of the harmonic numbers, whose next term is below
    1e-16 past 256.
    """
    table = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, _EXACT + 1))])
    near = table[np.minimum(high, _EXACT)] - table[np.minimum(low, _EXACT)]
    start, end = np.maximum(low, _EXACT).astype(np.float64), np.maximum(high, _EXACT).astype(np.float64)
    x, y = 1.0 / start, 1.0 / end
    far = np.log1p((end - start) / start) + (y - x) / 2 - (y**2 - x**2) / 12 + (y**4 - x**4) / 120
    return np.where(high == low + 1, 1.0 / np.maximum(high, 1), near + far)  # one term: exactly one over the rank
