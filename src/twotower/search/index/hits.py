"""What a search gives, what an index is, and how the best of many scores are found."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from twotower.errors import ConfigError, DataError
from twotower.search.vectors import Array

SELECTED_AT_ONCE = 1 << 21  # scores whose best are looked for at once: 8 MB, which bounds what is held beside them
GROUPS = 64  # times k, into which scores are dealt to find the best
SPARE = 4  # times k: so many scores above a floor are few enough to be sorted


class Hits(NamedTuple):
    """What a search found, best first; of equal scores the lower row comes first."""

    rows: Array  # int64 [q, k]; pads, where fewer than k were found: -1
    scores: Array  # float32 [q, k]; pads: -inf


class Index(Protocol):
    """Vectors [n, d] that can be searched, by several threads at once."""

    def search(self, queries: Array, k: int, allow: Array | None = None) -> Hits:
        """The k best of the allowed rows for each of the queries float32 [q, d]; `allow`: bool [n]."""
        ...


def checked(queries: Array, allow: Array | None, n: int, d: int) -> Array:
    """The queries as float32 [q, d]. Raises DataError where they are of another width, or `allow` is not one bool a row."""
    if queries.ndim != 2 or queries.shape[1] != d:
        raise DataError(f"the index holds vectors of {d} dimensions and takes [q, {d}], not {queries.shape}")
    check_allow(allow, n)
    return np.asarray(queries, np.float32)


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

    It goes over the scores some rows at a time. Fewer would stay in a nearer cache, and in threads cost more in handing over the interpreter.
    """
    hits = no_hits(len(scores), k)
    step = max(1, SELECTED_AT_ONCE // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        _select(Hits(hits.rows[part], hits.scores[part]), scores[part], k, None if floor is None else floor[part])
    return hits


def _select(hits: Hits, scores: Array, k: int, floor: Array | None) -> None:
    """Puts the k best of each row into empty hits."""
    kept = None if floor is None else scores > floor[:, None]
    if kept is None or np.count_nonzero(kept) > SPARE * k * len(scores):
        bound = np.maximum(_reached(scores, k), np.finfo(scores.dtype).min)  # -inf is no score
        if floor is not None:
            bound = np.maximum(bound, np.nextafter(floor, np.inf, dtype=scores.dtype))
        kept = scores >= bound[:, None]
    flat = _true(kept)
    query, row = np.divmod(flat, scores.shape[1])
    values = scores.reshape(-1)[flat]
    order = np.lexsort((-values, query))
    query, row, values = query[order], row[order], values[order]
    place = np.arange(len(query)) - np.searchsorted(query, np.arange(len(scores)))[query]
    first = place < k
    hits.rows[query[first], place[first]] = row[first]
    hits.scores[query[first], place[first]] = values[first]


def _true(mask: Array) -> Array:
    """Where a contiguous mask is true, as one row after the other, where that is seldom: looked at eight by eight first."""
    flat = mask.reshape(-1)
    whole = len(flat) // 8 * 8
    near = (np.flatnonzero(flat[:whole].view(np.uint64) != 0)[:, None] * 8 + np.arange(8)).reshape(-1)
    return np.concatenate([near[flat[near]], whole + np.flatnonzero(flat[whole:])])


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


def merge(hits: Hits, scores: Array, rows: Array | int) -> None:
    """Brings the hits [q, k] so far, in place, up to date with scores [q, n] of rows int64 [n], or of those from one on; all are later rows."""
    k = hits.rows.shape[1]
    # A later row has to beat the worst hit: at equal scores the lower row, already there, stays.
    found = best_of_each(scores, k, hits.scores[:, -1])
    better = np.flatnonzero(found.rows[:, 0] >= 0)
    if not len(better):
        return
    places = found.rows[better]
    named = places + rows if isinstance(rows, int) else rows[places]
    merged = best_of_both(Hits(hits.rows[better], hits.scores[better]), Hits(np.where(places < 0, -1, named), found.scores[better]))
    hits.rows[better], hits.scores[better] = merged


def best_of_both(first: Hits, second: Hits) -> Hits:
    """The k best of two sets of hits [q, k], the rows of the second being all higher."""
    rows, scores = np.concatenate([first.rows, second.rows], axis=1), np.concatenate([first.scores, second.scores], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : first.rows.shape[1]]
    return Hits(np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1))
