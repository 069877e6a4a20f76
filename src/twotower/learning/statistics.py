"""How sure a measured number is: intervals and paired tests over queries.

Both take one value a query, or several columns of them (metrics), which then share their resamples. Where queries are
not independent, as all those of one user, `groups` keeps them together. Both hold some tens of megabytes at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from twotower.data.columns import Array
from twotower.errors import ConfigError, DataError

BLOCK = 1 << 21  # draws held at once


class Interval(NamedTuple):
    """A mean and how far it may be off; arrays [] for values [q], [m] for values [q, m]."""

    value: Array
    low: Array
    high: Array


class PairedTest(NamedTuple):
    """How much higher a is than b, its interval, and how often luck alone would give as much; shapes as `Interval`."""

    difference: Array
    low: Array
    high: Array
    p_value: Array


def interval(
    values: Array,
    *,
    weights: Array | None = None,
    groups: Array | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    generator: np.random.Generator,
) -> Interval:
    """The weighted mean of values [q] or [q, m] with its percentile bootstrap interval (Efron & Tibshirani 1993).

    `weights` [q] are 0 or more. `groups` [q], of any type, name what is drawn as a whole; without them each query is.
    """
    _check(confidence, resamples)
    totals, weight = _grouped(values, weights, groups)
    low, high = _bootstrap(totals, weight, confidence, resamples, generator)
    shape = values.shape[1:]
    return Interval((totals.sum(0) / weight.sum()).reshape(shape), low.reshape(shape), high.reshape(shape))


def paired_test(
    a: Array,
    b: Array,
    *,
    weights: Array | None = None,
    groups: Array | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    generator: np.random.Generator,
) -> PairedTest:
    """Whether a differs from b, measured [q] or [q, m] on the same queries: a two-sided randomisation test.

    If a and b were alike, each query (or group) could as well have had them swapped: the p-value is the share of random
    swaps, the observed one counted, whose difference is as large (Smucker, Allan & Carterette 2007). The interval is a
    bootstrap's, so it may in rare cases disagree with the test. Options as for `interval`.
    """
    _check(confidence, resamples)
    if a.shape != b.shape:
        raise DataError(f"a paired test compares the same queries; the values came as {a.shape} and {b.shape}")
    totals, weight = _grouped(np.asarray(a, np.float64) - b, weights, groups)
    low, high = _bootstrap(totals, weight, confidence, resamples, generator)
    as_large = _swaps_as_large(totals, resamples, generator)
    shape = a.shape[1:]
    difference, p_value = totals.sum(0) / weight.sum(), (1 + as_large) / (1 + resamples)
    return PairedTest(difference.reshape(shape), low.reshape(shape), high.reshape(shape), p_value.reshape(shape))


def holm(p_values: Array) -> Array:
    """The p-values [m] of several tests, each raised so that all of them together err as rarely as one alone would (Holm 1979)."""
    ordered = np.argsort(p_values, kind="stable")
    raised = np.maximum.accumulate(np.asarray(p_values)[ordered] * np.arange(len(ordered), 0, -1))
    found = np.empty(len(ordered))
    found[ordered] = np.minimum(raised, 1.0)
    return found


def _check(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence lies between 0 and 1, as 0.95, and is not {confidence}")
    if resamples < 1:
        raise ConfigError(f"at least one resample is needed, not {resamples}")


def _grouped(values: Array, weights: Array | None, groups: Array | None) -> tuple[Array, Array]:
    """What is drawn as a whole: its weighted sums of the values, float64 [g, m], and its weight, float64 [g]."""
    if len(values) == 0:
        raise DataError("there are no queries to average over")
    columns = np.asarray(values, np.float64).reshape(len(values), -1)  # [q, m]
    weight = np.ones(len(columns)) if weights is None else np.asarray(weights, np.float64)
    if weight.shape != (len(columns),) or not (np.isfinite(weight).all() and (weight >= 0).all() and weight.any()):
        raise DataError(f"weights are one number of 0 or more for each of the {len(columns)} queries, and not all 0")
    if not np.isfinite(columns).all():
        raise DataError("there are values that are not numbers: a query without a value has to be left out")
    counted = weight > 0  # a resample of nothing but weights of 0 would have no mean
    totals, weight = (columns * weight[:, None])[counted], weight[counted]
    if groups is None:
        return totals, weight
    if len(groups) != len(columns):
        raise DataError(f"groups name the group of each of the {len(columns)} queries; there are {len(groups)} names")
    names, member = np.unique(np.asarray(groups)[counted], return_inverse=True)
    sums = [np.bincount(member, column, minlength=len(names)) for column in totals.T]
    return np.stack(sums, axis=1), np.bincount(member, weight, minlength=len(names))


def _bootstrap(totals: Array, weight: Array, confidence: float, resamples: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """The percentile interval, low [m] and high [m], of sum of totals [g, m] / sum of weight [g]."""
    g = len(totals)
    means = []
    for count in _blocks(resamples, g):
        drawn = generator.integers(0, g, size=(count, g))
        drawn += g * np.arange(count)[:, None]  # every resample counts in a stretch of its own
        times = np.bincount(drawn.reshape(-1), minlength=count * g).reshape(count, g).astype(np.float64)
        means.append((times @ totals) / (times @ weight)[:, None])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high


def _swaps_as_large(totals: Array, resamples: int, generator: np.random.Generator) -> Array:
    """How many random sign flips of totals [g, m] have a sum as large as it is: int64 [m]."""
    totals = totals[(totals != 0).any(axis=1)]  # a swap of equal values changes nothing
    g, m = totals.shape
    # Sums that are equal on paper are to count as equal, whatever order they were added in.
    observed = np.abs(totals.sum(0)) - 1e-10 * np.abs(totals).sum(0)
    as_large = np.zeros(m, np.int64)
    for count in _blocks(resamples, g):
        bits = np.frombuffer(generator.bytes((count * g + 7) // 8), np.uint8)
        flips = np.unpackbits(bits, count=count * g).reshape(count, g).astype(np.float64)
        as_large += (np.abs(2 * (flips @ totals) - totals.sum(0)) >= observed).sum(0)
    return as_large


def _blocks(resamples: int, g: int) -> Iterator[int]:
    """How many resamples of g draws to hold at once, until all are done."""
    block = max(1, BLOCK // max(1, g))
    for start in range(0, resamples, block):
        yield min(block, resamples - start)
