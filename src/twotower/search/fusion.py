"""Two opinions on the same items, made one: similarity of vectors and BM25 of words.

Scores are added, not ranks: on the shipped text sample every weight of reciprocal rank fusion (Cormack et al. 2009) ranked
worse than vectors alone, and added scores better (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import numpy as np

from twotower.search.index import Array


def blend(similarities: Array, words: Array, weight: float) -> Array:
    """Similarities [q, n] plus the word scores [q, n], these scaled so that a query's best one adds `weight` of its best similarity.

    Both parts are on the scale of the query, so that one weight suits cosines, dot products and texts of any length. A query
    none of whose words occurs anywhere is left to the vectors, one that the vectors know nothing of (all 0) to the words.
    """
    best = np.abs(similarities).max(axis=1, keepdims=True, initial=0.0)  # [q, 1]
    top = words.max(axis=1, keepdims=True, initial=0.0)  # [q, 1]
    scale = np.divide(np.where(best > 0, weight * best, 1.0), top, out=np.zeros_like(top), where=top > 0)
    return np.asarray(similarities + words * scale, np.float32)
