"""The only module that writes.

Everything appears whole or not at all: a file is written beside its place and renamed into it, a folder is built under
a passing name and renamed. Nothing is ever pickled: text is JSON, arrays are `.npy`, weights safetensors, tables Arrow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from twotower.errors import BundleError, OutputError

if TYPE_CHECKING:
    import pyarrow as pa

    from twotower.data.columns import Array


# --- single files -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends well, and vanishes when it does not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror or error}. Choose another place, or make room there.")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, atomically."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, atomically; a lone surrogate, as in a file name that is no UTF-8, is written as JSON would."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, atomically; a NaN becomes null, since JSON knows none."""
    write_text(path, json_text(value) + "\n")


def json_text(value: Any, indent: int | None = 1) -> str:
    """JSON of plain values, numpy scalars and named tuples; NaN and infinities become null."""
    return json.dumps(_plain(value), ensure_ascii=False, indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def read_json(path: Path) -> Any:
    """Read JSON; a damaged or missing file raises BundleError."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{path} is missing") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise BundleError(f"{path} is not valid JSON: {error}") from None


def append_line(path: Path, value: Any) -> None:
    """Add one JSON line to a journal; the one kind of file that grows in place. A torn last line is cut off first."""
    try:
        with path.open("a+b") as file:
            _cut_torn(file)
            file.write(json_text(value, indent=None).encode(errors="backslashreplace") + b"\n")
    except OSError as error:
        raise _unwritable(path, error) from error


def _cut_torn(file: IO[bytes]) -> None:
    """Cut off what stands behind the last line break, reading from the end."""
    end = file.seek(0, os.SEEK_END)
    start = end
    while start:
        step = min(start, 1 << 16)
        start = file.seek(start - step)
        whole = file.read(step).rfind(b"\n") + 1
        if whole:
            start += whole
            break
    if start < end:
        file.truncate(start)


def read_lines(path: Path) -> list[Any]:
    """The values of a journal. A line counts once its line break is there: what a kill left behind the last is passed over."""
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise BundleError(f"{path} line {number} is damaged: {error}") from None
    return values


# --- arrays, tensors, tables --------------------------------------------------------------------------------------


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
            raise _unwritable(path, error) from error
        self._file.write(b" " * self._header)

    def append(self, values: Array) -> None:
        """Add values, n rows, behind those already written."""
        try:
            self._file.write(np.ascontiguousarray(values, self.dtype).tobytes())
        except OSError as error:
            raise _unwritable(self.path, error) from error
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
            raise _unwritable(self.path, error) from error


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


def write_parquet(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write a Parquet file from record batches as they come, atomically; returns the number of rows."""
    import pyarrow.parquet as pq

    rows = 0
    with replacing(path) as file, pq.ParquetWriter(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


# --- folders ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_folder(path: Path, *, yielding: bool = False) -> Iterator[Path]:
    """A folder under a passing name beside `path`; it takes that name when the block ends well.

    yielding: whether one that somebody else finished meanwhile stays, being equal.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        os.chmod(building, 0o777 & ~_umask())
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield building
        _take_name(building, path, yielding)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _take_name(building: Path, path: Path, yielding: bool) -> None:
    try:
        os.replace(building, path)
    except OSError as error:
        if not (yielding and path.is_dir()):
            raise _unwritable(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder where there is none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def remove_folder(path: Path) -> None:
    """Remove a folder that was made here; a missing one is fine."""
    shutil.rmtree(path, ignore_errors=True)


def claim_folder(path: Path, *, overwrite: bool = False, ours: Collection[str] = (), room: int = 1 << 20) -> None:
    """Make an output folder, and raise OutputError before any work if it is taken, unwritable or full.

    With `overwrite` it may hold what is `ours`, all of these names and no other: never somebody's documents. Nothing is removed
    here; `empty_folder` does that once the work is sure to begin. `room`: the free space in bytes that must be there.
    """
    try:
        _check_taken(path, overwrite, ours)
        path.resolve().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            free = shutil.disk_usage(path).free
    except OSError as error:
        raise _unwritable(path, error) from error
    if free < room:
        if not any(path.iterdir()):
            path.rmdir()
        raise OutputError(
            f"{path} has {free / 1e6:,.0f} MB free and this needs about {room / 1e6:,.0f} MB. Make room, or choose another place with -o."
        )


def _check_taken(path: Path, overwrite: bool, ours: Collection[str]) -> None:
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file. Choose a folder with -o.")
    names = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    if names and not overwrite:
        raise OutputError(f"{path} is not empty. Continue it with --resume, replace it with --overwrite, or choose another with -o.")
    foreign = [name for name in names if name not in ours and not name.endswith(".part")]
    if foreign:
        raise OutputError(f"{path} holds {', '.join(foreign[:3])}, so it is not ours to overwrite. Choose another folder with -o.")


def empty_folder(path: Path, ours: Collection[str]) -> None:
    """Remove these files and folders, and what an interrupted writer left."""
    for place in path.iterdir():
        if place.name in ours or place.name.endswith(".part"):
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rename_folder(source: Path, goal: Path) -> None:
    """Give a finished folder its name; where an equal one is there already, named by its content, that one stays."""
    _take_name(source, goal, yielding=True)
    remove_folder(source)
