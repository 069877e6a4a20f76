"""When to answer nothing: what refusing first results below a threshold leaves of the answers, and how many of those are right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twotower.search.index import Array

POINTS = 20
WANTED = (0.5, 0.8, 0.9, 0.95)
FEWEST = 30  # answers that a precision may be told of


class Point(NamedTuple):
    """A threshold, the share of queries whose first result scores at least that, and the share of those whose first result is relevant."""

    threshold: float
    coverage: float
    precision: float


class Reached(NamedTuple):
    """The lowest threshold that comes to a precision that is wanted, and its coverage; None where none does with 30 answers or more.

    tried: what that threshold comes to on queries that it was not chosen on; None where there are none, or fewer than 30 answers.
    """

    wanted: float
    threshold: float | None
    coverage: float | None
    tried: Point | None = None


class Fits(NamedTuple):
    """What thresholds come to on so many queries: at evenly spaced coverages, rising, and for precisions that may be wanted."""

    queries: int
    points: list[Point]
    reached: list[Reached]


def fits(scores: Array, relevant: Array, others: tuple[Array, Array] | None = None) -> Fits | None:
    """What thresholds come to, by the score [q] of each query's first result, -inf where it has none, and whether that is relevant, bool [q].

    others: the same of other queries, on which thresholds are tried. None where no query has a result.
    """
    thresholds, counts = np.unique(scores[scores > -np.inf], return_counts=True)
    if not len(thresholds):
        return None
    place = np.searchsorted(thresholds, scores, side="right") - 1  # of each query's own score; -1 where it has none
    right = np.bincount(place[place >= 0], weights=relevant[place >= 0], minlength=len(thresholds))
    answered = np.cumsum(counts[::-1])[::-1]  # by a threshold: those who score it or more
    precision = np.cumsum(right[::-1])[::-1] / answered
    coverage = answered / len(scores)

    wanted = np.ceil(np.arange(1, POINTS + 1) * answered[0] / POINTS)
    # The highest threshold that answers so many; of equal scores all are answered, so several may come to one.
    spaced = np.unique(np.searchsorted(-answered, -wanted, side="right") - 1)[::-1]
    points = [Point(float(thresholds[at]), float(coverage[at]), float(precision[at])) for at in spaced]
    reached = [_reached(share, thresholds, answered, coverage, precision) for share in WANTED]
    if others is not None:
        reached = [each if each.threshold is None else each._replace(tried=_tried(each.threshold, *others)) for each in reached]
    return Fits(len(scores), points, reached)


def _reached(wanted: float, thresholds: Array, answered: Array, coverage: Array, precision: Array) -> Reached:
    there = np.flatnonzero((precision >= wanted) & (answered >= FEWEST))
    return Reached(wanted, float(thresholds[there[0]]), float(coverage[there[0]])) if len(there) else Reached(wanted, None, None)


def _tried(threshold: float, scores: Array, relevant: Array) -> Point | None:
    answered = scores >= threshold
    return Point(threshold, float(answered.mean()), float(relevant[answered].mean())) if answered.sum() >= FEWEST else None
