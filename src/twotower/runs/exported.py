"""Vectors of prepared rows by the exported towers of a bundle: what is measured is what ships."""

from __future__ import annotations

from pathlib import Path

from twotower.bundle.graphs import open_graph, run_graph
from twotower.config import Config
from twotower.data.columns import Array, Columns
from twotower.data.histories import Histories
from twotower.data.prepared import Prepared
from twotower.learning.evaluation import Cases
from twotower.learning.views import blocks, encoded, reading


def encode_items(folder: Path, columns: Columns, chosen: Config) -> Array:
    """Vectors float32 [n, d] of a catalogue's columns. folder: of the model."""
    return run_graph(open_graph(folder, "item", chosen.machine.threads), columns, chosen.model.dimensions)


def encode_queries(
    folder: Path, prepared: Prepared, columns: Columns, asked: Cases, seen: Histories | None, item_vectors: Array, chosen: Config
) -> Array:
    """Vectors float32 [q, d] of cases, each with its history as it was then. columns: of all query rows."""
    graph = open_graph(folder, "query", chosen.machine.threads)
    read = reading(prepared.encoder, prepared.columns["item"])
    parts = blocks(prepared.encoder, columns, asked, seen, read, item_vectors)
    return encoded(asked, chosen.model.dimensions, parts, lambda columns: run_graph(graph, columns, chosen.model.dimensions))
