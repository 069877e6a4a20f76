"""What a preparation sets aside on disk while it works: record batches that are written as they come and read again in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.data.columns import Array
from twotower.data.sources.formats import BATCH
from twotower.errors import OutputError


class Spill:
    """One file of record batches of one type."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self.schema: pa.Schema | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._writer: pa.ipc.RecordBatchFileWriter | None = None

    def append(self, batch: pa.RecordBatch) -> None:
        """Add rows behind those already there; few rows wait for more."""
        self.schema = self.schema or batch.schema
        self._waiting.append(batch)
        self.rows += batch.num_rows
        if sum(part.num_rows for part in self._waiting) >= BATCH // 2:
            self._write()

    def _write(self) -> None:
        try:
            if self._writer is None:
                files.make_folder(self.path.parent)
                self._writer = pa.ipc.new_file(str(self.path), self.schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
            for batch in self._waiting:
                self._writer.write_batch(batch)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}. Choose another place, or make room there.") from error
        self._waiting.clear()

    def close(self) -> None:
        """Write what waits; from now on it can be read."""
        if self.schema is not None:
            self._write()
        if self._writer is not None:
            self._writer.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, in their order. By reading, not by mapping: pages that are mapped count as memory in use."""
        if self._writer is None:
            return
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)


def picked(batches: Iterable[pa.RecordBatch], rows: Array) -> Iterator[pa.RecordBatch]:
    """The chosen rows of batches that follow each other; rows: int64 in rising order."""
    start = 0
    for batch in batches:
        low, high = np.searchsorted(rows, [start, start + batch.num_rows])
        if high > low:
            yield batch if high - low == batch.num_rows else batch.take(pa.array(rows[low:high] - start))
        start += batch.num_rows
