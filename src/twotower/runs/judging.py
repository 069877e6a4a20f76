"""A finished run as the judge of what may be a hard negative: `[train] mine_teacher`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from twotower.bundle.retriever import Retriever, load
from twotower.data.columns import Array, Ragged, lengths_of
from twotower.data.prepared import ID, Prepared
from twotower.errors import ConfigError

if TYPE_CHECKING:
    from twotower.learning.mining import Judge


def judge(place: str, prepared: Prepared) -> Judge:
    """The judge that a run or a bundle is. Raises ConfigError for one that cannot read these queries or knows none of these items."""
    from twotower.learning.mining import Judge

    retriever = load(place)
    missing = [name for name in retriever.encoder.columns("query") if name not in prepared.queries.column_names]
    if missing:
        raise ConfigError(f"[train] mine_teacher: {place} reads {', '.join(missing)} of a query, which the queries here lack. Take another teacher.")
    if retriever.history is not None and prepared.log.history_keys is None:
        raise ConfigError(f"[train] mine_teacher: {place} reads a history, and the query side here has none. Take another teacher.")
    rows = retriever.find(prepared.items.column(ID))
    if not (rows >= 0).any():
        raise ConfigError(f"[train] mine_teacher: {place} knows none of the {prepared.n_items:,} items here. Take a teacher of this catalogue.")
    items = np.full((prepared.n_items, retriever.bundle.dimensions), np.nan, np.float32)
    items[rows >= 0] = retriever.vectors[rows[rows >= 0]]
    return Judge(items, lambda query_rows, history: _queries(retriever, prepared, query_rows, history))


def _queries(retriever: Retriever, prepared: Prepared, query_rows: Array, history: Ragged | None) -> Array:
    """Its vectors of these query rows [n]; nan for one of which it could know nothing."""
    table = prepared.queries.take(pa.array(query_rows)).select(retriever.encoder.columns("query"))
    if retriever.history is None or history is None:
        return retriever.embed_queries(table)
    ids = prepared.items.column(ID).take(pa.array(history.values)).to_pylist()
    lists = [ids[start:end] for start, end in zip(history.offsets[:-1].tolist(), history.offsets[1:].tolist(), strict=True)]
    asked = np.flatnonzero(lengths_of(history) > 0) if not table.num_columns else np.arange(len(lists))
    vectors = np.full((len(lists), retriever.bundle.dimensions), np.nan, np.float32)
    if len(asked):
        chosen = table.take(pa.array(asked)) if table.num_columns else None
        vectors[asked] = retriever.embed_queries(chosen, history=[lists[n] for n in asked])
    return vectors
