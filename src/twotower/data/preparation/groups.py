"""Which keys must not be divided: those that ask with the same words, and those that share a value."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array, offsets_of
from twotower.data.hashes import hash_words, mix


def said(batch: pa.RecordBatch, columns: list[str]) -> Array:
    """A hash uint64 [n] of the set of words of each query, whatever their order; 0 where it has none."""
    texts = [" ".join(text or "" for text in row) for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True)]
    words = hash_words(texts, pairs=False, pieces=(), limit=1 << 30)
    rows = np.repeat(np.arange(len(texts)), np.diff(words.offsets))
    order = np.lexsort((words.values, rows))
    rows, values = rows[order], words.values[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mix(values[new]), dtype=np.uint64)])
    offsets = offsets_of(np.bincount(rows[new], minlength=len(texts)))
    return np.asarray(sums[offsets[1:]] - sums[offsets[:-1]])


def components(n: int, ends: list[tuple[Array, Array]]) -> Array:
    """Groups int64 [n] of things that share a value, directly or over others, numbered as they first occur.

    ends: several lists of (things, what each holds), ints [m] from 0. By passing the least number along until nothing changes.
    """
    label = np.arange(n)
    ordered = [(things[order], values[order]) for things, values in ends for order in [np.argsort(values, kind="stable")]]
    while True:
        before = label
        for things, values in ordered:
            starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(values)), bool), values[1:] != values[:-1]]))
            if len(starts):
                least = np.minimum.reduceat(label[things], starts)
                label = label.copy()
                np.minimum.at(label, things, np.repeat(least, np.diff(np.append(starts, len(values)))))
        label = label[label]  # a chain of shared values is halved each time
        if np.array_equal(label, before):
            return np.asarray(np.unique(label, return_inverse=True)[1])
