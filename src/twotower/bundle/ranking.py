"""Ranks the items of a catalogue by vectors, by words, or by both, and among those alone that a mask allows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from twotower.data.columns import Array
from twotower.errors import ConfigError, choices
from twotower.search.fusion import blend
from twotower.search.index import Exact, Hits, Index, best_of_each, no_hits
from twotower.search.lexical import Lexical
from twotower.search.vectors import Vectors, blocks

Mode = Literal["vectors", "words", "hybrid"]
MODES: tuple[Mode, ...] = ("vectors", "words", "hybrid")
SCORES_AT_ONCE = 1 << 23  # 32 MB of float32
FEW = 16  # queries
SELECTIVE = 0.1  # share of the rows up to which those allowed are taken out and searched alone: some three times as fast there, at 0.25 no faster


def check_mode(mode: str, worded: bool) -> None:
    """Raise ConfigError for a mode that there is not, or that a catalogue without words cannot be searched by."""
    if mode not in MODES:
        raise ConfigError(f'there is no search mode "{mode}"; {choices(MODES, mode)}')
    if mode != "vectors" and not worded:
        raise ConfigError(f'this bundle holds no words, so it cannot be searched by "{mode}"; use mode "vectors"')


def nearest(index: Index, vectors: Array | Vectors, queries: Array, k: int, allow: Array | None = None) -> Hits:
    """The k best of the allowed rows of the vectors [n, d], which the index holds, for each of the queries [q, d]; allow: bool [n].

    Of a query that is all zeros, none: it is equally near to everything, and any order would be made up. Few rows are taken out and scored alone. An
    index that misses some may find fewer than there are among those allowed; then all of them are scored.
    """
    if allow is None:
        hits = index.search(queries, k)
    elif (kept := int(np.count_nonzero(allow))) <= SELECTIVE * len(vectors):
        hits = _among(np.flatnonzero(allow), vectors, queries, k)
    else:
        hits = index.search(queries, k, allow=allow)
        short = np.flatnonzero((hits.rows >= 0).sum(axis=1) < min(k, kept))
        if len(short):
            hits.rows[short], hits.scores[short] = Exact(vectors).search(queries[short], k, allow=allow)
    nothing = ~queries.any(axis=1)
    hits.rows[nothing], hits.scores[nothing] = -1, -np.inf
    return hits


def _among(rows: Array, vectors: Array | Vectors, queries: Array, k: int) -> Hits:
    """The k best of some rows, which rise."""
    hits = Exact(np.asarray(vectors[rows])).search(queries, k)
    there = hits.rows >= 0
    hits.rows[there] = rows[hits.rows[there]]
    return hits


def by_both(lexical: Lexical, vectors: Array | Vectors, queries: Array, texts: list[str], k: int, weight: float, allow: Array | None = None) -> Hits:
    """The k best by the similarity and the words added up. The scale of the words is that of the whole catalogue, so a filter changes no order."""
    hits = no_hits(len(queries), k)
    block = max(1, SCORES_AT_ONCE // max(1, len(vectors)))
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        scores = blend(all_similarities(queries[part], vectors), lexical.scores(texts[part]), weight)
        unknown = ~scores.any(axis=1)  # nothing in such a query is known to either
        if allow is not None:
            scores[:, ~allow] = -np.inf
        scores[unknown] = -np.inf
        hits.rows[part], hits.scores[part] = best_of_each(scores, k)
    return hits


def all_similarities(queries: Array, vectors: Array | Vectors) -> Array:
    """Every inner product float32 [q, n] of queries [q, d] with vectors [n, d], which are widened block by block."""
    if isinstance(vectors, np.ndarray):
        # The library packs the smaller factor; for a few queries it is faster by half the other way round, turning the result included.
        return np.ascontiguousarray((vectors @ queries.T).T) if 1 < len(queries) <= FEW else np.asarray(queries @ vectors.T)
    scores = np.empty((len(queries), len(vectors)), np.float32)
    for part in blocks(*vectors.shape):
        scores[:, part] = queries @ vectors[part].T
    return scores


def widened(hits: Hits, k: int) -> Hits:
    """The hits with pads behind them, k in all."""
    padded = no_hits(len(hits.rows), k)
    padded.rows[:, : hits.rows.shape[1]], padded.scores[:, : hits.rows.shape[1]] = hits
    return padded


def mean_direction(vectors: Array) -> Array:
    """The direction float32 [1, d] midway between vectors [m, d], as long as they are on average; zeros where they are opposite. One is itself."""
    if len(vectors) == 1:
        return np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float64)
    mean = np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0).mean(axis=0, keepdims=True)
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length * lengths.mean() if length > 1e-9 else np.zeros_like(mean), np.float32)
