"""Which items more data would help most: those for which the second half of the data brought more than for the rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from twotower.data.columns import Array
from twotower.learning.slices import FEW
from twotower.learning.statistics import paired_test


def starved(now: Array, before: Array, keys: Array, items: Array, matches: Array, generator: np.random.Generator) -> list[dict[str, Any]]:
    """What rankings [n] of one item each gained from `before` to `now`: all of them, then slices by how often the item matched.

    keys, items [n]: who asks, and the row of the item asked for. matches: of every item of the catalogue, in training. Slices with too few keys
    are left out.
    """
    head = _head(matches)
    cuts = (
        ("all", np.ones(len(matches), bool)),
        ("items never in training", matches == 0),
        ("tail: items that share half of the matches with many", ~head & (matches > 0)),
        ("head: the few items with the other half", head),
    )
    told = []
    for name, chosen in cuts:
        which = chosen[items]
        if name != "all" and len(np.unique(keys[which])) < FEW:
            continue
        test = paired_test(now[which], before[which], groups=keys[which], generator=generator)
        grown = {"grown": float(test.difference), "low": float(test.low), "high": float(test.high)}
        told.append({"name": name, "rankings": int(which.sum()), "value": float(now[which].mean()), **grown})
    return told


def _head(matches: Array) -> Array:
    """Which items are among the fewest that hold half of the matches."""
    ordered = np.argsort(-matches, kind="stable")
    head = np.zeros(len(matches), bool)
    head[ordered[: int(np.searchsorted(np.cumsum(matches[ordered]), matches.sum() / 2)) + 1]] = True
    return head
