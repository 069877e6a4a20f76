"""Built indexes that a bundle keeps: under `indexes/`, each by the name of its segment; and what serves a catalogue that has grown since."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from twotower import files, manifests
from twotower.bundle.layout import Bundle
from twotower.data.columns import Array
from twotower.errors import BundleError, ConfigError
from twotower.search.index import Approximate, Chosen, Exact, Hits, Index, best_of_both, check_allow
from twotower.search.vectors import Vectors

logger = logging.getLogger("twotower")

AUTO = "auto"  # whatever the bundle keeps, else exact search
INDEXES = "indexes"
INDEX_FORMAT = 1
ASKED = "asked.npy"  # beside a bundle's model: vectors float32 [q, d] of queries that it was not trained on
NOISE = 0.5  # of a made query, as a part of the length of the item's vector that it starts from


class Grown:
    """An index of the first rows of a catalogue, and exact search of the rows behind them, as one.

    rows: how many the index covers. rest: the vectors behind them. So a catalogue that grew needs no new index, until the rest is what takes time.
    """

    def __init__(self, index: Index, rows: int, rest: Array | Vectors) -> None:
        self.index, self.rows, self.rest = index, rows, Exact(rest)

    def __len__(self) -> int:
        return self.rows + len(self.rest.vectors)

    def search(self, queries: Array, k: int, allow: Array | None = None) -> Hits:
        """The k best of the allowed rows for each of the queries float32 [q, d]; `allow`: bool [n], of all rows."""
        check_allow(allow, len(self))
        first = self.index.search(queries, k, None if allow is None else allow[: self.rows])
        if not len(self.rest.vectors):
            return first
        behind = self.rest.search(queries, k, None if allow is None else allow[self.rows :])
        return best_of_both(first, Hits(np.where(behind.rows < 0, -1, behind.rows + self.rows), behind.scores))


class Thinned:
    """An index some of whose rows are no longer there: those that are, int64 [n] rising, are numbered as they stand in it."""

    def __init__(self, index: Approximate, rows: Array) -> None:
        self.index, self.rows = index, rows
        self.place = np.full(len(index), -1, np.int64)
        self.place[rows] = np.arange(len(rows))

    def search(self, queries: Array, k: int, allow: Array | None = None) -> Hits:
        """The k best of the allowed rows for each of the queries float32 [q, d]; `allow`: bool [n], of the rows that are there."""
        check_allow(allow, len(self.rows))
        there = np.zeros(len(self.index), bool)
        there[self.rows] = True if allow is None else allow
        hits = self.index.search(queries, k, there)
        return Hits(np.where(hits.rows < 0, -1, self.place[hits.rows]), hits.scores)


def write_index(folder: Path, index: Approximate, segment: str, chosen: Chosen) -> Path:
    """Write a built index into a bundle, in place of any other of that segment; returns its folder. Raises ConfigError for what names no segment."""
    place = _place(folder, segment)
    old = place.with_name(f"{segment}-old")
    files.empty_folder(place.parent, (old.name,))  # of one that was killed
    with files.new_folder(place) as building:
        index.save(building, segment)
        manifests.write_manifest(building, "index", INDEX_FORMAT, segment=segment, rows=len(index), chosen=chosen._asdict())
        if place.is_dir():
            files.rename_folder(place, old)
    files.remove_folder(old)
    return place


def saved_index(folder: Path, vectors: Array | Vectors, segment: str, *, everything: bool = False) -> tuple[Approximate, Chosen] | None:
    """The index that a bundle keeps of the vectors of a segment, and what is known of it; None where it keeps none.

    Raises BundleError for one that is damaged or of other vectors, MissingExtra where FAISS is not installed. everything: as for a manifest.
    """
    place = _place(folder, segment)
    if not place.is_dir():
        return None
    manifest = manifests.read_manifest(place, "index", INDEX_FORMAT, everything=everything)
    told = manifest.get("chosen")
    if manifest.get("segment") != segment or not isinstance(told, dict) or told.keys() != set(Chosen._fields):
        raise BundleError(f"{place} is not the index that its name says; remove it, and build it again")
    return Approximate.restore(place, vectors, segment), Chosen(**told)


def forget_index(folder: Path, segment: str) -> None:
    """Remove the index that a bundle keeps of a segment, if it does."""
    files.remove_folder(_place(folder, segment))


def say_lost(folder: Path, before: str, after: str) -> None:
    """Warn where the first segment of a catalogue had an index, and the one that takes its place has none."""
    if _place(folder, before).is_dir() and not _place(folder, after).is_dir():
        logger.warning("the index was of a segment that is written anew, so search is exact until it is built again: twotower index %s", folder)


def sample_queries(bundle: Bundle, most: int = 1000) -> Array:
    """Vectors float32 [q, d] to measure recall with: of held-out queries where the bundle keeps some, else items' own with noise."""
    path, generator = bundle.folder / "model" / ASKED, np.random.default_rng(0)
    if path.exists():
        asked = np.asarray(files.read_array(path), np.float32)
        if asked.ndim != 2 or asked.shape[1] != bundle.dimensions:
            raise BundleError(f"{path} holds an array {asked.shape}, and vectors of this model are [q, {bundle.dimensions}]")
        return asked[np.sort(generator.permutation(len(asked))[:most])]
    vectors = bundle.segments[0].vectors
    near = np.asarray(vectors[np.sort(generator.permutation(len(vectors))[:most])], np.float32)
    noise = generator.standard_normal(near.shape).astype(np.float32)
    noise *= NOISE * np.linalg.norm(near, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    return near + noise


def _place(folder: Path, segment: str) -> Path:
    if not (segment.isascii() and segment.isalnum()):
        raise ConfigError(f"segments are named by letters and digits, not by {segment!r}")
    return folder / INDEXES / segment
