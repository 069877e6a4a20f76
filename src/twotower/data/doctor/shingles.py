"""Which texts say nearly the same: by their words, and by the pieces that they share, found in time that grows with the texts alone.

Near texts are found by MinHash with bands (Broder 1997): what shares a band is compared exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twotower.data.columns import Array, Ragged, distinct, lengths_of, offsets_of, take_ragged
from twotower.data.hashes import WORD, hash_words, mix

NEAR = 0.8  # of the pieces of two texts, what both share
WORDS_READ = 128
BANDS, ROWS = 8, 4  # texts that share .8 meet with a probability of .98, those that share .4 with .19
MOST_MET = 20  # texts of one band that a text is compared with
BLOCK = 1 << 22  # pieces worked on at once


class Shingles(NamedTuple):
    """Texts [n] as sets: of words, as one hash of each set, and of words, word pairs and pieces of four letters."""

    bags: Array  # uint64 [n]  equal for texts of the same words, 0 for those without any
    pieces: Ragged  # uint64, each once in a row, in rising order


class NearPairs(NamedTuple):
    """Texts that are near each other, from two lists of them."""

    left: Array  # int64 [m]
    right: Array  # int64 [m]
    overlap: Array  # float64 [m]


def shingle(texts: Sequence[str]) -> Shingles:
    """The sets of each text."""
    hashed = hash_words(texts, pairs=True, pieces=(4,), limit=WORDS_READ)
    rows = np.repeat(np.arange(len(texts)), np.diff(hashed.offsets))
    word = hashed.kinds == WORD
    row, value = _once(rows[word], hashed.values[word])
    bags = np.zeros(len(texts), np.uint64)
    np.add.at(bags, row, mix(value + np.uint64(1)))
    row, value = _once(rows, hashed.values)
    return Shingles(bags, Ragged(value, offsets_of(np.bincount(row, minlength=len(texts)))))


def _once(rows: Array, values: Array) -> tuple[Array, Array]:
    """Each value once a row, sorted by row and value."""
    order = np.lexsort((values, rows))
    rows, values = rows[order], values[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
    return rows[new], values[new]


def near_pairs(left: Shingles, right: Shingles) -> NearPairs:
    """Texts of the left that share at least `NEAR` of their pieces with one of the right, all but a few of them."""
    a, b = _signatures(left.pieces), _signatures(right.pieces)
    met = []
    for band in range(BANDS):
        keys = [_band(signature, band) for signature in (a, b)]
        order = np.argsort(keys[1], kind="stable")
        ordered = keys[1][order]
        first = np.searchsorted(ordered, keys[0], "left")
        count = np.minimum(np.searchsorted(ordered, keys[0], "right") - first, MOST_MET)
        count[lengths_of(left.pieces) == 0] = 0
        rows = np.repeat(np.arange(len(count)), count)
        step = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        met.append(rows * len(right.bags) + order[first[rows] + step])
    pairs = distinct(np.concatenate(met))
    x, y = pairs // max(1, len(right.bags)), pairs % max(1, len(right.bags))
    overlap = _overlaps(left.pieces, right.pieces, x, y)
    near = overlap >= NEAR
    return NearPairs(x[near], y[near], overlap[near])


def _signatures(pieces: Ragged) -> Array:
    """uint64 [n, BANDS * ROWS]: the smallest of each scrambling of a row's pieces."""
    odd = (mix(np.arange(1, BANDS * ROWS + 1, dtype=np.uint64)) | np.uint64(1)).tolist()
    filled = np.flatnonzero(lengths_of(pieces))
    signatures = np.zeros((len(pieces.offsets) - 1, len(odd)), np.uint64)
    for rows in np.array_split(filled, 1 + len(pieces.values) // BLOCK):
        part = take_ragged(pieces, rows)
        if len(rows):
            for number, factor in enumerate(odd):
                signatures[rows, number] = np.minimum.reduceat(part.values * np.uint64(factor), part.offsets[:-1])
    return signatures


def _band(signatures: Array, band: int) -> Array:
    key = np.zeros(len(signatures), np.uint64)
    for column in range(band * ROWS, (band + 1) * ROWS):
        key = mix(key * np.uint64(0x9E3779B97F4A7C15) + signatures[:, column])
    return key


def _overlaps(left: Ragged, right: Ragged, x: Array, y: Array) -> Array:
    """The Jaccard overlap of each pair of rows: float64 [m]."""
    overlap = np.zeros(len(x))
    mean = max(1.0, (len(left.values) + len(right.values)) / max(1, len(left.offsets) + len(right.offsets)))
    for part in np.array_split(np.arange(len(x)), 1 + int(len(x) * mean * 2) // BLOCK):
        a, b = take_ragged(left, x[part]), take_ragged(right, y[part])
        pair = np.concatenate([np.repeat(np.arange(len(part)), lengths_of(rag)) for rag in (a, b)])
        values = np.concatenate([a.values, b.values])
        order = np.lexsort((values, pair))
        same = (pair[order][1:] == pair[order][:-1]) & (values[order][1:] == values[order][:-1])
        both = np.bincount(pair[order][1:][same], minlength=len(part))
        overlap[part] = both / np.maximum(1, lengths_of(a) + lengths_of(b) - both)
    return overlap
