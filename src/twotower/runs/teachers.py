"""A finished model that a new run learns from.

`[train] teacher` says how near everything is: its vectors of all that the run is trained on are made once, by its exported towers.
`[train] mine_teacher` judges what may be a hard negative: it is asked when negatives are mined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle.graphs import open_graph, run_graph
from twotower.bundle.layout import Bundle, open_bundle
from twotower.bundle.loading import load
from twotower.bundle.retriever import Retriever
from twotower.data.batches import Taught
from twotower.data.columns import Array, Ragged, lengths_of
from twotower.data.prepared import ID, Prepared
from twotower.data.schema import SIDES, Side
from twotower.errors import BundleError, ConfigError
from twotower.learning.options import TrainOptions
from twotower.runs.progress import Progress

if TYPE_CHECKING:
    from twotower.learning.mining import Judge

AT_ONCE = 8192  # rows


def fingerprints(options: TrainOptions) -> dict[str, str]:
    """Those of the teachers that the options name, by the option. Raises BundleError or ConfigError for one that cannot teach."""
    taught, judged = require_teacher(options.teacher), options.mine_teacher and open_bundle(options.mine_teacher).fingerprint
    return {name: one for name, one in (("teacher", taught), ("mine_teacher", judged)) if one}


def require_teacher(place: str | None) -> str | None:
    """The fingerprint of a teacher, before any work. Raises BundleError or ConfigError for one that cannot teach."""
    if place is None:
        return None
    bundle = open_bundle(place)
    if any(feature.from_log for feature in bundle.encoder.features["query"]):
        raise ConfigError(
            f'[train] teacher = "{place}" reads a history, and a query row has none of its own: what it says would depend on the moment. '
            "Take a teacher without a history."
        )
    _temperature(bundle)
    return bundle.fingerprint


def taught_by(place: str, prepared: Prepared, item_id: str | None, threads: int | None, progress: Progress) -> Taught:
    """The vectors of every query row and every item, scaled so that their products are similarities over the teacher's temperature.

    item_id: the column of items that names them. Raises ConfigError where the teacher reads what these rows do not hold.
    """
    bundle = open_bundle(place)
    items = prepared.items
    if item_id is not None and item_id not in items.column_names:
        items = items.append_column(item_id, items.column(ID))
    tables: dict[Side, pa.Table] = {"query": prepared.queries, "item": items}
    for side in SIDES:
        lacking = [name for name in bundle.encoder.columns(side) if name not in tables[side].column_names]
        if lacking:
            raise ConfigError(
                f'[train] teacher = "{place}" reads {", ".join(lacking)} of a{"n" * (side == "item")} {side}, which this run does not. '
                f"Add such features to [{side}]{', or name the columns in payload' if side == 'item' else ''}, or take another teacher."
            )
    progress.stage(f"the teacher encodes {len(prepared.queries):,} queries and {len(items):,} items")
    queries, vectors = (_encoded(bundle, side, tables[side], threads) for side in SIDES)
    nothing = int((~queries.any(axis=1)).sum())
    if nothing:
        progress.stage(f"the teacher knows nothing of {nothing:,} queries: they learn from the log alone")
    queries /= np.float32(_temperature(bundle))
    return Taught(queries, vectors)


def _encoded(bundle: Bundle, side: Side, table: pa.Table, threads: int | None) -> Array:
    """The vectors float32 [n, t] of the rows of a table. What the teacher never saw is unknown to it, and no error."""
    graph = open_graph(bundle.folder / "model", side, threads)
    vectors = np.empty((len(table), bundle.dimensions), np.float32)
    for start in range(0, len(table), AT_ONCE):
        columns = bundle.encoder.encode(side, table.slice(start, AT_ONCE), strict=False)
        vectors[start : start + AT_ONCE] = run_graph(graph, columns, bundle.dimensions)
    return vectors


def _temperature(bundle: Bundle) -> float:
    """What the teacher's similarities were divided by when it was trained."""
    told = files.read_json(bundle.folder / "model" / "metrics.json")
    temperature = told.get("training", {}).get("temperature") if isinstance(told, dict) else None
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise BundleError(f"{bundle.folder / 'model' / 'metrics.json'} says nothing of a temperature, so this bundle cannot teach. Train it again.")
    return float(temperature)


def judge(place: str, prepared: Prepared) -> Judge:
    """The judge that a run or a bundle is. Raises ConfigError for one that cannot read these queries or knows none of these items."""
    from twotower.learning.mining import Judge  # and with it torch, which settings do without

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
    return Judge(items, lambda query_rows, history: _judged(retriever, prepared, query_rows, history))


def _judged(retriever: Retriever, prepared: Prepared, query_rows: Array, history: Ragged | None) -> Array:
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
