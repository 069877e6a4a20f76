"""Popularity within the category that is asked for: a baseline for logs whose items have categories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from twotower.data.columns import Array, Ragged, ragged_rows
from twotower.data.features import Categories, Category
from twotower.data.prepared import Log, Prepared
from twotower.data.schema import feature_name
from twotower.data.splits import TRAIN
from twotower.learning.evaluation import Cases, Scorer
from twotower.learning.linear import known_of

SEEN = 0.05  # the share of the cases whose asker must be known
AT_ONCE = 1 << 16  # matches whose likelihood is worked out together


class _Taste(NamedTuple):
    """How often each asker matched each category, a, of those that c categories make."""

    counts: Any  # sparse float64 [a, c]
    matched: Array  # float64 [a] all its matches
    lifts: Any  # sparse float64 [n, c] each item's part in its categories, a row adding up to 1, by everybody's share of them
    shares: Array  # float64 [c] that share


def popularity_by_category(prepared: Prepared, asked: Cases) -> Scorer | None:
    """An item's training weight, times how much more of the asker's training matches lie in its category than of everybody's.

    That is popularity(item) * share(category, asker) / share(category): popularity within a category, times how likely the asker wants that
    category. An asker's share counts one match more than it has, dealt out as everybody's, so that without any match it is plain popularity.
    An item of several categories is in each by an equal part; one of none is in a category of its own kind.

    The asker is the key (of the history, where there is one) or the value of a category that the query side reads. Of all pairs of an asker and
    a `category` or `categories` column of the items, that one is taken which makes the training matches likeliest, each predicted from the
    others alone; the first of equals. None where items have no such column, or fewer than a twentieth of the cases have an asker that training knows.
    """
    log = prepared.part(TRAIN)
    log = log.take(np.flatnonzero(log.labels > 0))
    found: list[tuple[float, _Taste, Array, Any]] = []
    columns, own = list(_item_columns(prepared)), asked.query_keys if asked.history_keys is None else asked.history_keys
    for of_pairs, of_cases in _askers(prepared, log, asked) if columns else ():
        if np.isin(of_cases, of_pairs).mean() < SEEN:
            continue
        for parts in columns:
            taste = _taste(parts, of_pairs, log.item_rows, 1 + max(int(of_pairs.max(initial=0)), int(of_cases.max(initial=0))))
            found.append((_told(taste, of_pairs, log.item_rows), taste, of_cases, parts if of_cases is own else None))
    if not found:
        return None
    _, taste, by, parts = max(found, key=lambda each: each[0])
    known = known_of(prepared, asked) if parts is not None and asked.histories is not None else None
    popular = np.bincount(log.item_rows, weights=log.weights, minlength=prepared.n_items)

    def scores(block: slice) -> Array:
        counts, matched = taste.counts[by[block]], taste.matched[by[block]]
        if known is not None:  # as much of the asker as the model's history may show
            rows = known.rows(block)
            counts, matched = rows @ parts, np.asarray(rows.sum(axis=1)).ravel()
        wanted = (counts.toarray() + taste.shares) / (matched + 1)[:, None]  # [block, c]
        return np.asarray((taste.lifts @ wanted.T).T * popular, np.float32)

    return scores


def _askers(prepared: Prepared, log: Log, asked: Cases) -> Iterator[tuple[Array, Array]]:
    """Who may have a taste: for every training match, and for every case, a number of the asker."""
    if log.history_keys is not None and asked.history_keys is not None:
        yield log.history_keys, asked.history_keys
    else:
        yield log.query_keys, asked.query_keys
    for feature in prepared.encoder.features["query"]:
        if isinstance(feature, Category):
            codes = np.asarray(prepared.columns["query"][feature_name(feature)])
            yield codes[log.query_rows], codes[asked.query_rows]


def _item_columns(prepared: Prepared) -> Iterator[Any]:
    """For each column of categories of the items, in the order of the config, each item's part in each: sparse float64 [n, c]."""
    from scipy import sparse

    n = prepared.n_items
    for feature in prepared.encoder.features["item"]:
        if not isinstance(feature, (Category, Categories)):
            continue
        column = prepared.columns["item"][feature_name(feature)]
        if isinstance(column, Ragged):
            rows, codes = ragged_rows(column), np.asarray(column.values)
            codes = (codes if codes.ndim == 1 else codes[:, 0]).astype(np.int64)  # the weights of a weighted column are of its pool
        else:
            rows, codes = np.arange(n), np.asarray(column)
        rows = np.concatenate([rows, np.setdiff1d(np.arange(n), rows)])
        codes = np.concatenate([codes, np.zeros(len(rows) - len(codes), np.int64)])  # 0 is what is missing
        held = sparse.csr_matrix((np.ones(len(rows)), (rows, codes)), shape=(n, 1 + int(codes.max(initial=0))))
        held.data[:] = 1  # a category that an item names twice is one
        yield (sparse.diags(1 / np.asarray(held.sum(axis=1)).ravel()) @ held).tocsr()


def _taste(parts: Any, askers: Array, items: Array, n: int) -> _Taste:
    """What training says of n askers, from the asker and the item of each match."""
    from scipy import sparse

    matches = sparse.csr_matrix((np.ones(len(items)), (askers, items)), shape=(n, parts.shape[0]))
    counts = (matches @ parts).tocsr()
    shares = np.asarray(counts.sum(axis=0)).ravel() / max(1, len(items))
    lifts = parts @ sparse.diags(np.divide(1, shares, out=np.ones_like(shares), where=shares > 0))
    return _Taste(counts, np.bincount(askers, minlength=n).astype(np.float64), lifts.tocsr(), shares)


def _told(taste: _Taste, askers: Array, items: Array) -> float:
    """The mean logarithm of how much likelier a training match is by its asker's other matches than by popularity alone."""
    # Without the match itself its asker has a whole one less, and of the item's categories the item's part less.
    own = np.asarray(taste.lifts.multiply(taste.lifts.multiply(taste.shares)).sum(axis=1)).ravel()  # [n]
    total = 0.0
    for start in range(0, len(items), AT_ONCE):
        asker, item = askers[start : start + AT_ONCE], items[start : start + AT_ONCE]
        others = np.asarray(taste.counts[asker].multiply(taste.lifts[item]).sum(axis=1)).ravel() - own[item] + 1
        total += float(np.log(others / taste.matched[asker]).sum())
    return total / max(1, len(items))
