"""What other sets came to with how much data: the learning curves of our benchmarks, shipped for those who have no data yet.

`growth.json` is what row `forecast` of the benchmarks measured: for each set the training pairs of its parts, and what a model trained on them came
to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twotower import files
from twotower.data.columns import Array
from twotower.errors import ConfigError, choices

HALF, MOST = 0.5, 0.9  # of what all of a set came to


class Grown(NamedTuple):
    """A set and how it grew. points: (training pairs, the metric), smallest first."""

    name: str
    kind: str  # of log
    about: str
    metric: str
    items: int
    points: list[tuple[int, float]]

    def pairs_for(self, share: float) -> float:
        """The training pairs with which a share of the largest value was reached; of what lies between two points, by the logarithm."""
        pairs, values = self._curve()
        rising = np.maximum.accumulate(values)
        return float(np.exp(np.interp(share * rising[-1], rising, np.log(pairs))))

    def took_fewer(self, share: float) -> bool:
        """Whether the smallest part that was measured had it already, so that it takes that many pairs at most."""
        _, values = self._curve()
        return bool(values[0] >= share * values.max())

    def _curve(self) -> tuple[Array, Array]:
        pairs, values = (np.array(each, np.float64) for each in zip(*self.points, strict=True))
        return pairs, values


class Like(NamedTuple):
    """Training pairs for so many items, by what sets of the kind needed for each item: the least, the middle, the most."""

    half: tuple[float, float, float]
    most: tuple[float, float, float]
    sets: list[Grown]


def grown(kind: str | None = None) -> list[Grown]:
    """The sets of a kind. Raises ConfigError for a kind that is not known."""
    told: list[dict[str, Any]] = files.read_json(Path(__file__).with_name("growth.json"))
    found = [Grown(**(one | {"points": [(int(pairs), float(value)) for pairs, value in one["points"]]})) for one in told]
    kinds = dict.fromkeys(one.kind for one in found)
    if kind is not None and kind not in kinds:
        raise ConfigError(f'no log like "{kind}" was measured; {choices(kinds, kind)}')
    return [one for one in found if kind in (None, one.kind)]


def like(kind: str, items: int) -> Like:
    """What a log of a kind with so many items may need. Raises ConfigError for a kind that is not known, or fewer than two items."""
    if items < 2:
        raise ConfigError(f"there is nothing to rank among {items} items; name how many there will be: --items 50000")
    sets = grown(kind)

    def ends(share: float) -> tuple[float, float, float]:
        needed = np.array([one.pairs_for(share) / one.items * items for one in sets])
        return float(needed.min()), float(np.median(needed)), float(needed.max())

    return Like(ends(HALF), ends(MOST), sets)
