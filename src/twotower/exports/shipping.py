"""The vectors of a bundle, moved into a store that the user runs.

bring(tt.load("runs/first"), "postgresql://ann@db/shop")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from twotower.bundle.catalogue import Catalogue
from twotower.bundle.indexes import sample_queries
from twotower.bundle.lineage import difference
from twotower.bundle.retriever import Retriever
from twotower.data.columns import Array
from twotower.errors import ConfigError
from twotower.stores import Facts, open_store
from twotower.stores.facts import VECTOR, payload_schema
from twotower.stores.store import RECALL

ROWS_AT_ONCE = 1 << 14
MOST_CHANGED = 0.3  # of the rows: past that a table of its own costs no more, and is measured again
SAMPLED = 200  # queries that recall is measured with


class Brought(NamedTuple):
    """What a store was brought up to date by: the table that is live, and how many rows went there and left it; `whole` where all went."""

    table: str
    whole: bool
    changed: int
    removed: int


def bring(
    retriever: Retriever, url: str, *, name: str = "items", recall: float | None = None, report: Callable[[str], None] = lambda _: None
) -> Brought:
    """Bring the store of a URL, or of `env:NAME`, up to date with a bundle: nothing where it is, what differs from an earlier version, else all.

    recall: the share of the true ten nearest items that the store must find for sample queries before a table of its own goes live, .95 unless
    said. Raises ConfigError, DataError, OutputError, MissingExtra.
    """
    if retriever.width is not None:
        raise ConfigError("this bundle was opened with fewer dimensions than it has; open it with all of them to bring it into a store")
    now = retriever.catalogue  # one version, whoever grows it meanwhile
    facts = facts_of(now)
    with open_store(url, name) as store:
        live = store.live()
        if live is not None and live.facts.fingerprint == facts.fingerprint:
            if live.facts.version == facts.version:
                return Brought(live.table, False, 0, 0)
            # A column whose type is another now, as of whole numbers that got a fraction, cannot join the rows that are there.
            alike = payload_schema(now.items.schema.append(pa.field(VECTOR, pa.null()))) == live.shape
            differs = difference(now, live.facts.version) if alike else None
            if differs is not None and len(differs.changed) + len(differs.removed) <= MOST_CHANGED * len(now):
                report(f"sending {len(differs.changed):,} rows that differ")
                table = store.refresh(batches(now, differs.changed), differs.removed, facts, live.facts.version)
                return Brought(table, False, len(differs.changed), len(differs.removed))
        table = store.publish(
            batches(now), facts, queries=sample_queries(now.bundle, SAMPLED), recall=RECALL if recall is None else recall, report=report
        )
    return Brought(table, True, len(now), 0)


def facts_of(now: Catalogue) -> Facts:
    """What a store is told about a version of a catalogue."""
    bundle = now.bundle
    similarity = str(bundle.model["similarity"])
    return Facts(fingerprint=bundle.fingerprint, version=bundle.version, dimensions=bundle.dimensions, rows=len(now), similarity=similarity)


def batches(now: Catalogue, rows: Array | None = None) -> Iterator[pa.RecordBatch]:
    """`_id`, `_vector` and the columns of a catalogue, or of some of its rows, int64."""
    chosen = np.arange(len(now)) if rows is None else rows
    for start in range(0, len(chosen), ROWS_AT_ONCE):
        part = chosen[start : start + ROWS_AT_ONCE]
        items = now.items.take(pa.array(part)).combine_chunks()
        packed = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(now.vectors[part], np.float32).ravel()), now.bundle.dimensions)
        yield from items.append_column(pa.field(VECTOR, packed.type), packed).to_batches()
