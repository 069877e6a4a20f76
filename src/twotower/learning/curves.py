"""How a metric grows with the data, and what that says of sizes that were not tried.

value(n) = ceiling - lack x (1 + bend) / (1 + bend x (n / N)^rate), N the largest size that was tried. With a large bend it nears the ceiling by
a power law (Hestness et al. 2017; Rosenfeld et al. 2020); with a small one it still grows as a power of n itself, as where most items
have no pair yet. Every rate, bend and ceiling on a grid is weighed by how well it fits, so that what the points leave open - mostly where the
ceiling is - stays open in what is forecast.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from twotower.data.columns import Array

RATES = np.geomspace(0.1, 1.6, 60)
BENDS = np.geomspace(0.03, 300, 41)
CEILINGS = 120
FEWEST_SIZES = 4  # with fewer a curve of three unknowns fits anything
# These two, and how ceilings lie, were chosen on tldr and banking77 (benchmarks/rows/forecast.py), where curves look flatter than they turn out.
FLOOR = 0.005  # that two trainings are taken to differ by, as a standard deviation, before any is seen
DOUBT = 2.0  # how much farther, squared, than seeds differ any curve is taken to miss the truth, at least
MOST_OFF = 3.0  # mean squared distance of the points from the best curve, in that of two trainings, past which it is no such curve
DRAWS = 20_000


class Curve(NamedTuple):
    """What may be: rates, bends, ceilings and lacks, drawn by how well they fit."""

    smallest: float  # size that it was drawn through
    largest: float
    rates: Array  # float64 [draws]
    bends: Array  # float64 [draws]
    ceilings: Array  # float64 [draws]
    lacks: Array  # float64 [draws], at the largest size
    noise: float  # standard deviation of one training
    off: float  # the mean squared distance of sizes from the best curve, over that of luck

    @property
    def is_sound(self) -> bool:
        """Whether the points lie on such a curve, as far as luck lets them."""
        return self.off <= MOST_OFF


class Forecast(NamedTuple):
    """A value with the interval that holds it nine times in ten."""

    value: float
    low: float
    high: float


def fit(sizes: Array, values: Array, generator: np.random.Generator) -> Curve:
    """The curve of trainings: sizes [m] of their data and what each came to [m], several of a size. Raises ValueError for too few sizes.

    Where next to nothing is learnt yet, growth is no power law; so while the points lie on none, the smallest size is left out, which says least
    of what is to come.
    """
    sizes, values = np.asarray(sizes, np.float64), np.asarray(values, np.float64)
    curve = _fit(sizes, values, generator)
    if curve.is_sound or len(np.unique(sizes)) == FEWEST_SIZES:
        return curve
    later = sizes > sizes.min()
    return fit(sizes[later], values[later], generator)


def _fit(sizes: Array, values: Array, generator: np.random.Generator) -> Curve:
    unique, group = np.unique(sizes, return_inverse=True)
    if len(unique) < FEWEST_SIZES:
        raise ValueError(f"a curve needs {FEWEST_SIZES} sizes, and there are {len(unique)}")
    counts = np.bincount(group)
    means = np.bincount(group, values) / counts
    within = float(((values - means[group]) ** 2).sum())
    freedom = len(values) - len(unique)
    # Small samples of two or three seeds can agree by chance: they are shrunk to what is usual.
    noise = np.sqrt((within + 2 * FLOOR**2) / (freedom + 2))
    weights = counts / noise**2  # of each mean

    largest = float(unique[-1])
    rates, bends = (each.ravel() for each in np.meshgrid(RATES, BENDS, indexing="ij"))  # [shapes]
    top = max(float(means.max()), 0.0)
    ceilings = top + (1 - top) * np.sqrt(np.linspace(0.0, 1.0, CEILINGS))
    left = _left(unique[None, :] / largest, rates[:, None], bends[:, None])  # [shapes, sizes]
    square = (weights * left**2).sum(1)
    lacking = ceilings[:, None] - means[None, :]  # [ceilings, sizes]
    lacks = np.maximum((weights * lacking) @ left.T / square, 0.0)  # [ceilings, shapes]
    residual = lacking[:, None, :] - lacks[:, :, None] * left[None, :, :]
    distance = (weights * residual**2).sum(2)
    off = float(distance.min()) / max(1, len(unique) - 3)
    # Where no such curve fits as well as luck alone allows, all of them are doubted alike.
    density = np.exp(-0.5 * (distance - distance.min()) / max(DOUBT, off))
    ceiling, shape = np.unravel_index(generator.choice(density.size, DRAWS, p=(density / density.sum()).ravel()), density.shape)
    spread = np.sqrt(max(DOUBT, off) / square[shape])
    drawn = np.maximum(lacks[ceiling, shape] + spread * generator.standard_normal(DRAWS), 0.0)
    return Curve(float(unique[0]), largest, rates[shape], bends[shape], ceilings[ceiling], drawn, float(noise), off)


def _left(times: Any, rate: Array, bend: Array) -> Array:
    """What is left of the lack at so many times the largest size, of that at it."""
    return np.asarray((1 + bend) / (1 + bend * times**rate))


def forecast(curve: Curve, size: float, generator: np.random.Generator) -> Forecast:
    """What a training on so much data would come to."""
    values = _values(curve, size) + curve.noise * generator.standard_normal(len(curve.rates))
    low, middle, high = np.quantile(np.clip(values, 0, 1), (0.05, 0.5, 0.95))
    return Forecast(float(middle), float(low), float(high))


def needed(curve: Curve, target: float) -> Forecast | None:
    """The size at which the curve reaches a target; None where it is out of reach in more than half of what may be.

    Where it is out of reach in more than one case in twenty, the largest size is infinite.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        left = np.where(curve.lacks > 0, (curve.ceilings - target) / curve.lacks, np.where(curve.ceilings > target, np.inf, -1.0))
        grown = np.maximum((1 + curve.bends) / left - 1, 0.0) / curve.bends  # (n / N)^rate
        sizes = np.where(left <= 0, np.inf, curve.largest * grown ** (1 / curve.rates))
    low, middle, high = np.quantile(sizes, (0.05, 0.5, 0.95), method="higher")
    return None if not np.isfinite(middle) else Forecast(float(middle), float(low), float(high))


def _values(curve: Curve, size: float) -> Array:
    return np.asarray(curve.ceilings - curve.lacks * _left(size / curve.largest, curve.rates, curve.bends))
