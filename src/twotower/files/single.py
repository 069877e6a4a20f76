"""Single files, each whole or not at all: written beside its place and renamed into it. Text is UTF-8, values are JSON."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from twotower.errors import BundleError, OutputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends well, and vanishes when it does not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~umask())
        os.replace(name, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def umask() -> int:
    """What the user's settings take from the rights of new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def unwritable(path: Path, error: OSError) -> OutputError:
    """The error for a place that cannot be written."""
    return OutputError(f"cannot write {path}: {error.strerror or error}. Choose another place, or make room there.")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, atomically."""
    with replacing(path) as file:
        file.write(content)


def copy_file(source: Path, goal: Path) -> None:
    """Copy a file of any size, atomically."""
    with source.open("rb") as file, replacing(goal) as copy:
        shutil.copyfileobj(file, copy, 1 << 20)


def remove_file(path: Path) -> None:
    """Remove a file that was made here; a missing one is fine."""
    path.unlink(missing_ok=True)


def write_list(path: Path, values: Iterable[Any]) -> None:
    """Write a list as JSON, one value a line, as its values come; atomically."""
    with replacing(path) as file:
        before = b"[\n"
        for value in values:
            file.write(before + json_text(value, indent=None).encode(errors="backslashreplace"))
            before = b",\n"
        file.write(b"\n]\n" if before != b"[\n" else b"[]\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, atomically; a lone surrogate, as in a file name that is no UTF-8, is written as JSON would."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, atomically; a NaN becomes null, since JSON knows none."""
    write_text(path, json_text(value) + "\n")


def json_text(value: Any, indent: int | None = 1) -> str:
    """JSON of plain values, numpy arrays and scalars, and named tuples; NaN and infinities become null."""
    return json.dumps(_plain(value), ensure_ascii=False, indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()  # of an array without dimensions its number
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
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
        raise unwritable(path, error) from error


def mend_lines(path: Path) -> None:
    """Cut off what a writer that was killed left of a last line."""
    if path.exists():
        with open(path, "r+b") as file:
            _cut_torn(file)


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


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
