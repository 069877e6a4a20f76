"""Why items were found: what vectors and words say of each, for the page that shows it beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from twotower.bundle.asking import query_text
from twotower.bundle.ranking import SCORES_AT_ONCE, Mode, all_similarities
from twotower.bundle.retriever import Retriever
from twotower.data.columns import Array
from twotower.search.fusion import blend
from twotower.search.index import similarities
from twotower.search.lexical import tokenize


class Reason(NamedTuple):
    """What found one item. words: what they add to the similarity of a hybrid search, or all that counts in one by words; None in one by vectors."""

    vectors: float
    words: float | None
    shared: list[str]  # words of the query that stand in the item's own texts


def reasons(retriever: Retriever, queries: Any, rows: Array, *, history: Any = None, mode: Mode | None = None) -> list[list[Reason | None]]:
    """For each query what found each of its rows int64 [q, k]; None for pads."""
    table = retriever.query_table(queries, history)
    by, texts = mode or retriever.bundle.model["search"]["mode"], query_text(table, retriever.text_columns)
    vectors, there = retriever.embed_queries(table), rows >= 0
    near, words = np.zeros(rows.shape, np.float32), None
    near[there] = similarities(vectors, np.nonzero(there)[0], retriever.vectors, rows[there])
    if by != "vectors" and retriever.lexical is not None:
        words, block = np.zeros(rows.shape, np.float32), max(1, SCORES_AT_ONCE // max(1, len(retriever)))
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            scores = retriever.lexical.scores(texts[part])  # [q, n]
            if by == "hybrid":  # what words add hangs on the best of all items
                every = all_similarities(vectors[part], retriever.vectors)
                scores = blend(every, scores, float(retriever.bundle.model["search"]["words_weight"])) - every
            words[part] = np.take_along_axis(scores, np.maximum(rows[part], 0), axis=1)
    asked, own = [set(tokenize(text)) for text in texts], own_words(retriever, np.unique(rows[there]).tolist())

    def reason(query: int, place: int, row: int) -> Reason | None:
        if row < 0:
            return None
        added = None if words is None else float(words[query, place])
        return Reason(float(near[query, place]), added, sorted(asked[query] & own[row]))

    return [[reason(query, place, row) for place, row in enumerate(found)] for query, found in enumerate(rows.tolist())]


def own_words(retriever: Retriever, rows: Sequence[int]) -> dict[int, set[str]]:
    """The words of items, by their text features."""
    columns = list(dict.fromkeys(feature.column for feature in retriever.encoder.features["item"] if feature.worded))
    shown = retriever.show(np.array(rows, np.int64))
    return {
        row: set(tokenize(" ".join(str(each[name]) for name in columns if each.get(name) is not None))) for row, each in zip(rows, shown, strict=True)
    }
