"""Which rows are the same: short names of texts, and a table that numbers them as they come.

Joining and counting by 64 bits costs a fraction of doing so by texts. A second hash stands beside each name; where two
texts share a name, it tells, and `Collision` asks for another seed: nothing is ever merged that differs.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array
from twotower.data.hashes import mix

_ODD = np.uint64(0xD6E8FEB86659FD93)
_LONG = 256  # bytes, past which a text is hashed by itself
_FREE = np.uint64(0)


class Collision(Exception):
    """Two different texts share a name under this seed."""


class Names(NamedTuple):
    """A name for each of n texts, never 0, and a second hash that tells texts apart which share one."""

    codes: Array  # uint64 [n]
    checks: Array  # uint64 [n]

    def take(self, rows: Array) -> Names:
        """The names of the chosen rows."""
        return Names(self.codes[rows], self.checks[rows])

    def beside(self, other: Names) -> Names:
        """Names of the two things together."""
        codes = mix(self.codes * _ODD + other.codes)
        codes[codes == _FREE] = 1
        return Names(codes, mix(self.checks ^ (other.checks * _ODD)))


def names_of(texts: pa.Array, seed: int = 0) -> Names:
    """The names of Arrow strings [n]; a missing one is named as an empty one."""
    words, starts, lengths = _words(texts)
    codes = mix(lengths.astype(np.uint64) + np.array([seed * 2 + 1], np.uint64) * _ODD)
    checks = mix(codes + _ODD)
    rows, place = np.flatnonzero((lengths > 0) & (lengths <= _LONG)), 0
    while len(rows):
        at = starts[rows] + place
        word, shift = at >> 3, (at & 7).astype(np.uint64) * np.uint64(8)
        value = (words[word] >> shift) | ((words[word + 1] << np.uint64(1)) << (np.uint64(63) - shift))
        over = np.maximum(8 - (lengths[rows] - place), 0).astype(np.uint64) * np.uint64(8)
        value = (value << over) >> over  # what comes behind the text is no part of it
        codes[rows] = mix(codes[rows] ^ value)
        checks[rows] = mix((checks[rows] + value) * _ODD)
        place += 8
        rows = rows[lengths[rows] > place]
    content = words.view(np.uint8)
    for row in np.flatnonzero(lengths > _LONG):
        span = content[starts[row] : starts[row] + lengths[row]]
        codes[row], checks[row] = np.frombuffer(hashlib.blake2b(span.tobytes(), digest_size=16, salt=seed.to_bytes(8, "little")).digest(), np.uint64)
    codes[codes == _FREE] = 1
    return Names(codes, checks)


def _words(texts: pa.Array) -> tuple[Array, Array, Array]:
    """The bytes of texts as uint64, and where in bytes each text [n] starts there and how long it is."""
    wide = texts.cast(pa.large_string())
    _, places, data = wide.buffers()
    offsets = np.frombuffer(places, np.int64)[wide.offset : wide.offset + len(texts) + 1] if places else np.zeros(len(texts) + 1, np.int64)
    first, last = (int(offsets[0]), int(offsets[-1])) if len(texts) else (0, 0)
    content = np.zeros((last - first) // 8 * 8 + 24, np.uint8)
    if last > first:
        content[: last - first] = np.frombuffer(data, np.uint8)[first:last]
    lengths = np.diff(offsets)
    if texts.null_count:
        lengths = np.where(texts.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    return content.view(np.uint64), offsets[:-1] - first, lengths


class Index:
    """Numbers names in the order in which they come: an open-addressing table over whole arrays at a time."""

    def __init__(self) -> None:
        self.count = 0  # the next number
        self._clear(1 << 10)

    def _clear(self, places: int) -> None:
        self.held = 0
        self._codes = np.zeros(places, np.uint64)
        self._checks = np.zeros(places, np.uint64)
        self._numbers = np.zeros(places, np.int64)

    def forget(self) -> None:
        """Empty the table; numbers go on, so that a name which comes again gets another."""
        self._clear(1 << 10)

    def find(self, names: Names) -> Array:
        """The number int64 [n] of each name, -1 where it is new. Raises Collision."""
        mask = np.uint64(len(self._codes) - 1)
        numbers = np.full(len(names.codes), -1, np.int64)
        at, left = names.codes & mask, np.arange(len(names.codes))
        while len(left):
            there = self._codes[at[left]]
            found = there == names.codes[left]
            hits = left[found]
            if not np.array_equal(self._checks[at[hits]], names.checks[hits]):
                raise Collision
            numbers[hits] = self._numbers[at[hits]]
            left = left[~found & (there != _FREE)]
            at[left] = (at[left] + np.uint64(1)) & mask
        return numbers

    def add(self, names: Names) -> tuple[Array, Array]:
        """The number int64 [n] of each name, new ones in their order, and where each new one stands first. Raises Collision."""
        numbers = self.find(names)
        missing = np.flatnonzero(numbers < 0)
        _, first, which = np.unique(names.codes[missing], return_index=True, return_inverse=True)
        if not np.array_equal(names.checks[missing[first]][which], names.checks[missing]):
            raise Collision
        order = np.argsort(first)
        rank = np.empty(len(first), np.int64)
        rank[order] = self.count + np.arange(len(first))
        numbers[missing] = rank[which]
        new = missing[first[order]]
        self._grow(len(new))
        self._put(names.take(new), numbers[new])
        self.count += len(new)
        return numbers, new

    def _grow(self, more: int) -> None:
        if 2 * (self.held + more) <= len(self._codes):
            return
        used = np.flatnonzero(self._codes)
        names, numbers = Names(self._codes[used], self._checks[used]), self._numbers[used]
        self._clear(1 << (2 * (len(used) + more) - 1).bit_length())
        self._put(names, numbers)

    def _put(self, names: Names, numbers: Array) -> None:
        """Names that are all new and all different, each into the next free place."""
        mask = np.uint64(len(self._codes) - 1)
        at, left = names.codes & mask, np.arange(len(numbers))
        while len(left):
            tried = left[self._codes[at[left]] == _FREE]
            self._codes[at[tried]] = names.codes[tried]  # of several that try one place, one wins
            self._checks[at[tried]], self._numbers[at[tried]] = names.checks[tried], numbers[tried]
            left = left[self._codes[at[left]] != names.codes[left]]
            at[left] = (at[left] + np.uint64(1)) & mask
        self.held += len(numbers)
