"""Item vectors in forms that others read: a Parquet file, numpy arrays, an index of FAISS.

Rows stand in the order of the catalogue in all of them, and vectors are those that a search compares: of unit length where the
similarity is a cosine, so that an inner product is the score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle import Retriever
from twotower.data.columns import Array
from twotower.data.prepared import ID
from twotower.errors import DataError, MissingExtra
from twotower.search.vectors import Vectors

NUMBERS_AT_ONCE = 1 << 22  # of vectors in memory: 16 MB
OWN = ("id", "vector")  # columns of a Parquet file that are ours
LINKS, BREADTH = 32, 128  # of a graph of near neighbours: links of a vector, candidates that a search keeps


def write_vectors_parquet(retriever: Retriever, path: Path, report: Callable[[int], None]) -> int:
    """One file with `id`, the columns of each item and `vector`, a list of float32; returns the number of rows.

    An item's own column of one of these two names is written as `item.id` or `item.vector`.
    """
    items = retriever.items
    shown = [name for name in items.column_names if name != ID]
    fields = [items.schema.field(name).with_name(f"item.{name}" if name in OWN else name) for name in shown]
    schema = pa.schema([pa.field("id", items.schema.field(ID).type), *fields, pa.field("vector", pa.list_(pa.float32()))])

    def batches() -> Iterator[pa.RecordBatch]:
        for rows, vectors in blocks(retriever.vectors):
            part = items.slice(rows.start, len(vectors))
            offsets = pa.array(np.arange(len(vectors) + 1, dtype=np.int32) * np.int32(vectors.shape[1]))
            column = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))
            columns = [part.column(ID), *(part.column(name) for name in shown), column]
            yield pa.Table.from_arrays(columns, schema=schema).combine_chunks().to_batches()[0]
            report(len(vectors))

    return files.write_parquet(path, batches(), schema)


def write_arrays(retriever: Retriever, folder: Path, report: Callable[[int], None]) -> str:
    """vectors.npy, float32 [n, d], and the ids beside it; returns how to read them."""
    width = retriever.vectors.shape[1]
    writer = files.ArrayWriter(folder / "vectors.npy", np.float32, (width,))
    for _, vectors in blocks(retriever.vectors):
        writer.append(vectors)
        report(len(vectors))
    writer.close()
    read = f'import json, numpy as np\nvectors = np.load("vectors.npy", mmap_mode="r")  # float32 [{len(retriever)}, {width}]\n'
    return read + write_ids(folder, retriever.items.column(ID))


def write_index(retriever: Retriever, folder: Path, kind: str, report: Callable[[int], None]) -> str:
    """index.faiss, by exact inner product or as a graph (`hnsw`), whose positions are those of the ids beside it; returns how to read them."""
    try:
        import faiss
    except ImportError:
        raise MissingExtra("writing an index of FAISS", "ann") from None
    width = retriever.vectors.shape[1]
    if kind == "hnsw":
        index: Any = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = BREADTH
    else:
        index = faiss.IndexFlatIP(width)
    for _, vectors in blocks(retriever.vectors):
        index.add(vectors)
        report(len(vectors))
    files.write_bytes(folder / "index.faiss", faiss.serialize_index(index).tobytes())
    read = write_ids(folder, retriever.items.column(ID))
    return f"import faiss, json\n{read}\nscores, positions = faiss.read_index('index.faiss').search(query_vectors, 10)  # ids[position]; -1 is none"


def write_ids(folder: Path, ids: pa.ChunkedArray) -> str:
    """The ids in their own type: numbers and texts as JSON, all else as an Arrow file; returns the line that reads them."""
    if pa.types.is_integer(ids.type) or pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type):
        files.write_list(folder / "ids.json", (value for chunk in ids.chunks for value in chunk.to_pylist()))
        return 'ids = json.load(open("ids.json", encoding="utf-8"))'
    files.write_table(folder / "ids.arrow", pa.table({"id": ids}))
    return 'import pyarrow as pa; ids = pa.ipc.open_file("ids.arrow").read_all()["id"].to_pylist()'


def blocks(vectors: Array | Vectors) -> Iterator[tuple[slice, Array]]:
    """The rows of vectors [n, d] part by part, as float32 [rows, d]; one part at least. Raises DataError where one is no number."""
    step = max(1, NUMBERS_AT_ONCE // max(1, vectors.shape[1]))
    for start in range(0, max(1, len(vectors)), step):
        part = np.ascontiguousarray(vectors[start : start + step], np.float32)
        if not np.isfinite(part).all():
            raise DataError(f"the item vectors hold what is no number, in rows {start} to {start + len(part)}: others would pass over it in silence")
        yield slice(start, start + len(part)), part
