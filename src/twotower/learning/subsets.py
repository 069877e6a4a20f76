"""Less data of the same kind: nested subsets of training pairs, and the validation queries that can be asked with all of them.

Three questions are asked of data, and they are different: what more queries bring, what more pairs of each query bring, and what a larger
catalogue costs. What is dropped counts as test data, which nothing here reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from twotower.data.columns import Array, take_rows
from twotower.data.prepared import Prepared
from twotower.data.splits import TEST, TRAIN, VALIDATION

FEWEST = {TRAIN: 20, VALIDATION: 60}  # pairs, without which nothing is learnt, or told


class Subset(NamedTuple):
    """Part of the data, and how much of it there is."""

    prepared: Prepared
    size: int  # of what the axis counts


def by_queries(prepared: Prepared, share: float, least: float, seed: int) -> Subset:
    """Some of those who ask, with all of their pairs. Who asks in validation has pairs in the smallest subset too, or never had any."""
    keys = askers(prepared)
    training = prepared.parts == TRAIN
    asking = np.unique(keys[training])
    size, smallest = (max(1, round(part * len(asking))) for part in (share, least))
    rank = np.full(int(keys.max(initial=-1)) + 1, len(keys))  # of those who ask in training
    rank[asking] = _ranks(len(asking), smallest, seed)
    kept = training & (rank[keys] < size)
    held = (prepared.parts == VALIDATION) & ((rank[keys] < smallest) | (rank[keys] == len(keys)))
    return Subset(_with(prepared, kept, held), size)


def by_pairs(prepared: Prepared, share: float, least: float, seed: int) -> Subset:
    """Some pairs of everybody who asks, at least one."""
    keys, training = askers(prepared), np.flatnonzero(prepared.parts == TRAIN)
    order = np.random.default_rng(seed).random(len(keys))[training]
    by_key = np.lexsort((order, keys[training]))
    ordered = keys[training][by_key]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    counts = np.diff(np.append(starts, len(ordered)))
    place = np.arange(len(ordered)) - np.repeat(starts, counts)
    wanted = np.maximum(1, np.round(share * counts))
    kept = np.zeros(len(keys), bool)
    kept[training[by_key[place < np.repeat(wanted, counts)]]] = True
    return Subset(_with(prepared, kept, prepared.parts == VALIDATION), int((kept & matched(prepared)).sum()))


def by_items(prepared: Prepared, share: float, least: float, seed: int) -> Subset:
    """Some items, and the pairs that name them; validation asks for those of the smallest catalogue."""
    n = prepared.n_items
    size, smallest = (max(2, round(part * n)) for part in (share, least))
    rank = _ranks(n, smallest, seed)
    rows = np.flatnonzero(rank < size)
    new = np.zeros(n, np.int64)
    new[rows] = np.arange(len(rows))
    items = np.asarray(prepared.log.item_rows)
    kept, held = (prepared.parts == TRAIN) & (rank[items] < size), (prepared.parts == VALIDATION) & (rank[items] < smallest)
    smaller = replace(
        prepared,
        items=prepared.items.take(rows),
        columns={**prepared.columns, "item": take_rows(prepared.columns["item"], rows)},
        log=prepared.log._replace(item_rows=new[items]),
    )
    return Subset(_with(smaller, kept, held), size)


AXES: dict[str, Callable[[Prepared, float, float, int], Subset]] = {"queries": by_queries, "pairs": by_pairs, "items": by_items}


def matched(prepared: Prepared) -> Array:
    """Which pairs of the log [n] are training matches: what was passed over is none."""
    return np.asarray((prepared.parts == TRAIN) & (np.asarray(prepared.log.labels) > 0))


def enough(subset: Subset) -> bool:
    """Whether anything can be learnt from it, and told."""
    return all(int((subset.prepared.parts == part).sum()) >= fewest for part, fewest in FEWEST.items())


def _with(prepared: Prepared, kept: Array, held: Array) -> Prepared:
    return replace(prepared, parts=np.where(kept, TRAIN, np.where(held, VALIDATION, TEST)).astype(np.int8))


def askers(prepared: Prepared) -> Array:
    """Who asks: whose history is read, or else whose matches are shared."""
    return np.asarray(prepared.log.query_keys if prepared.log.history_keys is None else prepared.log.history_keys)


def _ranks(count: int, smallest: int, seed: int) -> Array:
    """An order at random of so many, the first of them the same for every seed: validation asks for what all subsets hold."""
    order = np.random.default_rng(0).permutation(count)
    order[smallest:] = np.random.default_rng([seed, 1]).permutation(order[smallest:])
    ranks = np.empty(count, np.int64)
    ranks[order] = np.arange(count)
    return ranks
