"""How far one sample lies from another, and how far luck alone would take it: means, histograms, clouds of vectors.

The two samples are of different pairs. What belongs to one key is no independent evidence, so each counts as many rows as its keys are worth:
means by intervals from resampling keys, histograms by an effective number of rows, clouds by resampling keys.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from twotower.data.columns import Array
from twotower.learning.statistics import Interval

DRAWS = 2000  # of both histograms, as luck would have them
FOLDS = 5
RESAMPLES = 500
RIDGE = 0.1  # beside places whose variance is 1
FEWEST = 30  # keys, below which intervals from resampling them are too narrow
ERRORS = 1.96  # standard errors from a mean to the end of its interval
SEEN = 0.84  # and as many more, for a fall to be seen four times in five


class Histogram(NamedTuple):
    """How much lies in each bin, float64 [b], and how many independent rows that is worth."""

    counts: Array
    effective: float

    @property
    def shares(self) -> Array:
        """The part of the whole in each bin [b]."""
        return np.asarray(self.counts / max(1e-300, float(self.counts.sum())))


class Shift(NamedTuple):
    """How far a histogram has moved.

    distance: the total variation, the share that would have to be elsewhere. stability: the population stability index. floor: the distance that
    luck stays below nineteen times in twenty. p_value: how often it comes as far. bin: where most has come or gone.
    """

    distance: float
    stability: float
    floor: float
    p_value: float
    bin: int


class Cloud(NamedTuple):
    """Vectors of queries, what each counts, and the name of its key."""

    vectors: Array  # float32 [q, d]
    weights: Array  # float64 [q]
    keys: Array  # uint64 [q]


def difference(old: Interval, new: Interval) -> Interval:
    """How much higher the new mean is, of another sample than the old one, by their two intervals alone (Zou & Donner 2008).

    Each end is as far from the difference as the two ends that make it lie from their means, in quadrature: intervals that are not even stay so.
    """
    found = new.value - old.value
    low = found - np.hypot(new.value - new.low, old.high - old.value)
    high = found + np.hypot(new.high - new.value, old.value - old.low)
    return Interval(found, low, high)


def needed(old: Interval, new: Interval, fall: float, pairs: int) -> int | None:
    """How many pairs such as these new ones would show a fall of this size four times in five; None where no number would.

    None too where the intervals have no width, from which nothing can be worked out.
    """
    errors = [float(each.high - each.low) / (2 * ERRORS) for each in (old, new)]
    room = (fall / (ERRORS + SEEN)) ** 2 - errors[0] ** 2
    if room <= 0 or not errors[1]:
        return None
    return math.ceil(pairs * errors[1] ** 2 / room)


def histogram(bins: Array, weights: Array, keys: Array, n_bins: int) -> Histogram:
    """Entries [e] in their bins, with what each weighs and whose it is.

    The effective number is that of independent rows whose shares vary as much, over all bins, as those of whole keys do: the entries by the
    mean design effect (Rao & Scott 1981).
    """
    counts = np.bincount(bins, weights, minlength=n_bins)
    total = float(counts.sum())
    _, member = np.unique(keys, return_inverse=True)
    g = int(member.max(initial=-1)) + 1
    if g < 2:
        return Histogram(counts, float(g))
    shares = counts / total
    places, place = np.unique(member * n_bins + bins, return_inverse=True)
    own, each = np.bincount(place, weights), np.bincount(member, weights, minlength=g)
    # The sum over keys and bins of (own - share * each) squared, without the bins where a key has nothing written out.
    squares = (own**2).sum() - 2 * (own * shares[places % n_bins] * each[places // n_bins]).sum() + (shares**2).sum() * (each**2).sum()
    varied, independent = squares / total**2 * g / (g - 1), float((shares * (1 - shares)).sum())
    rows = (weights.sum() ** 2) / max(1e-300, float((weights**2).sum()))
    return Histogram(counts, float(min(rows, independent / varied)) if varied > 1e-12 * max(independent, 1e-300) else rows)


def shift(old: Histogram, new: Histogram, generator: np.random.Generator) -> Shift:
    """How far apart two histograms of the same bins are, beside what two samples of their sizes from one population show."""
    a, b = old.shares, new.shares
    sizes = [max(1, round(each.effective)) for each in (old, new)]
    pooled = (sizes[0] * a + sizes[1] * b) / sum(sizes)
    pooled = pooled / pooled.sum()
    drawn = [generator.multinomial(size, pooled, size=DRAWS) / size for size in sizes]
    by_luck = np.abs(drawn[0] - drawn[1]).sum(axis=1) / 2
    distance = float(np.abs(a - b).sum() / 2)
    as_far = int((by_luck >= distance - 1e-12).sum())
    smooth = [(each.counts + 0.5) / (each.counts.sum() + 0.5 * len(a)) for each in (old, new)]
    stability = float(((smooth[1] - smooth[0]) * np.log(smooth[1] / smooth[0])).sum())
    return Shift(distance, stability, float(np.quantile(by_luck, 0.95)), (1 + as_far) / (1 + DRAWS), int(np.abs(b - a).argmax()))


def told_apart(old: Cloud, new: Cloud, seed: int = 0) -> Interval | None:
    """How often a line tells a new query from an old one, both unseen: the area under its curve, 0.5 where they are alike.

    A two-sample test by a classifier (Lopez-Paz & Oquab 2017): a ridge regression on four fifths of the keys ranks those of the last fifth. All
    vectors of a key are in one fold, whichever sample they are of, so that nobody is recognised. The interval is from resampling keys. It sees
    that means move, and not that a cloud grows around the same middle. None where either has too few keys to say.
    """
    if min(len(np.unique(each.keys)) for each in (old, new)) < FEWEST:
        return None
    vectors = np.concatenate([old.vectors, new.vectors]).astype(np.float64)
    is_new = np.repeat([False, True], [len(old.vectors), len(new.vectors)])
    weights = np.concatenate([each.weights / each.weights.sum() for each in (old, new)])
    vectors = vectors - np.average(vectors, axis=0, weights=weights)
    vectors = vectors / np.maximum(np.sqrt(np.average(vectors**2, axis=0, weights=weights)), 1e-12)
    folds = (np.concatenate([old.keys, new.keys]) % np.uint64(FOLDS)).astype(np.int64)
    scores = np.zeros(len(vectors))
    for fold in range(FOLDS):
        out = folds == fold
        scores[out] = vectors[out] @ _ridge(vectors[~out], is_new[~out], weights[~out])
    generator = np.random.default_rng(seed)
    draws = [_resampled(each, generator) for each in (old, new)]
    areas = _areas(scores[~is_new], scores[is_new], *([each.weights, *draw] for each, draw in zip((old, new), draws, strict=True)))
    low, high = np.quantile(areas[1:], [0.025, 0.975])
    return Interval(areas[0], low, high)


def _ridge(vectors: Array, is_new: Array, weights: Array) -> Array:
    """The slopes [d] of a ridge regression on which sample a vector is of, both samples weighing the same."""
    own = np.where(is_new, weights / max(1e-300, weights[is_new].sum()), weights / max(1e-300, weights[~is_new].sum())) / 2
    centred = vectors - own @ vectors
    return np.asarray(
        np.linalg.solve((centred.T * own) @ centred + RIDGE * np.eye(vectors.shape[1]), centred.T @ (own * np.where(is_new, 1.0, -1.0)))
    )


def _resampled(cloud: Cloud, generator: np.random.Generator) -> list[Array]:
    """The weights [q] of the vectors in each of so many samples of whole keys."""
    _, member = np.unique(cloud.keys, return_inverse=True)
    g = int(member.max()) + 1
    return [cloud.weights * np.bincount(generator.integers(0, g, g), minlength=g)[member] for _ in range(RESAMPLES)]


def _areas(old: Array, new: Array, old_weights: list[Array], new_weights: list[Array]) -> Array:
    """For each pair of weights the share of pairs of an old and a new score in which the new one is higher, equal ones by half."""
    order = np.argsort(old)
    places = [np.searchsorted(old[order], new, side) for side in ("left", "right")]
    found = []
    for a, b in zip(old_weights, new_weights, strict=True):
        below = np.append(0.0, np.cumsum(a[order]))
        found.append(float((b * (below[places[0]] + below[places[1]])).sum() / (2 * below[-1] * b.sum())))
    return np.array(found)
