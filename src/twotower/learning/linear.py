"""Linear models of who matched what, in closed form: baselines for keys that training knows.

Each gives a key the scores `r @ W`, r [n] being 1 where the key matched an item and W [n, n] learnt from all keys in training; they
differ in W. To add one: a function as these, and its entry in `baselines`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from twotower.data.columns import Array, take_ragged
from twotower.data.prepared import Prepared
from twotower.data.splits import TRAIN
from twotower.learning.evaluation import SCORES_AT_ONCE, Cases, Scorer
from twotower.learning.factors import factorise

SEEN = 0.05  # the share of queries whose key must be known
MOST_NEAR = 100_000  # items past which the neighbours of all take long
MOST_DENSE = 20_000  # items past which a dense inverse takes minutes and gigabytes
NEIGHBOURS = 100
EVERY = 1 << 40  # items of a history
ALL = slice(None)
BLOCK = 1024  # rows of a dense matrix that are turned at once
RIDGE = 200.0  # of EASE; its paper has 200 to 1,000 for logs of several hundred thousand users
RANK, RIDGE_LOW_RANK = 2048, 100.0  # of the low-rank EASE, by held-out training pairs of Gowalla
MOST_LOW_RANK = 200_000  # keys and items together past which working out its directions takes more than 9 GB: 3.1 GB were seen at 70,839
SMOOTH, WEIGHT = 256, 0.3  # of GF-CF: directions of the low-pass filter, and its weight, as in its paper
ROUNDS = 6  # of power iterations: the weaker directions of a log are close to each other


class Known(NamedTuple):
    """What keys matched in training, and what is known of who asks."""

    matches: Any  # sparse float32 [keys, n] of ones
    by: Array  # int64 [q] the key that asks
    asked: Cases

    def rows(self, block: slice = ALL) -> Any:
        """What each case of a block has matched, sparse float32 [b, n] of ones: in training, or all that the model's history may show.

        A model that reads histories is told at the test what was matched since training, and so are those it is compared with.
        """
        from scipy import sparse

        asked, n = self.asked, self.matches.shape[1]
        if asked.histories is None or asked.history_keys is None or asked.cuts is None:
            return self.matches[self.by[block]]
        wanted = take_ragged(asked.relevant, np.arange(len(self.by))[block])
        found = asked.histories._replace(last=EVERY).of(asked.history_keys[block], asked.cuts[block], wanted)
        rows = sparse.csr_matrix((np.ones(len(found.values), np.float32), found.values, found.offsets), shape=(len(wanted.offsets) - 1, n))
        rows.sum_duplicates()
        rows.data[:] = 1
        return rows


def known_of(prepared: Prepared, asked: Cases) -> Known | None:
    """None where almost no query has a key that was seen before, as with texts."""
    from scipy import sparse

    log = prepared.part(TRAIN)
    by = asked.query_keys if asked.history_keys is None else asked.history_keys
    keys = log.query_keys if log.history_keys is None else log.history_keys
    keys, items = keys[log.labels > 0], log.item_rows[log.labels > 0]
    if np.isin(by, keys).mean() < SEEN:
        return None
    n = 1 + max(int(keys.max(initial=0)), int(by.max(initial=0)))
    matches = sparse.csr_matrix((np.ones(len(keys), np.float32), (keys, items)), shape=(n, prepared.n_items))
    matches.data[:] = 1  # a pair that occurs twice is one
    return Known(matches, by, asked)


def item_knn(prepared: Prepared, asked: Cases) -> Scorer | None:
    """The items most like those that the key matched: cosines of who matched them (Sarwar et al. 2001), of the 100 nearest of each.

    None past 100,000 items.
    """
    known = known_of(prepared, asked) if prepared.n_items <= MOST_NEAR else None
    if known is None:
        return None
    near = _neighbours(known.matches)
    return lambda block: np.asarray((known.rows(block) @ near).todense(), np.float32)


def ease(prepared: Prepared, asked: Cases) -> Scorer | None:
    """Each item from all others by ridge regression without itself: W = I - P / diag(P), P the inverse of the ridge's matrix (Steck 2019).

    None past 20,000 items.
    """
    from scipy.linalg import lapack

    known = known_of(prepared, asked) if prepared.n_items <= MOST_DENSE else None
    if known is None:
        return None
    # In LAPACK's own order and type, so that it works in place: at 20,000 items a copy takes 3.2 GB.
    gram = (known.matches.T @ known.matches).astype(np.float64).toarray(order="F")
    gram[np.diag_indices_from(gram)] += RIDGE
    factor, _ = lapack.dpotrf(gram, lower=True, overwrite_a=True)
    inverse, _ = lapack.dpotri(factor, lower=True, overwrite_c=True)
    diagonal = inverse.diagonal().copy()
    weights = np.empty(inverse.shape, np.float32)
    for start in range(0, len(weights), BLOCK):  # what lies above the diagonal was never made: it is what lies below
        rows = inverse[start : start + BLOCK, : start + BLOCK]
        weights[start : start + BLOCK, : start + BLOCK] = rows
        weights[: start + BLOCK, start : start + BLOCK] = rows.T
        square = weights[start : start + BLOCK, start : start + BLOCK]
        square[:] = np.tril(rows[:, start:]) + np.tril(rows[:, start:], -1).T
    del gram, factor, inverse
    weights /= -diagonal.astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return lambda block: np.asarray(known.rows(block) @ weights, np.float32)


def ease_low_rank(prepared: Prepared, asked: Cases) -> Scorer | None:
    """EASE where a dense inverse is too large: of the log's 2,048 strongest directions, and of what is left of each item by itself.

    EASE knows the log by its Gram matrix G [n, n] alone. Here that is V S^2 V' + D: V [n, r] and S the strongest right singular vectors and values
    of the log, D the diagonal that the weaker ones add. Then the inverse of G + ridge is a diagonal less a product of rank r (Woodbury 1950), and
    W = I - P / diag(P) as before, its own diagonal 0. With as many directions as the log has it equals EASE.
    None up to 20,000 items, which EASE takes as they are, and past 200,000 keys and items together.
    """
    known = known_of(prepared, asked) if prepared.n_items > MOST_DENSE else None
    if known is None or sum(known.matches.shape) > MOST_LOW_RANK:
        return None
    found = factorise(known.matches, RANK, np.random.default_rng(0))
    counts = np.asarray(known.matches.sum(axis=0), np.float64).ravel()
    left = np.maximum(counts - np.square(found.right * found.values).sum(axis=1), 0) + RIDGE_LOW_RANK  # [n] D + ridge
    scaled = (found.right / left[:, None]).astype(np.float32)  # [n, r]
    inner = np.diag(1 / np.square(found.values.astype(np.float64))) + found.right.T @ scaled
    turned = scaled @ np.linalg.inv(np.linalg.cholesky(inner)).T.astype(np.float32)  # P = diag(1 / left) - turned @ turned.T
    own = np.square(turned).sum(axis=1)  # [n]
    diagonal = (1 / left - own).astype(np.float32)
    del found, scaled

    def scores(block: slice) -> Array:
        rows = known.rows(block)
        return np.asarray(((rows @ turned) @ turned.T - rows.multiply(own).toarray()) / diagonal, np.float32)

    return scores


def gf_cf(prepared: Prepared, asked: Cases) -> Scorer | None:
    """Two filters of a graph of keys and items: neighbours by normalised counts, and the smoothest directions (GF-CF, Shen et al. 2021)."""
    from scipy import sparse

    known = known_of(prepared, asked)
    if known is None:
        return None
    keys, items = (np.asarray(known.matches.sum(axis=axis), np.float32).ravel() for axis in (1, 0))
    left, right = (np.where(total > 0, np.maximum(total, 1) ** -0.5, 0).astype(np.float32) for total in (keys, items))
    norm = (sparse.diags(left) @ known.matches @ sparse.diags(right)).tocsr().astype(np.float32)
    smooth = factorise(norm, SMOOTH, np.random.default_rng(0), rounds=ROUNDS).right  # [n, k]
    turned = norm.T.tocsr()
    back = np.where(items > 0, np.sqrt(items), 0).astype(np.float32)

    def scores(block: slice) -> Array:
        rows = known.rows(block)
        near = np.asarray((rows @ turned).todense(), np.float32) @ norm
        return np.asarray(near + WEIGHT * ((rows.multiply(right).tocsr() @ smooth) @ smooth.T) * back, np.float32)

    return scores


def _neighbours(known: Any) -> Any:
    """For each item [n] (a column) the cosines of its nearest other items: sparse float32 [n, n]."""
    from scipy import sparse

    lengths = np.sqrt(np.asarray(known.sum(axis=0)).ravel())
    unit = known @ sparse.diags((1 / np.maximum(lengths, 1e-12)).astype(np.float32))
    n = known.shape[1]
    parts = []
    for start in range(0, n, max(1, SCORES_AT_ONCE // n)):
        stop = min(n, start + max(1, SCORES_AT_ONCE // n))
        cosines = np.asarray((unit.T @ unit[:, start:stop]).todense(), np.float32)  # [n, block]
        cosines[np.arange(start, stop), np.arange(stop - start)] = 0
        if n > NEIGHBOURS:
            least = np.partition(cosines, n - NEIGHBOURS, axis=0)[n - NEIGHBOURS]
            cosines[cosines < np.maximum(least, 1e-12)] = 0
        parts.append(sparse.csc_matrix(cosines))
    return sparse.hstack(parts).tocsr()
