"""Vectors that cost much to compute, kept on disk between runs by the hash of what they are the vector of.

vectors/<digest>/   one folder for each encoder and way of reading; it holds numbered parts, each a `.npy` of (key, vector) rows.
                    A part is written whole and never changed, so a run that is broken off goes on behind the last one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twotower import files
from twotower.data.columns import Array

AT_ONCE = 2048  # texts of one part: what a kill may cost
SILENT = 2.0  # seconds of encoding before anything is said, and between two lines


class Workplace(NamedTuple):
    """Where costly encodings are kept, and who is told how many texts are done, as they are."""

    folder: Path | None = None
    report: Callable[[int], None] = lambda count: None


class Kept:
    """The vectors float32 [m, w] of one folder, by key."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder = folder
        self.kind = np.dtype([("key", "<u8", (2,)), ("vector", "<f4", (width,))])
        paths = sorted(folder.glob("*.npy")) if folder.is_dir() else []
        self.parts = [part for part in map(files.read_array, paths) if part.dtype == self.kind and part.ndim == 1]
        self.number = 1 + max((int(path.name[:6]) for path in paths if path.name[:6].isdecimal()), default=0)
        self._sort()

    def _sort(self) -> None:
        keys = [np.asarray(part["key"]) for part in self.parts]
        self.keys = np.concatenate(keys) if keys else np.empty((0, 2), np.uint64)
        self.order = np.argsort(self.keys[:, 0], kind="stable")
        self.ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)

    def find(self, keys: Array) -> Array:
        """Where the vector of each key uint64 [n, 2] is, int64 [n]; -1 where it is not there."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        ordered = self.keys[self.order]
        near = np.minimum(np.searchsorted(ordered[:, 0], keys[:, 0]), len(ordered) - 1)
        return np.where((ordered[near] == keys).all(axis=1), self.order[near], -1)

    def take(self, places: Array) -> Array:
        """The vectors float32 [n, w] at these places."""
        vectors = np.empty((len(places), *self.kind["vector"].shape), np.float32)
        which = np.searchsorted(self.ends, places, side="right")
        for number in np.unique(which):
            rows = which == number
            part = self.parts[number]
            vectors[rows] = part["vector"][places[rows] - (self.ends[number] - len(part))]
        return vectors

    def append(self, keys: Array, vectors: Array) -> None:
        """Keep the vectors [n, w] of these keys [n, 2], as a new part."""
        part = np.empty(len(keys), self.kind)
        part["key"], part["vector"] = keys, vectors
        # Named by its content too: two processes at one number then both keep what they have done.
        name = hashlib.sha256(part["key"].tobytes()).hexdigest()[:12]
        files.write_array(self.folder / f"{self.number:06d}-{name}.npy", part)
        self.parts.append(part)
        self.number += 1
        self._sort()


def keys_of(texts: Sequence[str]) -> Array:
    """A key uint64 [n, 2] for each text, of its content alone."""
    digests = b"".join(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, "<u8").reshape(-1, 2)


def computed_once(texts: Sequence[str], width: int, compute: Callable[[Sequence[str]], Array], name: str, workplace: Workplace) -> Array:
    """The vectors float32 [n, w] of texts, each different text computed once: now, or by an earlier run where a folder keeps them.

    name: of the encoder and of how it reads. compute: texts -> vectors.
    """
    keys = keys_of(texts)
    _, first, row_of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    row_of = row_of.reshape(-1)
    vectors = np.empty((len(first), width), np.float32)
    kept = None if workplace.folder is None else Kept(workplace.folder / name, width)
    places = np.full(len(first), -1, np.int64) if kept is None else kept.find(keys[first])
    there = np.flatnonzero(places >= 0)
    if kept is not None and len(there):
        vectors[there] = kept.take(places[there])
    repeats = np.bincount(row_of, minlength=len(first))
    workplace.report(int(repeats[there].sum()))
    for rows in _parts([len(texts[n]) for n in first], np.flatnonzero(places < 0)):
        vectors[rows] = compute([texts[n] for n in first[rows]])
        if kept is not None:
            kept.append(keys[first[rows]], vectors[rows])
        workplace.report(int(repeats[rows].sum()))
    return vectors[row_of]


def _parts(lengths: Sequence[int], rows: Array) -> Iterator[Array]:
    """The rows [m] in parts of texts of like length, the longest first: what is told to be left is then never more than it seems."""
    ordered = rows[np.argsort(-np.asarray(lengths, np.int64)[rows], kind="stable")]
    for start in range(0, len(ordered), AT_ONCE):
        yield ordered[start : start + AT_ONCE]


def counted(progress: Callable[[str], None], total: int) -> Callable[[int], None]:
    """A `report` that says how many of `total` texts are done, once that has taken a while."""
    done, last = 0, time.monotonic()

    def report(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= SILENT:
            progress(f"encoding texts {done:,} of {total:,}")
            last = time.monotonic()

    return report
