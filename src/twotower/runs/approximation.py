"""What approximate search loses against exact, and what it saves, on a run's own validation queries."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from twotower.data.columns import Array, ragged_rows
from twotower.errors import ConfigError, choices
from twotower.learning.statistics import PairedTest, paired_test
from twotower.runs.held import held_of
from twotower.runs.run import Run
from twotower.search.index import INDEXES, Index

K = 10
TIMED = 200  # queries asked one by one


class Approximate(NamedTuple):
    """An index beside exact search, on so many validation queries, for the first k items of each.

    recall: the share of the exact first k that it finds. hit: how often a right item is among the first k, by each. seconds are of
    building the index; milliseconds of one query alone, at the median.
    """

    name: str
    k: int
    queries: int
    items: int
    recall: float
    hit: float
    exact_hit: float
    lost: PairedTest
    seconds: float
    milliseconds: float
    exact_milliseconds: float


def approximation(run: Run, index: str, progress: Callable[[str], None] = lambda _: None) -> Approximate:
    """Ask both. What the key matched before is not left out here: a search for somebody's next item may do that afterwards.

    Raises ConfigError for an index that is not known or is exact itself, MissingExtra where its library is not installed, BundleError where
    the prepared data of the run are gone.
    """
    others = [name for name in INDEXES if name != "exact"]
    if index not in others:
        raise ConfigError(f'"{index}" is no approximate index; {choices(others, index)}')
    held = held_of(run, "measure an index")
    progress(f"building {index} over {len(held.items):,} items")
    begun = time.perf_counter()
    built = INDEXES[index](held.items)
    seconds = time.perf_counter() - begun
    progress("searching by both")
    queries, exact = held.queries(), INDEXES["exact"](held.items)
    k = min(K, len(held.items))
    found, wanted = built.search(queries, k).rows, exact.search(queries, k).rows
    recall = np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, wanted, strict=True)])
    hits = [_hits(rows, held.asked.relevant.values, ragged_rows(held.asked.relevant)) for rows in (wanted, found)]
    test = paired_test(hits[0], hits[1], groups=held.asked.query_keys[ragged_rows(held.asked.relevant)], generator=np.random.default_rng(0))
    told = [float(np.mean(each)) for each in hits]
    ways = [_milliseconds(each, queries[:TIMED], k) for each in (built, exact)]
    return Approximate(index, k, len(queries), len(held.items), float(recall), told[1], told[0], test, seconds, *ways)


def _hits(rows: Array, relevant: Array, queries: Array) -> Array:
    """Whether each right item [p] is among what was found [q, k] for its query: float64 [p]."""
    return np.asarray((rows[queries] == relevant[:, None]).any(axis=1), np.float64)


def _milliseconds(index: Index, queries: Array, k: int) -> float:
    took = []
    for query in queries:
        begun = time.perf_counter()
        index.search(query[None], k)
        took.append(time.perf_counter() - begun)
    return 1000 * float(np.median(took))
