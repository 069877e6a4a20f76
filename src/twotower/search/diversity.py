"""Results that differ from each other: maximal marginal relevance (Carbonell and Goldstein 1998)."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from twotower.errors import ConfigError
from twotower.search.index import Array, Hits, no_hits
from twotower.search.vectors import Vectors

CANDIDATES = 4  # times the results asked for
FEWEST = 50  # candidates


def check_diversity(diversity: Any) -> None:
    """Raise ConfigError for a diversity, where there is one, that is no number above 0 and up to 1."""
    if diversity is None:
        return
    if not isinstance(diversity, numbers.Real) or isinstance(diversity, bool) or not 0 < float(diversity) <= 1:
        raise ConfigError(
            f"diversity is a number above 0 and up to 1, such as 0.3, and not {diversity!r}; without one, results are the best as they are"
        )


def candidates(k: int, skip: int = 0) -> int:
    """How many of the best are looked at for the k results behind the first `skip`."""
    return max(FEWEST, CANDIDATES * k * -(-(skip + k) // k))


def mmr(scores: Array, vectors: Array, k: int, diversity: float, page: int | None = None, fits: Array | None = None) -> Array:
    """The order int64 [<= k] in which candidates with these scores [m], best first, and vectors [m, d] are shown.

    Each time the best is taken by (1 - diversity) x score - diversity x greatest cosine with one taken before, of equal ones the first. Scores are
    divided by the size of the first, so that one diversity suits cosines, dot products and scores of words. page: of so many results; those of a
    page are chosen among as many candidates as if it were the last, so that a later page goes on where an earlier one ended. fits: bool [m], which
    may be taken; a page whose candidates hold too few of these ends with -1.
    """
    check_diversity(diversity)
    m = len(scores)
    page = k if page is None else page
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = np.divide(vectors, lengths, out=np.zeros(vectors.shape, np.float64), where=lengths > 0)  # [m, d]
    left = np.ones(m, bool) if fits is None else fits.copy()
    first = float(scores[np.argmax(left)]) if m else 0.0
    worth = (1 - diversity) * np.asarray(scores, np.float64) / (abs(first) or 1.0)
    nearest = np.full(m, -np.inf)  # the greatest cosine with one taken
    order: list[int] = []
    while len(order) < k and left.any():
        among = np.flatnonzero(left[: candidates(page, len(order) // page * page)])
        if not len(among):
            order += [-1] * (page - len(order) % page)
            continue
        value = worth[among] - (diversity * nearest[among] if nearest[among[0]] > -np.inf else 0.0)
        taken = int(among[np.argmax(value)])
        order.append(taken)
        left[taken] = False
        nearest = np.maximum(nearest, directions @ directions[taken])
    return np.array(order[:k], np.int64)


def diversified(hits: Hits, vectors: Array | Vectors, k: int, skip: int, diversity: float, fits: Array | None = None) -> Hits:
    """The first skip + k of the hits [q, m] in an order of less likeness. vectors: of all rows [n, d]. fits: bool [q, m], which may be taken."""
    found = no_hits(len(hits.rows), skip + k)
    for query, (rows, scores) in enumerate(zip(*hits, strict=True)):
        there = np.flatnonzero(rows >= 0)
        may = None if fits is None else fits[query, there]
        order = mmr(scores[there], np.asarray(vectors[rows[there]], np.float32), skip + k, diversity, k, may)
        place = np.flatnonzero(order >= 0)
        found.rows[query, place], found.scores[query, place] = rows[there[order[place]]], scores[there[order[place]]]
    return found
