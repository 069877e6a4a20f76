"""Which index, and how much it has to look at, for a recall that is asked for: measured on real queries.

Exact search where that takes a few milliseconds; else the first kind of `PREFERRED` that fits into memory and reaches the recall, at the least
breadth that does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from twotower.errors import ConfigError, DataError, MissingExtra
from twotower.search.index.approximate import KINDS, Approximate
from twotower.search.index.exact import Exact
from twotower.search.index.hits import Hits, Index, checked
from twotower.search.vectors import Array, Vectors

EXACT_NUMBERS = 1 << 23  # n x d up to which exact search is fast enough: 65,536 vectors of 128 dimensions, some 4 ms
GRAPH_NUMBERS = 1 << 25  # n x d up to which a graph is built, which takes far longer than clusters
PREFERRED = ("ivf", "hnsw", "int8", "pq")
K = 10
ASKED, FEWEST = 1000, 40  # queries asked, at most, and those without which no recall is known
TIMED = 60  # queries asked one by one
GROWTH = 1.4  # of the breadth from one try to the next


class Chosen(NamedTuple):
    """What was chosen, and what it came to.

    recall: the share of the exact first 10 that it finds, on queries by which nothing was chosen; 1 for exact search. milliseconds: of one query
    alone, at the median, beside those of exact search. seconds: of building it. bytes: that it takes beside the vectors, about. reason: in words.
    """

    kind: str
    breadth: int | None  # None for exact search
    recall: float
    milliseconds: float
    exact_milliseconds: float
    seconds: float
    bytes: int
    reason: str


def choose(
    vectors: Array | Vectors,
    queries: Array,
    recall: float = 0.95,
    memory: int | None = None,
    *,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Index, Chosen]:
    """The index of vectors [n, d] by which to search, and what is known of it.

    queries: real ones, float32 [q, d]; of 1,000 at most, drawn by the seed, half choose the breadth and half tell the recall. memory: the
    bytes that the index may take beside the vectors. Raises ConfigError for a recall that is no share, DataError for queries of another width.
    """
    if not 0 < recall <= 1:
        raise ConfigError(f"the recall asked for is a share of the right results, above 0 and at most 1, and not {recall}")
    exact = Exact(vectors)
    n, d = exact.vectors.shape
    queries = checked(queries, None, n, d)
    if not np.isfinite(queries).all():
        raise DataError("an index is chosen by queries that are numbers: look for nan or inf in them")
    drawn = queries[np.random.default_rng(seed).permutation(len(queries))[:ASKED]]
    usual = milliseconds(exact, drawn)
    reason = _needless(n, d, recall, len(drawn))
    if reason is None:
        wanted, tried = exact.search(drawn, K).rows, []
        for kind in PREFERRED:
            needed = KINDS[kind].bytes(n, d)
            if memory is not None and needed > memory:
                tried.append(f"{kind} takes {needed / 1e6:,.0f} MB")
            elif kind != "hnsw" or n * d <= GRAPH_NUMBERS:
                progress(f"building {kind} over {n:,} vectors")
                found = _tried(kind, exact, drawn, wanted, recall, usual, seed)
                if not isinstance(found, str):
                    return found
                tried.append(found)
        reason = f"nothing that fits and is faster reaches a recall of {recall:g}: {'; '.join(tried)}"
    return exact, Chosen("exact", None, 1.0, usual, usual, 0.0, 0, reason)


def _tried(kind: str, exact: Exact, queries: Array, wanted: Array, recall: float, usual: float, seed: int) -> tuple[Approximate, Chosen] | str:
    """An index of a kind that is good enough, and what it comes to; or why it is not."""
    half = len(queries) // 2
    begun = time.perf_counter()
    try:
        built = Approximate(exact.vectors, kind, seed=seed)
    except MissingExtra as error:
        return str(error)
    seconds = time.perf_counter() - begun
    found = _broad_enough(built, queries[:half], wanted[:half], recall)
    if found is None:
        return f"{kind} does not reach it"
    took = milliseconds(found, queries[half:])
    if took >= usual:
        return f"{kind} takes {took:.1f} ms for it, exact search {usual:.1f} ms"
    told = recall_of(found.search(queries[half:], K), wanted[half:])
    reason = f"the first of {', '.join(PREFERRED)} that fits and reaches a recall of {recall:g} on {half} queries"
    return found, Chosen(kind, found.breadth, told, took, usual, seconds, found.nbytes, reason)


def _needless(n: int, d: int, recall: float, queries: int) -> str | None:
    """Why exact search is taken without a try, if it is."""
    if n * d <= EXACT_NUMBERS:
        return f"{n:,} vectors of {d} dimensions are searched exactly in a few milliseconds"
    if recall == 1:
        return "only exact search misses nothing for sure"
    if queries < FEWEST:
        return f"{queries} queries are too few to measure a recall; it takes {FEWEST}"
    return None


def _broad_enough(index: Approximate, queries: Array, wanted: Array, recall: float) -> Approximate | None:
    """The index at the least breadth tried that reaches the recall; None where none does."""
    breadth = 1
    while True:
        found = index.at(min(breadth, index.widest))
        if recall_of(found.search(queries, K), wanted) >= recall:
            return found
        if breadth >= index.widest:
            return None
        breadth = max(breadth + 1, int(breadth * GROWTH))


def recall_of(found: Hits, wanted: Array) -> float:
    """The share of the wanted rows [q, k], pads aside, that were found for their query."""
    there = wanted >= 0
    return float(((found.rows[:, :, None] == wanted[:, None, :]).any(axis=1) & there).sum() / max(1, there.sum()))


def milliseconds(index: Index, queries: Array, k: int = K) -> float:
    """What one query alone takes, at the median; 0 without queries."""
    took = []
    for query in queries[:TIMED]:
        begun = time.perf_counter()
        index.search(query[None], k)
        took.append(time.perf_counter() - begun)
    return 1000 * float(np.median(took)) if took else 0.0
