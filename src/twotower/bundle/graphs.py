"""Runs an exported tower with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twotower.data.columns import Array, Column, Columns, Ragged, lengths_of, pad, row_count, take_rows
from twotower.data.schema import Side
from twotower.errors import BundleError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

VALUES_AT_ONCE = 1 << 15  # padded values of one run: what a run holds in memory is this many vectors
PARTS, LEAST_ROWS, PADDED = 4, 16, 1.5  # of rows that fit in one run: parts by length, from so many rows on, where padding makes so much more of them


def graph_name(side: Side) -> str:
    """The file of one tower's graph."""
    return f"{side}.onnx"


def open_graph(folder: Path, side: Side, threads: int | None = None) -> InferenceSession:
    """A session of one tower of a model folder. Raises BundleError if it cannot be loaded."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Idle threads that spin take the processor from whoever shares it; a look-up is too short to gain from them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(folder / graph_name(side)), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has no common class of its own
        raise BundleError(f"{folder / graph_name(side)} cannot be loaded: {error}") from None


def run_graph(session: InferenceSession, columns: Columns, dimensions: int) -> Array:
    """Encoded columns of n rows -> vectors float32 [n, d], in blocks of rows of like length."""
    n = row_count(next(iter(columns.values())))
    vectors = np.empty((n, dimensions), np.float32)
    for rows in _blocks(columns, n):
        part = columns if len(rows) == n else take_rows(columns, rows)
        feeds = {f"column{number}": graph_input(column) for number, column in enumerate(part.values())}
        vectors[rows] = session.run(None, feeds)[0]
    return vectors


def graph_input(column: Column) -> Array:
    """A column in the form that an exported tower takes: [n, ...], or padded [n, l, ...] with l >= 1; whole numbers as int64."""
    values = pad(column) if isinstance(column, Ragged) else np.asarray(column)
    return values.astype(np.int64) if values.dtype.kind in "iu" else values


def _blocks(columns: Columns, n: int) -> list[Array]:
    """Rows 0..n in blocks, each of at most VALUES_AT_ONCE padded values where it has more than one row."""
    widths = np.ones(n, np.int64)
    for column in columns.values():
        if isinstance(column, Ragged):
            widths = np.maximum(widths, lengths_of(column))
    order, padded = np.argsort(-widths, kind="stable"), n * int(widths.max(initial=0))
    if padded <= VALUES_AT_ONCE:
        uneven = n >= LEAST_ROWS and padded > PADDED * int(widths.sum())
        return [np.sort(part) for part in np.array_split(order, PARTS)] if uneven else [np.arange(n)]
    blocks, start = [], 0
    while start < n:
        # The first row of a block is its longest.
        size = max(1, VALUES_AT_ONCE // int(widths[order[start]]))
        blocks.append(np.sort(order[start : start + size]))
        start += size
    return blocks
