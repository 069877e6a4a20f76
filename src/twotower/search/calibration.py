"""Similarities as probabilities: a curve of two numbers, fitted to pairs that match and pairs that were drawn (Platt 1999)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twotower.errors import ConfigError
from twotower.search.index import Array

STEPS = 50  # of Newton's method, which takes some ten
BINS = 10


class Calibration(NamedTuple):
    """The logit of a match is slope x similarity + intercept, where matches and others are equally many.

    matches: how many it was fitted to, beside as many drawn. error: how far off such probabilities were on other pairs, on average
    (the expected calibration error, Naeini et al. 2015); None where there were none.
    """

    slope: float
    intercept: float
    matches: int
    error: float | None


def fit(scores: Array, matches: Array) -> tuple[float, float]:
    """Slope and intercept by maximum likelihood, from similarities [n] of which some match, bool [n].

    Targets are drawn in a little from 0 and 1, as Platt has it, so that even scores that part the two without a flaw give a finite slope. Both
    kinds count for half, however many there are of each.
    """
    positive, negative = int(matches.sum()), int((~matches).sum())
    target = np.where(matches, (positive + 1) / (positive + 2), 1 / (negative + 2))
    weight = np.where(matches, 0.5 / max(1, positive), 0.5 / max(1, negative))
    scale = max(float(scores.std()), 1e-9)
    x = np.stack([(scores - scores.mean()) / scale, np.ones(len(scores))], axis=1).astype(np.float64)
    found = np.zeros(2)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-x @ found))
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, x.T @ (weight * (target - p)))
        found += step * min(1.0, 4 / max(1e-12, float(np.abs(step).max())))  # no further at once than the curve is known
        if np.abs(step).max() < 1e-9:
            break
    slope = float(found[0]) / scale
    return slope, float(found[1]) - slope * float(scores.mean())


def probability(scores: Array, slope: float, intercept: float, prior: float = 0.5) -> Array:
    """The probability float64 [n] that pairs of these similarities match. prior: the share of matches among the pairs that are scored.

    nan stays nan. Raises ConfigError for a prior that is no share.
    """
    if not 0 < prior < 1:
        raise ConfigError(f"the prior is the share of matches among the pairs, above 0 and below 1, and not {prior}")
    logits = slope * np.asarray(scores, np.float64) + intercept + np.log(prior / (1 - prior))
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -700, 700))))


def error(probabilities: Array, matches: Array) -> float:
    """The mean distance of stated probabilities [n] from the share that matched, in ten bins that are equally full."""
    order = np.argsort(probabilities, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    off = [abs(float(probabilities[rows].mean()) - float(matches[rows].mean())) * len(rows) for rows in bins]
    return sum(off) / len(order)
