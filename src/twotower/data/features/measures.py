"""What measures have in common: numbers beside a sign that they are missing, and their mean and deviation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array, Column

FAR = 10.0  # standard deviations: what is farther counts as this far
HUGE = 1e100  # numbers past this count as this: their squares and differences stay finite


def count_missing(encoded: Column) -> int:
    return int(np.count_nonzero(np.asarray(encoded)[:, -1]))


def with_missing(values: Array, missing: Array) -> Array:
    """Values [n, w] with a last column that says which rows are missing, their values at zero: float32 [n, w + 1]."""
    kept = np.where(missing[:, None], 0.0, values)
    return np.concatenate([kept, missing[:, None]], axis=1).astype(np.float32)


def or_one(values: Array) -> Array:
    """Values with 1 in place of 0, to divide by."""
    return np.where(values > 0, values, np.ones_like(values))


def logged(values: Array) -> Array:
    """The logarithm of 1 + |x|, with the sign of x."""
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


class Moments(NamedTuple):
    """How many, their mean and sum of squared differences from it, of numbers [n] or of each column of [n, w].

    Parts are merged by their own means, so that large values of small spread keep their digits (Chan et al. 1979).
    """

    n: int
    mean: Any
    squares: Any

    def with_part(self, values: Array) -> Moments:
        own = values.mean(axis=0)
        total = self.n + len(values)
        between = np.square(own - self.mean) * (self.n * len(values) / total)
        return Moments(total, self.mean + (own - self.mean) * len(values) / total, self.squares + np.square(values - own).sum(axis=0) + between)

    def deviation(self) -> Array:
        """1 where all values are equal, or there are none."""
        found = np.sqrt(np.asarray(self.squares, np.float64) / max(1, self.n))
        return np.where(found > 1e-12 * np.abs(self.mean), found, 1.0)


def moments_of(parts: Iterable[Array]) -> Array:
    """(mean, deviation) float64 of all values; (0, 1) where there are none."""
    moments = Moments(0, 0.0, 0.0)
    for values in parts:
        moments = moments.with_part(values) if len(values) else moments
    return np.array([moments.mean, moments.deviation()], np.float64)


def bounded(numbers: pa.Array) -> Array:
    """Numbers [n], none of them missing, as float64 within what squares can hold."""
    return np.clip(np.asarray(numbers, np.float64), -HUGE, HUGE)
