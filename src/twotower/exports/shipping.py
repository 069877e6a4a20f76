"""The vectors of a bundle, moved into a store that the user runs.

ship(tt.load("runs/first"), "postgresql://ann@db/shop")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower.bundle.indexes import sample_queries
from twotower.bundle.lineage import difference
from twotower.bundle.retriever import Retriever
from twotower.data.columns import Array
from twotower.stores import Facts, open_store
from twotower.stores.facts import VECTOR
from twotower.stores.store import RECALL

ROWS_AT_ONCE = 1 << 14
MOST_CHANGED = 0.3  # of the rows: past that a table of its own costs no more, and is measured again
SAMPLED = 200  # queries that recall is measured with


def ship(
    retriever: Retriever,
    url: str,
    *,
    name: str = "items",
    recall: float = RECALL,
    report: Callable[[str], None] = lambda _: None,
) -> str:
    """Publish the items of a bundle, with their columns, in the store of a URL or of `env:NAME`; returns the name of the table that is live.

    recall: the share of the true ten nearest items that the store must find for sample queries before its table goes live.
    Raises ConfigError, DataError, OutputError, MissingExtra.
    """
    with open_store(url, name) as store:
        return store.publish(batches(retriever), facts_of(retriever), queries=sample_queries(retriever.bundle, SAMPLED), recall=recall, report=report)


def ship_changes(
    retriever: Retriever,
    url: str,
    changed: Array,
    removed: Sequence[Any],
    parent: str,
    *,
    name: str = "items",
) -> str:
    """Bring a store from the catalogue version `parent` to that of a bundle; returns the name of the table that is live.

    changed: rows int64 [n] of the bundle's catalogue that are new or have changed. removed: ids. Raises BundleError where the store serves
    another model or another version.
    """
    with open_store(url, name) as store:
        return store.refresh(batches(retriever, changed), removed, facts_of(retriever), parent)


class Brought(NamedTuple):
    """What a store was brought up to date by: the table that is live, and how many rows went there and left it; `whole` where all went."""

    table: str
    whole: bool
    changed: int
    removed: int


def bring(retriever: Retriever, url: str, *, name: str = "items", recall: float = RECALL, report: Callable[[str], None] = lambda _: None) -> Brought:
    """Bring a store up to date with a bundle: nothing where it is, what has changed where it serves an earlier version, else all."""
    with open_store(url, name) as store:
        live, bundle = store.live(), retriever.bundle
        if live is not None and live.facts.fingerprint == bundle.fingerprint:
            if live.facts.version == bundle.version:
                return Brought(live.table, False, 0, 0)
            differs = difference(retriever.catalogue, live.facts.version)
            if differs is not None and len(differs.changed) + len(differs.removed) <= MOST_CHANGED * len(retriever):
                report(f"sending {len(differs.changed):,} rows that differ")
                facts = facts_of(retriever)
                table = store.refresh(batches(retriever, differs.changed), differs.removed, facts, live.facts.version)
                return Brought(table, False, len(differs.changed), len(differs.removed))
    return Brought(ship(retriever, url, name=name, recall=recall, report=report), True, len(retriever), 0)


def facts_of(retriever: Retriever) -> Facts:
    """What a store is told about a bundle's vectors."""
    bundle = retriever.bundle
    similarity = str(bundle.model.get("similarity", "dot"))
    return Facts(fingerprint=bundle.fingerprint, version=bundle.version, dimensions=bundle.dimensions, rows=len(retriever), similarity=similarity)


def batches(retriever: Retriever, rows: Array | None = None) -> Iterator[pa.RecordBatch]:
    """`_id`, `_vector` and the columns of the catalogue, or of some of its rows."""
    chosen = np.arange(len(retriever)) if rows is None else np.asarray(rows, np.int64)
    for start in range(0, len(chosen), ROWS_AT_ONCE):
        part = chosen[start : start + ROWS_AT_ONCE]
        items = retriever.items.take(pa.array(part)).combine_chunks()
        flat = pa.array(np.ascontiguousarray(retriever.vectors[part], np.float32).ravel())
        packed = pa.FixedSizeListArray.from_arrays(flat, retriever.bundle.dimensions)
        whole = items.append_column(pa.field(VECTOR, packed.type), packed)
        yield from whole.to_batches()
