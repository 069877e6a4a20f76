"""What a score of a trained model says: how probable a match is, and below which the first result had better not be shown."""

from __future__ import annotations

import numpy as np

from twotower.data.columns import Array, ragged_rows
from twotower.learning.evaluation import dot_scorer
from twotower.learning.lists import top
from twotower.runs.measuring import Asked
from twotower.search.calibration import Calibration, error, fit, probability
from twotower.search.index import similarities
from twotower.search.thresholds import Fits, fits


def calibrated(held: Asked, others: Asked | None, item_vectors: Array, seed: int) -> Calibration | None:
    """The curve from similarity to probability, fitted to the matches of held cases and tried on others; None where there are none."""
    scores, matches = _matched_and_drawn(held, item_vectors, seed)
    if not matches.any() or matches.all():
        return None
    slope, intercept = fit(scores, matches)
    off = None
    if others is not None:
        scores, tried = _matched_and_drawn(others, item_vectors, seed + 1)
        off = error(probability(scores, slope, intercept, float(tried.mean())), tried) if tried.any() and not tried.all() else None
    return Calibration(slope, intercept, int(matches.sum()), off)


def _matched_and_drawn(asked: Asked, item_vectors: Array, seed: int) -> tuple[Array, Array]:
    """Similarities [n] of matches and of as many pairs of a query and an item drawn from the catalogue, and which match, bool [n].

    What is known to match is never among those drawn, as far as the cases say.
    """
    relevant = asked.cases.relevant
    query, n = ragged_rows(relevant), len(item_vectors)
    drawn = np.random.default_rng(seed).integers(0, n, len(query))
    known = query * n + relevant.values
    if asked.cases.excluded is not None:
        known = np.concatenate([known, ragged_rows(asked.cases.excluded) * n + asked.cases.excluded.values])
    new = ~np.isin(query * n + drawn, known)
    rows, items = np.concatenate([query, query[new]]), np.concatenate([relevant.values, drawn[new]])
    return similarities(asked.vectors, rows, item_vectors, items), np.arange(len(rows)) < len(query)


def fitting(held: Asked, others: Asked | None, item_vectors: Array) -> Fits | None:
    """What thresholds on the similarity of the first result come to, by vectors, tried on others; None where there are no results."""
    return fits(*_first_results(held, item_vectors), None if others is None else _first_results(others, item_vectors))


def _first_results(asked: Asked, item_vectors: Array) -> tuple[Array, Array]:
    """The score [q] of the first result of each query, -inf where it finds none, and whether it is relevant, bool [q].

    What the rankings of the cases leave out is left out here; whose vector is 0 finds nothing, as in a search.
    """
    q, n = len(asked.cases.query_rows), len(item_vectors)
    first = top(dot_scorer(asked.vectors, item_vectors), asked.cases, np.arange(q), n, k=1)[:, 0]
    found = np.flatnonzero((first >= 0) & asked.vectors.any(axis=1))
    scores, relevant = np.full(q, -np.inf, np.float32), np.zeros(q, bool)
    scores[found] = similarities(asked.vectors, found, item_vectors, first[found])
    relevant[found] = np.isin(found * n + first[found], ragged_rows(asked.cases.relevant) * n + asked.cases.relevant.values)
    return scores, relevant
