"""Exact search: every vector is scored, in blocks, as fast as they can be read."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from twotower.errors import DataError
from twotower.search.index.hits import Hits, checked, merge, no_hits
from twotower.search.vectors import Array, Vectors, taken, widened

ITEM_BLOCK = 1 << 13  # items scored at once
SCORE_BLOCK = 1 << 22  # scores held at once: 16 MB of float32, which stay in a cache
FEW = 4  # queries that are scored one by one: a product of matrices pays only from more on
FEW_SCORES = 1 << 24  # scores of few queries held at once: 64 MB
CACHED = 1 << 18  # numbers of vectors read at once for few queries: 1 MB of float32, and too few for BLAS to start threads, which wait for each other
OVERLAPPED = 1 << 18  # scores from which on one half is multiplied while the best of the other are looked for
ALONE = 1 << 21  # numbers that one thread reads sooner than several are started
GATHERED = 4  # of so many rows at most one is allowed: gathered, not masked
MOST_THREADS = 8


class Exact:
    """Scores every vector [n, d]: nothing to build, nothing to tune, no neighbour missed.

    The vectors may be memory-mapped, and stored as any kind; scores are float32. A search reads them once, front to back, in blocks, and
    where at most a quarter of the rows is allowed, these alone. The order is a function of the scores alone; the scores themselves may
    differ in their last bits with the number of queries of a search and of the rows allowed, since routines are chosen by shape.
    """

    def __init__(self, vectors: Array | Vectors, *, item_block: int = ITEM_BLOCK, score_block: int = SCORE_BLOCK) -> None:
        if vectors.ndim != 2:
            raise DataError(f"an index takes vectors [n, d], not an array of shape {vectors.shape}")
        self.vectors = taken(vectors)
        self.item_block = item_block
        self.query_block = max(1, score_block // max(1, min(item_block, len(vectors))))
        self.few_block = max(1, min(FEW_SCORES, 8 * score_block) // FEW)

    def search(self, queries: Array, k: int, allow: Array | None = None) -> Hits:
        """The k best of the allowed rows for each of the queries float32 [q, d]; `allow`: bool [n]."""
        n, d = self.vectors.shape
        queries = checked(queries, allow, n, d)
        hits = no_hits(len(queries), k)
        rows = None if allow is None or np.count_nonzero(allow) * GATHERED > n else np.flatnonzero(allow)
        banned = None if allow is None or rows is not None else ~allow
        if len(queries) <= FEW:
            self._few(hits, queries, rows, banned)
        else:
            self._many(hits, queries, rows, banned)
        return hits

    def _few(self, hits: Hits, queries: Array, rows: Array | None, banned: Array | None) -> None:
        count = len(self.vectors) if rows is None else len(rows)
        for first in range(0, count, self.few_block):
            part = slice(first, min(count, first + self.few_block))
            scores = few_scores(self.vectors, queries, part, rows)
            _keep(hits, scores, part, rows, banned)

    def _many(self, hits: Hits, queries: Array, rows: Array | None, banned: Array | None) -> None:
        count = len(self.vectors) if rows is None else len(rows)

        def keep(some: slice) -> None:
            _keep(Hits(hits.rows[some], hits.scores[some]), queries[some] @ items.T, part, rows, banned)

        # At least two blocks where that pays, and two threads: one block is multiplied, by as many threads as BLAS has, while the best of
        # another are looked for.
        large = len(queries) * min(count, self.item_block) >= OVERLAPPED
        step = min(self.query_block, -(-len(queries) // 2) if large else len(queries))
        stretches = [slice(start, start + step) for start in range(0, len(queries), step)]
        with ThreadPoolExecutor(2) as pool:
            # Items are the outer loop, so that a memory-mapped file is read once however many queries there are.
            for first in range(0, count, self.item_block):
                part = slice(first, min(count, first + self.item_block))
                items = self.vectors[part if rows is None else rows[part]]
                list(pool.map(keep, stretches) if large else map(keep, stretches))


def _keep(hits: Hits, scores: Array, part: slice, rows: Array | None, banned: Array | None) -> None:
    """Brings the hits up to date with the scores of a part of the vectors, or of a part of these rows."""
    if np.isnan(scores.max(initial=-np.inf)):
        raise DataError("a search met scores that are not numbers: look for nan or inf in the vectors")
    if banned is not None:
        np.copyto(scores, -np.inf, where=banned[part])
    merge(hits, scores, part.start if rows is None else rows[part])


def few_scores(vectors: Vectors, queries: Array, part: slice, rows: Array | None = None) -> Array:
    """Inner products float32 [q, m] of few queries with a part of the vectors, or of a part of these rows, by several threads.

    A block of vectors is read into the cache once, made float32 there, and multiplied with each query.
    """
    d = vectors.shape[1]
    scores = np.empty((len(queries), part.stop - part.start), np.float32)
    step = max(1, CACHED // max(1, d))

    def score(stretch: range) -> None:
        room = None if vectors.kind == "float32" else np.empty((step, d), np.float32)
        for first in stretch:
            stop = min(part.stop, first + step)
            some = slice(first, stop) if rows is None else rows[first:stop]
            items = widened(vectors.values[some], None if room is None else room[: stop - first])
            at = scores[:, first - part.start : stop - part.start]
            for query, found in zip(queries, at, strict=True):
                np.dot(items, query, out=found)
            if vectors.scales is not None:
                at *= vectors.scales[some]

    starts = range(part.start, part.stop, step)
    threads = min(MOST_THREADS, len(starts), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if threads < 2 or scores.shape[1] * d < ALONE:
        score(starts)
        return scores
    share = -(-len(starts) // threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(score, [starts[at : at + share] for at in range(0, len(starts), share)]))
    return scores


def similarities(queries: Array, rows: Array, items: Array | Vectors, columns: Array) -> Array:
    """The inner product float32 [n] of each of these rows of queries [q, d] with the row of items beside it, in blocks of bounded size."""
    found = np.empty(len(rows), np.float32)
    block = max(1, SCORE_BLOCK // max(1, queries.shape[1]))  # two rows of numbers each
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        found[part] = np.einsum("nd,nd->n", queries[rows[part]], items[columns[part]])
    return found
