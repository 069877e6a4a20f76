"""Approximate search through FAISS."""

from __future__ import annotations

from typing import Any

import numpy as np

from twotower.errors import DataError, MissingExtra
from twotower.search.index.hits import Hits, check_allow, no_hits
from twotower.search.vectors import Array, Vectors


class Hnsw:
    """A graph of near neighbours (Malkov and Yashunin 2018), through FAISS: faster past some 100,000 vectors, and may miss some.

    Needs the extra `ann`. It is built when it is made, and holds the vectors in memory. links: of each vector in the graph;
    breadth: how many candidates a search keeps, at least k; both buy recall with time.
    """

    def __init__(self, vectors: Array | Vectors, *, links: int = 32, breadth: int = 128) -> None:
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


def _finite(vectors: Array | Vectors) -> Array:
    """The vectors as FAISS takes them; it would pass over nan in silence."""
    whole = np.ascontiguousarray(vectors, np.float32)
    if not np.isfinite(whole).all():
        raise DataError("an index met vectors that are not numbers: look for nan or inf in them")
    return whole
