"""Vectors kept on disk by what they are the vector of, for as many processes as like to share them.

FOLDER/<count>-<digest>/   a part, written whole and never changed: keys.npy uint64 [2, n] in rising order, vectors.npy float32 [n, d].
                           Parts of like size are merged once there are MERGED of them, so that a look-up opens few.

A part that is missing, torn or of another width is passed over: what it held is computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.data.columns import Array
from twotower.errors import BundleError

MERGED = 8
LARGEST = 1 << 26  # numbers of a merged part: 256 MB, which a merge holds in memory


class Part(NamedTuple):
    """Some keys and their vectors, memory-mapped."""

    keys: Array  # uint64 [2, n], by the first of each two
    vectors: Array  # float32 [n, d]


class Shelf:
    """The vectors float32 [n, d] in one folder, by key. Memory-mapped: what a process holds of it does not grow with it."""

    def __init__(self, folder: Path, width: int) -> None:
        files.make_folder(folder)  # said before any work, if it cannot be
        self.folder, self.width = folder, width
        self._parts: dict[str, Part] = {}

    def once(self, keys: Array, compute: Callable[[Array], Array]) -> tuple[Array, int]:
        """The vectors float32 [n, d] of keys [n, 2], and how many were there. compute: rows int64 [m] -> the vectors of those, which are kept."""
        vectors, there = self.find(keys)
        wanted = np.flatnonzero(~there)
        if len(wanted):
            first, row_of = _distinct(keys[wanted])
            found = compute(wanted[first])
            vectors[wanted] = found[row_of]
            self.add(keys[wanted[first]], found)
        return vectors, int(there.sum())

    def find(self, keys: Array) -> tuple[Array, Array]:
        """(vectors float32 [n, d] of keys uint64 [n, 2], which of them are there bool [n])."""
        vectors, there = np.zeros((len(keys), self.width), np.float32), np.zeros(len(keys), bool)
        for part in self._opened():
            left = np.flatnonzero(~there)
            if not len(left):
                break
            place = np.minimum(np.searchsorted(part.keys[0], keys[left, 0]), part.keys.shape[1] - 1)
            # Of two keys that begin alike the second may be missed, and is then computed again; never taken for the other.
            hit = (part.keys[0][place] == keys[left, 0]) & (part.keys[1][place] == keys[left, 1])
            vectors[left[hit]] = part.vectors[place[hit]]
            there[left[hit]] = True
        return vectors, there

    def add(self, keys: Array, vectors: Array) -> None:
        """Keep the vectors [n, d] of keys [n, 2], as a part of their own, and merge parts where there are many of a size."""
        if len(keys):
            self._write(keys, vectors)
        for _ in range(MERGED):  # and no more: where others have a part open, some systems do not let it go
            names = self._alike()
            if not names:
                break
            self._merge(names)

    def _write(self, keys: Array, vectors: Array) -> str:
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        ordered = np.ascontiguousarray(keys[order].T)
        name = f"{len(keys):09d}-{hashlib.sha256(ordered.tobytes()).hexdigest()[:16]}"
        if not (self.folder / name).is_dir():
            with files.new_folder(self.folder / name, yielding=True) as building:
                files.write_array(building / "keys.npy", ordered)
                files.write_array(building / "vectors.npy", np.asarray(vectors, np.float32)[order])
        return name

    def _merge(self, names: Sequence[str]) -> None:
        """Make one part of several. Another process may be at it too: both then write the same, and either may stay."""
        parts = [part for part in map(self._part, names) if part is not None]
        keys = np.concatenate([part.keys.T for part in parts])
        first, _ = _distinct(keys)
        # An equal part may be among them already, if another process was ahead.
        merged = self._write(keys[first], np.concatenate([part.vectors for part in parts])[first])
        for name in names:
            self._parts.pop(name, None)
            if name != merged:
                files.remove_folder(self.folder / name)

    def _names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name[:9].isdecimal() and path.name[9:10] == "-")

    def _alike(self) -> list[str]:
        """Parts to merge, if there are any: MERGED of them, each holding as many as the others to within that factor, and together not too many."""
        by_size: dict[int, list[str]] = {}
        for name in self._names():
            count = max(1, int(name[:9]))
            if count * self.width * MERGED <= LARGEST and self._part(name) is not None:
                by_size.setdefault(int(np.log(count) / np.log(MERGED)), []).append(name)
        return next((names[:MERGED] for names in by_size.values() if len(names) >= MERGED), [])

    def _opened(self) -> Iterator[Part]:
        """The parts that are there now, the largest first."""
        names = self._names()
        for name in set(self._parts) - set(names):
            del self._parts[name]  # merged, by another process perhaps
        for name in reversed(names):
            part = self._part(name)
            if part is not None:
                yield part

    def _part(self, name: str) -> Part | None:
        if name not in self._parts:
            try:
                part = Part(files.read_array(self.folder / name / "keys.npy"), files.read_array(self.folder / name / "vectors.npy"))
            except BundleError:
                return None
            if part.keys.dtype != np.uint64 or part.keys.ndim != 2 or part.vectors.shape != (part.keys.shape[1], self.width) or not part.keys.size:
                return None
            self._parts[name] = part
        return self._parts[name]


def _distinct(keys: Array) -> tuple[Array, Array]:
    """(a row int64 [m] of each different key of [n, 2], which of these each of the n is)."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    new = np.ones(len(keys), bool)
    new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    which = np.empty(len(keys), np.int64)
    which[order] = np.cumsum(new) - 1
    return order[new], which


# --- keys ---------------------------------------------------------------------------------------------------------


def keys_of_rows(columns: Sequence[pa.Array]) -> Array:
    """A key uint64 [n, 2] for each row of columns in canonical form: equal rows have equal keys, others differ."""
    rows = zip(*map(_contents, columns), strict=True)
    digests = b"".join(hashlib.blake2b(b"".join(row), digest_size=16).digest() for row in rows)
    return np.frombuffer(digests, "<u8").astype(np.uint64).reshape(-1, 2)


def _contents(column: pa.Array) -> list[bytes]:
    """What each row holds, its length before it, so that no two rows side by side read alike; a null is no empty value."""
    there = column.is_valid().to_pylist()
    return [b"\1" + len(part).to_bytes(8, "little") + part if known else b"\0" for part, known in zip(_bytes(column), there, strict=True)]


def _bytes(column: pa.Array) -> list[bytes]:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [b"" if text is None else text for text in column.cast(pa.large_binary()).to_pylist()]
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        values = column.fill_null(0).to_numpy(zero_copy_only=False)
        content, width = np.ascontiguousarray(values).tobytes(), values.dtype.itemsize
        return [content[start : start + width] for start in range(0, len(content), width)]
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_floating(kind.value_type):
        flat = column.flatten().to_numpy(zero_copy_only=False)  # without what lies under a null
        content, width = np.ascontiguousarray(flat).tobytes(), flat.dtype.itemsize
        ends = np.cumsum(column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)) * width
        return [content[start:end] for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]
    return [repr(value).encode(errors="surrogatepass") for value in column.to_pylist()]
