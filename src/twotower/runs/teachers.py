"""A finished model as a teacher: its vectors of all that a new run is trained on, made once by its exported towers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle.graphs import open_graph, run_graph
from twotower.bundle.layout import Bundle, open_bundle
from twotower.data.batches import Taught
from twotower.data.columns import Array
from twotower.data.prepared import ID, Prepared
from twotower.data.schema import SIDES, Side
from twotower.errors import BundleError, ConfigError
from twotower.runs.progress import Progress

AT_ONCE = 8192  # rows


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
