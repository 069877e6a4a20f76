"""Why items were found: what vectors and words say of each, for the page that shows it beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from twotower.bundle.asking import query_text
from twotower.bundle.ranking import Mode, all_similarities
from twotower.bundle.retriever import Retriever
from twotower.data.columns import Array
from twotower.search.fusion import blend
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
    near = all_similarities(retriever.embed_queries(table), retriever.vectors)  # [q, n]
    words = None
    if by != "vectors" and retriever.lexical is not None:
        words = retriever.lexical.scores(texts)
        words = words if by == "words" else blend(near, words, float(retriever.bundle.model["search"]["words_weight"])) - near
    asked = [set(tokenize(text)) for text in texts]
    own = own_words(retriever, np.unique(rows[rows >= 0]).tolist())
    return [
        [
            None if row < 0 else Reason(float(near[query, row]), None if words is None else float(words[query, row]), sorted(asked[query] & own[row]))
            for row in found
        ]
        for query, found in enumerate(rows.tolist())
    ]


def own_words(retriever: Retriever, rows: Sequence[int]) -> dict[int, set[str]]:
    """The words of items, by their text features."""
    columns = list(dict.fromkeys(feature.column for feature in retriever.encoder.features["item"] if feature.worded))
    shown = retriever.show(np.array(rows, np.int64))
    return {
        row: set(tokenize(" ".join(str(each[name]) for name in columns if each.get(name) is not None))) for row, each in zip(rows, shown, strict=True)
    }
