"""Arrays as `.npy`, weights as safetensors, tables as Arrow and Parquet; nothing is ever pickled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.errors import BundleError, OutputError
from twotower.files.single import replacing, unwritable

if TYPE_CHECKING:
    import pyarrow as pa

    from twotower.data.columns import Array


def write_array(path: Path, array: Array) -> None:
    """Write one `.npy`, atomically."""
    with replacing(path) as file:
        np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)


def read_array(path: Path, mapped: bool = True) -> Array:
    """Read one `.npy`, memory-mapped unless asked otherwise or empty."""
    try:
        if mapped and path.stat().st_size > 1 << 16:
            return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path} is damaged or missing: {error}") from None


class ArrayWriter:
    """Writes a `.npy` whose length is known only at the end; width: of each row, where rows are themselves of several numbers."""

    _header = 128  # bytes, as numpy's own for a short one-dimensional array

    def __init__(self, path: Path, dtype: Any, width: tuple[int, ...] = ()) -> None:
        self.path, self.dtype, self.width, self.count = path, np.dtype(dtype), width, 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            raise unwritable(path, error) from error
        self._file.write(b" " * self._header)

    def append(self, values: Array) -> None:
        """Add values, n rows, behind those already written."""
        try:
            self._file.write(np.ascontiguousarray(values, self.dtype).tobytes())
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.count += len(values)

    def close(self) -> None:
        """Write the header, now that the length is known."""
        shape = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.count, *self.width)}
        text = repr(shape).ljust(self._header - 11) + "\n"
        try:
            with self._file as file:
                file.seek(0)
                file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin1"))
        except OSError as error:
            raise unwritable(self.path, error) from error


def write_tensors(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write named arrays as one safetensors file, atomically.

    The library would first copy all of it into one piece of memory; here each array goes straight to the file.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _TENSOR_TYPES[array.dtype.str], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)  # the tensors then begin on a boundary
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.data.cast("B") if array.size else b"")


_TENSOR_TYPES = {
    "<f8": "F64",
    "<f4": "F32",
    "<f2": "F16",
    "<i8": "I64",
    "<i4": "I32",
    "<i2": "I16",
    "|i1": "I8",
    "|u1": "U8",
    "<u8": "U64",
    "|b1": "BOOL",
}


def read_tensors(path: Path) -> dict[str, Array]:
    """Read a safetensors file; a damaged or missing one raises BundleError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} is damaged or missing: {error}") from None


def tensor_places(path: Path) -> dict[str, tuple[int, int]]:
    """Where each tensor of a safetensors file lies: (offset, bytes) from the start of the file.

    ONNX graphs point at these places, so one copy of the weights serves them and torch alike.
    """
    header, start = _tensor_header(path)
    header.pop("__metadata__", None)
    places = {name: entry["data_offsets"] for name, entry in header.items()}
    return {name: (start + first, end - first) for name, (first, end) in places.items()}


def tensor_metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file carries beside its tensors."""
    return dict(_tensor_header(path)[0].get("__metadata__", {}))


def _tensor_header(path: Path) -> tuple[dict[str, Any], int]:
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                raise ValueError(f"its header would have {size} bytes")
            return dict(json.loads(file.read(size))), 8 + size
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is damaged or missing: {error}") from None


def write_table(path: Path, batches: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema | None = None) -> None:
    """Write an Arrow file from a table or from record batches as they come, atomically."""
    import pyarrow as pa

    parts = batches.to_batches() if isinstance(batches, pa.Table) else batches
    schema = batches.schema if isinstance(batches, pa.Table) else schema
    with replacing(path) as file, pa.ipc.new_file(file, schema) as writer:
        for batch in parts:
            writer.write_batch(batch)


def read_table(path: Path) -> pa.Table:
    """Read an Arrow file, memory-mapped."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowException) as error:
        raise BundleError(f"{path} is damaged or missing: {error}") from None


def check_parquet(path: Path, overwrite: bool = True) -> None:
    """Raise OutputError before any work for a place that cannot take a Parquet file, or that holds one which may not be replaced."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Name the Parquet file to write: -o {path / 'found.parquet'}")
    if path.suffix.lower() not in (".parquet", ".pq"):
        raise OutputError(f"{path} would hold Parquet, so its name should end in .parquet: -o {path.with_suffix('.parquet')}")
    if not overwrite and path.exists():
        raise OutputError(f"{path} is there already. Replace it with --overwrite, or choose another with -o.")


def write_parquet(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write a Parquet file from record batches as they come, atomically; returns the number of rows."""
    import pyarrow.parquet as pq

    rows = 0
    with replacing(path) as file, pq.ParquetWriter(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows
