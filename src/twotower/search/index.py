"""Nearest neighbours of vectors by inner product: one protocol, several ways.

A new kind of index is one class with `search` and its entry in `INDEXES`. Rows are positions in the vectors; who wants
the user's ids back, and vectors of length 1 for a cosine, sees to that outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from twotower.errors import ConfigError, DataError, MissingExtra
from twotower.search.vectors import Array as Array

ITEM_BLOCK = 1 << 16  # items scored at once
SELECTED_AT_ONCE = 1 << 19  # scores whose best are looked for at once: 2 MB, which stay in a cache
GROUPS = 64  # times k, into which scores are dealt to find the best
SCORE_BLOCK = 1 << 24  # scores held at once: 64 MB of float32


class Hits(NamedTuple):
    """What a search found, best first; of equal scores the lower row comes first."""

    rows: Array  # int64 [q, k]; pads, where fewer than k were found: -1
    scores: Array  # float32 [q, k]; pads: -inf


class Index(Protocol):
    """Vectors [n, d] that can be searched."""

    def search(self, queries: Array, k: int, allow: Array | None = None) -> Hits:
        """The k best of the allowed rows for each of the queries float32 [q, d]; `allow`: bool [n]."""
        ...


class Exact:
    """Scores every vector [n, d]: nothing to build, nothing to tune, no neighbour missed.

    The vectors may be memory-mapped and of any float type; scores are float32. A search reads them once, front to back,
    in blocks. The order is a function of the scores alone; the scores themselves may differ in their last bits with the
    number of queries of a search, since BLAS picks its routine by shape.
    """

    def __init__(self, vectors: Array, *, item_block: int = ITEM_BLOCK, score_block: int = SCORE_BLOCK) -> None:
        if vectors.ndim != 2:
            raise DataError(f"an index takes vectors [n, d], not an array of shape {vectors.shape}")
        self.vectors = vectors
        self.item_block = item_block
        self.query_block = max(1, score_block // max(1, min(item_block, len(vectors))))

    def search(self, queries: Array, k: int, allow: Array | None = None) -> Hits:
        """The k best of the allowed rows for each of the queries float32 [q, d]; `allow`: bool [n]."""
        n, d = self.vectors.shape
        if queries.ndim != 2 or queries.shape[1] != d:
            raise DataError(f"the index holds vectors of {d} dimensions and takes [q, {d}], not {queries.shape}")
        check_allow(allow, n)
        queries = np.asarray(queries, np.float32)
        hits = no_hits(len(queries), k)
        # Items are the outer loop, so that a memory-mapped file is read once however many queries there are.
        for first in range(0, len(self.vectors), self.item_block):
            items = np.asarray(self.vectors[first : first + self.item_block], np.float32)
            banned = None if allow is None else ~allow[first : first + self.item_block]
            for start in range(0, len(queries), self.query_block):
                rows = slice(start, start + self.query_block)
                scores = queries[rows] @ items.T  # [query block, item block]
                if np.isnan(scores.max(initial=-np.inf)):
                    raise DataError("a search met scores that are not numbers: look for nan or inf in the vectors")
                if banned is not None:
                    scores[:, banned] = -np.inf
                _merge(Hits(hits.rows[rows], hits.scores[rows]), scores, first)
        return hits


class Hnsw:
    """A graph of near neighbours (Malkov and Yashunin 2018), through FAISS: faster past some 100,000 vectors, and may miss some.

    Needs the extra `ann`. It is built when it is made, and holds the vectors in memory. links: of each vector in the graph;
    breadth: how many candidates a search keeps, at least k; both buy recall with time.
    """

    def __init__(self, vectors: Array, *, links: int = 32, breadth: int = 128) -> None:
        try:
            import faiss
        except ImportError:
            raise MissingExtra('the index "hnsw"', "ann") from None
        if vectors.ndim != 2:
            raise DataError(f"an index takes vectors [n, d], not an array of shape {vectors.shape}")
        self.breadth = breadth
        self._faiss: Any = faiss
        self._graph: Any = faiss.IndexHNSWFlat(vectors.shape[1], links, faiss.METRIC_INNER_PRODUCT)
        self._graph.add(_finite(vectors))

    def search(self, queries: Array, k: int, allow: Array | None = None) -> Hits:
        """About the k best of the allowed rows for each of the queries float32 [q, d]; `allow`: bool [n]."""
        n, d = self._graph.ntotal, self._graph.d
        if queries.ndim != 2 or queries.shape[1] != d:
            raise DataError(f"the index holds vectors of {d} dimensions and takes [q, {d}], not {queries.shape}")
        check_allow(allow, n)
        hits = no_hits(len(queries), k)
        if not n or not len(queries):
            return hits
        selected = None if allow is None else self._faiss.IDSelectorBitmap(np.packbits(allow, bitorder="little"))
        wanted = min(k, n)
        parameters = self._faiss.SearchParametersHNSW(efSearch=max(self.breadth, wanted), sel=selected)
        scores, rows = self._graph.search(_finite(queries), wanted, params=parameters)
        scores = np.where(rows >= 0, scores, -np.inf)
        order = np.lexsort((rows, -scores), axis=1)  # of equal scores the lower row first
        hits.rows[:, :wanted] = np.take_along_axis(rows, order, axis=1)
        hits.scores[:, :wanted] = np.take_along_axis(scores, order, axis=1)
        return hits


def _finite(vectors: Array) -> Array:
    """The vectors as FAISS takes them; it would pass over nan in silence."""
    whole = np.ascontiguousarray(vectors, np.float32)
    if not np.isfinite(whole).all():
        raise DataError("an index met vectors that are not numbers: look for nan or inf in them")
    return whole


def check_allow(allow: Array | None, n: int) -> None:
    """Raises where `allow` is not one bool a row."""
    if allow is not None and (allow.dtype != np.bool_ or allow.shape != (n,)):
        raise DataError(f"allow is bool [{n}], one for each row; it came as {allow.dtype} {allow.shape}")


def no_hits(q: int, k: int) -> Hits:
    """All pads [q, k]."""
    if k < 1:
        raise ConfigError(f"k is the number of hits wanted and at least 1, not {k}")
    return Hits(np.full((q, k), -1, np.int64), np.full((q, k), -np.inf, np.float32))


def best(scores: Array, k: int, *, floor: float = -np.inf) -> Array:
    """The positions of the at most k highest scores above the floor, best first: scores [n] -> int64 [<= k]."""
    rows = best_of_each(scores[None], k, np.array([floor], np.float32)).rows[0]
    return np.asarray(rows[rows >= 0])


def best_of_each(scores: Array, k: int, floor: Array | None = None) -> Hits:
    """The k highest of each row of scores [q, n] above its floor [q], best first; of equal ones the first, as everywhere.

    It goes over the scores a few rows at a time, so that they are read from memory once.
    """
    hits = no_hits(len(scores), k)
    step = max(1, SELECTED_AT_ONCE // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        _select(Hits(hits.rows[part], hits.scores[part]), scores[part], k, None if floor is None else floor[part])
    return hits


def _select(hits: Hits, scores: Array, k: int, floor: Array | None) -> None:
    """Puts the k best of each row into empty hits."""
    bound = _reached(scores, k)
    if floor is not None:
        bound = np.maximum(bound, np.nextafter(floor, np.inf, dtype=scores.dtype))
    bound = np.maximum(bound, np.finfo(scores.dtype).min)  # -inf is no score
    kept = np.flatnonzero(scores >= bound[:, None])
    query, row = np.divmod(kept, scores.shape[1])
    values = scores.reshape(-1)[kept]
    order = np.lexsort((-values, query))
    query, row, values = query[order], row[order], values[order]
    place = np.arange(len(query)) - np.searchsorted(query, np.arange(len(scores)))[query]
    first = place < k
    hits.rows[query[first], place[first]] = row[first]
    hits.scores[query[first], place[first]] = values[first]


def _reached(scores: Array, k: int) -> Array:
    """For each row of scores [q, n] a score that k of them or more reach, and few more; -inf where there are no more than k.

    Scores are dealt into groups, and the highest of k groups are at least this: far cheaper than parting all of them.
    """
    q, n = scores.shape
    if n <= k:
        return np.full(q, -np.inf, scores.dtype)
    groups = GROUPS * k
    deep = n // groups
    some = scores if deep < 2 else scores[:, : deep * groups].reshape(q, deep, groups).max(axis=1)
    at = some.shape[1] - k
    return np.asarray(np.partition(some, at, axis=1)[:, at])


def _merge(hits: Hits, scores: Array, first: int) -> None:
    """Brings the hits [q, k] so far, in place, up to date with the scores [q, n] of the rows from `first` on."""
    k = hits.rows.shape[1]
    # A later row has to beat the worst hit: at equal scores the lower row, already there, stays.
    found = best_of_each(scores, k, hits.scores[:, -1])
    rows = np.concatenate([hits.rows, np.where(found.rows < 0, -1, found.rows + first)], axis=1)
    values = np.concatenate([hits.scores, found.scores], axis=1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    hits.rows[:], hits.scores[:] = np.take_along_axis(rows, order, axis=1), np.take_along_axis(values, order, axis=1)


INDEXES: dict[str, Callable[[Array], Index]] = {"exact": Exact, "hnsw": Hnsw}


def similarities(queries: Array, rows: Array, items: Array, columns: Array) -> Array:
    """The inner product float32 [n] of each of these rows of queries [q, d] with the row of items beside it, in blocks of bounded size."""
    found = np.empty(len(rows), np.float32)
    block = max(1, (SCORE_BLOCK >> 1) // queries.shape[1])  # two rows of numbers each
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        found[part] = np.einsum("nd,nd->n", queries[rows[part]], items[columns[part]])
    return found
