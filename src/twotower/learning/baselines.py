"""What a model has to beat, measured in the same table on the same rankings.

To add one: a function from prepared data and the cases to a scorer, or None where it does not apply, and its
entry in `BASELINES`. A baseline learns from training pairs and the catalogue alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from twotower.data.prepared import Prepared
from twotower.data.schema import Side
from twotower.data.splits import TRAIN
from twotower.data.values import to_text
from twotower.learning.alternating import als
from twotower.learning.categories import popularity_by_category
from twotower.learning.evaluation import Cases, Scorer, dot_scorer
from twotower.learning.linear import ease, ease_low_rank, gf_cf, item_knn
from twotower.learning.pretrained import embed_documents, open_encoder
from twotower.search.lexical import Counts, Lexical, count, side_by_side

RECENT = 0.1  # of the training pairs


def texts(prepared: Prepared, side: Side) -> list[str]:
    """The words of every row of a side: its text columns, joined."""
    table = prepared.queries if side == "query" else prepared.items
    parts = [to_text(table.column(name), exact=False).to_pylist() for name in prepared.encoder.text_columns(side)]
    n = table.num_rows
    return [" ".join(value for value in values if value) for values in zip(*parts, strict=True)] if parts else [""] * n


def own_words(prepared: Prepared) -> Counts:
    """The words of every item."""
    return count(texts(prepared, "item"))


def asked_words(prepared: Prepared) -> Counts:
    """For every item the words of the training queries that led to it, each query once."""
    asked, log = texts(prepared, "query"), prepared.part(TRAIN)
    log = log.take(np.flatnonzero(log.labels > 0))  # what was passed over says nothing of the item
    more: list[list[str]] = [[] for _ in range(prepared.n_items)]
    pairs = np.unique(log.query_rows * prepared.n_items + log.item_rows)
    for query, item in zip((pairs // prepared.n_items).tolist(), (pairs % prepared.n_items).tolist(), strict=True):
        more[item].append(asked[query])
    return count(map(" ".join, more))


INDEXED = {"both": "bm25_queries", "items": "bm25"}  # whose words an index holds, and the baseline that is a search of it


def lexical(prepared: Prepared, with_queries: bool) -> Lexical | None:
    """BM25 over the items' words, with those of the training queries where asked for; None where queries or items have none."""
    if not prepared.encoder.text_columns("query") or not (with_queries or prepared.encoder.text_columns("item")):
        return None
    own = own_words(prepared)
    return Lexical.weighed(side_by_side([own, asked_words(prepared)]) if with_queries else own)


def popularity(prepared: Prepared, asked: Cases) -> Scorer | None:
    """Every query gets the items with the most training weight."""
    return _most(prepared, asked, 1.0)


def recent_popularity(prepared: Prepared, asked: Cases) -> Scorer | None:
    """The same of the last tenth of the training pairs, and after these by all of them; None for a log without an order of time."""
    return None if prepared.log.moments is None else _most(prepared, asked, RECENT)


def _most(prepared: Prepared, asked: Cases, share: float) -> Scorer:
    log = prepared.part(TRAIN)
    weights = np.where(log.labels > 0, log.weights, 0.0)
    late = np.arange(len(weights)) >= len(weights) - max(1, round(share * len(weights)))
    late_counts, counts = (np.bincount(log.item_rows, weights=some, minlength=prepared.n_items) for some in (weights * late, weights))
    scores = (late_counts + (counts / max(1.0, counts.sum()) if share < 1 else 0.0)).astype(np.float32)
    return lambda block: np.broadcast_to(scores, (len(asked.query_rows[block]), len(scores)))


def _words(with_queries: bool) -> Callable[[Prepared, Cases], Scorer | None]:
    def build(prepared: Prepared, asked: Cases) -> Scorer | None:
        index = lexical(prepared, with_queries)
        if index is None:
            return None
        words = texts(prepared, "query")
        return lambda block: index.scores([words[row] for row in asked.query_rows[block]])

    return build


def untuned(folder: str, prepared: Prepared, asked: Cases) -> Scorer | None:
    """A pretrained sentence encoder as it is, or None where a side has no words."""
    if not (prepared.encoder.text_columns("query") and prepared.encoder.text_columns("item")):
        return None
    words = texts(prepared, "query")
    queries = open_encoder(folder)([words[row] for row in asked.query_rows])
    return dot_scorer(queries, embed_documents(folder, tuple(texts(prepared, "item"))))


BASELINES: dict[str, Callable[[Prepared, Cases], Scorer | None]] = {
    "popularity": popularity,
    "recent_popularity": recent_popularity,
    "popularity_by_category": popularity_by_category,
    "item_knn": item_knn,
    "ease": ease,
    "ease_low_rank": ease_low_rank,
    "gf_cf": gf_cf,
    "als": als,
    "bm25": _words(with_queries=False),
    "bm25_queries": _words(with_queries=True),
}


def baseline(name: str, prepared: Prepared, asked: Cases, threads: int | None = None) -> Scorer | None:
    """One of `BASELINES`, or None where it does not apply; by so many threads, or one, where it has threads of its own."""
    return als(prepared, asked, threads or 1) if name == "als" else BASELINES[name](prepared, asked)
