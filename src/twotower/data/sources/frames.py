"""What people hold in memory or can stream, as Arrow: data frames, matrices, data sets, columns, dicts.

A stream is whatever tells its rows once, or works them out anew each time: it is to be written down before it is read again. Other
libraries are known by the names of their modules, so that none is imported. To add a kind: a branch in `arrow_of`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from twotower.data.encoder import to_table
from twotower.data.sources.formats import BATCH
from twotower.errors import DataError, choices

logger = logging.getLogger("twotower")


def arrow_of(data: Any, name: str) -> pa.Table | Iterator[pa.RecordBatch]:
    """A table of what lies in memory, record batches of what is a stream. Raises DataError."""
    library = type(data).__module__.split(".")[0]
    if library == "scipy" and hasattr(data, "tocsr"):
        return _matrix(data, name)
    if library == "datasets" and isinstance(data, Mapping):
        raise DataError(f"{name} holds several sets; give one of them, like data[{next(iter(data), 'train')!r}]: {choices(data)}")
    if library == "datasets" and hasattr(data, "with_format"):
        return (batch for part in data.with_format("arrow").iter(BATCH) for batch in part.to_batches())
    if library == "polars" and hasattr(data, "collect_schema") and hasattr(data, "collect"):
        return to_table(data if hasattr(data, "__arrow_c_stream__") else data.collect(engine="streaming"))
    if isinstance(data, np.ndarray) and data.dtype.names:
        return to_table({column: data[column].tolist() for column in data.dtype.names})
    if library in ("pandas", "polars") and not hasattr(data, "columns"):
        raise DataError(f"{name} is one {type(data).__name__}; pairs need a data frame with a column for each side")
    held = isinstance(data, (pa.Table, pa.RecordBatch)) or library in ("pandas", "polars")
    if held or not hasattr(data, "__arrow_c_stream__"):
        return to_table(data)
    return _stream(data, name)


def _stream(data: Any, name: str) -> Iterator[pa.RecordBatch]:
    try:
        reader = pa.RecordBatchReader.from_stream(data)
        yield pa.RecordBatch.from_pylist([], reader.schema)
        yield from reader
    except (pa.ArrowException, OSError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{name} cannot be read as a stream of Arrow data: {error}") from None


def _matrix(matrix: Any, name: str) -> pa.Table:
    """A sparse matrix as pairs: row numbers are the queries, column numbers the items, values the weights; row by row.

    What was stored twice is summed, as the matrix means it. A stored 0 says that nothing was seen, so it is no pair.
    """
    if len(matrix.shape) != 2:
        raise DataError(f"{name} has {len(matrix.shape)} dimension; a matrix of pairs has two, queries x items")
    if matrix.dtype.kind not in "biuf":
        raise DataError(f"{name} holds values of type {matrix.dtype}; the weights of pairs are numbers")
    cells = matrix.tocsr(copy=True)
    cells.sum_duplicates()
    cells.sort_indices()
    rows = np.repeat(np.arange(cells.shape[0], dtype=np.int64), np.diff(cells.indptr))
    kept = cells.data != 0
    if not kept.all():
        logger.warning("%s: %d stored zeros are no pairs and are left out", name, int((~kept).sum()))
    weights = cells.data[kept].astype(np.float64)
    return pa.table({"query": rows[kept], "item": cells.indices[kept].astype(np.int64), "weight": weights})
