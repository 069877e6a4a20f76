"""Searches through a store: the bundle's towers encode, the store's vectors are found. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from twotower.bundle.asking import is_one
from twotower.bundle.found import Found, at_least, check_threshold
from twotower.bundle.narrowing import check_k
from twotower.bundle.retriever import Retriever
from twotower.data.columns import Array, Ragged, lengths_of
from twotower.data.hashes import hash_texts
from twotower.data.values import to_array, to_text
from twotower.search.filters import Condition, condition_of
from twotower.stores import Near, Store, Version


class Remote:
    """A model whose items lie in a store. Every answer is of vectors of this very model, or BundleError. Safe to share between threads.

    It ranks by vectors alone: a store holds no words.
    """

    def __init__(self, retriever: Retriever, store: Store) -> None:
        self.retriever = retriever
        self.store = store
        self.served()

    def __repr__(self) -> str:
        return f"<Remote of {self.retriever.bundle.fingerprint[:12]} through {self.store!r}>"

    def served(self) -> Version:
        """The version that the store serves. Raises BundleError where it is another model's, DataError where there is none."""
        return self.store.serving(self.retriever.bundle.fingerprint)

    def search(
        self,
        queries: Any = None,
        k: int = 10,
        *,
        history: Any = None,
        repeats: bool = False,
        where: str | Mapping[str, Any] | Condition | None = None,
        threshold: float | None = None,
    ) -> Found:
        """The k best items for each query, as `Retriever.search` gives them: [k] for one query, [q, k] for several.

        where: only items whose columns, as they stand in the store, meet this. rows are those of the bundle's own catalogue, -1 for an item that
        only the store has, and for all where the bundle holds a query encoder alone. Raises ConfigError, DataError, and BundleError where the
        store serves another model.
        """
        check_threshold(threshold)
        check_k(k)
        condition = None if where is None else condition_of(where)
        own = self.retriever
        one = is_one(queries, history, [feature.column for feature in own.encoder.features["query"] if feature.nested])
        table = own.query_table(queries, history)
        vectors = own.embed_queries(table)
        known = None if own.history is None or repeats else own.history.named(table)
        longest = 0 if known is None else int(lengths_of(known).max(initial=0))
        near = self.store.search(vectors, k + longest, condition, fingerprint=own.bundle.fingerprint)
        ids, scores = (near.ids, near.scores) if known is None else _without(near, known, k)
        found = Found(ids, scores, self._rows(ids))
        found = found if threshold is None else at_least(found, threshold)
        return Found(*(part[0] for part in found)) if one else found

    def _rows(self, ids: Array) -> Array:
        rows, there = np.full(ids.shape, -1, np.int64), _there(ids)
        if there.any() and not self.retriever.bundle.alone:
            rows[there] = self.retriever.find(to_array(ids[there].tolist()))
        return rows

    def embed_queries(self, queries: Any = None, history: Any = None) -> Array:
        """Query vectors float32 [n, d]."""
        return self.retriever.embed_queries(queries, history)

    def score(self, queries: Any, items: Any) -> Array:
        """The similarity float32 [n] of each query with the item beside it: ids of the bundle's own catalogue, or rows."""
        return self.retriever.score(queries, items)

    def show(self, ids: Iterable[Any]) -> list[dict[str, Any]]:
        """The columns of items as they stand in the store, in this order; None and what is not there are left out."""
        return self.store.show(ids)


def _there(ids: Array) -> Array:
    """Which of these are ids rather than pads."""
    return np.array([each is not None for each in ids.ravel()], bool).reshape(ids.shape)


def _without(near: Near, known: Ragged, k: int) -> tuple[Array, Array]:
    """The first k ids [q, k] and scores that are none of those known, by their hashes, for their query [q]."""
    ids, scores = np.full((len(near.ids), k), None, object), np.full((len(near.ids), k), -np.inf, np.float32)
    there = _there(near.ids)
    for query, start in enumerate(known.offsets[:-1]):
        found = near.ids[query, there[query]]
        hashes = hash_texts(to_text(to_array(found.tolist())).to_pylist()) if len(found) else np.empty(0, np.uint64)
        kept = np.flatnonzero(~np.isin(hashes, known.values[start : known.offsets[query + 1]]))[:k]
        ids[query, : len(kept)], scores[query, : len(kept)] = found[kept], near.scores[query, kept]
    return ids, scores
