"""How items lie in the space of a model: what an item's nearest ones have in common with it, by the categories that items have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array
from twotower.data.features import Feature
from twotower.learning.projection import nearest

MOST = 1200  # items looked at
FEWEST = 20  # items, below which nothing is said
NEAREST = 10
GROUPS = 8  # categories that are told apart
SMALLEST = 10  # items of one of them


class Groups(NamedTuple):
    """Items by one of their columns. alike, chance: of an item's nearest ones, the share of its own group, and what it would be by lot."""

    by: str
    names: tuple[str, ...]  # the commonest values, the most items first
    of: Array  # int64 [n] the group of each item, len(names) for all else
    values: list[str]  # [n] all that the column says of each item
    alike: float
    chance: float
    each: tuple[tuple[float, float], ...]  # alike and chance, group by group

    @property
    def parted(self) -> float:
        """How well the space parts these groups, by how many items that is said of: 0 as by lot, 1 wholly."""
        return (self.alike - self.chance) / max(1 - self.chance, 1e-12) * float((self.of < len(self.names)).mean())


class Sample(NamedTuple):
    """Items drawn from a catalogue: their rows int64 [n], vectors of length 1 float32 [n, d], and the nearest of each int64 [n, 10]."""

    rows: Array
    vectors: Array
    near: Array


def sampled(vectors: Array, seed: int = 0) -> Sample | None:
    """At most 1,200 items by lot, those without a vector left out; None of fewer than 20."""
    drawn = np.random.default_rng(seed).choice(len(vectors), min(len(vectors), 2 * MOST), replace=False)
    taken = np.asarray(vectors[np.sort(drawn)], np.float32)[np.argsort(np.argsort(drawn))]
    lengths = np.linalg.norm(taken, axis=1)
    which = np.flatnonzero(lengths > 0)[:MOST]
    if len(which) < FEWEST:
        return None
    found = taken[which] / lengths[which, None]
    return Sample(drawn[which], found, nearest(found @ found.T, NEAREST))


def grouped(sample: Sample, items: pa.Table, features: Sequence[Feature]) -> Groups | None:
    """The groups that the space parts best, of the categories that an item's features read; None where there is none of them."""
    known = {feature.column: feature for feature in features if feature.type in ("category", "categories") and feature.column in items.column_names}
    rows = items.select(list(known)).take(pa.array(sample.rows))
    found = [_groups(sample, name, _values(feature, rows.column(name))) for name, feature in known.items()]
    return max((each for each in found if each is not None), key=lambda each: each.parted, default=None)


def told(sample: Sample, groups: Groups | None) -> dict[str, Any] | None:
    """What a run keeps of it: by which column, of how many nearest ones of how many items, the share alike, and by chance."""
    if groups is None:
        return None
    return {"by": groups.by, "items": len(sample.rows), "nearest": NEAREST, "alike": groups.alike, "chance": groups.chance}


def _values(feature: Feature, column: pa.ChunkedArray) -> list[list[str]]:
    """The values of each item: one or none of a category, any number of several."""
    rows = [value for chunk in column.chunks for value in feature.normalise(chunk).to_pylist()]
    if feature.type == "category":
        return [[str(value)] if value not in (None, "") else [] for value in rows]
    # Those with weights are pairs of a name and a weight.
    return [[str(value["value"] if isinstance(value, dict) else value) for value in row or []] for row in rows]


def _groups(sample: Sample, by: str, values: list[list[str]]) -> Groups | None:
    """An item of several values is of the rarest that has a group: that says more of it."""
    counts = Counter(value for each in values for value in set(each))
    names = [name for name, count in counts.most_common(GROUPS) if count >= SMALLEST]
    rank = {name: n for n, name in enumerate(names)}
    of = np.array([max((rank[value] for value in each if value in rank), default=len(names)) for each in values])
    sizes = np.bincount(of, minlength=len(names) + 1)[: len(names)]
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    if len(order) < 2:
        return None
    places = np.full(len(names) + 1, len(order))
    places[order] = np.arange(len(order))
    of, sizes, inside = places[of], sizes[order], of < len(names)
    same = (of[sample.near] == of[:, None]).mean(axis=1)
    lots = (sizes - 1) / (len(of) - 1)
    each = tuple((float(same[of == group].mean()), float(lot)) for group, lot in enumerate(lots))
    shown = [", ".join(row) for row in values]
    return Groups(by, tuple(names[n] for n in order), of, shown, float(same[inside].mean()), float(np.average(lots, weights=sizes)), each)
